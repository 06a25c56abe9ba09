"""S1 to S21: nothing but CRLF "." CRLF ends a message, in any mode, in whatever pieces it arrives."""

from __future__ import annotations

import asyncio
import itertools

from tests.conformance.rows import row
from tests.sessions.harness import Bench, Client

SECOND = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled"
HEAD = b"Subject: outer\r\n\r\nbefore"
END = b"\r\n.\r\n"

SEQUENCES = {
    "S1": (b"\n.\n", b"\r\n.\r\n"),
    "S2": (b"\n.\r\n", b"\r\n.\r\n"),
    "S3": (b"\r\n.\n", b"\r\n.\r\n"),
    "S4": (b"\r.\r", b" . "),
    "S5": (b"\r.\n", b" .\r\n"),
    "S6": (b"\r.\r\n", b" .\r\n"),
    "S7": (b"\n.\r", b"\r\n. "),
    "S8": (b"\r\n.\r", b"\r\n "),
    "S9": (b"\r\r\n.\r\r\n", None),
    "S10": (b"\r\n.\r\r\n", None),
}
"""ID: the sequence, and what "normalize" makes of it (None: only the number of messages matters).

In S8 the dot begins a line after CRLF, so it is the transparency dot of RFC 5321 §4.5.2 and goes."""

CLEAN = {"S12": (b"\r\n..\r\n", b"\r\n.\r\n"), "S13": (b"\r\n.x\r\n", b"\r\nx\r\n")}
NULS = (b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\0text\r\n")


async def one_message(bench: Bench, client: Client, pieces: list[bytes], code: int, pause: float = 0.0) -> None:
    """Send a body; exactly one reply of this code comes, and the dialogue is in step afterwards."""
    before = len(bench.intake.mails)
    await client.transaction()
    await client.command("DATA", 354)
    await client.dribble(b"", pieces, pause)
    await client.expect(code, "5.6.0" if code == 550 else "")
    await client.command("NOOP", 250)
    assert await client.is_silent(0.001)
    assert len(bench.intake.mails) - before == (1 if code == 250 else 0)


def cut(data: bytes, at: int) -> list[bytes]:
    return [data[:at], data[at:]]


@row("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10")
async def no_end(id: str) -> None:
    sequence, normalized = SEQUENCES[id]
    message = HEAD + sequence + SECOND
    async with Bench() as bench, bench.greeted() as client:
        await one_message(bench, client, [message + END], 550)
    async with Bench(smtp__bare_newline="normalize") as bench, bench.greeted() as client:
        await one_message(bench, client, [message + END], 250)
        body = bench.bodies[0]
        assert body.endswith(b"\r\nsmuggled\r\n")
        assert b"\r" not in body.replace(b"\r\n", b"")
        assert b"\n" not in body.replace(b"\r\n", b"")
        if normalized is not None:
            assert body == HEAD + normalized + SECOND + b"\r\n"


@row("S11")
async def nul(id: str) -> None:
    for mode in ("reject", "normalize"):
        async with Bench(smtp__bare_newline=mode) as bench, bench.greeted() as client:
            for sequence in NULS:
                await one_message(bench, client, [HEAD + sequence + SECOND + END], 550)


@row("S12", "S13")
async def transparency(id: str) -> None:
    sequence, unstuffed = CLEAN[id]
    for mode in ("reject", "normalize"):
        async with Bench(smtp__bare_newline=mode) as bench, bench.greeted() as client:
            await one_message(bench, client, [HEAD + sequence + SECOND + END], 250)
            assert bench.bodies == [HEAD + unstuffed + SECOND + b"\r\n"]


@row("S14")
async def any_pieces(id: str) -> None:
    """Every sequence cut around each of its bytes and sent byte by byte, over TCP segments and over TLS records."""
    cases = [(sequence, False) for sequence, _ in SEQUENCES.values()] + [(sequence, True) for sequence, _ in CLEAN.values()]
    for mode, tls in itertools.product(("reject", "normalize"), (False, True)):
        async with Bench(smtp__bare_newline=mode, smtp__max_errors=1000) as bench, bench.greeted() as client:
            if tls:
                await client.start_tls()
                await client.command("EHLO client.example", 250)
            for sequence, clean in cases:
                data = HEAD + sequence + b"x" + END
                code = 250 if clean or mode == "normalize" else 550
                bodies = set()
                for at in range(len(HEAD) - 1, len(data)):
                    await one_message(bench, client, cut(data, at), code, 0.0005)
                    bodies.update(bench.bodies[-1:])
                await one_message(bench, client, [data[i : i + 1] for i in range(len(data))], code)
                bodies.update(bench.bodies[-1:])
                assert len(bodies) <= 1 or mode == "reject", f"{sequence!r}: the pieces change the message"
                bench.intake.mails.clear()


@row("S15")
async def first_line(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await one_message(bench, client, [b".\n" + SECOND + END], 550)
    async with Bench(smtp__bare_newline="normalize") as bench, bench.greeted() as client:
        await one_message(bench, client, [b".\n" + SECOND + END], 250)


@row("S16")
async def buffer_boundaries(id: str) -> None:
    for mode, code in (("reject", 550), ("normalize", 250)):
        async with Bench(smtp__bare_newline=mode, smtp__max_errors=1000) as bench, bench.greeted() as client:
            for boundary, offset in itertools.product((4096, 8192, 65536), range(-2, 3)):
                filler = HEAD + b"\r\n" + b"x" * (boundary + offset - len(HEAD) - 3)
                for line, expected in ((b"\n.\n", code), (b"\r\n..\r\n", 250)):
                    await one_message(bench, client, [filler + line + SECOND + END], expected)
                # The true end exactly there is one.
                await one_message(bench, client, [filler + END], 250)
                assert bench.bodies[-1] == filler + b"\r\n"


@row("S17")
async def empty_message(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await one_message(bench, client, [b".\r\n"], 250)
        assert bench.bodies == [b""]


@row("S18")
async def chunks_have_no_end(id: str) -> None:
    for mode, code in (("reject", 550), ("normalize", 250)):
        async with Bench(smtp__bare_newline=mode) as bench, bench.greeted() as client:
            for body, expected in ((HEAD + b"\r\n.\r\n" + SECOND + b"\r\n", 250), (HEAD + b"\n.\n" + SECOND + b"\r\n", code)):
                before = len(bench.intake.mails)
                await client.transaction()
                client.send(b"BDAT %d LAST\r\n%s" % (len(body), body))
                await client.expect(expected, "5.6.0" if expected == 550 else "")
                await client.command("NOOP", 250)
                assert len(bench.intake.mails) - before == (expected == 250)
            assert bench.bodies[0] == HEAD + b"\r\n.\r\n" + SECOND + b"\r\n"


@row("S19")
async def bare_newline_after_a_command(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        client.send(b"NOOP\n")
        await client.expect(500, "5.5.2")
        assert await client.is_closed()
    async with Bench(smtp__bare_newline="normalize") as bench, bench.greeted() as client:
        client.send(b"NOOP\n")
        await client.expect(250)
        client.send(b"NOOP\r\n")
        await client.expect(250)


@row("S20")
async def scanners(id: str) -> None:
    """Every sequence the known scanners try, in and out, and all others of their kind."""
    ends = (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\n\0", b"\0\r\n")
    sequences = {a + dot + b for a in ends for dot in (b".", b"..", b".\0") for b in ends} - {END}
    sequences |= {b"\r\n\x00.\r\n", b"\n\n.\r\n", b"\r\n \r\n.\n", b"\n.\r\n.\n"}
    for mode in ("reject", "normalize"):
        async with Bench(smtp__bare_newline=mode, smtp__max_errors=10_000) as bench, bench.greeted() as client:
            for sequence in sorted(sequences):
                if END in sequence:
                    continue
                await client.transaction()
                await client.command("DATA", 354)
                before = len(bench.intake.mails)
                client.send(HEAD + sequence + SECOND + END)
                assert (await client.reply()).code in (250, 550), sequence
                await client.command("NOOP", 250)
                assert len(bench.intake.mails) - before <= 1, sequence
                assert all(b"Subject: outer" in body for body in bench.bodies[before:]), sequence
                bench.intake.mails.clear()


@row("S21")
async def refusals_wait_for_the_end(id: str) -> None:
    """Whatever is wrong with a body, its rest is never read as commands."""
    async with Bench(smtp__max_message_size=20_000, smtp__max_header_size=1000) as bench, bench.greeted() as client:
        faults = {
            b"x" * 25_000: 552,
            b"Subject: " + b"y" * 2000: 552,
            HEAD + b"\0": 550,
            HEAD + b"\n": 550,
            b"From someone@x.example Thu Jan  1 00:00:00 1970\r\nSubject: mbox\r\n\r\n": 550,
        }
        for fault, code in faults.items():
            await client.transaction()
            await client.command("DATA", 354)
            client.send(fault)
            await asyncio.sleep(0.001)
            client.send(b"\r\nQUIT\r\n" + SECOND)
            await asyncio.sleep(0.001)
            assert await client.is_silent(0.01), fault[:30]
            client.send(END)
            await client.expect(code)
            await client.command("NOOP", 250)
        # The store fails in the middle.
        bench.intake.capacity = 500
        await client.transaction()
        await client.command("DATA", 354)
        client.send(HEAD + b"z" * 900 + b"\r\n")
        await asyncio.sleep(0.001)
        client.send(SECOND)
        assert await client.is_silent(0.01)
        client.send(END)
        await client.expect(452, "4.3.1")
        await client.command("NOOP", 250)
        assert not bench.intake.mails
        assert not bench.intake.open_writers
