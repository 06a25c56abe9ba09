"""Matchers made of others: all, any, not. The configuration writes them as tables; see `rusmes.mailet.assembly`."""

from __future__ import annotations

from collections.abc import Sequence

from rusmes.mailet.api import EVERYONE, NOBODY, Everyone, Match, Matcher
from rusmes.model.address import Address
from rusmes.model.mail import Mail, Recipient


class AllOf:
    """Recipients that every matcher chooses; asks no further once nobody is left."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = tuple(matchers)

    def match(self, mail: Mail) -> Match:
        left: list[Recipient] | None = None
        for matcher in self._matchers:
            answer = matcher.match(mail)
            if answer is EVERYONE:
                continue
            chosen = _addresses(answer)
            left = [r for r in (mail.recipients if left is None else left) if r.address in chosen]
            if not left:
                return NOBODY
        return EVERYONE if left is None else left


class AnyOf:
    """Recipients that at least one matcher chooses; asks no further once everyone is in."""

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self._matchers = tuple(matchers)

    def match(self, mail: Mail) -> Match:
        chosen: set[Address] = set()
        for matcher in self._matchers:
            answer = matcher.match(mail)
            if answer is EVERYONE:
                return EVERYONE
            chosen |= _addresses(answer)
        return [r for r in mail.recipients if r.address in chosen]


class NotOf:
    """Recipients that a matcher does not choose."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    def match(self, mail: Mail) -> Match:
        answer = self._matcher.match(mail)
        if answer is EVERYONE:
            return NOBODY
        if not answer:
            return EVERYONE
        chosen = _addresses(answer)
        return [r for r in mail.recipients if r.address not in chosen]


def _addresses(answer: Match | None) -> set[Address]:
    if not answer or isinstance(answer, Everyone):
        return set()
    return {recipient.address for recipient in answer}
