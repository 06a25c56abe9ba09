"""`rusmes-sendmail`: the sendmail(1) that other programs call, with the options and exit statuses that Postfix has.

A message goes into the maildrop of the data directory, durably, whether the server runs or not; the server takes it from there.
A user who may not write there, or may not even read the configuration, is served by SMTP on this machine.

Exit statuses are those of sysexits.h: 0 accepted; 64 usage; 65 the message; 67 no such recipient; 69 refused; 75 try again.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import pwd
import smtplib
import socket
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO, Final, NoReturn

from msgspec import Struct, field

from rusmes.cli.message_text import read_message, recipients_in, with_header, without_hidden
from rusmes.cli.sysexits import (
    EX_CONFIG,
    EX_DATAERR,
    EX_NOUSER,
    EX_OK,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    Exit,
)
from rusmes.config import names
from rusmes.config.load import load_config
from rusmes.config.schema import Config
from rusmes.errors import ConfigError, NotAllowed, StoreError, StoreFull
from rusmes.storage.maildrop import Drop, DropRecipient, maildrop_of, write_drop

OPTIONS: Final = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"
"""Of Postfix's sendmail(1); those without a meaning here are taken and ignored, as they are there."""
MAX_MESSAGE_BYTES: Final = 1 << 30
"""When no configuration says less."""
SMTP_SECONDS: Final = 300.0
CONNECT_SECONDS: Final = 30.0
SERVER_VARIABLE: Final = "RUSMES_SENDMAIL_SERVER"
"""host:port of the server where the configuration cannot be read [127.0.0.1:25]."""
MAILNAME: Final = "/etc/mailname"

_NOTIFY: Final = ("NEVER", "SUCCESS", "FAILURE", "DELAY")


class Wish(Struct):
    """What the command line asks for."""

    mode: str = "m"
    """m send | p list the queue | s speak SMTP | q flush the queue | i nothing."""
    sender: str | None = None
    """None: the user; "" is the null sender."""
    full_name: str = ""
    takes_header: bool = False
    ends_at_dot: bool = True
    notify: tuple[str, ...] = ()
    ret: str = ""
    envid: str = ""
    config_path: str = ""
    queue_id: str = ""
    queue_site: str = ""
    is_verbose: bool = False
    recipients: list[str] = field(default_factory=list)


def read_arguments(arguments: Sequence[str]) -> Wish:
    """Raises Exit."""
    wish = Wish()
    # "-q" has an argument or not, and getopt knows of no such option.
    listed = ["-q" + "now" if argument == "-q" else argument for argument in _until_end(arguments)]
    try:
        options, recipients = getopt.getopt([*listed, *list(arguments)[len(listed) :]], OPTIONS)
    except getopt.GetoptError as error:
        raise Exit(EX_USAGE, f"{error}; usage: sendmail [options] [recipient ...]") from None
    for option, value in options:
        _take_option(wish, option, value)
    wish.recipients = recipients
    return wish


def _until_end(arguments: Sequence[str]) -> list[str]:
    """The arguments before "--"."""
    return list(arguments[: arguments.index("--")]) if "--" in arguments else list(arguments)


def _take_option(wish: Wish, option: str, value: str) -> None:
    if option in ("-f", "-r"):
        wish.sender = value.strip().removeprefix("<").removesuffix(">")
    elif option == "-F":
        wish.full_name = value
    elif option == "-t":
        wish.takes_header = True
    elif option == "-i" or (option == "-o" and value == "i"):
        wish.ends_at_dot = False
    elif option == "-N":
        wish.notify = tuple(word.strip().upper() for word in value.split(","))
        if not set(wish.notify) <= set(_NOTIFY) or ("NEVER" in wish.notify and len(wish.notify) > 1):
            raise Exit(EX_USAGE, f"-N {value}: never, or any of success, failure, delay")
    elif option == "-R":
        wish.ret = {"full": "FULL", "hdrs": "HDRS"}.get(value.lower(), "")
        if not wish.ret:
            raise Exit(EX_USAGE, f"-R {value}: full or hdrs")
    elif option == "-V":
        wish.envid = value
        if len(value) > 100 or not value.isascii() or not value.isprintable():
            raise Exit(EX_USAGE, "-V: at most 100 printable characters (RFC 3461 section 4.4)")
    elif option == "-B":
        if value.upper() not in ("7BIT", "8BITMIME"):
            raise Exit(EX_USAGE, f"-B {value}: 7BIT or 8BITMIME")
    elif option == "-C":
        wish.config_path = value
    elif option == "-v":
        wish.is_verbose = True
    elif option == "-I":
        wish.mode = "i"
    elif option == "-b":
        _take_mode(wish, value)
    elif option == "-q":
        _take_queue_option(wish, value)


def _take_mode(wish: Wish, value: str) -> None:
    if value not in ("m", "p", "s", "i"):
        raise Exit(EX_USAGE, f"-b{value} is not supported" + ("; start rusmes-server" if value in ("d", "D", "l") else ""))
    wish.mode = value


def _take_queue_option(wish: Wish, value: str) -> None:
    if value.startswith("I"):
        wish.mode, wish.queue_id = "q", value[1:]
    elif value.startswith(("R", "S")):
        wish.mode, wish.queue_site = "q", value[1:]
    elif value == "now":
        wish.mode = "q"
    # "-q30m", how often a queue is run, means nothing to a server that knows when each message is due.


# Who and where


class Place(Struct):
    """What is known of the server."""

    config: Config | None
    hostname: str
    domain: str
    """Of addresses without one."""
    host: str
    port: int
    max_bytes: int


def find_place(config_path: str) -> Place:
    """Raises Exit: the configuration that was named is wrong."""
    try:
        config: Config | None = load_config(config_path or None)
    except (ConfigError, OSError) as error:
        if config_path and not _is_unreadable(config_path):
            raise Exit(EX_CONFIG, str(error)) from None
        config = None
    host, port = _server_of(config)
    if config is not None and (config.path or config_path):
        domain = config.domain or config.hostname
        return Place(config, config.hostname or domain, domain, host, port, int(config.smtp.max_message_size))
    hostname = _mailname() or socket.getfqdn()
    return Place(None, hostname, hostname, host, port, MAX_MESSAGE_BYTES)


def _is_unreadable(path: str) -> bool:
    return os.path.exists(path) and not os.access(path, os.R_OK)


def _server_of(config: Config | None) -> tuple[str, int]:
    named = os.environ.get(SERVER_VARIABLE, "")
    if named:
        host, _, port = named.rpartition(":")
        if not host or not port.isdigit():
            raise Exit(EX_CONFIG, f"{SERVER_VARIABLE} is host:port, not {named!r}")
        return host.strip("[]"), int(port)
    return "127.0.0.1", config.smtp.port if config is not None and config.smtp.port else 25


def _mailname() -> str:
    try:
        with open(MAILNAME, encoding="utf-8") as file:
            return file.readline(300).strip()
    except (OSError, UnicodeError):
        return ""


def complete(text: str, domain: str) -> str:
    """An address with its domain. Raises Exit."""
    plain = text.strip().removeprefix("<").removesuffix(">")
    if "@" not in plain:
        plain = f"{plain}@{domain}"
    try:
        return str(names.address(plain))
    except ValueError as error:
        raise Exit(EX_DATAERR, str(error)) from None


# Sending


def send(wish: Wish, stream: BinaryIO) -> None:
    """Raises Exit."""
    place = find_place(wish.config_path)
    message = read_message(stream, ends_at_dot=wish.ends_at_dot, max_bytes=place.max_bytes)
    texts = list(wish.recipients)
    if wish.takes_header:
        texts += recipients_in(message)
    recipients = list(dict.fromkeys(complete(text, place.domain) for text in texts))
    if not recipients:
        raise Exit(EX_USAGE, "Recipient addresses must be specified on the command line or via the -t option")
    user, gecos = _user()
    sender = complete(user, place.domain) if wish.sender is None else complete(wish.sender, place.domain) if wish.sender else ""
    full_name = wish.full_name or os.environ.get("NAME", "") or gecos
    message = without_hidden(with_header(message, sender, full_name, place.hostname, time.time()))
    if not _leave(place, wish, message, sender, recipients):
        _submit(place, wish, message, sender, recipients)


def _user() -> tuple[str, str]:
    """The login name and the full name of who calls."""
    try:
        facts = pwd.getpwuid(os.getuid())
    except KeyError:
        return f"uid{os.getuid()}", ""
    return facts.pw_name, facts.pw_gecos.partition(",")[0]


def _leave(place: Place, wish: Wish, message: bytes, sender: str, recipients: Sequence[str]) -> bool:
    """Put it into the maildrop; False: this user may not. Raises Exit."""
    if place.config is None:
        return False
    data = place.config.storage.path
    directory = maildrop_of(data)
    named = tuple(DropRecipient(address, wish.notify) for address in recipients)
    drop = Drop(sender or "<>", named, os.getuid(), time.time(), wish.ret, wish.envid)
    try:
        if not os.path.isdir(directory):
            if not os.path.isdir(data):
                return False
            _make(directory, data)
        write_drop(directory, drop, (message,), max_bytes=place.max_bytes)
    except (PermissionError, FileNotFoundError):
        return False
    except NotAllowed as error:
        raise Exit(EX_DATAERR, str(error)) from None
    except StoreFull as error:
        raise Exit(EX_TEMPFAIL, str(error)) from None
    except (StoreError, OSError) as error:
        raise Exit(EX_TEMPFAIL, f"the message cannot be stored: {error}") from None
    return True


def _make(directory: str, data: str) -> None:
    """The server was never started; the maildrop belongs to who has the data."""
    os.mkdir(directory, 0o700)
    owner = os.stat(data)
    if os.geteuid() == 0:
        os.chown(directory, owner.st_uid, owner.st_gid)


def _submit(place: Place, wish: Wish, message: bytes, sender: str, recipients: Sequence[str]) -> None:
    """To the server by SMTP: all recipients or none. Raises Exit."""
    try:
        client = smtplib.SMTP(place.host, place.port, local_hostname=place.hostname, timeout=SMTP_SECONDS)
        try:
            client.set_debuglevel(1 if wish.is_verbose else 0)
            client.ehlo_or_helo_if_needed()
            _transaction(client, wish, message, sender, recipients)
            with contextlib.suppress(OSError, smtplib.SMTPException):
                client.quit()  # what was accepted stays accepted, whatever becomes of the farewell
        finally:
            client.close()
    except smtplib.SMTPResponseException as error:
        raise _refused(error.smtp_code, _text(error.smtp_error)) from None
    except (OSError, smtplib.SMTPException) as error:
        raise Exit(EX_TEMPFAIL, f"the server at {place.host}:{place.port} cannot be reached: {error}") from None


def _transaction(client: smtplib.SMTP, wish: Wish, message: bytes, sender: str, recipients: Sequence[str]) -> None:
    """Raises Exit, SMTPException, OSError."""
    has_dsn = client.has_extn("dsn")
    is_ascii = all(text.isascii() for text in (sender, *recipients))
    if not is_ascii and not client.has_extn("smtputf8"):
        raise Exit(EX_UNAVAILABLE, "the server takes no internationalized addresses")
    options = [f"SIZE={len(message)}"] if client.has_extn("size") else []
    options += ["BODY=8BITMIME"] if client.has_extn("8bitmime") and not message.isascii() else []
    options += [] if is_ascii else ["SMTPUTF8"]
    if has_dsn:
        options += [f"RET={wish.ret}"] if wish.ret else []
        options += [f"ENVID={_xtext(wish.envid)}"] if wish.envid else []
    if not is_ascii:
        client.command_encoding = "utf-8"
    _expect(client.mail(sender, options), 250)
    notify = [f"NOTIFY={','.join(wish.notify)}"] if has_dsn and wish.notify else []
    for recipient in recipients:
        code, text = client.rcpt(recipient, notify)
        if code not in (250, 251):
            client.rset()
            raise _refused(code, f"{recipient}: {_text(text)}")
    _expect(client.data(message), 250)


def _expect(reply: tuple[int, bytes], wanted: int) -> None:
    if reply[0] != wanted:
        raise smtplib.SMTPResponseException(*reply)


def _refused(code: int, text: str) -> Exit:
    if code < 500:
        return Exit(EX_TEMPFAIL, f"the server says: {code} {text}")
    return Exit(EX_NOUSER if "5.1." in text else EX_UNAVAILABLE, f"the server says: {code} {text}")


def _text(reply: bytes | str) -> str:
    return " ".join((reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply).split())


def _xtext(text: str) -> str:
    """RFC 3461 §4."""
    return "".join(char if "!" <= char <= "~" and char not in "+=" else f"+{ord(char):02X}" for char in text)


# Speaking SMTP on standard input and output


def speak_smtp(wish: Wish) -> None:
    """Be the wire between the caller and the server. Raises Exit."""
    place = find_place(wish.config_path)
    try:
        connection = socket.create_connection((place.host, place.port), CONNECT_SECONDS)
    except OSError as error:
        sys.stdout.write(f"421 4.3.2 {place.hostname} the mail server is not running\r\n")
        sys.stdout.flush()
        raise Exit(EX_TEMPFAIL, f"the server at {place.host}:{place.port} cannot be reached: {error}") from None
    with connection, connection.makefile("rb") as replies:
        connection.settimeout(SMTP_SECONDS)
        try:
            _converse(connection, replies)
        except OSError as error:
            raise Exit(EX_TEMPFAIL, f"the connection to the server broke: {error}") from None


def _converse(connection: socket.socket, replies: BinaryIO) -> None:
    """One command and its reply after the other: callers may write everything at once, and servers refuse those who do not
    wait. Programs write LF alone; RFC 5321 §2.3.8 wants CRLF."""
    is_in_message = False
    if not _pass_on(replies):
        return
    for line in sys.stdin.buffer:
        text = line.rstrip(b"\r\n")
        connection.sendall(text + b"\r\n")
        if is_in_message and text != b".":
            continue
        code = _pass_on(replies)
        if not code:
            return
        is_in_message = not is_in_message and code == b"354" and text.strip().upper() == b"DATA"


def _pass_on(replies: BinaryIO) -> bytes:
    """Print one reply, without the offers that a wire cannot keep; its code, b"" at the end of the connection."""
    lines = []
    while line := replies.readline(1 << 16):
        lines.append(line)
        if line[3:4] != b"-":
            break
    if not lines:
        return b""
    kept = [line for line in lines if line[4:].strip().upper() not in (b"STARTTLS", b"CHUNKING", b"PIPELINING")]
    for line in kept[:-1]:
        sys.stdout.buffer.write(line[:3] + b"-" + line[4:])
    last = kept[-1] if kept else lines[-1]
    sys.stdout.buffer.write(last[:3] + b" " + last[4:])
    sys.stdout.buffer.flush()
    return lines[-1][:3] if lines[-1].endswith(b"\n") else b""


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit status."""
    wish = read_arguments(arguments)
    if wish.mode == "p":
        from rusmes.cli import postqueue

        return postqueue.run(["-p", *(["-c", wish.config_path] if wish.config_path else [])])
    if wish.mode == "q":
        from rusmes.cli import postqueue

        what = ["-i", wish.queue_id] if wish.queue_id else ["-s", wish.queue_site] if wish.queue_site else ["-f"]
        return postqueue.run([*what, *(["-c", wish.config_path] if wish.config_path else [])])
    if wish.mode == "s":
        speak_smtp(wish)
    elif wish.mode == "m":
        send(wish, sys.stdin.buffer)
    return EX_OK  # "-bi", newaliases: the aliases are in the configuration


def main() -> NoReturn:
    """The entry point; also installed as newaliases would be, by that name."""
    arguments = sys.argv[1:]
    name = os.path.basename(sys.argv[0])
    if name in ("mailq", "newaliases"):
        arguments = ["-bp" if name == "mailq" else "-bi", *arguments]
    try:
        sys.exit(run(arguments))
    except Exit as error:
        if error.sentence:
            sys.stderr.write(f"sendmail: {error.sentence}\n")
        sys.exit(error.status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EX_OK)
    except KeyboardInterrupt:
        sys.exit(EX_TEMPFAIL)


if __name__ == "__main__":
    main()
