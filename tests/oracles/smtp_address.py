"""The plain ASCII address, read slowly: the fast path of `_core.smtp` must agree with this on every input."""

from __future__ import annotations

import re

_ATEXT = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_PLAIN = re.compile(rf"({_ATEXT}(?:\.{_ATEXT})*)@({_LABEL}(?:\.{_LABEL})*)")


def read_plain(path: bytes) -> tuple[str, str] | None:
    """Local part and domain, or None when this is not a plain address."""
    match = _PLAIN.fullmatch(path.decode("latin-1"))
    if match is None:
        return None
    local, domain = match.groups()
    labels = domain.split(".")
    if len(local) > 64 or len(domain) > 253 or any(len(label) > 63 for label in labels) or re.fullmatch("[0-9]+", labels[-1]):
        return None
    return local, domain.lower()
