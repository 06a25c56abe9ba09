"""Matchers of header and size. What they see is the content with the edits of the steps before."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from rusmes._core import mailet as core
from rusmes.config.units import Size
from rusmes.mailet.api import EVERYONE, NOBODY, Match, Toolbox
from rusmes.mailet.parameters import Pattern
from rusmes.mailet.rendering import field_values
from rusmes.model.mail import Mail


class HopLimit(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1)] = 50
    """Received fields that are still fine; the one this server added counts."""


class RelayLimit(core.MoreReceivedThan):
    """Everyone, when the mail came over too many servers: a loop (RFC 5321 §6.3). Removed fields count too."""

    Parameters = HopLimit

    def __init__(self, parameters: HopLimit, toolbox: Toolbox) -> None:
        super().__init__(parameters.limit)


class SizeLimit(Struct, frozen=True):
    size: Size
    """ "10MB", or a number of bytes."""


class SizeGreaterThan(core.LargerThan):
    """Everyone, when the content as it came has more bytes."""

    Parameters = SizeLimit

    def __init__(self, parameters: SizeLimit, toolbox: Toolbox) -> None:
        super().__init__(parameters.size)


class HeaderName(Struct, frozen=True):
    header: str
    """Name of a field; with "=value", it must also have exactly this value."""


class HasHeader:
    """Everyone, when the header has this field; and recipients for whom a step before added it."""

    Parameters = HeaderName

    def __init__(self, parameters: HeaderName, toolbox: Toolbox) -> None:
        self._name, self._with_value, value = (part.strip() for part in parameters.header.partition("="))
        self._value = value.encode()

    def match(self, mail: Mail) -> Match:
        if any(self._fits(value) for value in field_values(mail, self._name)):
            return EVERYONE
        if not mail.per_recipient:
            return NOBODY
        return [r for r in mail.recipients if self._in_lines(mail.per_recipient.get(r.address, ()))]

    def _in_lines(self, lines: tuple[bytes, ...]) -> bool:
        return any(self._fits(value) for value in core.find_fields(b"".join(lines), self._name.lower().encode()))

    def _fits(self, value: bytes) -> bool:
        return not self._with_value or value.strip() == self._value


class HeaderPattern(Struct, frozen=True):
    header: str
    """Name of a field."""
    pattern: Pattern
    """Searched in the unfolded value, of which the first 4096 characters count (512 for a pattern with three repeats)."""


class HeaderMatches:
    """Everyone, when a field of this name has a value that the pattern is found in."""

    Parameters = HeaderPattern

    def __init__(self, parameters: HeaderPattern, toolbox: Toolbox) -> None:
        self._name = parameters.header
        self._search = parameters.pattern.search
        self._max_characters = parameters.pattern.max_characters

    def match(self, mail: Mail) -> Match:
        for value in field_values(mail, self._name):
            # RFC 5322 §2.2.3: unfolding takes out the line ends alone.
            text = value.replace(b"\r\n", b"")[: 4 * self._max_characters].decode("utf-8", "replace")
            if self._search(text[: self._max_characters]):
                return EVERYONE
        return NOBODY
