"""The taxonomy of failures: whose fault it is, and whether trying again can help.

Every error has two texts: `public`, which may be shown to a peer, and `detail`, for the log and the operator.
"""

from __future__ import annotations


class RusmesError(Exception):
    """Root of everything this project raises on purpose."""

    def __init__(self, public: str, detail: str = "") -> None:
        super().__init__(public, detail)
        self.public = public
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.public}: {self.detail}" if self.detail else self.public


class PeerError(RusmesError):
    """The peer broke its protocol."""


class ConfigError(RusmesError):
    """The operator's configuration is wrong.

    `path` is the file ("" for an environment variable), `line` is 1-based (0 = unknown), `key` is the dotted key and
    `hint` the way out ("did you mean ...").
    """

    def __init__(self, reason: str, *, key: str = "", path: str = "", line: int = 0, hint: str = "") -> None:
        place = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(f"{place}{f'{key}: ' if key else ''}{reason}", hint)
        self.reason = reason
        self.key = key
        self.path = path
        self.line = line
        self.hint = hint


class StoreError(RusmesError):
    """The store cannot do it now; trying again later may help (451 4.3.0)."""


class StoreFull(StoreError):
    """No space is left; accepting must stop until there is (452 4.3.1)."""


class StoreCorrupt(StoreError):
    """A record or blob fails its checksum. `detail` names the record."""


class NotFound(RusmesError):
    """The named account, mailbox, message or queue entry does not exist."""


class AlreadyExists(RusmesError):
    """The name is taken."""


class NotAllowed(RusmesError):
    """The thing itself does not allow it, whoever asks (deleting INBOX, a mailbox name with control characters)."""


class LimitReached(NotAllowed):
    """There may not be one more of these (mailboxes of an account, annotations of a mailbox)."""


class OverQuota(RusmesError):
    """The account's quota does not allow it (552 5.2.2, IMAP OVERQUOTA)."""


class AuthUnavailable(RusmesError):
    """The authentication backend cannot answer now (454 4.7.0); nothing is known about the credentials."""
