"""The SMTP service behind a real listener, talked to by programs that other people wrote."""

from __future__ import annotations

import asyncio
import contextlib
import os
import poplib
import re
import shutil
import smtplib
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import SystemClock
from rusmes.config.schema import Tls
from rusmes.log import LogSink
from rusmes.metrics import TLS_FAILURES, TLS_SESSIONS
from rusmes.model.ids import IdSource
from rusmes.net.listener import Gate, Listener
from rusmes.smtp.server import SmtpService
from rusmes.tls.context import ensure_self_signed, server_context
from tests.e2e.running import PASSWORD, RunningServer
from tests.fakes import FakeAuthenticator, FakeDirectory, FakeIntake
from tests.ports import free_ports
from tests.sessions.harness import HOSTNAME, client_context, make_config, networks


def needs(program: str) -> pytest.MarkDecorator:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return pytest.mark.skipif(found is None, reason=f"{program} is not installed")


def has_perl_tls() -> bool:
    """swaks does TLS through a module that is packaged separately."""
    return subprocess.run(("perl", "-MNet::SSLeay", "-e", "1"), capture_output=True, check=False).returncode == 0


class Live:
    """A service on real sockets in a thread of its own."""

    def __init__(self, directory: Path, listener: str, *, implicit_tls: bool = False, path: str = "", **changes: Any) -> None:
        self.config = make_config(**changes)
        self.intake = FakeIntake()
        self.directory = FakeDirectory()
        self.authenticator = FakeAuthenticator()
        self.metrics = Metrics(1)
        self.lines: list[str] = []
        self._limits = SharedCounters(1, 4096)
        self._listener = listener
        self._implicit = implicit_tls
        self._sink = LogSink(lambda line: self.lines.append(line.decode()), level="info")
        self._context = server_context(Tls(), str(directory))
        family = socket.AF_UNIX if path else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen(128)
        self.port = 0 if path else self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self._thread.start()
        assert self._ready.wait(5)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        service = SmtpService(
            self.config,
            listener=self._listener,  # type: ignore[arg-type]
            intake=self.intake,
            directory=self.directory,
            authenticator=self.authenticator,
            tls=lambda: self._context,
            limits=self._limits,
            metrics=self.metrics,
            clock=SystemClock(),
            ids=IdSource(),
            implicit_tls=self._implicit,
        )
        gate = Gate(self.config, self._limits, self.metrics, is_banned=self.authenticator.is_blocked)
        listener = Listener(
            service,
            [self._socket],
            gate,
            sink=self._sink,
            metrics=self.metrics,
            session_id=lambda: str(uuid.uuid4()),
            tls=(lambda: self._context) if self._implicit else None,
        )
        await listener.start()
        self._ready.set()
        await self._stop.wait()
        listener.drain()
        assert await listener.wait_closed(5) == 0

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()
        assert not [line for line in self.lines if '"level":"error"' in line]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def live(directory: Path, listener: str = "mx", **options: Any) -> Iterator[Live]:
    ensure_self_signed(HOSTNAME, str(directory))
    server = Live(directory, listener, **options)
    try:
        yield server
    finally:
        server.close()


def run(*command: str, input: str = "", timeout: float = 30) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    return subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def swaks(server: Live, *options: str) -> str:
    """What swaks said; it must have been content."""
    base = (
        "swaks",
        "--server",
        "127.0.0.1",
        "--port",
        str(server.port),
        "--from",
        "alice@example.com",
        "--ehlo",
        "client.example",
    )
    done = run(*base, "--to", "bob@example.com", "--body", "hello from swaks", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs("swaks")
def test_swaks(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        assert "250 2.0.0 OK queued as" in swaks(server)
        swaks(server, "--pipeline", "--to", "alice@example.com,bob@example.com")
        swaks(server, "--protocol", "SMTP")
        assert [mail.origin.protocol for mail in server.intake.mails] == ["ESMTP", "ESMTP", "SMTP"]
        assert all(b"hello from swaks" in body for body in server.intake.bodies)
        assert len(server.intake.mails[1].recipients) == 2
        refused = run("swaks", "--server", "127.0.0.1", "--port", str(server.port), "--to", "nobody@example.com")
        assert refused.returncode == 24  # no recipients
        assert "550 5.1.1" in refused.stdout
        if has_perl_tls():
            swaks(server, "-tls")
            assert server.intake.mails[-1].origin.protocol == "ESMTPS"


@needs("swaks")
def test_swaks_submission(tmp_path: Path) -> None:
    login = ("--auth-user", "alice@example.com", "--auth-password", "s3cret-alice")
    tls = ("-tls",) if has_perl_tls() else ()
    with live(tmp_path, "submission") as server:
        for mechanism in ("PLAIN", "LOGIN"):
            swaks(server, *tls, "--auth", mechanism, *login)
        assert [mail.origin.protocol for mail in server.intake.mails] == ["ESMTPSA" if tls else "ESMTPA"] * 2
        base = ("swaks", "--server", "127.0.0.1", "--port", str(server.port), "--to", "bob@example.com", *tls)
        wrong = run(*base, "--auth", "PLAIN", "--auth-user", "alice@example.com", "--auth-password", "wrong")
        assert wrong.returncode == 28  # authentication failed
        assert "s3cret-alice" not in "".join(server.lines)


@needs("swaks")
def test_swaks_lmtp(tmp_path: Path) -> None:
    with live(tmp_path, "lmtp") as server:
        said = swaks(server, "--protocol", "LMTP", "--to", "alice@example.com,bob@example.com")
        assert said.count("OK queued as") == 2
        assert len(server.intake.mails) == 1
    path = str(tmp_path / "lmtp.sock")
    with live(tmp_path, "lmtp", path=path) as server:
        done = run("swaks", "--socket", path, "--protocol", "LMTP", "--to", "alice@example.com,bob@example.com")
        assert done.returncode == 0, done.stdout + done.stderr
        with smtplib.LMTP(path) as client:
            assert client.sendmail("a@far.example", ["alice@example.com"], "Subject: x\r\n\r\nhello\r\n") == {}
        assert [mail.origin.protocol for mail in server.intake.mails] == ["LMTP", "LMTP"]


@needs("smtp-source")
@pytest.mark.parametrize("options", [(), ("-d",), ("-r", "5"), ("-N",)], ids=["new", "kept", "recipients", "names"])
def test_smtp_source(tmp_path: Path, options: tuple[str, ...]) -> None:
    with live(tmp_path, security__reject_unknown_recipients=False) as server:
        target = f"inet:127.0.0.1:{server.port}"
        load = ("-s", "10", "-m", "200", "-l", "2048", "-f", "a@far.example", "-t", "alice@example.com")
        done = run("smtp-source", *load, *options, target)
        assert done.returncode == 0, done.stderr
        assert len(server.intake.mails) == 200
        assert all(len(body) >= 2048 for body in server.intake.bodies)


@needs("openssl")
def test_openssl_starttls_and_renegotiation(tmp_path: Path) -> None:
    """T9: a renegotiation that the client asks for does not happen."""
    with live(tmp_path) as server:
        done = run("openssl", "s_client", "-connect", server.address, "-starttls", "smtp", "-crlf", "-quiet", input="QUIT\n")
        assert "250 ENHANCEDSTATUSCODES" in done.stdout or "221" in done.stdout
        done = run(
            "openssl", "s_client", "-connect", server.address, "-starttls", "smtp", "-crlf", "-tls1_2", input="R\nNOOP\n"
        )
        assert "RENEGOTIATING" in done.stdout + done.stderr
        assert re.search("no renegotiation|alert|error", done.stdout + done.stderr)
        done = run("openssl", "s_client", "-connect", server.address, "-starttls", "smtp", "-crlf", input="K\n" * 50 + "QUIT\n")
        assert server.metrics.count(TLS_SESSIONS["starttls"]) == 3
        assert server.metrics.count(TLS_FAILURES["smtp"]) == 0


@needs("openssl")
def test_openssl_old_versions_are_refused(tmp_path: Path) -> None:
    with live(tmp_path, implicit_tls=True) as server:
        for version in ("-tls1", "-tls1_1"):
            done = run("openssl", "s_client", "-connect", server.address, version, "-cipher", "ALL:@SECLEVEL=0", input="QUIT\n")
            assert "220 " not in done.stdout
        done = run("openssl", "s_client", "-connect", server.address, "-crlf", "-quiet", input="QUIT\n")
        assert f"220 {HOSTNAME} ESMTP" in done.stdout
        assert "221" in done.stdout


def test_smtplib(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "alice@example.com", "bob@example.com", "Grüße"
    message.set_content("Ein Text mit ß\n.\n..\n" * 100)
    with live(tmp_path, "submission") as server, smtplib.SMTP("127.0.0.1", server.port) as client:
        client.starttls(context=client_context())
        client.login("alice@example.com", "s3cret-alice")
        assert client.has_extn("smtputf8")
        assert client.send_message(message) == {}
        refused = client.sendmail("alice@example.com", ["bob@example.com", "nobody@example.com"], "Subject: x\r\n\r\n")
        assert refused.keys() == {"nobody@example.com"}
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("bob@example.com", ["alice@example.com"], "Subject: x\r\n\r\n")
        assert len(server.intake.mails) == 2
        assert "Ein Text mit" in server.intake.bodies[0].decode("utf-8", "replace")


def test_implicit_tls_in_a_hurry(tmp_path: Path) -> None:
    """The ClientHello may be there before the listener looks."""
    with live(tmp_path, implicit_tls=True) as server:
        for _ in range(30):
            with smtplib.SMTP_SSL("127.0.0.1", server.port, context=client_context()) as client:
                assert client.noop()[0] == 250
        assert server.metrics.count(TLS_SESSIONS["implicit"]) == 30


def test_plain_text_on_an_implicit_tls_port(tmp_path: Path) -> None:
    """T7, T15: garbage gets no plain text back."""
    with live(tmp_path, implicit_tls=True) as server, socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(5)
        client.sendall(b"EHLO client.example\r\n" * 10)
        said = b""
        with contextlib.suppress(ConnectionError):
            while data := client.recv(1000):
                said += data
        assert b"250" not in said
        assert b"220" not in said


def test_flood_from_one_address(tmp_path: Path) -> None:
    """B18: the fifty-first connection of an address gets a line and is gone; others are served."""
    with live(tmp_path, smtp__rate_limit__max_connections_per_ip=5) as server, contextlib.ExitStack() as stack:
        for number in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            said = client.recv(1000)
            assert said.startswith(b"220 " if number < 5 else b"421 4.7.0 "), (number, said)
            if number >= 5:
                assert client.recv(1000) == b""
        other = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.66", 0)))
        assert other.recv(1000).startswith(b"220 ")
        other.sendall(b"QUIT\r\n")


def test_proxy_protocol(tmp_path: Path) -> None:
    """R12: only a trusted peer may name its client, and that name is what counts."""
    options = {"server__proxy_networks": networks("127.0.0.1/32")}
    with live(tmp_path, **options) as server:
        header = b"PROXY TCP4 192.0.2.77 127.0.0.1 4711 25\r\n"
        with socket.create_connection(("127.0.0.1", server.port), 5) as client:
            client.sendall(header)
            file = client.makefile("rb")
            assert file.readline().startswith(b"220 ")
            client.sendall(b"EHLO client.example\r\nMAIL FROM:<a@far.example>\r\n".split(b"MAIL")[0])
            while not file.readline().startswith(b"250 "):
                pass
            client.sendall(b"MAIL FROM:<a@far.example>\r\nRCPT TO:<x@far.example>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
            assert [file.readline()[:3] for _ in range(4)] == [b"250", b"554", b"250", b"354"]
            client.sendall(b"Subject: x\r\n\r\n.\r\nQUIT\r\n")
            assert [file.readline()[:3] for _ in range(2)] == [b"250", b"221"]
            file.close()
        assert server.intake.mails[0].origin.client_address == "192.0.2.77"
        assert '"client":"192.0.2.77"' in server.lines[-1]
        with socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.66", 0)) as client:
            client.sendall(header)
            said = client.recv(1000)
            assert said.startswith((b"220 ", b"554 "))


@pytest.mark.slow
def test_through_the_whole_server(tmp_path: Path) -> None:
    """What the session decides is what the mailbox holds."""
    lmtp = free_ports(1)[0]
    sections = {"lmtp": f"port = {lmtp}", "domains": 'aliases = { "sales@example.com" = ["alice@example.com"] }'}
    server = RunningServer(tmp_path, sections=sections)
    server.add_user()
    server.add_user("bob@example.com")
    server.rusmes("user", "quota", "bob@example.com", "--quota", "20KB")
    forged = b"Authentication-Results: mx.example.com; dkim=pass\r\n"
    other = b"Authentication-Results: far.example; dkim=pass\r\n"
    large = b"Subject: large\r\n\r\n" + bytes(range(128, 256)) * 4 + b"\r\n" + (b"\r\n." + b"x" * 76) * 30_000 + b"\r\n"
    with server:
        with smtplib.SMTP("127.0.0.1", server.smtp) as client:
            client.sendmail("a@far.example", ["alice@example.com"], forged + other + b"Subject: forged\r\n\r\nhello\r\n")
            client.sendmail("a@far.example", ["alice@example.com", "ALICE@example.com.", "sales@example.com"], large)
            client.mail("a@far.example", ["SIZE=30000"])
            assert client.rcpt("bob@example.com")[:1] == (452,)
            client.rset()
            client.mail("a@far.example")  # unannounced, so only its end shows that it does not fit
            assert client.rcpt("bob@example.com")[:1] == (250,)
            code, text = client.data(b"Subject: big\r\n\r\n" + b"y" * 30_000)
            assert (code, text[:5]) == (552, b"5.2.2")
            client.sendmail("a@far.example", ["bob@example.com"], b"Subject: small\r\n\r\nfits\r\n")
            client.docmd("MAIL", "FROM:<a@far.example>")
            assert client.docmd("RCPT", "TO:<nobody@example.com>")[0] == 550
        with smtplib.LMTP("127.0.0.1", lmtp) as client:
            client.sendmail("a@far.example", ["alice@example.com"], b"Subject: by lmtp\r\n\r\nhello\r\n")
        maildrop = poplib.POP3("127.0.0.1", server.pop3)
        maildrop.user("alice@example.com")
        maildrop.pass_(PASSWORD)
        messages = [b"\r\n".join(maildrop.retr(number)[1]) + b"\r\n" for number in range(1, maildrop.stat()[0] + 1)]
        maildrop.quit()
        assert len([message for message in messages if b"Subject: large" in message]) in (1, 2)  # by the alias a second one
        first = messages[0]
        assert first.startswith(b"Return-Path: <a@far.example>\r\n" + other + b"Received: from ")
        assert forged not in first
        assert all(message.endswith(large) for message in messages if b"Subject: large" in message)
        assert b" with LMTP id " in messages[-1]
        assert server.metric("rusmes_smtp_messages_received_total") == 4
        accepted = server.events("message accepted")
        assert sorted(line["protocol"] for line in accepted) == ["lmtp", "smtp", "smtp", "smtp"]
        assert all(line["session_id"] for line in accepted)
