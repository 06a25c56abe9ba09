"""P1 to P30: command lines, parameters, limits."""

from __future__ import annotations

import asyncio
import contextlib
import random

from rusmes.metrics import SMTP_ERRORS
from tests.conformance.rows import row
from tests.sessions.harness import STRANGER, Bench, Client, Closed

MAIL = "MAIL FROM:<a@client.example>"
RCPT = "RCPT TO:<alice@example.com>"


@row("P1")
async def long_lines(id: str) -> None:
    async with Bench("submission") as bench, bench.greeted() as client:
        await client.command("NOOP " + "x" * 500, 250)
        await client.command("NOOP " + "x" * 600 + " MAIL FROM:<a@b.example>", 500, "5.5.2")
        await client.command("NOOP", 250)
        assert bench.metrics.count(SMTP_ERRORS) == 1
        # AUTH may be 12288 octets long, MAIL with its parameters 2048.
        await client.command("AUTH PLAIN " + "A" * 12000, 501)
        await client.command("AUTH PLAIN " + "A" * 13000, 500, "5.5.2")
        await client.command("NOOP", 250)
    async with Bench() as bench, bench.greeted() as client:
        await client.command(MAIL + " SIZE=100 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=" + "x" * 99, 250)
        await client.command(RCPT + " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + "+41" * 150, 250)


@row("P2")
async def endless_line(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(160):
                client.send(b"x" * 65536)
                await client.writer.drain()
        with contextlib.suppress(ConnectionError, Closed):
            await client.expect(500, "5.5.2")
            assert await client.is_closed()
        assert bench.logged("Line too long")


@row("P3")
async def unknown_commands(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        for _ in range(20):
            await client.command("XYZZY", 500)
        await client.command("XYZZY", 421)
        assert await client.is_closed()


@row("P4")
async def other_protocols(id: str) -> None:
    async with Bench() as bench:
        for line in ("GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT mx.example.com:25 HTTP/1.1"):
            client = await bench.connect()
            await client.expect(220)
            client.send(f"{line}\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n")
            await client.expect(554)
            assert await client.is_closed()


@row("P5")
async def talks_before_the_banner(id: str) -> None:
    async with Bench(smtp__greet_delay=0.4) as bench:
        client = await bench.connect(STRANGER)
        client.send("EHLO client.example\r\n")
        await client.expect(554, "5.5.0")
        assert await client.is_closed()
        assert bench.metrics.count(SMTP_ERRORS) == 1
        async with bench.greeted(STRANGER) as patient:
            await patient.command("NOOP", 250)


@row("P6")
async def pipelined_behind_the_end_of_a_group(id: str) -> None:
    async with Bench("submission") as bench:
        for line in ("EHLO client.example", "STARTTLS", "AUTH PLAIN AGEAYg==", "QUIT"):
            async with bench.greeted() as client:
                client.send(line + "\r\nNOOP\r\n")
                await client.expect(554, "5.5.0")
                assert await client.is_closed()
    async with Bench() as bench, bench.greeted() as client:
        await client.transaction()
        client.send("DATA\r\nSubject: x\r\n\r\n.\r\n")
        await client.expect(554, "5.5.0")
        assert await client.is_closed()
        assert not bench.intake.mails
        async with bench.greeted() as turner:
            await turner.command("TURN", 502)


@row("P7")
async def legal_pipelining(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        client.send(f"{MAIL}\r\n" + "".join(f"RCPT TO:<alice+{n}@example.com>\r\n" for n in range(10)) + "DATA\r\n")
        replies = await asyncio.wait_for(client.reader.read(65536), 5)
        codes = [line[:3] for line in replies.split(b"\r\n")[:-1]]
        assert codes == [b"250"] * 11 + [b"354"]
        client.send(f"Subject: x\r\n\r\n.\r\n{MAIL}\r\n{RCPT}\r\nRSET\r\nQUIT\r\n")
        for code in (250, 250, 250, 250, 221):
            await client.expect(code)
        assert len(bench.intake.mails[0].recipients) == 10


@row("P8")
async def no_valid_recipient(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        client.send(f"{MAIL}\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<none@example.com>\r\nDATA\r\n")
        for code in (250, 550, 550):
            await client.expect(code)
        await client.expect(554, "5.5.1")
        await client.command("NOOP", 250)


@row("P9")
async def too_many_recipients(id: str) -> None:
    async with Bench(smtp__max_recipients=3) as bench, bench.greeted() as client:
        await client.transaction("<a@client.example>", *[f"<alice+{n}@example.com>" for n in range(3)])
        await client.command("RCPT TO:<bob@example.com>", 452, "4.5.3")
        await client.data(b"Subject: x\r\n\r\n", 250)
        assert [r.address.local for r in bench.intake.mails[0].recipients] == ["alice+0", "alice+1", "alice+2"]


@row("P10")
async def mail_twice(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.transaction()
        await client.command(MAIL, 503)
        await client.data(b"Subject: x\r\n\r\n", 250)


@row("P11")
async def unknown_parameters(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command(MAIL + " XYZZY=1", 555, "5.5.4")
        await client.command(MAIL + " NOTIFY=NEVER", 555, "5.5.4")
        await client.command(MAIL, 250)
        await client.command(RCPT + " XYZZY", 555, "5.5.4")
        await client.command(RCPT, 250)


@row("P12")
async def overflowing_size(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command(MAIL + " SIZE=99999999999999999999", 552)
        await client.command(MAIL + " SIZE=999999999999999999999", 501)
        for size in ("-1", "1e3", "", "0x10", "1 "):
            assert (await client.command(f"{MAIL} SIZE={size}", 250 if size == "1 " else 501)).code


@row("P13")
async def announced_too_large(id: str) -> None:
    async with Bench(smtp__max_message_size=1000) as bench, bench.greeted() as client:
        assert "SIZE 1000" in (await client.command("EHLO client.example", 250)).lines
        await client.command(MAIL + " SIZE=1001", 552, "5.3.4")
        await client.command(MAIL + " SIZE=1000", 250)


@row("P14")
async def too_large_unannounced(id: str) -> None:
    async with Bench(smtp__max_message_size=1000) as bench, bench.greeted() as client:
        await client.transaction()
        await client.data(b"Subject: x\r\n\r\n" + b"y" * 1500, 552, "5.3.4")
        await client.command("NOOP", 250)
        await client.transaction()
        client.send(b"BDAT 1500 LAST\r\n" + b"z" * 1500)
        await client.expect(552, "5.3.4")
        assert not bench.intake.open_writers
        # Without an end: read up to a bound, then closed.
        await client.transaction()
        await client.command("DATA", 354)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.send(b"w" * 998 + b"\r\n")
                await client.writer.drain()
        with contextlib.suppress(Closed):
            await client.expect(552, "5.3.4")
        assert not bench.intake.mails
        assert bench.intake.largest_write < 1000


@row("P16")
async def binary_needs_chunks(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command(MAIL + " BODY=BINARYMIME", 250)
        await client.command(RCPT, 250)
        await client.command("DATA", 503)
        body = b"Subject: x\r\n\r\n\0\r\n.\r\n\n\xff"
        client.send(b"BDAT %d LAST\r\n%s" % (len(body), body))
        await client.expect(250)
        assert bench.bodies == [body]
        assert bench.intake.mails[0].body_type == "BINARYMIME"


@row("P17")
async def chunk_order(id: str) -> None:
    async with Bench() as bench:
        async with bench.greeted() as client:
            await client.transaction()
            await client.command("BDAT 0 LAST", 250)
            await client.transaction()
            client.send(b"BDAT 5\r\nabcde")
            await client.expect(250)
            await client.command(MAIL, 503)
            client.send(b"BDAT 4 LAST\r\nfgh\n")
            await client.expect(550, "5.6.0")
        async with bench.greeted() as client:
            client.send(b"BDAT 6\r\nQUIT\r\n")  # before MAIL, with its payload
            await client.expect(503)
            await client.command(MAIL, 250)
            client.send(b"BDAT 6 LAST\r\nQUIT\r\n")
            await client.expect(503)
            await client.command(RCPT, 250)
            await client.data(b"Subject: x\r\n\r\n", 250)
            client.send(b"BDAT 6 LAST\r\nQUIT\r\n")  # after DATA
            await client.expect(503)
            await client.command("NOOP", 250)
        for size in (b"18446744073709551615", b"18446744073709551616", b"99999999999999999999999", b"-1", b"x"):
            async with bench.greeted() as client:
                await client.transaction()
                client.send(b"BDAT " + size + b" LAST\r\n")
                assert (await client.reply()).code in (501, 552)
                assert await client.is_closed()


@row("P18")
async def refused_chunks_are_swallowed(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        payload = b"RSET\r\nQUIT\r\n"
        client.send(f"{MAIL}\r\nRCPT TO:<nobody@example.com>\r\nBDAT {len(payload)}\r\n".encode() + payload)
        client.send(b"BDAT %d LAST\r\n%s" % (len(payload), payload))
        for code in (250, 550, 554, 554):
            await client.expect(code)
        await client.command("NOOP", 250)
        # A chunk that is refused takes those that were pipelined behind it with it.
        bench.intake.capacity = 10
        await client.command("RSET", 250)
        client.send(f"{MAIL}\r\n{RCPT}\r\nBDAT {len(payload)}\r\n".encode() + payload)
        client.send(b"BDAT %d LAST\r\n%s" % (len(payload), payload))
        for code in (250, 250, 452, 503):
            await client.expect(code)
        await client.command("NOOP", 250)
        assert not bench.intake.mails
        assert not bench.intake.open_writers


@row("P19")
async def large_header(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        line = b"X-Filler: " + b"y" * 900 + b"\r\n"
        await client.transaction()
        await client.data(line * 120 + b"\r\n", 552, "5.3.4")
        await client.transaction()
        await client.data(line * 100 + b"\r\n" + line * 1000, 250)


@row("P20")
async def loops(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        for count, code in ((100, 250), (101, 554)):
            await client.transaction()
            await client.data(b"Received: from x by y; z\r\n" * count + b"\r\n" + b"Received: in the body\r\n" * 300, code)
        assert len(bench.intake.mails) == 1


@row("P21")
async def many_parts(id: str) -> None:
    """What is not parsed cannot take long: a million parts go through like any other bytes."""
    async with Bench() as bench, bench.greeted() as client:
        body = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 1_000_000
        await client.transaction()
        await client.data(body, 250)
        nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1000))
        await client.transaction()
        await client.data(nested, 250)
        assert bench.bodies[0] == body


@row("P22")
async def many_header_lines(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        for header in (b"a:b\r\n" * 50_000, b"n" * 100_000 + b": x\r\n" + b"a: b\r\n" * 1000):
            await client.transaction()
            await client.data(header + b"\r\n", 552)
    async with Bench(smtp__max_header_size=1_000_000) as bench, bench.greeted() as client:
        await client.transaction()
        await client.data(b"a:b\r\n" * 50_000 + b"\r\n", 250)


@row("P23")
async def mbox_line(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.transaction()
        await client.data(b"From a@b Thu Jan  1 00:00:00 1970\r\n" * 3 + b"Subject: x\r\n\r\n", 550, "5.6.0")


@row("P24")
async def eight_bits_in_an_address(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command("MAIL FROM:<jürgen@client.example>", 553, "5.6.7")
        await client.command(MAIL, 250)
        await client.command("RCPT TO:<älice@example.com>", 553, "5.6.7")
        await client.command("RSET", 250)
        await client.command("MAIL FROM:<jürgen@client.example> SMTPUTF8", 250)
        await client.command(RCPT, 250)
        await client.data(b"Subject: x\r\n\r\n", 250)
        mail = bench.intake.mails[0]
        assert mail.smtputf8
        assert mail.origin.protocol == "UTF8SMTP"
        assert b"with UTF8SMTP id" in mail.content.read()


@row("P26")
async def no_address_by_normalisation(id: str) -> None:
    bad = (
        b"a\xff@client.example", b"a\xc0\x80@client.example", b"a\xed\xa0\x80@client.example",
        b"a\x01@client.example", "a\u2028@client.example".encode(), "a＠client.example".encode(),
        "a@client．example".encode(), "a@client。example".encode(), "a@ex\u202eample.com".encode(),
    )  # fmt: skip
    async with Bench() as bench, bench.greeted() as client:
        for address in bad:
            reply = await client_line(client, b"MAIL FROM:<" + address + b"> SMTPUTF8")
            assert reply in (501, 553), (address, reply)


async def client_line(client: Client, line: bytes) -> int:
    client.send(line + b"\r\n")
    return (await client.reply()).code


@row("P27")
async def controls_in_an_address(id: str) -> None:
    async with Bench() as bench:
        for local in (b"a\tb", b"a\0", b'"a\0b"', b'"a\rb"', b"a\r"):
            address = local + b"@example.com"
            async with bench.greeted() as client:
                await client.command(MAIL, 250)
                assert await client_line(client, b"RCPT TO:<" + address + b">") in (500, 501), address
        # A line feed ends the line, and the session: what follows is never a command.
        async with bench.greeted() as client:
            await client.command(MAIL, 250)
            client.send(b'RCPT TO:<"a\nQUIT\r\n')
            assert (await client.reply()).code in (500, 501)


@row("P28")
async def source_routes(id: str) -> None:
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        await client.command("MAIL FROM:<@relay.example:a@client.example>", 250)
        await client.command("RCPT TO:<@example.com,@b.example:user@foreign.example>", 554, "5.7.1")
        await client.command("RCPT TO:<@foreign.example,@b.example:alice@example.com>", 250)
        await client.data(b"Subject: x\r\n\r\n", 250)
        mail = bench.intake.mails[0]
        assert str(mail.sender) == "a@client.example"
        assert str(mail.recipients[0].address) == "alice@example.com"


@row("P29")
async def long_addresses(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        for address in ("x" * 65 + "@a.example", "a@" + "x" * 64 + ".example", "a@" + ".".join(["x" * 50] * 6)):
            assert await client_line(client, f"MAIL FROM:<{address}>".encode()) in (501, 553)
        await client.command("MAIL FROM:<" + "x" * 64 + "@" + "y" * 63 + ".example>", 250)


@row("P30")
async def random_bytes(id: str) -> None:
    """Sessions of noise and of half-right commands: no exception, no leak, at most one reply line for each line sent."""
    dice = random.Random(30)
    words = [b"EHLO x", b"MAIL FROM:<", b"a@b.example>", b"RCPT TO:<alice@example.com>", b"DATA", b"BDAT 5 LAST", b"RSET", b" ",
             b"\r\n", b"\r\n", b"\r\n.\r\n", b"\n", b"\0", b"\xff", b"AUTH PLAIN", b"STARTTLS", b"NOOP", b"SIZE=9"]  # fmt: skip
    async with Bench(smtp__command_timeout=5) as bench:
        for number in range(150):
            client = await bench.connect()
            await client.expect(220)
            if number % 3 == 0:
                noise = dice.randbytes(dice.randrange(1, 400))
            else:
                noise = b"".join(dice.choice(words) for _ in range(dice.randrange(1, 40)))
            if number % 3 == 2:
                await client.command("HELO client.example", 250)
            with contextlib.suppress(ConnectionError):
                client.send(noise + b"\r\n")
                client.writer.write_eof()
                said = await asyncio.wait_for(client.reader.read(), 5)
                final = [line for line in said.split(b"\r\n") if line[3:4] == b" "]
                assert len(final) <= noise.count(b"\n") + 2, (noise, said)
            await client.close()
        await asyncio.sleep(0.05)
        assert not bench.intake.open_writers
        assert not bench.logged("internal error")
        assert not bench.logged('"level":"error"')
