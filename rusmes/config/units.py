"""Durations, sizes, networks and secrets: types that a Struct's fields can have, and how they are written."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES: Final = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(B)|([KMGT])(?:I?B)?)?", re.IGNORECASE)
_MAX_SECONDS: Final = 100 * 365 * 86400.0
_MAX_BYTES: Final = 1 << 62


class Duration(float):
    """Seconds. Written "30s", "1h30m", "500ms", "5d", or as a number of seconds.

    Raises:
        ValueError: the text is no duration, is negative, or is longer than a century.
    """

    __slots__ = ()

    def __new__(cls, value: str | float) -> Duration:
        seconds = _parse_duration(value) if isinstance(value, str) else float(value)
        if not 0 <= seconds <= _MAX_SECONDS:
            raise ValueError(f"{value} is not between 0 and 100 years")
        return super().__new__(cls, seconds)


class Size(int):
    """Bytes. Written "64KB", "50MB", "1TB" (1024-based), or as a number of bytes.

    Raises:
        ValueError: the text is no size, is negative, or is larger than 4 EiB.
    """

    __slots__ = ()

    def __new__(cls, value: str | int) -> Size:
        count = _parse_size(value) if isinstance(value, str) else int(value)
        if not 0 <= count <= _MAX_BYTES:
            raise ValueError(f"{value} is not between 0 and 4 EiB")
        return super().__new__(cls, count)


class Secret(str):
    """A password or token; its repr does not show it, so neither a log line nor a traceback does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Targets(tuple[str, ...]):
    """Where an alias leads: one address or several."""

    __slots__ = ()


class Networks(tuple[Network, ...]):
    """Networks and single addresses. Written as a list of strings."""

    __slots__ = ()

    def contains(self, address: str) -> bool:
        """Whether a textual address lies in one of them; an IPv4 address mapped into IPv6 counts as IPv4."""
        if not self:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed.version == network.version and parsed in network for network in self)


def parse_network(text: str) -> Network:
    """A network ("192.0.2.0/24", "2001:db8::/32") or a single address.

    Raises:
        ValueError: it is neither, or bits beyond the prefix are set.
    """
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        if "has host bits set" in str(error):
            meant = ipaddress.ip_network(text.strip(), strict=False)
            raise ValueError(f'"{text}" has bits set beyond its prefix: write "{meant}" or a single address') from None
        raise ValueError(f'"{text}" is no network and no address') from None


def decode(type_: Any, value: Any) -> Any:
    """The `dec_hook` of msgspec.convert for the types of this module.

    Raises:
        ValueError: the value cannot be read as that type; the text says what can.
        TypeError: `type_` is not one of this module's.
    """
    if type_ is Duration:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f'a duration is written "30s", "10m", "1h" or "5d", not {value!r}')
        return Duration(value)
    if type_ is Size:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError(f'a size is written "64KB", "50MB" or as a number of bytes, not {value!r}')
        return Size(value)
    if type_ is Secret:
        if not isinstance(value, str):
            raise ValueError("a secret is a string")
        return Secret(value)
    if type_ is Targets:
        targets = [value] if isinstance(value, str) else value
        if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
            raise ValueError(f"an alias leads to an address or a list of addresses, not {value!r}")
        return Targets(targets)
    if type_ is Networks:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f'networks are a list such as ["192.0.2.0/24", "2001:db8::/32"], not {value!r}')
        return Networks([parse_network(item) for item in value])
    raise TypeError(f"{type_!r} is no type of the configuration")


def duration_text(seconds: float) -> str:
    """A duration as an operator writes it: `90.0` is "1m30s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    parts, rest = [], round(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def size_text(count: int) -> str:
    """A size as an operator writes it: `65536` is "64KB"; a size that is no whole unit gets one decimal."""
    for unit, length in (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= length:
            return f"{count // length}{unit}" if count % length == 0 else f"{count / length:.1f}{unit}"
    return f"{count}B"


def _parse_duration(text: str) -> float:
    compact = text.strip().lower().replace(" ", "")
    if compact.isascii() and compact.replace(".", "", 1).isdigit():
        if float(compact) == 0:
            return 0.0
        raise ValueError(f'"{text}" has no unit: write "{compact}s" for seconds')
    if not compact.isascii() or not _DURATION.fullmatch(compact):
        raise ValueError(f'"{text}" is no duration: write "30s", "10m", "1h" or "5d"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(compact))


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip()) if text.isascii() else None
    if match is None:
        raise ValueError(f'"{text}" is no size: write "64KB", "50MB" or a number of bytes')
    unit = (match[3] or match[2] or "").upper()
    number = match[1]
    return int(number) * _BYTES[unit] if number.isdigit() else int(float(number) * _BYTES[unit])
