"""T1 to T15, the server's side: what TLS must forget, refuse and survive."""

from __future__ import annotations

import asyncio
import base64
import ssl
from unittest.mock import patch

from rusmes.metrics import TLS_FAILURES
from tests.conformance.rows import row
from tests.sessions.harness import STRANGER, Bench, Client, client_context

PLAIN = b"AUTH PLAIN " + base64.b64encode(b"\0alice@example.com\0s3cret-alice")


@row("T1")
async def injected_commands(id: str) -> None:
    async with Bench() as bench:
        for injected in (b"RSET\r\n", b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<alice@example.com>\r\n", b"x"):
            async with bench.greeted() as client:
                client.send(b"STARTTLS\r\n" + injected)
                await client.expect(554, "5.5.0")
                assert await client.is_closed()
        # A segment of its own, behind our 220: it becomes part of the handshake, which it breaks.
        async with bench.greeted() as client:
            await client.command("STARTTLS", 220)
            client.send(b"RSET\r\n")
            assert b"250" not in await rest_of(client)


async def rest_of(client: Client) -> bytes:
    try:
        return await asyncio.wait_for(client.reader.read(), 5)
    except ConnectionError:
        return b""


@row("T2")
async def everything_is_forgotten(id: str) -> None:
    async with Bench("submission") as bench, bench.greeted() as client:
        client.send(PLAIN + b"\r\n")
        await client.expect(235)
        await client.start_tls()
        await client.command("RCPT TO:<alice@example.com>", 503)
        await client.command("MAIL FROM:<alice@example.com>", 503)
        await client.command("EHLO client.example", 250)
        await client.command("MAIL FROM:<alice@example.com>", 530, "5.7.0")
        await client.command(PLAIN, 235)
        await client.transaction("<alice@example.com>")


@row("T3")
async def no_argument(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command("STARTTLS now", 501, "5.5.4")
        await client.command("NOOP", 250)


@row("T4")
async def only_once(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        assert "STARTTLS" in (await client.command("EHLO client.example", 250)).lines
        await client.start_tls()
        reply = await client.command("EHLO client.example", 250)
        assert "STARTTLS" not in reply.lines
        assert "REQUIRETLS" in reply.lines
        await client.command("STARTTLS", 503)
        await client.command("NOOP", 250)


@row("T5")
async def not_in_a_transaction(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.transaction()
        await client.command("STARTTLS", 503)
        await client.data(b"Subject: goes on\r\n\r\n", 250)
        assert len(bench.intake.mails) == 1


@row("T6")
async def no_login_in_the_clear(id: str) -> None:
    async with Bench("submission") as bench, bench.greeted(STRANGER) as client:
        reply = await client.command("EHLO client.example", 250)
        assert not [line for line in reply.lines if line.startswith("AUTH")]
        await client.command("MAIL FROM:<alice@example.com>", 530, "5.7.0")
        await client.command(PLAIN, 538)
        assert not bench.authenticator.attempts
        await client.start_tls()
        reply = await client.command("EHLO client.example", 250)
        assert [line for line in reply.lines if line.startswith("AUTH ") and "PLAIN" in line]
        await client.command(PLAIN, 235)


@row("T7")
async def garbage_for_a_handshake(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.command("STARTTLS", 220)
        client.send(b"EHLO client.example\r\nGET / HTTP/1.1\r\n\r\n" * 3)
        assert b"250" not in await rest_of(client)
        assert bench.logged("TLS handshake failed")
        assert bench.metrics.count(TLS_FAILURES["smtp"]) == 1


@row("T8")
async def endless_handshake(id: str) -> None:
    with patch("rusmes.smtp.server.HANDSHAKE_SECONDS", 0.2):
        async with Bench() as bench, bench.greeted() as client:
            await client.command("STARTTLS", 220)
            client.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            assert b"250" not in await asyncio.wait_for(rest_of(client), 3)


@row("T10")
async def partial_records(id: str) -> None:
    """A record that is announced larger than TLS allows, or never finished, costs nothing and ends the connection."""
    async with Bench(smtp__command_timeout=0.5) as bench:
        client = await bench.connect()
        await client.expect(220)
        await client.command("EHLO client.example", 250)
        await client.start_tls()
        raw = client.writer.transport.get_extra_info("socket")
        raw = raw if raw is not None else client.writer.get_extra_info("socket")
        duplicate = raw.dup()
        duplicate.setblocking(False)
        duplicate.send(b"\x17\x03\x03\xff\xff" + b"x" * 1000)
        duplicate.close()
        assert await client.is_closed(3)
        assert bench.connections[0].bytes_in < 2000


@row("T11")
async def any_server_name(id: str) -> None:
    async with Bench(implicit_tls=True) as bench:
        for name in ("unknown.example", ".".join(["x" * 60] * 4), "xn--bcher-kva.example"):
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.port, ssl=client_context(), server_hostname=name)
            client = Client(reader, writer)
            await client.expect(220)
            await client.close()


@row("T12")
async def cut_in_a_message(id: str) -> None:
    async with Bench() as bench, bench.greeted() as client:
        await client.start_tls()
        await client.command("EHLO client.example", 250)
        await client.transaction()
        await client.command("DATA", 354)
        client.send(b"Subject: cut\r\n\r\nhalf of it\r\n.")
        await asyncio.sleep(0.01)
        client.writer.transport.abort()  # no close_notify
        await asyncio.sleep(0.05)
        assert not bench.intake.mails
        assert not bench.intake.open_writers
        assert bench.logged("in the middle of a message")


@row("T15")
async def handshake_before_banner(id: str) -> None:
    async with Bench(implicit_tls=True) as bench:
        client = await bench.connect(tls=False)
        assert await client.is_silent(0.1)
        await client.close()
        client = await bench.connect(tls=True)
        await client.expect(220)
        reply = await client.command("EHLO client.example", 250)
        assert "STARTTLS" not in reply.lines
        assert isinstance(client.writer.get_extra_info("ssl_object"), ssl.SSLObject)
