"""Mailets that mark a mail and let it go on: headers, attributes, log, counters."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from rusmes._core.mailet import find_fields
from rusmes.errors import ConfigError
from rusmes.log import get_logger
from rusmes.mailet.api import CONTINUE, Decision, Toolbox
from rusmes.mailet.parameters import Words
from rusmes.mailet.rendering import field_values, header_line
from rusmes.model.ids import id_text
from rusmes.model.mail import Mail


class AddHeaderParameters(Struct, frozen=True):
    name: str
    """Name of the field."""
    value: str
    """Its value, one line. With `per_recipient`, "{recipient}" is the recipient's address."""
    replace: bool = False
    """Take out fields of this name that are there."""
    per_recipient: bool = False
    """Each recipient gets its own line, which nobody else sees."""


class AddHeader:
    """Puts a header field on top of the mail."""

    Parameters = AddHeaderParameters

    def __init__(self, parameters: AddHeaderParameters, toolbox: Toolbox) -> None:
        try:
            self._line = header_line(parameters.name, parameters.value)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._parameters = parameters
        self._names = frozenset((parameters.name.lower(),))

    def service(self, mail: Mail) -> Decision:
        parameters = self._parameters
        if parameters.replace:
            remove_fields(mail, self._names)
        if not parameters.per_recipient:
            mail.prepended.insert(0, self._line)
            return CONTINUE
        for recipient in mail.recipients:
            value = parameters.value.replace("{recipient}", str(recipient.address))
            line = header_line(parameters.name, value)
            mail.per_recipient[recipient.address] = (line, *mail.per_recipient.get(recipient.address, ()))
        return CONTINUE


class RemoveHeaderParameters(Struct, frozen=True):
    names: Words
    """Names of fields."""


class RemoveHeader:
    """Takes all header fields with these names out of the mail, those that steps before added too."""

    Parameters = RemoveHeaderParameters

    def __init__(self, parameters: RemoveHeaderParameters, toolbox: Toolbox) -> None:
        self._names = frozenset(name.lower() for name in parameters.names)

    def service(self, mail: Mail) -> Decision:
        remove_fields(mail, self._names)
        return CONTINUE


def remove_fields(mail: Mail, names: frozenset[str]) -> None:
    """Take fields (lower-case names) out of a mail's view of its header."""
    mail.removed |= names
    keys = [name.encode() for name in names]
    mail.prepended = [line for line in mail.prepended if not any(find_fields(line, key) for key in keys)]
    for address, lines in list(mail.per_recipient.items()):
        mail.per_recipient[address] = tuple(line for line in lines if not any(find_fields(line, key) for key in keys))


class SetAttributeParameters(Struct, frozen=True):
    name: str
    """Names that begin with "rusmes." are the pipeline's own."""
    value: str | int | float | bool = True
    """What later steps see (HasMailAttribute); it survives a restart."""


class SetAttribute:
    """Gives the mail an attribute."""

    Parameters = SetAttributeParameters

    def __init__(self, parameters: SetAttributeParameters, toolbox: Toolbox) -> None:
        if not parameters.name or parameters.name.startswith("rusmes."):
            raise ConfigError(f"the attribute name {parameters.name!r} is not for configurations")
        self._name = parameters.name
        self._value = parameters.value

    def service(self, mail: Mail) -> Decision:
        mail.attributes[self._name] = self._value
        return CONTINUE


class LogMessageParameters(Struct, frozen=True):
    text: str = "message"
    """The event's name in the log."""
    level: Literal["debug", "info", "warn", "error"] = "info"
    """Level of the line."""
    headers: Words = Words()
    """Fields whose first value is logged too."""


class LogMessage:
    """Writes one log line about the mail: id, sender, recipients, size, session."""

    Parameters = LogMessageParameters

    def __init__(self, parameters: LogMessageParameters, toolbox: Toolbox) -> None:
        self._parameters = parameters
        self._log = get_logger("mailet")

    def service(self, mail: Mail) -> Decision:
        parameters = self._parameters
        if not self._log.enabled(parameters.level):
            return CONTINUE
        fields: dict[str, object] = {
            "mail": id_text(mail.id),
            "sender": str(mail.sender or ""),
            "recipients": [str(recipient.address) for recipient in mail.recipients[:100]],
            "recipient_count": len(mail.recipients),
            "size": mail.content.size,
            "state": mail.state,
            "client": mail.origin.client_address,
            "session_id": mail.origin.session_id,
        }
        if mail.error:
            fields["reason"] = mail.error
        if parameters.headers:
            first = {name: field_values(mail, name)[:1] for name in parameters.headers}
            fields["headers"] = {name: value[0].decode("utf-8", "replace") for name, value in first.items() if value}
        getattr(self._log, parameters.level)(parameters.text, **fields)
        return CONTINUE


class MetricsParameters(Struct, frozen=True):
    event: Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")]
    """The label of `rusmes_mailet_events_total`; at most 16 different ones in a configuration."""


class Metrics:
    """Counts the mail under a name."""

    Parameters = MetricsParameters

    def __init__(self, parameters: MetricsParameters, toolbox: Toolbox) -> None:
        self.event = parameters.event
        self._count = toolbox.count

    def service(self, mail: Mail) -> Decision:
        self._count(self.event)
        return CONTINUE
