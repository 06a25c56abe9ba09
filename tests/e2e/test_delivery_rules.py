"""What is said to other servers, and what their answers mean: one test for each rule, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rusmes import log
from rusmes._core.counters import Metrics
from rusmes.clock import SystemClock
from rusmes.config.schema import Relay
from rusmes.config.units import Duration, Secret
from rusmes.delivery import session, transaction
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.dns import Resolver
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_SUCCESS, Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Busy, Report
from rusmes.tls.context import make_self_signed
from tests.loops import run_on_uvloop
from tests.sinks.engine import HOSTNAME, address, config_for
from tests.sinks.smtp_sink import DEFAULT_EXTENSIONS, Sink


@pytest.fixture(autouse=True, params=["uvloop", "asyncio"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rule on both loops."""
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", run_on_uvloop)


BODY = b"Subject: test\r\n\r\nHello\r\n"
EIGHT_BIT = "Subject: test\r\n\r\nGr\u00fc\u00dfe\r\n".encode()
_ids = IdSource()


def item(*recipients: str | Recipient, data: bytes = BODY, sender: str | None = "sam@elsewhere.org", **more: Any) -> Queued:
    made = tuple(r if isinstance(r, Recipient) else Recipient(address(r)) for r in recipients)
    end = data.find(b"\r\n\r\n") + 4
    content = Content(_ids.next_id(), len(data), end, data=data)
    from_ = None if sender is None else address(sender)
    return Queued(_ids.next_id(), "relay", from_, made, Rendering(content), Origin(trusted=True), 1.7e9, **more)


class Out:
    """A deliverer that sends everything to one port."""

    def __init__(self, port: int, *, tls: TlsPolicy | None = None, relay: Relay | None = None, **options: Any) -> None:
        config = config_for(0 if relay else port, **options)
        if relay is not None:
            config = structs.replace(config, relay=relay)
        self.clock = SystemClock()
        self.deliverer = RemoteDeliverer(
            config, Resolver(self.clock, ["127.0.0.1:9"]), Metrics(), self.clock, None, HOSTNAME, tls=tls
        )

    async def send(self, mail: Queued) -> list[Report]:
        destination = self.deliverer.destination(mail, mail.recipients[0])
        return list(await self.deliverer.deliver(mail, mail.recipients, destination))

    async def one(self, mail: Queued) -> Report:
        (report,) = await self.send(mail)
        return report


Test = Callable[[Sink, Out], Awaitable[None]]


def against(sink: Sink, test: Test, *, relay: Callable[[int], Relay] | None = None, **options: Any) -> None:
    async def main() -> None:
        async with sink:
            out = Out(sink.port, relay=relay(sink.port) if relay else None, **options)
            try:
                async with asyncio.timeout(20):
                    await test(sink, out)
            finally:
                await out.deliverer.stop()

    asyncio.run(main())


# Dialogue


def test_pipelined_in_two_writes_on_one_connection() -> None:
    async def test(sink: Sink, out: Out) -> None:
        for _ in range(3):
            report = await out.one(item("bob@example.org"))
            assert (report.action, report.code, report.status) == ("delivered", 250, "2.0.0")
            assert report.host == "[127.0.0.1]"
        assert len(sink.peers) == 1
        reads = sink.peers[0].reads
        assert reads[0] == f"EHLO {HOSTNAME}\r\n".encode()
        assert reads[1:] == [
            b"MAIL FROM:<sam@elsewhere.org> SIZE=24\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n",
            BODY + b".\r\n",
        ] * 3  # fmt: skip

    against(Sink(), test)


def test_one_transaction_for_many_recipients_with_their_own_ends() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt:b@x.example"] = "550 5.1.1 no such user"
        sink.replies["rcpt:c@x.example"] = "450 4.2.1 later"
        reports = await out.send(item("a@x.example", "b@x.example", "c@x.example", "d@x.example"))
        assert [(r.action, r.code, r.status, r.text) for r in reports] == [
            ("delivered", 250, "2.0.0", "ok, message 0"),
            ("failed", 550, "5.1.1", "no such user"),
            ("delayed", 450, "4.2.1", "later"),
            ("delivered", 250, "2.0.0", "ok, message 0"),
        ]
        assert sink.messages[0].rcpts == ["<a@x.example>", "<d@x.example>"]

    against(Sink(), test)


@pytest.mark.parametrize("extensions", [(), ("SIZE",)])
def test_without_pipelining_step_by_step(extensions: tuple[str, ...]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt:b@x.example"] = "550 no"
        reports = await out.send(item("a@x.example", "b@x.example"))
        assert [r.action for r in reports] == ["delivered", "failed"]
        assert all(read.count(b"\r\n") == 1 for read in sink.peers[0].reads[:-1])
        reports = await out.send(item("b@x.example"))
        assert [r.action for r in reports] == ["failed"]
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert len(sink.peers) == 1

    against(Sink(extensions=extensions), test)


def test_helo_where_ehlo_is_unknown() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["ehlo"] = "502 5.5.1 what?"
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert sink.peers[0].commands[:3] == [f"EHLO {HOSTNAME}", f"HELO {HOSTNAME}", "MAIL FROM:<sam@elsewhere.org>"]

    against(Sink(), test)


@pytest.mark.parametrize("chunked", [False, True])
def test_after_a_refusal_the_connection_is_clean(chunked: bool) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt"] = ["550 5.1.1 no"]
        assert (await out.one(item("a@x.example"))).action == "failed"
        sink.replies["mail"] = ["451 4.3.0 not now"]
        assert (await out.one(item("a@x.example"))).text == "not now"
        sink.replies["final"] = ["554 5.7.1 spam"]
        report = await out.one(item("a@x.example"))
        assert (report.action, report.code, report.status, report.text) == ("failed", 554, "5.7.1", "spam")
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert len(sink.peers) == 1
        assert "nested" not in "".join(sink.peers[0].commands)

    against(Sink(extensions=(*DEFAULT_EXTENSIONS, "CHUNKING") if chunked else DEFAULT_EXTENSIONS), test)


def test_go_ahead_without_recipients_gets_an_empty_message() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt"] = "550 5.1.1 no"
        sink.replies["data"] = "354 fine with me"
        assert (await out.one(item("a@x.example"))).action == "failed"
        assert sink.messages[0].wire == b".\r\n"  # RFC 2920 §3.1

    against(Sink(), test)


def test_too_many_recipients_come_again_at_once() -> None:
    async def test(sink: Sink, out: Out) -> None:
        for name in "cd":
            sink.replies[f"rcpt:{name}@x.example"] = ["452 4.5.3 too many"]
        reports = await out.send(item(*(f"{name}@x.example" for name in "abcd")))
        assert [r.action for r in reports] == ["delivered"] * 4
        assert [len(message.rcpts) for message in sink.messages] == [2, 2]

    against(Sink(), test)


def test_limits_rcptmax_and_mailmax_are_kept() -> None:
    async def test(sink: Sink, out: Out) -> None:
        reports = await out.send(item(*(f"{name}@x.example" for name in "abcde")))
        assert [r.action for r in reports] == ["delivered"] * 5
        assert [len(message.rcpts) for message in sink.messages] == [2, 2, 1]
        await out.send(item("a@x.example"))
        assert len(sink.peers) == 2

    against(Sink(extensions=("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=3")), test)


def test_messages_per_connection() -> None:
    async def test(sink: Sink, out: Out) -> None:
        for _ in range(5):
            await out.one(item("a@x.example"))
        assert [message.connection for message in sink.messages] == [0, 0, 1, 1, 2]
        await asyncio.sleep(0.05)
        assert sink.peers[0].commands[-1] == "QUIT"

    against(Sink(), test, messages_per_connection=2)


def test_idle_connection_is_closed_after_its_time() -> None:
    async def test(sink: Sink, out: Out) -> None:
        await out.one(item("a@x.example"))
        await asyncio.sleep(0.3)
        assert sink.peers[0].commands[-1] == "QUIT"
        assert sink.open == 0

    against(Sink(), test, idle_timeout=Duration(0.1))


@pytest.mark.parametrize("how", ["drop", "421"])
def test_a_stale_connection_is_replaced_silently(how: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example"))).action == "delivered"
        if how == "drop":
            sink.drops["mail"] = 1
        else:
            sink.replies["mail"] = ["421 4.4.2 idle for too long"]
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert len(sink.peers) == 2

    against(Sink(), test)


# Bodies


def test_bdat_in_one_write_without_dots() -> None:
    async def test(sink: Sink, out: Out) -> None:
        body = b"Subject: x\r\n\r\n.a\r\n..\r\nlast"
        assert (await out.one(item("a@x.example", data=body))).action == "delivered"
        assert sink.messages[0].by == "BDAT"
        assert sink.messages[0].data == body + b"\r\n"
        assert len(sink.peers[0].reads) == 2

    against(Sink(extensions=(*DEFAULT_EXTENSIONS, "CHUNKING")), test)


def in_file(path: Path, data: bytes) -> Rendering:
    path.write_bytes(data)
    return Rendering(Content(_ids.next_id(), len(data), data.find(b"\r\n\r\n") + 4, path=str(path)))


@pytest.mark.parametrize("extensions", [DEFAULT_EXTENSIONS, (*DEFAULT_EXTENSIONS, "CHUNKING"), ()])
def test_large_messages_are_streamed(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        data = b"Subject: x\r\n\r\n" + b".line of text\r\n" * 200_000
        mail = item("a@x.example")
        mail.rendering = in_file(tmp_path / "blob", data)
        assert (await out.one(mail)).action == "delivered"
        assert sink.messages[0].data == data

    against(Sink(extensions=extensions), test)


def test_prefix_and_skip_are_what_is_sent() -> None:
    async def test(sink: Sink, out: Out) -> None:
        mail = item("a@x.example")
        mail.rendering = Rendering(mail.rendering.content, b"Received: here\r\nSubject: new\r\n\r\n", 17)
        await out.one(mail)
        assert sink.messages[0].data == b"Received: here\r\nSubject: new\r\n\r\nHello\r\n"

    against(Sink(), test)


@pytest.mark.parametrize("how", ["fold", "fail", "keep"])
def test_so6_long_lines(how: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        data = b"Subject: x\r\n\r\n" + b"y" * 1500 + b"\r\n"
        report = await out.one(item("a@x.example", data=data))
        if how == "fail":
            assert (report.action, report.status) == ("failed", "5.6.0")
            assert not sink.messages
        else:
            longest = max(map(len, sink.messages[0].data.split(b"\r\n")))
            assert longest == (998 if how == "fold" else 1500)

    against(Sink(), test, long_lines=how)


@pytest.mark.rfc("6152", "3")
@pytest.mark.parametrize("extensions", [("PIPELINING",), (), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize("count", [1, 30_000])
def test_p15_eight_bit_content_to_a_seven_bit_server_is_converted(extensions: tuple[str, ...], count: int) -> None:
    message = EIGHT_BIT + "Gr\u00fc\u00dfe\r\n".encode() * (count - 1)
    head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\nSubject: test\r\n"
    sent = head + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"Gr=C3=BC=C3=9Fe\r\n" * count

    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", data=message, body_type="8BITMIME"))
        assert report.action == "delivered"
        size = len(sent) if count == 1 else len(message)
        assert sink.messages[0].mail == f"<sam@elsewhere.org> SIZE={size}"
        assert sink.messages[0].data == sent
        report = await out.one(item("a@x.example", data=BODY, body_type="8BITMIME"))
        assert sink.messages[1].data == BODY

    against(Sink(extensions=(*extensions, "SIZE 9999999")), test)


def test_p15_what_must_not_be_converted_is_returned() -> None:
    signed = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\xc3\xa4\r\n--b--\r\n"

    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", data=signed, body_type="8BITMIME"))
        assert (report.action, report.status) == ("failed", "5.6.3")
        assert "it is signed" in report.text
        assert not sink.messages

    against(Sink(extensions=("PIPELINING",)), test)


def test_eight_bit_content_is_declared() -> None:
    async def test(sink: Sink, out: Out) -> None:
        await out.one(item("a@x.example", data=EIGHT_BIT))
        assert sink.messages[0].mail == "<sam@elsewhere.org> BODY=8BITMIME"
        assert sink.messages[0].data == EIGHT_BIT

    against(Sink(extensions=("PIPELINING", "8BITMIME")), test)


def test_binary_content_needs_binarymime() -> None:
    binary = b"Subject: x\r\n\r\n\x00\n.\r\nlone\rCR"

    async def refused(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", data=binary, body_type="BINARYMIME"))
        assert (report.action, report.status) == ("failed", "5.6.3")

    async def sent(sink: Sink, out: Out) -> None:
        await out.one(item("a@x.example", data=binary, body_type="BINARYMIME"))
        assert sink.messages[0].mail == "<sam@elsewhere.org> BODY=BINARYMIME"
        assert sink.messages[0].data == binary

    against(Sink(extensions=("PIPELINING", "8BITMIME", "CHUNKING")), refused)
    against(Sink(extensions=("PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME")), sent)
    against(Sink(extensions=("CHUNKING", "BINARYMIME")), sent)


def test_p25_smtputf8() -> None:
    async def without(sink: Sink, out: Out) -> None:
        report = await out.one(item("jos\u00e9@x.example", smtputf8=True))
        assert (report.action, report.status) == ("failed", "5.6.7")
        report = await out.one(item("a@x.example", data="Subject: \u00fc\r\n\r\n".encode(), smtputf8=True))
        assert (report.action, report.status) == ("failed", "5.6.7")
        assert (await out.one(item("a@x.example", smtputf8=True))).action == "delivered"

    async def offered(sink: Sink, out: Out) -> None:
        await out.one(item("jos\u00e9@x.example", smtputf8=True))
        assert sink.messages[0].mail == "<sam@elsewhere.org> SMTPUTF8"
        assert sink.messages[0].rcpts == ["<jos\u00e9@x.example>"]

    against(Sink(extensions=("PIPELINING", "8BITMIME")), without)
    against(Sink(extensions=("PIPELINING", "SMTPUTF8")), offered)


def test_size_is_respected_before_the_body() -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", data=BODY * 100))
        assert (report.action, report.status) == ("failed", "5.3.4")
        assert len(sink.peers[0].commands) == 1

    against(Sink(extensions=("SIZE 1000",)), test)


# DSN and REQUIRETLS


def test_dsn_parameters_are_passed_on_or_reported_as_relayed() -> None:
    wants = Recipient(address("a@x.example"), notify=NOTIFY_SUCCESS | NOTIFY_FAILURE, orcpt="rfc822;A@x.example")
    other = Recipient(address("b@x.example"), notify=NOTIFY_FAILURE | NOTIFY_DELAY)

    async def passed(sink: Sink, out: Out) -> None:
        reports = await out.send(item(wants, other, ret="HDRS", envid="QQ+1"))
        assert [r.action for r in reports] == ["delivered", "delivered"]
        assert sink.messages[0].mail == "<sam@elsewhere.org> RET=HDRS ENVID=QQ+2B1"
        assert sink.messages[0].rcpts == [
            "<a@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;A+40x.example".replace("+40", "@"),
            "<b@x.example> NOTIFY=FAILURE,DELAY",
        ]

    async def relayed(sink: Sink, out: Out) -> None:
        reports = await out.send(item(wants, other, ret="HDRS", envid="QQ"))
        assert [r.action for r in reports] == ["relayed", "delivered"]
        assert sink.messages[0].mail == "<sam@elsewhere.org>"

    against(Sink(extensions=("PIPELINING", "DSN")), passed)
    against(Sink(extensions=("PIPELINING",)), relayed)


# What servers do wrong


def test_so8_endless_reply_ends_the_connection() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["ehlo"] = "\r\n".join(["250-x" + "y" * 90] * 2000)
        report = await out.one(item("a@x.example"))
        assert report.action == "delayed"
        assert "has no end" in report.text

    against(Sink(), test)


def test_so9_plaintext_after_the_go_ahead_for_tls(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    context, policy = certificate

    async def test(sink: Sink, out: Out) -> None:
        sink.surplus["starttls"] = b"250 injected\r\n"
        report = await out.one(item("a@x.example"))
        assert report.action == "delivered"  # in the clear, on another connection
        assert not sink.messages[0].tls
        assert sink.messages[0].connection == 1

    against(Sink(tls=context), test, tls=policy)


@pytest.mark.parametrize("phase", ["connect", "ehlo", "final"])
def test_so10_reply_before_its_command(phase: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.surplus[phase] = b"250 not asked for\r\n"
        first = await out.one(item("a@x.example"))
        if phase == "final":
            assert first.action == "delivered"
            await out.one(item("a@x.example"))
            assert len(sink.peers) == 2  # never used again
        else:
            assert first.action == "delayed"
            assert "before its command" in first.text
            assert not sink.messages

    against(Sink(), test)


@pytest.mark.parametrize("phase", ["connect", "ehlo", "mail", "rcpt", "data", "body", "final"])
def test_a_connection_that_breaks_delays_the_mail(phase: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.drops[phase] = 9
        report = await out.one(item("a@x.example"))
        assert report.action == "delayed"
        assert ("may have arrived" in report.text) == (phase in ("body", "final"))
        assert not sink.messages

    against(Sink(), test)


@pytest.mark.parametrize(
    ("phase", "reply", "action", "status"),
    [
        ("connect", "554 5.7.1 go away", "delayed", "4.3.2"),
        ("connect", "521 5.3.2 no mail here", "failed", "5.3.2"),
        ("connect", "421 4.3.2 busy", "delayed", "4.3.2"),
        ("mail", "550 5.7.1 no", "failed", "5.7.1"),
        ("mail", "451 4.7.1 not you", "delayed", "4.7.1"),
        ("rcpt", "550 no status", "failed", "5.0.0"),
        ("rcpt", "251 forwarded", "delivered", "2.0.0"),
        ("data", "451 4.3.0 disk", "delayed", "4.3.0"),
        ("data", "554 5.5.1 no", "failed", "5.5.1"),
        ("final", "452 4.3.1 full", "delayed", "4.3.1"),
        ("final", "421 4.3.2 bye", "delayed", "4.3.2"),
        ("final", "550 5.7.1 spam", "failed", "5.7.1"),
        ("final", "354 what?", "delayed", "4.0.0"),
    ],
)
def test_meaning_of_replies(phase: str, reply: str, action: str, status: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies[phase] = reply
        report = await out.one(item("a@x.example"))
        assert (report.action, report.status) == (action, status)

    against(Sink(), test)


@pytest.mark.parametrize(
    ("phase", "reply"),
    [
        ("connect", "421 4.7.0 too many connections"),
        ("mail", "421 4.7.0 slow down"),
        ("rcpt", "450 4.7.1 too much mail from 192.0.2.1"),
        ("final", "421 4.7.28 unusual rate of mail from your address"),
    ],
)
def test_who_is_told_to_slow_down_waits_and_the_mail_is_not_attempted(phase: str, reply: str) -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies[phase] = reply
        with pytest.raises(Busy) as slowed:
            await out.one(item("a@x.example"))
        assert slowed.value.code == int(reply[:3])
        assert slowed.value.retry_after >= 1
        assert [report.action for report in slowed.value.reports] == (["delayed"] if phase != "connect" else [])
        peers = len(sink.peers)
        with pytest.raises(Busy):
            await out.one(item("b@x.example"))
        assert len(sink.peers) == peers  # and nobody asks meanwhile

    against(Sink(), test)


def test_a_connection_that_has_carried_enough_is_no_reason_to_slow_down() -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example"))).action == "delivered"
        sink.replies["mail"] = "421 4.7.0 too many messages in this connection"
        report = await out.one(item("b@x.example"))
        assert (report.action, report.code) == ("delayed", 421)
        del sink.replies["mail"]
        assert (await out.one(item("b@x.example"))).action == "delivered"

    against(Sink(), test)


def test_an_attempt_tells_its_phases_and_its_class() -> None:
    async def test(sink: Sink, out: Out) -> None:
        first = (await out.one(item("a@x.example"))).attempt
        second = (await out.one(item("b@x.example"))).attempt
        assert first is not None
        assert second is not None
        assert first.address == "127.0.0.1"
        assert first.reply_class == "accepted"
        assert not first.is_reused
        assert [name for name, _ in first.phases][:3] == ["dns", "connect", "greeting"]
        assert [name for name, _ in second.phases] == ["envelope", "data", "reply"]
        assert second.is_reused
        assert second.source_address == "127.0.0.1"
        sink.replies["rcpt"] = "550 5.1.1 no such user"
        third = (await out.one(item("c@x.example"))).attempt
        assert third is not None
        assert third.reply_class == "recipient"

    against(Sink(), test)


def test_replies_are_kept_short_and_harmless() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt"] = "550 5.1.1 \x1b[2Jevil\x07 " + "z" * 3000
        report = await out.one(item("a@x.example"))
        assert len(report.text) == 1000
        assert report.text.isprintable()

    against(Sink(), test)


def test_l4s_server_that_does_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "BLOCK_SECONDS", 0.3)

    async def test(sink: Sink, out: Out) -> None:
        sink.stops_reading_in_body = True
        mail = item("a@x.example")
        mail.rendering = in_file(tmp_path / "blob", b"Subject: x\r\n\r\n" + b"y" * 70 * 1024 * 256)
        report = await out.one(mail)
        assert report.action == "delayed"

    against(Sink(), test)


def test_l5s_slow_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "GREETING_SECONDS", 0.3)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in b"220 hello there\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)
        except (ConnectionError, asyncio.CancelledError):
            pass
        writer.transport.abort()

    async def main() -> None:
        async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
            out = Out(server.sockets[0].getsockname()[1])
            report = await out.one(item("a@x.example"))
            assert report.action == "delayed"
            assert "no reply within 0.3 s" in report.text

    asyncio.run(main())


def test_l6s_server_that_hangs_after_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "FINAL_SECONDS", 0.2)

    async def test(sink: Sink, out: Out) -> None:
        sink.delays["final"] = 1.0
        report = await out.one(item("a@x.example"))
        assert report.action == "delayed"
        assert "may have arrived" in report.text

    against(Sink(), test)


# TLS


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("tls")
    make_self_signed("localhost", directory / "cert.pem", directory / "key.pem")
    return directory / "cert.pem", directory / "key.pem"


@pytest.fixture
def certificate(pair: tuple[Path, Path]) -> tuple[ssl.SSLContext, TlsPolicy]:
    """A server's context, and a policy that trusts it under the name localhost."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*pair)
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    return server, TlsPolicy(SystemClock(), verified=trusting)


def smart_host(**more: Any) -> Callable[[int], Relay]:
    return lambda port: Relay(host="localhost", port=port, **more)


def test_opportunistic_tls_takes_any_certificate(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert sink.messages[0].tls
        assert sink.peers[0].commands == [
            f"EHLO {HOSTNAME}", "STARTTLS", f"EHLO {HOSTNAME}",
            "MAIL FROM:<sam@elsewhere.org> SIZE=24", "RCPT TO:<a@x.example>", "DATA",
        ]  # fmt: skip

    against(Sink(tls=certificate[0]), test)


@pytest.mark.parametrize("fault", ["garbage", "refused"])
def test_t13_broken_tls_is_left_out_once_and_remembered(fault: str, certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        if fault == "garbage":
            sink.garbage_handshake = True
        else:
            sink.replies["starttls"] = "454 4.7.0 not now"
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert not sink.messages[0].tls
        if fault == "garbage":
            assert len(sink.peers) == 2
            await out.deliverer.stop()
            assert (await out.one(item("a@x.example"))).action == "delivered"
            assert "STARTTLS" not in sink.peers[2].commands

    against(Sink(tls=certificate[0]), test)


def test_t13_verified_tls_never_falls_back(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    context, policy = certificate

    async def test(sink: Sink, out: Out) -> None:
        sink.garbage_handshake = True
        report = await out.one(item("a@x.example"))
        assert report.action == "delayed"
        assert not sink.messages
        assert len(sink.peers) == 1

    against(Sink(tls=context), test, tls=policy, relay=smart_host())


def test_t14_stripped_starttls_delays_where_tls_is_required(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example"))
        assert (report.action, report.status) == ("delayed", "4.7.10")

    against(Sink(), test, tls=certificate[1], relay=smart_host())


def test_untrusted_certificate_is_refused_where_it_is_verified(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example"))
        assert report.action == "delayed"
        assert "certificate" in report.text.lower()
        assert not sink.messages

    against(Sink(tls=certificate[0]), test, relay=smart_host())


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_smart_host_with_login(mechanism: str, certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    context, policy = certificate

    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example"))).action == "delivered"
        assert sink.messages[0].tls

    sink = Sink(tls=context, users={"me": "secret"}, extensions=("PIPELINING", f"AUTH {mechanism}"))
    against(sink, test, tls=policy, relay=smart_host(username="me", password=Secret("secret")))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_trace_shows_the_dialogue_and_no_secret(
    mechanism: str, certificate: tuple[ssl.SSLContext, TlsPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, policy = certificate
    written: list[bytes] = []
    monkeypatch.setattr(log._CURRENT, "sink", log.LogSink(written.append, levels={"delivery": "trace"}, json=True))

    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example"))).action == "delivered"
        lines = [json.loads(line) for line in b"".join(written).splitlines()]
        dialogue = [(line["event"], line["line"].split(" ")[0]) for line in lines if line["level"] == "trace"]
        start = dialogue.index(("sent", "AUTH"))
        assert dialogue[:4] == [("received", "220"), ("sent", "EHLO"), ("received", "250"), ("sent", "STARTTLS")]
        assert dialogue[start : start + 5] == [
            ("sent", "AUTH"), ("received", "235"), ("sent", "MAIL"), ("sent", "RCPT"), ("sent", "DATA")
        ]  # fmt: skip
        text = b"".join(written)
        for secret in (b"secret", base64.b64encode(b"\0me\0secret"), base64.b64encode(b"secret"), BODY[:10]):
            assert secret not in text

    sink = Sink(tls=context, users={"me": "secret"}, extensions=("PIPELINING", f"AUTH {mechanism}"))
    against(sink, test, tls=policy, relay=smart_host(username="me", password=Secret("secret")))


def test_wrong_password_delays_and_shows_no_secret(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    context, policy = certificate

    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example"))
        assert (report.action, report.status) == ("delayed", "4.7.8")
        assert "wrongpass" not in repr(report)

    sink = Sink(tls=context, users={"me": "secret"}, extensions=("AUTH PLAIN",))
    against(sink, test, tls=policy, relay=smart_host(username="me", password=Secret("wrongpass")))


def test_no_password_in_the_clear() -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example"))
        assert (report.action, report.status) == ("delayed", "4.7.4")
        assert not any(command.startswith("AUTH") for command in sink.peers[0].commands)

    sink = Sink(users={"me": "secret"}, extensions=("AUTH PLAIN LOGIN",))
    against(sink, test, relay=smart_host(username="me", password=Secret("secret"), use_tls=False))


def test_requiretls(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    context, policy = certificate

    async def offered(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example", requiretls=True))).action == "delivered"
        assert sink.messages[0].mail == "<sam@elsewhere.org> REQUIRETLS"

    async def missing(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", requiretls=True))
        assert (report.action, report.status) == ("failed", "5.7.30")

    against(Sink(tls=context, extensions=("PIPELINING", "REQUIRETLS")), offered, tls=policy, relay=smart_host())
    against(Sink(tls=context, extensions=("PIPELINING",)), missing, tls=policy, relay=smart_host())


def test_requiretls_to_a_server_without_tls_comes_back_and_other_mail_goes_on() -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.one(item("a@x.example", requiretls=True))
        assert (report.action, report.status) == ("failed", "5.7.30")
        assert (await out.one(item("b@x.example"))).action == "delivered"
        # Also while a connection to it is open.
        assert (await out.one(item("c@x.example", requiretls=True))).status == "5.7.30"
        assert [message.rcpts for message in sink.messages] == [["<b@x.example>"]]

    against(Sink(), test)


def test_requiretls_waits_for_a_server_whose_certificate_is_not_trusted(certificate: tuple[ssl.SSLContext, TlsPolicy]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example", requiretls=True))).action == "delayed"
        assert (await out.one(item("b@x.example"))).action == "delivered"

    against(Sink(tls=certificate[0]), test)


def test_a_notice_with_requiretls_is_not_lost_for_want_of_it() -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert (await out.one(item("a@x.example", sender=None, requiretls=True))).action == "delivered"
        assert sink.messages[0].mail == "<>"

    against(Sink(extensions=("PIPELINING",)), test)


# Hosts


def test_a_dead_server_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        out = Out(port)
        first = await out.one(item("a@x.example"))
        assert (first.action, first.status) == ("delayed", "4.4.1")
        assert "refused" in first.text.lower()
        async with Sink() as sink:
            await sink.close()
            sink.port = port
            async with sink:
                with pytest.raises(Busy) as busy:
                    await out.one(item("a@x.example"))
                assert "refused" in busy.value.reason.lower()
                assert not sink.peers
                await out.deliverer.stop()

    asyncio.run(main())
