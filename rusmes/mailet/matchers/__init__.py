"""The built-in matchers.

What it is: one class for each name of the configuration. Its docstring says what it matches, its `Parameters` what it takes.
What it is not: a place for I/O. A matcher answers at once, from the mail and from what is in memory.

Map: `envelope` sender and recipients; `session` where the mail came from; `content` header and size; `progress` what the
pipeline did before; `composite` all, any, not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes.mailet.api import MatcherClass
from rusmes.mailet.matchers import content, envelope, progress, session

BUILT_IN: Final[Mapping[str, MatcherClass]] = {
    one.__name__: one
    for one in (
        envelope.All,
        envelope.RecipientIsLocal,
        envelope.HostIsLocal,
        envelope.RecipientIs,
        envelope.RecipientIsRegex,
        envelope.RecipientDomainIs,
        envelope.RecipientDomainIsRegex,
        envelope.SenderIs,
        envelope.SenderIsRegex,
        envelope.SenderIsNull,
        envelope.SenderIsLocal,
        envelope.SenderDomainIs,
        envelope.SenderDomainIsRegex,
        envelope.TooManyRecipients,
        envelope.IsForwarded,
        session.RelayAllowed,
        session.SMTPAuthSuccessful,
        session.RemoteAddrInNetwork,
        content.RelayLimit,
        content.SizeGreaterThan,
        content.HasHeader,
        content.HeaderMatches,
        progress.HasMailAttribute,
        progress.AtMost,
        progress.SentByMailet,
    )
}
