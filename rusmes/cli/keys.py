"""Keys for DKIM signatures on the disk (RFC 6376, RFC 8463): in use, waiting for their DNS record, retired.

A key in use is DOMAIN.SELECTOR.pem, and signs. One that waits ends in `.pem.next`, one that was replaced in `.pem.old`: the
signer looks at neither.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from rusmes.dkim.keys import RSA_BITS, KeyUnusable, load_key, new_key, pem_of
from rusmes.errors import RusmesError

KINDS: Final = ("rsa", "ed25519")
IN_USE: Final = ".pem"
WAITING: Final = ".pem.next"
RETIRED: Final = ".pem.old"
STATES: Final = {IN_USE: "in use", WAITING: "waiting", RETIRED: "retired"}


class DkimKey(Struct, frozen=True):
    """A signing key on the disk and what DNS must say about it."""

    selector: str
    path: str
    record: str
    """The TXT record's text at <selector>._domainkey.<domain>."""
    domain: str = ""
    algorithm: str = ""
    bits: int = 0
    state: str = "in use"
    """in use | waiting | retired."""


def make_dkim_keys(directory: str, domain: str, *, today: datetime.date | None = None) -> list[DkimKey]:
    """An RSA and an Ed25519 key in `directory`, readable by their owner only; a key that is there already is kept."""
    keys = []
    for kind in KINDS:
        found = sorted(Path(directory).glob(f"{domain}.*{kind}{IN_USE}"))
        path = found[-1] if found else write_key(directory, domain, kind, today=today)
        keys.append(read_dkim_key(path, domain))
    return keys


def write_key(
    directory: str,
    domain: str,
    kind: str,
    *,
    bits: int = RSA_BITS,
    selector: str = "",
    suffix: str = IN_USE,
    today: datetime.date | None = None,
) -> Path:
    """A new key, readable by its owner only; its selector names the month, unless one is given.

    Raises:
        FileExistsError: the selector has a key already.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = Path(directory) / f"{domain}.{selector or free_selector(directory, domain, kind, today)}{suffix}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(pem_of(new_key(kind, bits=bits)))
        file.flush()
        os.fsync(file.fileno())
    return path


def free_selector(directory: str, domain: str, kind: str, today: datetime.date | None = None) -> str:
    """202611rsa, or 202611brsa when that one was used already: a selector never comes back with another key."""
    month = f"{today or datetime.date.today():%Y%m}"
    for letter in ("", *"bcdefghijklmnopqrstuvwxyz"):
        selector = f"{month}{letter}{kind}"
        if not any((Path(directory) / f"{domain}.{selector}{suffix}").exists() for suffix in STATES):
            return selector
    raise RusmesError("26 keys were made in one month", "remove old ones, or name a selector")


def keys_in(directory: str, domain: str = "") -> list[DkimKey]:
    """Every key of a domain, or of all.

    Raises:
        KeyUnusable, OSError
    """
    keys = []
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    for name in names:
        suffix = next((suffix for suffix in (RETIRED, WAITING, IN_USE) if name.endswith(suffix)), "")
        owner = name.removesuffix(suffix).rpartition(".")[0]
        if suffix and owner and owner == (domain or owner):
            keys.append(read_dkim_key(Path(directory) / name, owner, suffix))
    return keys


def read_dkim_key(path: Path, domain: str, suffix: str = IN_USE) -> DkimKey:
    """Raises KeyUnusable, OSError."""
    selector = path.name.removeprefix(f"{domain}.").removesuffix(suffix)
    try:
        key = load_key(path.read_bytes(), domain, selector)
    except KeyUnusable as error:
        raise KeyUnusable(f"{path}: {error.public}", error.detail) from None
    return DkimKey(selector, str(path), key.record, domain, key.algorithm, key.bits, STATES[suffix])
