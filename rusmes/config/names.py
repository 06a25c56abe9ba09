"""Domains and addresses as an operator writes them, with the reason when they are none (RFC 1035 §2.3.1, RFC 5321 §4.1.2)."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Final

import idna

from rusmes.model.address import Address

MAX_LOCAL_OCTETS: Final = 64  # RFC 5321 §4.5.3.1.1
MAX_DOMAIN_OCTETS: Final = 253  # RFC 1035 §2.3.4 gives 255 on the wire, which is 253 in text


def domain_name(text: str) -> str:
    """A domain in lower-case A-labels.

    Raises:
        ValueError: it is none; the text says why.
    """
    name = text.strip().removesuffix(".")
    if not name:
        raise ValueError("a domain is missing")
    if "@" in name or "/" in name or ":" in name:
        raise ValueError(f'"{text}" is not a domain')
    if name.isascii():
        name = name.lower()
    else:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f'"{text}" is not a domain: {error}') from None
    if len(name) > MAX_DOMAIN_OCTETS:
        raise ValueError(f'"{text[:40]}..." is longer than {MAX_DOMAIN_OCTETS} characters')
    labels = name.split(".")
    for label in labels:
        if not 0 < len(label) <= 63 or not label.replace("-", "").isalnum() or label[0] == "-" or label[-1] == "-":
            raise ValueError(f'"{text}" is not a domain: the label "{label[:70]}" is not allowed')
    if labels[-1].isdecimal():
        raise ValueError(f'"{text}" is not a domain: the last label is a number')
    return name


def address(text: str) -> Address:
    """A mailbox address: `alice@example.com`, `"odd name"@example.com`.

    Raises:
        ValueError: it is none; the text says why.
    """
    local, at, domain = text.strip().rpartition("@")
    if not at or not local:
        raise ValueError(f'"{text}" is not an address: write name@domain')
    if len(local) > 1 and local[0] == local[-1] == '"':
        local = local[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    elif "@" in local or any(char.isspace() for char in local):
        raise ValueError(f'"{text}" is not an address: the part before "@" needs quotes')
    if not local or len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL_OCTETS:
        raise ValueError(f'"{text[:80]}" is not an address: its local part has not 1 to {MAX_LOCAL_OCTETS} octets')
    if any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in local):
        raise ValueError("an address contains a control character")
    return Address(local, domain_name(domain))


def listen_host(text: str) -> str:
    """An IP address or a host name to listen on or connect to; brackets around IPv6 are taken off.

    Raises:
        ValueError: it is neither.
    """
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if ":" in host:
            raise ValueError(f'"{text}" is not an IPv6 address') from None
        return domain_name(host)


def host_and_port(text: str) -> tuple[str, int]:
    """The parts of "127.0.0.1:9090" or "[::1]:9090".

    Raises:
        ValueError: it has another form.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f'"{text}" is not an address with a port: write "127.0.0.1:9090" or "[::1]:9090"')
    return listen_host(host), int(port)


def name_server(text: str) -> tuple[str, int]:
    """The address and port of "192.0.2.53", "127.0.0.1:5353" or "[::1]:5353".

    Raises:
        ValueError: it has another form.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53" if closed else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        number = int(port)
        if not 0 < number <= 65535:
            raise ValueError
        return str(ipaddress.ip_address(host)), number
    except ValueError:
        raise ValueError(f'"{text}" is no name server: write an address, or address:port') from None


def pattern(text: str) -> str:
    """A domain pattern: a domain, or "*." before one, or "*" alone; in lower-case A-labels.

    Raises:
        ValueError: it is none.
    """
    if text == "*":
        return text
    return f"*.{domain_name(text[2:])}" if text.startswith("*.") else domain_name(text)


def host_pattern(text: str) -> str:
    """A pattern of hosts: one of domains, or an IP address.

    Raises:
        ValueError: it is neither.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return pattern(text)


def ip_address(text: str) -> str:
    """An IP address.

    Raises:
        ValueError: it is none.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def ehlo_name(text: str) -> str:
    """What EHLO may say (RFC 5321 §4.1.1.1): a domain, or an address literal.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("[") and text.endswith("]"):
        literal = text[1:-1]
        ip_address(literal[5:] if literal[:5].lower() == "ipv6:" else literal)
        return text
    return domain_name(text)


def proxy(text: str) -> tuple[str, str, int]:
    """Kind, host and port of "socks5://192.0.2.1:1080" or "haproxy://[2001:db8::1]:2525".

    Raises:
        ValueError: it has another form.
    """
    kind, colon, place = text.partition("://")
    if not colon or kind not in ("socks5", "haproxy"):
        raise ValueError(f'"{text}" is no proxy: write "socks5://host:port" or "haproxy://host:port"')
    host, port = host_and_port(place)
    if not port:
        raise ValueError(f'"{text}" has no port')
    return kind, host, port


def date(text: str) -> datetime.date:
    """A day, "2026-11-24".

    Raises:
        ValueError: it is none.
    """
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError(f'"{text}" is no day: write "2026-11-24"') from None
