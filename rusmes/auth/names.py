"""How the name somebody typed becomes the name of an account."""

from __future__ import annotations

import idna

from rusmes.model.address import Address

MAX_NAME_OCTETS = 320
"""64 of local part, "@", 255 of domain (RFC 5321 §4.5.3.1)."""


def canonical_domain(domain: str) -> str:
    """The domain in lower-case A-labels; "" when it is none.

    Address literals are kept as they are, in lower case.
    """
    text = domain.strip().rstrip(".")
    if text.startswith("["):
        return text.lower()
    if text.isascii():
        return text.lower() if _is_plain_domain(text) else ""
    try:
        # UTS 46 with transitional processing off maps case and width as browsers do (RFC 5895).
        return idna.encode(text, uts46=True).decode("ascii")
    except idna.IDNAError:
        return ""


def _is_plain_domain(text: str) -> bool:
    if not text or len(text) > 255:
        return False
    return all(
        0 < len(label) <= 63 and label[0] != "-" and label[-1] != "-" and label.replace("-", "").replace("_", "").isalnum()
        for label in text.split(".")
    )


def parse_address(text: str) -> Address | None:
    """An address from configuration or a login; None when the text is none.

    A local part is taken as it is but for control characters; quoting is undone.
    """
    local, at, domain = text.strip().rpartition("@")
    if not at or not local or len(text.encode("utf-8", "surrogatepass")) > MAX_NAME_OCTETS:
        return None
    if len(local) >= 2 and local[0] == local[-1] == '"':
        local = local[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    canonical = canonical_domain(domain)
    if not canonical or not local or any(c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in local):
        return None
    return Address(local, canonical)


def canonical_account(username: str, default_domain: str) -> str:
    """The folded address a login name stands for, "" when it can be none. A bare name belongs to `default_domain`."""
    text = username if "@" in username else f"{username}@{default_domain}"
    address = parse_address(text)
    return address.folded if address is not None else ""
