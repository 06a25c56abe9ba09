"""What a handler of a command gets and what it gives back.

A handler is `async def handler(context: Context, command: C) -> Outcome`, registered by the class of its command. It writes
untagged responses to `context.output` as it makes them, calls `await context.output.room()` between large ones, and returns
the tagged reply. What the mailbox has to say (EXISTS, EXPUNGE, FETCH of changed flags) is told by the server between the two.
It may raise what `rusmes.errors` has; `outcome_of` says what becomes of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from msgspec import Struct

from rusmes.errors import (
    AlreadyExists,
    LimitReached,
    NotAllowed,
    NotFound,
    OverQuota,
    PeerError,
    RusmesError,
    StoreCorrupt,
    StoreError,
    StoreFull,
)

if TYPE_CHECKING:
    from rusmes._core.counters import SharedCounters
    from rusmes.auth.api import AccountAdmin, Attempt, Authenticator
    from rusmes.clock import Clock
    from rusmes.config.schema import Config
    from rusmes.imap.hub import Hub, Rows
    from rusmes.imap.session import Session
    from rusmes.imap.view import View
    from rusmes.log import SessionLog
    from rusmes.metrics import Metrics
    from rusmes.model.identity import Identity
    from rusmes.model.mailbox import Mailbox
    from rusmes.storage.api import MailStore

T = TypeVar("T")

ITEMS_AT_ONCE: Final = 500
ALL_RIGHTS: Final = "lrswipkxtea"
"""RFC 4314 §2.1, what an owner has."""


class Ok(Struct, frozen=True, gc=False):
    """`code` is a response code without its brackets: b"READ-WRITE"."""

    text: str
    code: bytes = b""


class No(Struct, frozen=True, gc=False):
    text: str
    code: bytes = b""


class Bad(Struct, frozen=True, gc=False):
    text: str
    code: bytes = b""


class Silent(Struct, frozen=True, gc=False):
    """The handler has sent the tagged reply itself (STARTTLS, COMPRESS: what follows it is encoded differently)."""


Outcome = Ok | No | Bad | Silent
Handler = Callable[["Context", Any], Awaitable[Outcome]]


class Output(Protocol):
    """The way to the client, compressed where that was agreed."""

    def write(self, data: bytes) -> None: ...

    def push(self) -> None:
        """Send what was written, without waiting for anything."""

    async def room(self) -> None:
        """Wait until the client has read most of what was written. Raises ConnectionLost."""

    async def flush(self) -> None:
        """Send what was written, and wait until the client has read it. Raises ConnectionLost."""


class Watch(Protocol):
    """Something that follows the selected mailbox: a search context (RFC 5267)."""

    def before_sync(self, context: Context, may_expunge: bool) -> bytes:
        """What to send while messages that are expunged still have their numbers."""

    async def after_sync(self, context: Context) -> bytes:
        """What to send after the client was told of changes."""


class Resources(Struct, frozen=True):
    """What all sessions of a listener share."""

    store: MailStore
    hub: Hub
    authenticator: Authenticator
    limits: SharedCounters
    metrics: Metrics
    clock: Clock
    config: Config
    searcher: Any = None
    """search.api.Searcher."""
    accounts: AccountAdmin | None = None
    """Where quotas are kept, for SETQUOTA."""


class Selected:
    """The mailbox a session has selected."""

    __slots__ = (
        "account_id",
        "is_read_only",
        "mailbox",
        "mailbox_id",
        "name",
        "rights",
        "rows",
        "saved",
        "takes_recent",
        "view",
        "watches",
    )

    def __init__(self, mailbox: Mailbox, name: str, rows: Rows, view: View, *, is_read_only: bool, rights: str) -> None:
        self.mailbox = mailbox
        """As it was when it was selected."""
        self.mailbox_id = mailbox.id
        self.account_id = mailbox.account_id
        """The owner's; another account than the session's for a shared mailbox."""
        self.name = name
        """As the client names it."""
        self.rows = rows
        self.view = view
        self.is_read_only = is_read_only
        """EXAMINE, or no right to change anything."""
        self.rights = rights
        """RFC 4314 letters of this user."""
        self.takes_recent = False
        """What this session is told of is \\Recent for no later one."""
        self.saved: list[int] = []
        """UIDs of the search result variable "$", ascending (RFC 9051 §6.4.4.1)."""
        self.watches: dict[bytes, Watch] = {}
        """By the tag of the command that began them."""


class Context:
    """One session, as its handlers see it."""

    __slots__ = (
        "account", "account_id", "attempt", "client_id", "conversation", "identity", "is_compressed", "log", "may_log_in",
        "may_start_tls", "mechanisms", "notify", "output", "resources", "selected", "session",
        "target",
    )  # fmt: skip

    def __init__(
        self, session: Session, resources: Resources, output: Output, log: SessionLog, attempt: Attempt, conversation: Any
    ) -> None:
        self.session = session
        self.resources = resources
        self.output = output
        self.log = log
        self.attempt = attempt
        self.conversation = conversation
        """`server.Conversation`, for the commands that change the connection itself (STARTTLS, COMPRESS, IDLE)."""
        self.identity: Identity | None = None
        self.account = ""
        """Its canonical name, "" before login."""
        self.account_id = 0
        self.selected: Selected | None = None
        self.client_id: tuple[tuple[bytes, bytes | None], ...] = ()
        """What the client said of itself (RFC 2971)."""
        self.notify: Any = None
        """What NOTIFY asked for."""
        self.mechanisms: tuple[str, ...] = ()
        """Of SASL, that are offered on this connection."""
        self.may_log_in = False
        """TLS is on, or the peer is inside [auth] plaintext_networks."""
        self.may_start_tls = False
        self.is_compressed = False
        self.target: tuple[Any, ...] = ()
        """Of an APPEND: the store's commit number, the account, the name, and what it stood for then."""

    # Shortcuts

    @property
    def store(self) -> MailStore:
        return self.resources.store

    @property
    def hub(self) -> Hub:
        return self.resources.hub

    @property
    def clock(self) -> Clock:
        return self.resources.clock

    @property
    def metrics(self) -> Metrics:
        return self.resources.metrics

    @property
    def limits(self) -> SharedCounters:
        return self.resources.limits

    @property
    def view(self) -> View:
        """Of the selected mailbox; only handlers of the selected state ask."""
        assert self.selected is not None
        return self.selected.view

    @property
    def here(self) -> Selected:
        """The selected mailbox; only handlers of the selected state ask."""
        assert self.selected is not None
        return self.selected

    async def refresh(self) -> None:
        """Bring the rows of the selected mailbox to the state of the store; the client is told at the end of the command."""
        if self.selected is not None:
            await self.hub.refresh(self.selected.rows)

    def require(self, rights: str) -> None:
        """All of these rights on the selected mailbox, and that it was not opened by EXAMINE where one of them changes it.

        Raises:
            NotPermitted
        """
        here = self.here
        if here.is_read_only and any(letter in "swtei" for letter in rights):
            raise ReadOnly("the mailbox is read-only")
        if not all(letter in here.rights for letter in rights):
            raise NotPermitted("permission denied")


async def in_turns(context: Context, items: Iterable[T]) -> AsyncIterator[T]:
    """What may be a lot, with room for others between: 500 take some milliseconds where each is looked at for a few us."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % ITEMS_AT_ONCE:
            await context.output.room()


class NotPermitted(RusmesError):
    """The user lacks a right (RFC 4314)."""


class ReadOnly(RusmesError):
    """The mailbox was selected with EXAMINE, or may only be read."""


class Refused(RusmesError):
    """A NO with a code of its own."""

    def __init__(self, public: str, code: bytes = b"", detail: str = "") -> None:
        super().__init__(public, detail)
        self.code = code


def outcome_of(error: RusmesError) -> Outcome:
    """The tagged reply for a failure; codes of RFC 5530 §3 (RFC 9051 §7.1)."""
    if isinstance(error, PeerError):
        return Bad(error.public)
    if isinstance(error, Refused):
        return No(error.public, error.code)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return No(error.public, code)
    return No(error.public)


_CODES: Final[tuple[tuple[type[RusmesError], bytes], ...]] = (
    (OverQuota, b"OVERQUOTA"),
    (NotFound, b"NONEXISTENT"),
    (AlreadyExists, b"ALREADYEXISTS"),
    (LimitReached, b"LIMIT"),
    (NotAllowed, b"CANNOT"),
    (NotPermitted, b"NOPERM"),
    (ReadOnly, b"NOPERM"),
    (StoreFull, b"UNAVAILABLE"),
    (StoreCorrupt, b"SERVERBUG"),
    (StoreError, b"UNAVAILABLE"),
)
