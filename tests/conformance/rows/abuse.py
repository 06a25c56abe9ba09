"""A1 to A6, B16 to B19, L1s to L9s, H5 to H12: guessing, flooding, being slow, and writing into other people's lines."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from unittest.mock import patch

from rusmes.errors import AuthUnavailable
from rusmes.smtp.policy import Policy
from tests.conformance.rows import row
from tests.conformance.rows.relaying import plain
from tests.sessions.harness import HOSTNAME, STRANGER, Bench, make_config, networks

FROM = "MAIL FROM:<a@client.example>"
GOOD = plain("alice@example.com", "s3cret-alice")
WRONG = plain("alice@example.com", "not-her-password")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@row("A1")
async def three_wrong_passwords(id: str) -> None:
    async with Bench("submission") as bench, bench.greeted() as client:
        await client.command(WRONG, 535, "5.7.8")
        await client.command(WRONG, 535, "5.7.8")
        await client.command(WRONG, 421, "4.7.0")
        assert await client.is_closed()
        assert [success for _, success, _ in bench.authenticator.attempts] == [False, False, False]


@row("A2")
async def locked_out_at_connect(id: str) -> None:
    """The counting is the authenticator's (tests/unit/auth); a session asks before it says anything else."""
    async with Bench("submission") as bench:
        bench.authenticator.blocked[STRANGER] = 900.0
        client = await bench.connect(STRANGER)
        await client.expect(421, "4.7.0")
        assert await client.is_closed()
        bench.authenticator.locked_seconds = 900.0
        async with bench.greeted() as other:
            await other.command(WRONG, 421, "4.7.0")
            assert await other.is_closed()


@row("A4")
async def malformed_logins(id: str) -> None:
    async with Bench("submission") as bench, bench.greeted() as client:
        await client.command("AUTH PLAIN !!!!", 501, "5.5.2")
        await client.command("AUTH PLAIN", 334)
        await client.command("*", 501, "5.7.0")
        await client.command("AUTH LOGIN", 334)
        await client.command("not base64!", 501, "5.5.2")
        await client.command("AUTH PLAIN", 334)
        await client.command("A" * 13_000, 500, "5.5.2")
        await client.command("AUTH XYZZY", 504, "5.5.4")
        await client.command("AUTH", 501)
        await client.command("AUTH PLAIN x y", 501)
        bench.authenticator.error = AuthUnavailable("no backend")
        await client.command(GOOD, 454, "4.7.0")
        assert not bench.authenticator.attempts
        bench.authenticator.error = None
        await client.command(GOOD, 235)


@row("A5")
async def login_out_of_order(id: str) -> None:
    async with Bench("submission", submission__sender_check="any") as bench, bench.greeted() as client:
        await client.command(GOOD, 235, "2.7.0")
        await client.command(GOOD, 503)
        await client.transaction()
        await client.command(GOOD, 503)
        await client.data(b"Subject: x\r\n\r\n", 250)
    async with Bench("mx") as bench, bench.greeted() as client:
        assert (await client.command("EHLO client.example", 250)).text.count("AUTH") == 0
        client.send(GOOD + "\r\n")
        assert (await client.reply()).code in (502, 503)


@row("A6")
async def passwords_in_no_line(id: str) -> None:
    async with Bench("submission", level="trace") as bench, bench.greeted() as client:
        await client.command(WRONG, 535)
        await client.command("AUTH LOGIN", 334)
        await client.command(b64("alice@example.com"), 334)
        await client.command(b64("not-her-password"), 535)
        await client.command("AUTH LOGIN " + b64("alice@example.com"), 334)
        await client.command(b64("s3cret-alice"), 235)
        log = "".join(bench.lines)
        assert "authentication failed" in log
        for secret in ("s3cret-alice", "not-her-password"):
            assert secret not in log
            assert b64(secret) not in log
            assert b64(f"\0alice@example.com\0{secret}") not in log
        assert '"user":"alice@example.com"' in bench.lines[-1]


@row("B16")
async def harvesting(id: str) -> None:
    async with Bench(smtp__max_errors=100) as bench, bench.greeted(STRANGER) as client:
        await client.command(FROM, 250)
        said = set()
        for number in range(20):
            said.add((await client.command(f"RCPT TO:<guess{number}@example.com>", 550, "5.1.1")).text)
            assert len(bench.naps) == max(0, number + 1 - 10)
        assert bench.naps == [1.0] * 10
        assert len(said) == 1
        await client.command("RCPT TO:<guess@example.com>", 421, "4.7.0")
        assert await client.is_closed()
    # A new transaction does not begin the count again.
    async with Bench(smtp__max_errors=100) as bench, bench.greeted(STRANGER) as client:
        for number in range(5):
            await client.transaction()
            for guess in range(4):
                await client.command(f"RCPT TO:<guess{number}-{guess}@example.com>", 550)
            await client.data(b"Subject: x\r\n\r\n", 250)
        await client.command(FROM, 250)
        await client.command("RCPT TO:<guess@example.com>", 421)


@row("B17")
async def verify_and_expand(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        for name in ("alice", "alice@example.com", "nobody@example.com"):
            await client.command(f"VRFY {name}", 252)
            await client.command(f"EXPN {name}", 502)


@row("B18")
async def flood_of_one_address(id: str) -> None:
    """The count is the gate's (tests/unit/net); a refusal is one line, made in advance, before any work."""
    async with Bench() as bench:
        for reason in ("per_ip", "per_protocol", "total", "rate", "descriptors", "draining", "overload"):
            line = bench.service.refusal(reason)
            assert line.startswith(b"421 4."), reason
            assert line.endswith(b"\r\n")
        assert bench.service.refusal("blocked").startswith(b"554 5.7.1 ")
        assert bench.service.refusal("per_ip") is bench.service.refusal("per_ip")


@row("B19")
async def rotating_addresses(id: str) -> None:
    policy = Policy(make_config(), "mx", hostname=HOSTNAME)
    keys = {policy.trust_of(f"2001:db8:1:2::{n:x}").rate_key for n in range(50)}
    assert len(keys) == 1
    assert policy.trust_of("2001:db8:1:3::1").rate_key not in keys
    assert policy.trust_of("::ffff:192.0.2.1").rate_key == policy.trust_of("192.0.2.1").rate_key
    # The messages of one network count together, and the window is one over all its connections.
    config = {"server__proxy_networks": networks("127.0.0.1/32"), "smtp__rate_limit__max_messages_per_hour": 2}
    async with Bench(**config) as bench:
        for number, code in enumerate((250, 250, 450)):
            async with bench.greeted() as client:
                await client.command(f"XCLIENT ADDR=IPV6:2001:db8::{number + 1:x}", 220)
                await client.command("EHLO client.example", 250)
                await client.command(FROM, code, "4.7.1" if code == 450 else "")
                if code == 250:
                    await client.command("RCPT TO:<alice@example.com>", 250)
                    await client.data(b"Subject: x\r\n\r\n", 250)


@row("L1s")
async def slow_command(id: str) -> None:
    async with Bench(smtp__command_timeout=0.3) as bench, bench.greeted() as client:
        began = time.monotonic()
        dribble = asyncio.create_task(client.dribble(b"MAIL FROM:<somebody@client.example>\r\n", pause=0.05))
        await client.expect(421, "4.4.2")
        assert 0.25 < time.monotonic() - began < 5.0
        assert await client.is_closed()
        dribble.cancel()
        await asyncio.gather(dribble, return_exceptions=True)
    # A whole transaction has a deadline too, however lively it is.
    async with Bench(smtp__transaction_timeout=0.3) as bench, bench.greeted() as client:
        await client.command(FROM, 250)
        began = time.monotonic()
        while time.monotonic() - began < 2:
            client.send("RCPT TO:<alice@example.com>\r\n")
            reply = await client.reply()
            if reply.code != 250:
                break
            await asyncio.sleep(0.02)
        assert (reply.code, reply.status) == (421, "4.4.2")
        assert await client.is_closed()


@row("L2s")
async def slow_data(id: str) -> None:
    with patch("rusmes.smtp.server.GRACE_SECONDS", 0.3):
        async with Bench() as bench:
            async with bench.greeted() as client:
                await client.transaction()
                await client.command("DATA", 354)
                dribble = asyncio.create_task(client.dribble(b"Subject: slow\r\n\r\n" + b"x" * 100, pause=0.05))
                await client.expect(421, "4.4.2")
                assert await client.is_closed()
                dribble.cancel()
                await asyncio.gather(dribble, return_exceptions=True)
            # 1000 bytes every 0.05 s are more than the rate: they may take longer than the grace.
            async with bench.greeted() as client:
                await client.transaction()
                await client.command("DATA", 354)
                await client.dribble(b"", [b"y" * 998 + b"\r\n"] * 12, 0.05)
                client.send(b".\r\n")
                await client.expect(250)
            assert len(bench.intake.mails) == 1
            assert not bench.intake.open_writers


@row("L3s")
async def never_reads(id: str) -> None:
    """Replies that nobody reads are bounded, and end the session."""
    async with Bench(smtp__max_errors=10**9) as bench:
        bench.send_timeout = 0.5
        client = await bench.connect()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.send(b"EHLO client.example\r\n")
        await asyncio.sleep(0.05)
        high = 0
        began = time.monotonic()
        while not bench.connections[0].is_lost and time.monotonic() - began < 10:
            with_room = client.writer.transport.get_write_buffer_size() < 1 << 20
            if with_room:
                client.send(b"XYZZY\r\n" * 4096)
            await asyncio.sleep(0.001)
            if not bench.connections[0].is_lost:
                high = max(high, bench.connections[0]._transport.get_write_buffer_size())
        assert bench.connections[0].is_lost
        assert high <= 128 * 1024, high
        client.writer.transport.abort()


@row("L7s")
async def messages_of_a_connection(id: str) -> None:
    async with Bench(smtp__max_messages_per_connection=2) as bench:
        async with bench.greeted() as client:
            assert "LIMITS RCPTMAX=1000 MAILMAX=2" in (await client.command("EHLO client.example", 250)).lines
            for _ in range(2):
                await client.transaction()
                await client.data(b"Subject: x\r\n\r\n", 250)
            await client.command(FROM, 421)
            assert await client.is_closed()
        async with bench.greeted() as client:
            await client.command(FROM, 250)


@row("L8s")
async def commands_without_mail(id: str) -> None:
    async with Bench() as bench:
        for line in ("NOOP", "RSET", "EHLO client.example", "VRFY alice"):
            async with bench.greeted() as client:  # one greeting counts
                for _ in range(99):
                    client.send(line + "\r\n")
                    assert (await client.reply()).code < 400
                await client.command(line, 421, "4.7.0")
                assert await client.is_closed()
        # Mail in between makes it an honest session, and as many RSETs as mails are no flood.
        async with bench.greeted() as client:
            for _ in range(3):
                for _ in range(60):
                    await client.command("NOOP", 250)
                await client.transaction()
                await client.data(b"Subject: x\r\n\r\n", 250)
        async with bench.greeted() as client:
            for _ in range(120):
                client.send(f"{FROM}\r\nRSET\r\n")
                codes = [(await client.reply()).code, (await client.reply()).code]
                if 421 in codes:
                    break
            assert 421 in codes


@row("H5")
async def injected_names(id: str) -> None:
    hellos = ("x) (evil", "x;evil", '"quoted"', "x" * 400, "[127.0.0.1]", "jürgen", "a\\b", "<x>")
    async with Bench() as bench:
        for hello in hellos:
            async with bench.greeted(hello=f"EHLO {hello}") as client:
                await client.transaction()
                await client.data(b"Subject: x\r\n\r\n", 250)
                header = bench.intake.mails[-1].content.read().split(b"\r\nSubject:")[0]
                first = header.split(b"\r\n")[0]
                assert first.count(b"(") == first.count(b")") == 1, first
                assert first.isascii()
                assert len(first) < 400
                assert b";" not in first
        async with bench.greeted() as client:
            for hello in (b"EHLO tab\there", b"EHLO nul\0", b"EHLO \x1b[31m"):
                await client.command(hello, 501)


@row("H6")
async def injected_parameters(id: str) -> None:
    async with Bench("submission", submission__sender_check="any") as bench, bench.greeted() as client:
        evil = base64.b64encode(b"\0alice\r\nX-Evil: 1\0password").decode()
        client.send(f"AUTH PLAIN {evil}\r\n")
        assert (await client.reply()).code in (501, 535)
        await client.command(GOOD, 235)
        for parameter in ("ENVID=a+0D+0AX-Evil:", "AUTH=a+0D+0Ab@example.com"):
            await client.command(f"{FROM} {parameter}", 501)
        await client.command(FROM + " AUTH=<> ENVID=harmless", 250)
        await client.command("RCPT TO:<alice@example.com> ORCPT=rfc822;a+0D+0AX-Evil", 501)
        assert all(line.count("\n") == 1 for line in bench.lines)


@row("H8")
async def injected_log_lines(id: str) -> None:
    for text in ('{"level":"error"}', '"},"event":"forged', "x\x1b[31m", "x\u2028y", "\xff", "%s%n{0}"):
        async with Bench() as bench:
            client = await bench.connect(STRANGER)
            await client.expect(220)
            for line in (f"EHLO {text}", f"{FROM[:-1]}{text}>", f'MAIL FROM:<"{text}"@client.example>', text, f"VRFY {text}"):
                client.send(line.encode("utf-8", "surrogatepass") + b"\r\n")
                await client.reply()
            await client.close()
            await asyncio.sleep(0.01)
            for line in bench.lines:
                record = json.loads(line)
                assert line.count("\n") == 1
                assert "\x1b" not in line
                assert record["client"] == STRANGER
                assert record["event"] != "forged"


@row("H12")
async def forged_results(id: str) -> None:
    forged = (
        b"Authentication-Results: mx.example.com; dkim=pass",
        b"authentication-results : MX.Example.Com 1; spf=pass",
        b"Authentication-Results: (comment (nested)) mx.example.com;\r\n\tdmarc=pass",
        b'Authentication-Results: "mx.example.com"; auth=pass',
        b"Authentication-Results: example.com; auth=pass",
        b"Authentication-Results:\r\n mx.example.com.; auth=pass",
    )
    other = b"Authentication-Results: mx.other.example; dkim=pass\r\n\t(mx.example.com)"
    for listener, hello in (("mx", "EHLO x.example"), ("submission", "EHLO x.example"), ("lmtp", "LHLO x.example")):
        async with Bench(listener, submission__sender_check="any") as bench, bench.greeted(hello=hello) as client:
            if listener == "submission":
                await client.command(GOOD, 235)
            for line in forged:
                await client.transaction()
                message = b"Subject: x\r\n" + other + b"\r\n" + line + b"\r\n\r\nbody\r\n"
                await client.data(message, 250)
                mail = bench.intake.mails[-1]
                assert bench.bodies[-1] == message  # the stored bytes are what came
                if listener == "lmtp":
                    assert not mail.removed
                else:
                    assert mail.removed == {"authentication-results"}
                    assert other + b"\r\n" in mail.prepended
                    assert line + b"\r\n" not in mail.prepended
            await client.transaction()
            await client.data(other + b"\r\nSubject: Authentication-Results: mx.example.com\r\n\r\n", 250)
            assert not bench.intake.mails[-1].removed
