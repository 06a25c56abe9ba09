"""Keys of [dkim]: whose mail is signed, and how. Rules as in `schema`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from rusmes.config import names
from rusmes.config.problems import Collector
from rusmes.config.units import Duration

_FIELD_NAME: Final = re.compile(r"[!-9;-~]+")
_SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)*")


class DkimKey(Struct, frozen=True, kw_only=True):
    """[[dkim.key]]: a key that is not in the directory. The keys of a domain here take the place of those there."""

    domain: str
    """Who signs: d= of the signature."""
    selector: str
    """The record is at SELECTOR._domainkey.DOMAIN."""
    path: str
    """PEM, RSA or Ed25519; relative paths start at the configuration file."""


class Dkim(Struct, frozen=True, kw_only=True):
    """Signatures of outgoing mail (RFC 6376) and seals on forwarded mail (RFC 8617), made by the steps DKIMSign and ARCSeal."""

    directory: str = "dkim"
    """Keys named DOMAIN.SELECTOR.pem, relative to storage.path; each domain signs with all that it has here."""
    key: tuple[DkimKey, ...] = ()
    headers: tuple[str, ...] = ()
    """Fields that are signed where they are there; [] = those of RFC 6376 section 5.4.1, and of lists."""
    oversign: tuple[str, ...] = ("From", "Reply-To", "Subject", "To", "Cc")
    """Fields of which nobody can add one later without breaking the signature."""
    canonicalization: Literal["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] = "relaxed/relaxed"
    """Of header and body: relaxed forgives changed white space."""
    expire: Duration = Duration("0s")
    """How long a signature is good (x=). 0 = without end."""
    seal_domain: str = ""
    """Whose RSA key ARCSeal uses; "" = [domain]."""
    threads: Annotated[int, Meta(ge=0, le=64)] = 0
    """That sign, per worker. 0 = one, and more where there are more cores than workers."""


def is_selector(text: str) -> bool:
    """Whether a text can be a selector: labels in lower case."""
    return _SELECTOR.fullmatch(text) is not None


def check_dkim(dkim: Dkim, problems: Collector) -> Dkim:
    """Names in their one form; what cannot be is reported."""
    for key in ("headers", "oversign"):
        for index, name in enumerate(getattr(dkim, key)):
            if not _FIELD_NAME.fullmatch(name):
                problems.add(("dkim", key, index), f'"{name}" is no name of a header field')
    if any(name.lower() == "received" for name in (*dkim.headers, *dkim.oversign)):
        problems.warnings.append("dkim.headers has Received: the next server adds one, and some break the signature with that")
    keys, seen = [], set()
    for index, one in enumerate(dkim.key):
        selector = one.selector.lower()
        if not is_selector(selector):
            problems.add(("dkim", "key", index, "selector"), f'"{one.selector}" is no selector')
        domain = one.domain
        try:
            domain = names.domain_name(one.domain)
        except ValueError as error:
            problems.add(("dkim", "key", index, "domain"), str(error))
        if (domain, selector) in seen:
            problems.add(("dkim", "key", index, "selector"), f"{selector}._domainkey.{domain} has a key already")
        seen.add((domain, selector))
        keys.append(replace(one, domain=domain, selector=selector))
    seal_domain = dkim.seal_domain
    if seal_domain:
        try:
            seal_domain = names.domain_name(seal_domain)
        except ValueError as error:
            problems.add(("dkim", "seal_domain"), str(error))
    return replace(dkim, key=tuple(keys), seal_domain=seal_domain)
