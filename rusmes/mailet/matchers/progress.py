"""Matchers of what the pipeline did with a mail before."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from rusmes._core import mailet as core
from rusmes.mailet.api import EVERYONE, NOBODY, Match, Toolbox
from rusmes.mailet.resume import SENT_BY
from rusmes.model.mail import Mail


class AttributeName(Struct, frozen=True):
    name: str
    """Name of an attribute; in a condition, "name=value" gives both."""
    value: str | int | float | bool | None = None
    """The value it must have; without it, any."""


class HasMailAttribute(core.AttributePresent):
    """Everyone, when the mail has this attribute (SetAttribute, or a mailet of a package, gave it)."""

    Parameters = AttributeName

    def __init__(self, parameters: AttributeName, toolbox: Toolbox) -> None:
        name, separator, value = parameters.name.partition("=")
        super().__init__(name.strip(), value.strip() if separator and parameters.value is None else parameters.value)


class Times(Struct, frozen=True):
    times: Annotated[int, Meta(ge=1)]
    """How often one mail may match."""
    name: str = "at_most"
    """Name of the counter; steps with the same name count together."""


class AtMost:
    """Everyone, the first `times` times that this mail comes by; the count is an attribute and survives a restart.

    Parts of a mail that was split count for themselves from then on.
    """

    Parameters = Times

    def __init__(self, parameters: Times, toolbox: Toolbox) -> None:
        self._times = parameters.times
        self._attribute = f"rusmes.count.{parameters.name}"

    def match(self, mail: Mail) -> Match:
        count = mail.attributes.get(self._attribute, 0)
        if not isinstance(count, int) or count >= self._times:
            return NOBODY
        mail.attributes[self._attribute] = count + 1
        return EVERYONE


class MailetName(Struct, frozen=True):
    mailet: str = ""
    """Name of a mailet, or "notice" for failure notices; "" = any."""


class SentByMailet(core.AttributePresent):
    """Everyone, when this server made the mail: notices, copies."""

    Parameters = MailetName

    def __init__(self, parameters: MailetName, toolbox: Toolbox) -> None:
        super().__init__(SENT_BY, parameters.mailet or None)
