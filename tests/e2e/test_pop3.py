"""POP3 with the clients people have: poplib, curl, mpop, getmail, fetchmail."""

from __future__ import annotations

import asyncio
import mailbox
import os
import poplib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rusmes.storage.lmdb.mail_store import LmdbMailStore
from tests.sessions.pop3.house import PASSWORD, House, client_context

MESSAGES = (
    b"From: a@example.org\r\nTo: alice@example.com\r\nSubject: one\r\n\r\nfirst\r\n",
    b"From: b@example.org\r\nTo: alice@example.com\r\nSubject: two\r\n\r\n.dot\r\n..two\r\n.\r\nend\r\n",
    b"From: c@example.org\r\nTo: alice@example.com\r\nSubject: big\r\n\r\n" + b".0123456789abcdef\r\n" * 20_000,
)


class Running:
    """A House with a store on disk, on a loop of its own in a thread."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        store = LmdbMailStore(str(self._folder), inline_limit=64 * 1024, map_size=1 << 30)
        await store.open()
        async with House(store=store, **self._options) as self.house:
            await self.house.deliver("alice", *MESSAGES)
            self.port = self.house.port
            self._ready.set()
            await self._stop.wait()
        await store.close()

    def left(self) -> int:
        """Messages in the account."""

        async def count() -> int:
            account = await self.house.store.account("alice@example.com")
            return account.used_messages if account is not None else 0

        return asyncio.run_coroutine_threadsafe(count(), self._loop).result(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store") as running:
        yield running


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store", implicit_tls=True) as running:
        yield running


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*command: str | Path, timeout: float = 30, **options: Any) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=timeout, **options)
    assert PASSWORD.encode() not in done.stderr
    return done


def config(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def bodies(found: mailbox.Mailbox[Any]) -> list[bytes]:
    """Messages with CRLF, without what a client put on top."""
    texts = []
    for key in sorted(found.keys()):
        text = found.get_bytes(key).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        texts.append(text[text.index(b"From: ") :])
    return sorted(texts, key=len)


def assert_bodies_in(path: Path) -> None:
    text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    for message in MESSAGES:
        assert message.partition(b"\r\n\r\n")[2] in text


def test_poplib(server: Running) -> None:
    client = poplib.POP3("127.0.0.1", server.port, timeout=10)
    capabilities = client.capa()
    assert {"TOP", "UIDL", "USER", "STLS", "PIPELINING", "SASL"} <= set(capabilities)
    client.stls(client_context())
    client.utf8()
    client.user("alice")
    client.pass_(PASSWORD)
    assert client.stat() == (3, sum(map(len, MESSAGES)))
    for number, message in enumerate(MESSAGES, start=1):
        lines = client.retr(number)[1]
        assert b"\r\n".join(lines) + b"\r\n" == message
    assert client.top(2, 1)[1] == [b"From: b@example.org", b"To: alice@example.com", b"Subject: two", b"", b".dot"]
    ids = client.uidl()[1]
    client.dele(1)
    client.quit()
    assert server.left() == 2
    again = poplib.POP3("127.0.0.1", server.port, timeout=10)
    again.user("alice@example.com")
    again.pass_(PASSWORD)
    assert [row.split()[1] for row in again.uidl()[1]] == [row.split()[1] for row in ids[1:]]
    again.quit()


def test_poplib_implicit_tls(tls_server: Running) -> None:
    client = poplib.POP3_SSL("127.0.0.1", tls_server.port, timeout=10, context=client_context())
    client.user("alice")
    with pytest.raises(poplib.error_proto, match="AUTH"):
        client.pass_("wrong")
    client.user("alice")
    client.pass_(PASSWORD)
    assert client.stat()[0] == 3
    client.quit()


@pytest.mark.parametrize("options", [(), ("--ssl-reqd", "--insecure"), ("--login-options", "AUTH=LOGIN")])
def test_curl(server: Running, options: tuple[str, ...]) -> None:
    curl = [need("curl"), "--silent", "--show-error", "--user", f"alice:{PASSWORD}", *options]
    url = f"pop3://127.0.0.1:{server.port}"
    for number, message in enumerate(MESSAGES, start=1):
        done = run(*curl, f"{url}/{number}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == message
    listing = run(*curl, url).stdout.decode().split()
    assert listing == [text for number, message in enumerate(MESSAGES, start=1) for text in (str(number), str(len(message)))]
    assert run(*curl, "--request", "DELE", f"{url}/1", "--head").returncode == 0
    assert server.left() == 2
    assert run(need("curl"), "--silent", "--user", "alice:wrong", f"{url}/1").returncode != 0


def test_curl_implicit_tls(tls_server: Running) -> None:
    url = f"pop3s://127.0.0.1:{tls_server.port}/2"
    done = run(need("curl"), "--silent", "--insecure", "--user", f"alice:{PASSWORD}", url)
    assert done.stdout == MESSAGES[1]


@pytest.mark.parametrize("method", ["user", "plain", "login", "scram-sha-256", "on"])
def test_mpop(server: Running, tmp_path: Path, method: str) -> None:
    inbox = mailbox.Maildir(str(tmp_path / "inbox"))
    rc = config(
        tmp_path / "mpoprc",
        f"defaults\nuidls_file {tmp_path}/uidls\n\naccount default\nhost 127.0.0.1\nport {server.port}\nuser alice\n"
        f"password {PASSWORD}\nauth {method}\ntls on\ntls_starttls on\ntls_certcheck off\nkeep off\n"
        f"delivery maildir {tmp_path}/inbox\n",
    )
    done = run(need("mpop"), "-C", rc)
    assert done.returncode == 0, done.stderr
    assert bodies(inbox) == sorted(MESSAGES, key=len)
    assert server.left() == 0


def test_getmail(tls_server: Running, tmp_path: Path) -> None:
    need("getmail")
    folder = tmp_path / "getmail"
    folder.mkdir()
    config(
        folder / "getmailrc",
        f"[retriever]\ntype = SimplePOP3SSLRetriever\nserver = 127.0.0.1\nport = {tls_server.port}\nusername = alice\n"
        f"password = {PASSWORD}\n\n[destination]\ntype = MDA_external\npath = /bin/sh\n"
        f'arguments = ("-c", "cat >> {tmp_path}/mbox")\nallow_root_commands = true\n\n'
        "[options]\ndelete = true\ndelivered_to = false\nreceived = false\n",
    )
    done = run("getmail", f"--getmaildir={folder}")
    assert done.returncode == 0, done.stderr + done.stdout
    assert_bodies_in(tmp_path / "mbox")
    assert tls_server.left() == 0


def test_fetchmail(server: Running, tmp_path: Path) -> None:
    need("fetchmail")
    rc = config(
        tmp_path / "fetchmailrc",
        f'poll 127.0.0.1 protocol POP3 service {server.port} user "alice" password "{PASSWORD}"\n'
        f'  sslproto "" no sslcertck nokeep fetchall mda "cat >> {tmp_path}/mbox"\n',
    )
    environment = {**os.environ, "HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path)}
    done = run("fetchmail", "--nosyslog", "-f", rc, "-i", tmp_path / "ids", "--pidfile", tmp_path / "pid", env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    assert_bodies_in(tmp_path / "mbox")
    assert server.left() == 0


def test_two_clients_at_once(server: Running) -> None:
    first = poplib.POP3("127.0.0.1", server.port, timeout=10)
    first.user("alice")
    first.pass_(PASSWORD)
    second = poplib.POP3("127.0.0.1", server.port, timeout=10)
    second.user("alice")
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        second.pass_(PASSWORD)
    first.quit()
    second.user("alice")
    second.pass_(PASSWORD)
    second.quit()


def test_a_plaintext_login_is_refused_from_elsewhere(server: Running) -> None:
    class Stranger(poplib.POP3):
        def _create_socket(self, timeout: float) -> socket.socket:
            return socket.create_connection((self.host, self.port), timeout, source_address=("127.0.0.66", 0))

    client = Stranger("127.0.0.1", server.port, timeout=10)
    with pytest.raises(poplib.error_proto, match="TLS is required"):
        client.user("alice")
    client.stls(client_context())
    client.user("alice")
    client.pass_(PASSWORD)
    client.quit()
