"""Mail that local programs left for the server: one file each, in `maildrop/` of the data directory.

It is how `rusmes-sendmail` hands mail over whether the server runs or not. A file is written beside, synced, and then named, so
what has a name is whole; its name is an id that the server uses as an idempotency key, so a file whose removal a power loss
forgot is not accepted twice.

    <26 characters>.mail   one line of JSON, the envelope, and the message as it was given
    .tmp-*                 being written, or left by a program that died
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from rusmes.errors import NotAllowed
from rusmes.model.ids import IdSource, id_text, parse_id
from rusmes.storage.spool import store_failure

DIRECTORY: Final = "maildrop"
SUFFIX: Final = ".mail"
MAX_ENVELOPE_BYTES: Final = 4 << 20
"""10,000 recipients of 254 octets, with what belongs to them."""
STALE_SECONDS: Final = 36 * 3600.0
"""Then nobody writes to a temporary file any more."""


class DropRecipient(Struct, frozen=True):
    address: str
    notify: tuple[str, ...] = ()
    """NEVER, or any of SUCCESS, FAILURE, DELAY."""


class Drop(Struct, frozen=True):
    """An envelope. `sender` "<>" is the null sender."""

    sender: str
    recipients: tuple[DropRecipient, ...]
    uid: int
    created: float
    ret: str = ""
    envid: str = ""


_decoder: Final = msgspec.json.Decoder(Drop)


def maildrop_of(data_directory: str) -> str:
    return os.path.join(data_directory, DIRECTORY)


def write_drop(directory: str, drop: Drop, message: Iterable[bytes], *, max_bytes: int = 0) -> str:
    """Leave a message; its id. It is durable when this returns.

    Raises:
        NotAllowed: the message is larger than `max_bytes` (0 = no limit).
        StoreFull, StoreError
        PermissionError, FileNotFoundError: this user may not put anything there, or there is no such directory.
    """
    id = id_text(IdSource().next_id())
    temporary = os.path.join(directory, f".tmp-{id}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            with open(descriptor, "wb") as file:
                owner = os.stat(directory)
                if os.geteuid() == 0 and owner.st_uid != 0:
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.write(msgspec.json.encode(drop) + b"\n")
                written = 0
                for chunk in message:
                    written += len(chunk)
                    if max_bytes and written > max_bytes:
                        raise NotAllowed("the message is too large", f"at most {max_bytes} bytes")
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, os.path.join(directory, id + SUFFIX))
            _sync_directory(directory)
        except OSError as error:
            raise store_failure(error, "maildrop") from None
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return id


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def waiting_drops(directory: str, limit: int = 0) -> list[str]:
    """The ids of what was left, oldest first; at most `limit` (0 = all). Temporary files nobody writes to any more are removed.

    Raises:
        OSError
    """
    found = []
    for name in os.listdir(directory):
        id = name.removesuffix(SUFFIX)
        if name.startswith(".tmp-"):
            _remove_stale(os.path.join(directory, name))
        elif id != name and _is_id(id):
            found.append(id)
    found.sort()
    return found[:limit] if limit else found


def _is_id(text: str) -> bool:
    try:
        parse_id(text)
    except ValueError:
        return False
    return text == text.lower()


def _remove_stale(path: str) -> None:
    try:
        if time.time() - os.lstat(path).st_mtime > STALE_SECONDS:
            os.unlink(path)
    except FileNotFoundError:
        return


def read_drop(directory: str, id: str, *, max_bytes: int = 0) -> tuple[Drop, bytes]:
    """An envelope and its message.

    Raises:
        NotAllowed: it is no file of ours, or too large; it will never be anything else.
        FileNotFoundError: it is gone.
        StoreError
    """
    path = path_of(directory, id)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _odd(id, error.strerror or str(error)) from None
    with open(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise _odd(id, "it is no ordinary file")
        if facts.st_uid not in (0, os.stat(directory).st_uid):
            raise _odd(id, "it belongs to another user")
        try:
            line = file.readline(MAX_ENVELOPE_BYTES)
            drop = _decoder.decode(line)
            if max_bytes and facts.st_size - len(line) > max_bytes:
                raise _odd(id, f"the message is larger than {max_bytes} bytes")
            return drop, file.read()
        except msgspec.MsgspecError as error:
            raise _odd(id, f"its envelope cannot be read: {error}") from None
        except OSError as error:
            raise store_failure(error, "maildrop") from None


def read_envelope(directory: str, id: str) -> tuple[Drop, int]:
    """An envelope, and the size of its message; for looking only.

    Raises:
        NotAllowed, OSError
    """
    with open(path_of(directory, id), "rb") as file:
        line = file.readline(MAX_ENVELOPE_BYTES)
        try:
            return _decoder.decode(line), os.fstat(file.fileno()).st_size - len(line)
        except msgspec.MsgspecError as error:
            raise _odd(id, f"its envelope cannot be read: {error}") from None


def remove_drop(directory: str, id: str) -> None:
    try:
        os.unlink(path_of(directory, id))
    except FileNotFoundError:
        return


def path_of(directory: str, id: str) -> str:
    return os.path.join(directory, id + SUFFIX)


def _odd(id: str, why: str) -> NotAllowed:
    return NotAllowed(f"{id}{SUFFIX} in the maildrop cannot be used", why)
