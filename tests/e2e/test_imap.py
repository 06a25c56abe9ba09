"""IMAP as clients nobody here wrote use it, against a server of two workers."""

from __future__ import annotations

import imaplib
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path

import imapclient
import pytest

from tests.e2e.running import PASSWORD, RunningServer
from tests.parts import require

ALICE = "alice@example.com"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("imap"))
    running.add_user()
    with running:
        yield running


@pytest.fixture
def account(server: RunningServer) -> str:
    """An account of its own, empty."""
    account.number += 1  # type: ignore[attr-defined]
    name = f"user{account.number}@example.com"  # type: ignore[attr-defined]
    server.add_user(name)
    return name


account.number = 0  # type: ignore[attr-defined]


def message(subject: str, body: str = "hello") -> bytes:
    return (
        f"From: Bob <bob@example.org>\r\nTo: alice@example.com\r\nSubject: {subject}\r\n"
        f"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nMessage-ID: <{subject.replace(' ', '.')}@example.org>\r\n\r\n{body}\r\n"
    ).encode()


def fill(server: RunningServer, name: str, *subjects: str, mailbox: str = "INBOX") -> None:
    with imaplib.IMAP4("127.0.0.1", server.imap) as client:
        client.login(name, PASSWORD)
        for subject in subjects:
            assert client.append(mailbox, "", None, message(subject))[0] == "OK"  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not {what} in time"
        time.sleep(0.05)


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# Python's imaplib


@pytest.mark.parametrize("how", ["plain", "starttls", "tls"])
def test_imaplib(server: RunningServer, account: str, how: str) -> None:
    if how == "tls":
        client: imaplib.IMAP4 = imaplib.IMAP4_SSL("127.0.0.1", server.imaps, ssl_context=client_context())
    else:
        client = imaplib.IMAP4("127.0.0.1", server.imap)
        if how == "starttls":
            client.starttls(client_context())
    with client:
        client.login(account, PASSWORD)
        assert client.select()[1] == [b"0"]
        for subject in ("one", "two", "three"):
            client.append("INBOX", "", None, message(subject))  # type: ignore[arg-type]
        assert client.noop()[0] == "OK"
        assert client.search(None, "ALL")[1] == [b"1 2 3"]
        assert client.search(None, "SUBJECT", "two")[1] == [b"2"]
        _, [(head, body), _] = client.fetch("2", "(RFC822)")  # type: ignore[misc]
        assert body == message("two"), head
        assert client.fetch("2", "(FLAGS)")[1] == [b"2 (FLAGS (\\Seen \\Recent))"]
        client.store("1", "+FLAGS", "(\\Deleted)")
        assert client.expunge()[1] == [b"1"]
        client.create("Projects")
        assert client.uid("COPY", "2:3", "Projects")[0] == "OK"
        assert client.status("Projects", "(MESSAGES UIDNEXT)")[1] == [b"Projects (MESSAGES 2 UIDNEXT 3)"]
        assert client.close()[0] == "OK"
        assert client.select("Projects", readonly=True)[1] == [b"2"]


def test_a_wrong_password(server: RunningServer, account: str) -> None:
    with imaplib.IMAP4("127.0.0.1", server.imap) as client, pytest.raises(imaplib.IMAP4.error, match="authentication failed"):
        client.login(account, "wrong")


def test_mail_that_is_delivered_and_read_by_pop3(server: RunningServer) -> None:
    import poplib

    with imaplib.IMAP4("127.0.0.1", server.imap) as client:
        client.login(ALICE, PASSWORD)
        client.select()
        server.send(text="Subject: by smtp\r\n\r\nhello\r\n")
        wait_for(lambda: client.noop()[0] == "OK" and client.search(None, "SUBJECT", '"by smtp"')[1] == [b"1"], "delivered")
        reader = poplib.POP3("127.0.0.1", server.pop3)
        reader.user(ALICE)
        reader.pass_(PASSWORD)
        assert b"hello" in reader.retr(1)[1]
        reader.dele(1)
        reader.quit()
        wait_for(lambda: client.noop()[0] == "OK" and client.search(None, "ALL")[1] == [b""], "gone")


# IMAPClient


@pytest.fixture
def client(server: RunningServer, account: str) -> Iterator[imapclient.IMAPClient]:
    with imapclient.IMAPClient("127.0.0.1", server.imap, ssl=False) as connected:
        connected.login(account, PASSWORD)
        yield connected


def test_imapclient(client: imapclient.IMAPClient) -> None:
    client.select_folder("INBOX")
    for subject in ("b", "Re: a", "a"):
        client.append("INBOX", message(subject), flags=[imapclient.SEEN] if subject == "b" else [])
    assert client.search(["UNSEEN"]) == [2, 3]
    assert client.search("SUBJECT a") == [2, 3]
    fetched = client.fetch([2], ["ENVELOPE", "BODYSTRUCTURE", "INTERNALDATE", "RFC822.SIZE", "FLAGS"])[2]
    assert fetched[b"ENVELOPE"].subject == b"Re: a"
    assert fetched[b"ENVELOPE"].from_[0].mailbox == b"bob"
    assert fetched[b"RFC822.SIZE"] == len(message("Re: a"))
    client.add_flags([2], [imapclient.FLAGGED, "mine"])
    assert set(client.get_flags([2])[2]) >= {imapclient.FLAGGED, b"mine"}
    if client.has_capability("SORT"):
        assert client.sort("SUBJECT") == [2, 3, 1]
    if client.has_capability("THREAD=ORDEREDSUBJECT"):
        assert len(client.thread("ORDEREDSUBJECT")) == 2
    client.create_folder("Übersicht/2026")
    assert "Übersicht/2026" in {name for _, _, name in client.list_folders()}
    client.copy([1], "Übersicht/2026")
    client.move([2], "Übersicht/2026")
    assert client.search() == [1, 3]
    assert client.folder_status("Übersicht/2026", ["MESSAGES"]) == {b"MESSAGES": 2}
    assert {special for flags, _, _ in client.list_folders() for special in flags} >= {b"\\Sent", b"\\Trash"}
    client.delete_messages([1])
    client.expunge([1])
    assert client.search() == [3]
    assert client.get_quota_root("INBOX")[0].quota_roots


def test_idle_hears_every_worker(server: RunningServer, account: str) -> None:
    """Enough connections that both workers have some: each is told of what any other does."""
    waiting = []
    for _ in range(8):
        one = imapclient.IMAPClient("127.0.0.1", server.imap, ssl=False)
        one.login(account, PASSWORD)
        one.select_folder("INBOX")
        one.idle()
        waiting.append(one)
    fill(server, account, "news")
    for one in waiting:
        said: list[tuple[int, bytes]] = []
        wait_for(lambda one=one, said=said: said.extend(one.idle_check(1)) or (1, b"EXISTS") in said, "told")  # type: ignore[misc]
        one.idle_done()
        one.logout()


# curl


def curl(server: RunningServer, account: str, path: str, *more: str, stdin: bytes = b"") -> bytes:
    url = f"imap://127.0.0.1:{server.imap}/{path}"
    argv = [require("curl"), "-sS", "--max-time", "20", "-u", f"{account}:{PASSWORD}", url, *more]
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(server: RunningServer, account: str, tmp_path: Path) -> None:
    upload = tmp_path / "message"
    upload.write_bytes(message("uploaded"))
    curl(server, account, "INBOX", "-T", str(upload))
    assert curl(server, account, "INBOX;MAILINDEX=1") == message("uploaded")
    assert b"uploaded" in curl(server, account, "INBOX;UID=1;SECTION=HEADER.FIELDS%20(SUBJECT)")
    assert b"* LIST" in curl(server, account, "")
    assert b"* SEARCH 1" in curl(server, account, "INBOX?SUBJECT%20uploaded")
    curl(server, account, "INBOX", "-X", "STORE 1 +FLAGS (\\Seen)")


# mbsync


MBSYNC = """IMAPAccount a
Host 127.0.0.1
Port {port}
User {user}
Pass "{password}"
SSLType None
AuthMechs LOGIN

IMAPStore far
Account a

MaildirStore near
Path {directory}/
Inbox {directory}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns * !Shared*
Create Both
Expunge Both
Remove None
SyncState *
"""


class Mbsync:
    def __init__(self, server: RunningServer, account: str, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "mbsyncrc"
        (directory / "mail").mkdir()
        self.config.write_text(MBSYNC.format(port=server.imap, user=account, password=PASSWORD, directory=directory / "mail"))

    def run(self) -> None:
        argv = [require("mbsync"), "-c", str(self.config), "-a"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def files(self, mailbox: str = "INBOX") -> list[Path]:
        return sorted(path for part in ("cur", "new") for path in (self.directory / "mail" / mailbox / part).glob("*"))

    def subjects(self, mailbox: str = "INBOX") -> list[str]:
        return sorted(message_from_bytes(path.read_bytes())["Subject"] for path in self.files(mailbox))

    def named(self, subject: str, mailbox: str = "INBOX") -> Path:
        [path] = [p for p in self.files(mailbox) if message_from_bytes(p.read_bytes())["Subject"] == subject]
        return path

    def mark(self, subject: str, letters: str) -> None:
        path = self.named(subject)
        path.rename(path.parent.parent / "cur" / f"{path.name.partition(':')[0]}:2,{letters}")


def test_mbsync_both_ways_with_a_conflict(server: RunningServer, account: str, tmp_path: Path) -> None:
    fill(server, account, "one", "two", "three")
    sync = Mbsync(server, account, tmp_path)
    sync.run()
    assert sync.subjects() == ["one", "three", "two"]
    # Both sides change: flags of different messages, a deletion on each, new messages on each, and one that both changed.
    with imapclient.IMAPClient("127.0.0.1", server.imap, ssl=False) as far:
        far.login(account, PASSWORD)
        far.select_folder("INBOX")
        far.add_flags([1], [imapclient.FLAGGED])
        far.add_flags([2], [imapclient.ANSWERED])
        far.append("INBOX", message("from far"))
        sync.mark("two", "S")
        sync.mark("three", "ST")
        (tmp_path / "mail/INBOX/new/1.local.host").write_bytes(message("from near").replace(b"\r\n", b"\n"))
        sync.run()
        sync.run()
        assert sync.subjects() == ["from far", "from near", "one", "two"]
        assert sync.named("one").name.endswith(":2,F")
        assert set(sync.named("two").name.partition(":2,")[2]) == {"R", "S"}
        far.noop()
        found = far.fetch(far.search(), ["ENVELOPE", "FLAGS"])
        state = {data[b"ENVELOPE"].subject: set(data[b"FLAGS"]) - {b"\\Recent"} for data in found.values()}
        assert state == {
            b"one": {imapclient.FLAGGED},
            b"two": {imapclient.ANSWERED, imapclient.SEEN},
            b"from far": set(),
            b"from near": set(),
        }
    before = {path.name: path.read_bytes() for path in sync.files()}
    sync.run()
    assert {path.name: path.read_bytes() for path in sync.files()} == before, "a third run changes something"


# offlineimap


OFFLINEIMAP = """[general]
accounts = a
metadata = {directory}/meta
ui = quiet
[Account a]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {directory}/mail
[Repository far]
type = IMAP
remotehost = 127.0.0.1
remoteport = {port}
remoteuser = {user}
remotepass = {password}
ssl = no
starttls = no
"""


def test_offlineimap(server: RunningServer, account: str, tmp_path: Path) -> None:
    fill(server, account, "one", "two")
    config = tmp_path / "offlineimaprc"
    config.write_text(OFFLINEIMAP.format(port=server.imap, user=account, password=PASSWORD, directory=tmp_path))

    def run() -> None:
        argv = [require("offlineimap"), "-c", str(config), "-o", "-u", "basic"]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run()
    inbox = tmp_path / "mail/INBOX"
    files = sorted(path for part in ("cur", "new") for path in (inbox / part).glob("*"))
    assert [message_from_bytes(path.read_bytes())["Subject"] for path in files] == ["one", "two"]
    with imapclient.IMAPClient("127.0.0.1", server.imap, ssl=False) as far:
        far.login(account, PASSWORD)
        far.select_folder("INBOX")
        far.add_flags([1], [imapclient.SEEN])
        (inbox / "new" / "1.local.host:2,").write_bytes(message("from near"))
        files[1].unlink()
        run()
        far.noop()
        assert far.search("UNDELETED SUBJECT near") != []
        assert far.search("UNDELETED SUBJECT two") == []
    seen = [path for path in (inbox / "cur").glob("*") if b"Subject: one" in path.read_bytes()]
    assert "S" in seen[0].name.partition(":2,")[2]


# mutt


def test_mutt_in_a_terminal(server: RunningServer, account: str, tmp_path: Path) -> None:
    fill(server, account, "hello from mutt", "second")
    config = tmp_path / "muttrc"
    config.write_text(
        f'set folder="imap://127.0.0.1:{server.imap}/"\nset spoolfile="+INBOX"\nset imap_user="{account}"\n'
        f'set imap_pass="{PASSWORD}"\nset ssl_starttls=no\nset ssl_force_tls=no\nset mail_check=1\nset timeout=1\n'
        "set sort=date\nset wait_key=no\nset confirmappend=no\nset delete=yes\nset imap_idle=yes\n"
    )
    name = f"rusmes-test-{os.getpid()}"
    tmux = [require("tmux"), "-L", name, "-f", "/dev/null"]
    environment = {**os.environ, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TERM": "xterm"}

    def screen() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p", "-t", "m"], capture_output=True, text=True, check=False).stdout

    def keys(*names: str) -> None:
        subprocess.run([*tmux, "send-keys", "-t", "m", *names], check=True)

    command = f"{require('mutt')} -n -F {config}; sleep 60"
    subprocess.run([*tmux, "new-session", "-d", "-s", "m", "-x", "120", "-y", "30", command], check=True, env=environment)
    try:
        wait_for(lambda: "hello from mutt" in screen() and "second" in screen(), f"listed: {screen()}")
        keys("Enter")
        wait_for(lambda: "From: Bob" in screen() or "hello\n" in screen(), "opened")
        keys("i")
        fill(server, account, "third arrives")
        wait_for(lambda: "third arrives" in screen(), "told of new mail")
        keys("Home")
        keys("d")
        keys("$")
        wait_for(lambda: "hello from mutt" not in screen(), "expunged")
        keys("q")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
    with imapclient.IMAPClient("127.0.0.1", server.imap, ssl=False) as client:
        client.login(account, PASSWORD)
        client.select_folder("INBOX")
        assert client.search("SUBJECT mutt") == []
        assert len(client.search()) == 2


# The server's own life


class Raw:
    """A socket that speaks lines."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")
        self.line()

    def line(self) -> bytes:
        return self.file.readline()

    def command(self, text: str) -> list[bytes]:
        self.socket.sendall(f"a {text}\r\n".encode())
        lines = [self.line()]
        while lines[-1] and not lines[-1].startswith(b"a "):
            lines.append(self.line())
        return lines

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_sessions_end_with_bye_when_the_server_stops(tmp_path: Path) -> None:
    running = RunningServer(tmp_path, workers=2)
    running.add_user()
    with running:
        idle, calm = Raw(running.imap), Raw(running.imap)
        for session in (idle, calm):
            assert session.command(f'LOGIN {ALICE} "{PASSWORD}"')[-1].startswith(b"a OK")
            assert session.command("SELECT INBOX")[-1].startswith(b"a OK")
        idle.socket.sendall(b"b IDLE\r\n")
        assert idle.line().startswith(b"+")
        running.signal(signal.SIGTERM)
        for session in (idle, calm):
            assert session.line().startswith(b"* BYE [UNAVAILABLE]")
            assert session.line() == b""
            session.close()
        assert running.wait() == 0


def test_a_worker_that_is_killed_takes_no_other_session_along(tmp_path: Path) -> None:
    running = RunningServer(tmp_path, workers=2)
    running.add_user()
    with running:
        sessions = [Raw(running.imap) for _ in range(10)]
        for session in sessions:
            assert session.command(f'LOGIN {ALICE} "{PASSWORD}"')[-1].startswith(b"a OK")
            assert session.command("SELECT INBOX")[-1].startswith(b"a OK")
        os.kill(running.worker_pids()[0], signal.SIGKILL)
        alive = []
        for session in sessions:
            try:
                answer = session.command("NOOP")
            except OSError:
                continue
            if answer[-1].startswith(b"a OK"):
                alive.append(session)
        assert 0 < len(alive) < 10, "both workers had some of ten connections, but for one case in 500"
        running.send()
        wait_for(lambda: any(re.match(rb"\* 1 EXISTS", line) for line in alive[0].command("NOOP")), "told")
        for session in sessions:
            session.close()
