"""How the name somebody typed becomes an account: by the grammar of envelope addresses, so that both always agree."""

from __future__ import annotations

from rusmes.model.address import Address
from rusmes.smtp import address as envelope


def canonical_domain(domain: str) -> str:
    """The domain in lower-case A-labels, or an address literal; "" when it is neither."""
    try:
        return envelope.parse_domain(domain.strip())
    except envelope.AddressError:
        return ""


def parse_address(text: str) -> Address | None:
    """An address from configuration or a login; None when the text is none."""
    try:
        return envelope.parse_address(text.strip())
    except envelope.AddressError:
        return None


def canonical_account(username: str, default_domain: str) -> str:
    """The folded address a login name stands for, "" when it can be none. A bare name belongs to `default_domain`."""
    text = username if "@" in username else f"{username}@{default_domain}"
    address = parse_address(text)
    return address.folded if address is not None else ""
