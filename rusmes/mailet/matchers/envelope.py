"""Matchers of sender and recipients. Addresses are compared folded: local part in lower case, domain in A-labels."""

from __future__ import annotations

from msgspec import Struct

from rusmes._core import mailet as core
from rusmes.mailet.api import EVERYONE, NOBODY, Match, Toolbox
from rusmes.mailet.parameters import Addresses, Domains, Pattern
from rusmes.model.mail import Mail


class NoParameters(Struct, frozen=True):
    """Takes none."""


class AddressList(Struct, frozen=True):
    addresses: Addresses
    """Full addresses."""


class DomainList(Struct, frozen=True):
    domains: Domains
    """Domains; ".example.com" is every domain below example.com."""


class AddressPattern(Struct, frozen=True):
    pattern: Pattern
    """Searched in the folded address; anchor it with ^ and $."""


class DomainPattern(Struct, frozen=True):
    pattern: Pattern
    """Searched in the domain; anchor it with ^ and $."""


class All:
    """Every recipient."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass

    def match(self, mail: Mail) -> Match:
        return EVERYONE


class RecipientIsLocal(core.RecipientsWithAccount):
    """Recipients that deliver to an account of this server; known at RCPT, or from RecipientRewrite."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass


class HostIsLocal:
    """Recipients in a domain of this server, whether there is such an account or not."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        self._is_local = toolbox.directory.is_local_domain

    def match(self, mail: Mail) -> Match:
        is_local = self._is_local
        return [recipient for recipient in mail.recipients if is_local(recipient.address.domain)]


class RecipientIs:
    """Recipients with one of these addresses."""

    Parameters = AddressList

    def __init__(self, parameters: AddressList, toolbox: Toolbox) -> None:
        self._wanted = parameters.addresses.folded()

    def match(self, mail: Mail) -> Match:
        wanted = self._wanted
        return [recipient for recipient in mail.recipients if recipient.address.folded in wanted]


class RecipientIsRegex:
    """Recipients whose address matches a pattern."""

    Parameters = AddressPattern

    def __init__(self, parameters: AddressPattern, toolbox: Toolbox) -> None:
        self._search = parameters.pattern.search

    def match(self, mail: Mail) -> Match:
        search = self._search
        return [recipient for recipient in mail.recipients if search(recipient.address.folded)]


class RecipientDomainIs:
    """Recipients in one of these domains."""

    Parameters = DomainList

    def __init__(self, parameters: DomainList, toolbox: Toolbox) -> None:
        self._contains = parameters.domains.test()

    def match(self, mail: Mail) -> Match:
        contains = self._contains
        return [recipient for recipient in mail.recipients if contains(recipient.address.domain)]


class RecipientDomainIsRegex:
    """Recipients whose domain matches a pattern."""

    Parameters = DomainPattern

    def __init__(self, parameters: DomainPattern, toolbox: Toolbox) -> None:
        self._search = parameters.pattern.search

    def match(self, mail: Mail) -> Match:
        search = self._search
        return [recipient for recipient in mail.recipients if search(recipient.address.domain)]


class SenderIs:
    """Everyone, when the envelope's sender is one of these; never for the null sender."""

    Parameters = AddressList

    def __init__(self, parameters: AddressList, toolbox: Toolbox) -> None:
        self._wanted = parameters.addresses.folded()

    def match(self, mail: Mail) -> Match:
        return EVERYONE if mail.sender is not None and mail.sender.folded in self._wanted else NOBODY


class SenderIsRegex:
    """Everyone, when the sender's address matches a pattern; never for the null sender."""

    Parameters = AddressPattern

    def __init__(self, parameters: AddressPattern, toolbox: Toolbox) -> None:
        self._search = parameters.pattern.search

    def match(self, mail: Mail) -> Match:
        return EVERYONE if mail.sender is not None and self._search(mail.sender.folded) else NOBODY


class SenderIsNull(core.NullSender):
    """Everyone, when the reverse-path is null: notices about mail."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass


class SenderIsLocal:
    """Everyone, when the sender's domain is one of this server; it says nothing about who really sent the mail."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        self._is_local = toolbox.directory.is_local_domain

    def match(self, mail: Mail) -> Match:
        return EVERYONE if mail.sender is not None and self._is_local(mail.sender.domain) else NOBODY


class IsForwarded:
    """Recipients that this server's configuration chose: those of aliases, forwards and copies."""

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        pass

    def match(self, mail: Mail) -> Match:
        return [recipient for recipient in mail.recipients if recipient.forwarded]


class SenderDomainIs:
    """Everyone, when the sender's domain is one of these; never for the null sender."""

    Parameters = DomainList

    def __init__(self, parameters: DomainList, toolbox: Toolbox) -> None:
        self._contains = parameters.domains.test()

    def match(self, mail: Mail) -> Match:
        return EVERYONE if mail.sender is not None and self._contains(mail.sender.domain) else NOBODY


class SenderDomainIsRegex:
    """Everyone, when the sender's domain matches a pattern; never for the null sender."""

    Parameters = DomainPattern

    def __init__(self, parameters: DomainPattern, toolbox: Toolbox) -> None:
        self._search = parameters.pattern.search

    def match(self, mail: Mail) -> Match:
        return EVERYONE if mail.sender is not None and self._search(mail.sender.domain) else NOBODY


class RecipientLimit(Struct, frozen=True):
    limit: int
    """Recipients that are still fine."""


class TooManyRecipients(core.MoreRecipientsThan):
    """Everyone, when this part of the mail has more recipients than the limit."""

    Parameters = RecipientLimit

    def __init__(self, parameters: RecipientLimit, toolbox: Toolbox) -> None:
        super().__init__(parameters.limit)
