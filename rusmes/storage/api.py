"""The contract of the store. `memory.py` is the specification in code; `tests/contract/` runs on every backend.

Rules for every backend:
1. A coroutine that changes something returns only after the change is durable (committed and synced).
2. One call is one transaction: all of it happens, or none. Waiting calls may share one commit.
3. UIDVALIDITY, UIDNEXT, UIDs and modseqs never repeat or go back.
4. Errors are those of `rusmes.errors`: StoreFull, StoreError, StoreCorrupt, OverQuota, NotFound, AlreadyExists, NotAllowed,
   LimitReached.
5. Names of accounts are canonical (folded address); names of mailboxes are Unicode with "/" between levels, "INBOX" in
   capitals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec import Struct

from rusmes._core.rows import EmailFacts
from rusmes._core.textscan import EmailReader
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Recipient
from rusmes.model.mailbox import Account, Appended, Change, Email, Mailbox, Message
from rusmes.model.plan import Append, Queued, Refusal

if TYPE_CHECKING:
    import asyncio

    from rusmes._core.view import MailboxRows, Uids

T_contra = TypeVar("T_contra", contravariant=True)


class Answer(Protocol[T_contra]):
    """Who is told of the end of a commit, by the loop that `get_loop` names: a future, or what does without a task's switch."""

    def get_loop(self) -> asyncio.AbstractEventLoop: ...
    def cancelled(self) -> bool:
        """Whether nobody wants it any more; what has not begun by then is left undone."""

    def done(self) -> bool: ...
    def set_result(self, result: T_contra, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...


ALL_FLAGS: Final = "stw"


class ContentWriter(Protocol):
    """Collects one body as it arrives. Up to `inline_limit` bytes stay in memory; more goes to a file."""

    @property
    def size(self) -> int: ...

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            StoreFull: no space is left; the writer is aborted.
            StoreError: the file cannot be written; the writer is aborted.
        """

    def finish(self) -> Content:
        """The finished content. A file is not yet synced: the commit that refers to it syncs it first."""

    def abort(self) -> None:
        """Forget the bytes. Safe to call twice, and after `finish` (an uncommitted file is removed)."""


class BlobStore(Protocol):
    """Bodies. A body is named by a 16-byte id, counted by reference, and immutable."""

    def writer(self) -> ContentWriter: ...

    def discard(self, content: Content) -> None:
        """Forget a finished content that no committed transaction refers to."""

    def check_space(self, size: int) -> bool:
        """Whether `size` more bytes fit beside the reserve kept for outcomes and compaction. Cheap; cached for a second."""


class StoredMessage(Struct):
    """A message opened for reading; `rendering` is valid until the next expunge of its email is committed and read."""

    message: Message
    email: Email
    rendering: Rendering


class FlagChange(Struct, frozen=True):
    """Set, add or remove flags of the messages `uids`; refused for those whose modseq is above `unchanged_since`."""

    uids: tuple[int, ...] | Uids
    operation: str
    """set | add | remove."""
    flags: tuple[str, ...]
    unchanged_since: int | None = None


ChangeListener = Callable[[int, int], None]
"""Called with (account id, modseq) after a commit of this process changed the account."""


class Finding(Struct, frozen=True):
    """One thing `verify` found. `repaired` says that the store went on without it (quarantine)."""

    place: str
    reason: str
    repaired: bool = False


class CompactResult(Struct, frozen=True):
    bytes_before: int
    bytes_after: int


class MailStore(Protocol):
    """Accounts, mailboxes, messages (`mail.mdb`)."""

    @property
    def blobs(self) -> BlobStore: ...

    async def open(self) -> None: ...

    async def close(self) -> None:
        """Finish what waits, then close. Safe to call twice."""

    def is_writable(self) -> bool:
        """False after a failed sync or when space is out, until a write succeeds again."""

    # Delivery

    async def append(
        self, appends: Sequence[Append], *, all_or_none: bool = False, expunge: tuple[int, int] | None = None
    ) -> list[Appended | Refusal]:
        """Store messages, one transaction; a result for each. An account over its quota gives a Refusal (552 5.2.2).

        Args:
            all_or_none: there are no Refusals then: nothing is stored when one of the messages cannot be (RFC 3502).
            expunge: the message (mailbox id, UID) that goes in the same transaction, before the others come (RFC 8508).

        Raises:
            OverQuota, NotAllowed: with `all_or_none`, for what would be a Refusal.
            NotFound: the message to be expunged is not there.
        """

    def begin_append(self, appends: Sequence[Append], answer: Answer[list[Appended | Refusal]]) -> bool:
        """Like `append`, for whoever has no task: `answer` is told, later. False when that is more than a matter of a commit;
        then nothing was begun. Raises like `append`."""

    # Accounts

    async def account(self, name: str) -> Account | None: ...

    async def account_by_id(self, account_id: int) -> Account | None: ...

    async def accounts(self) -> list[Account]: ...

    async def create_account(
        self, name: str, *, mailboxes: Sequence[str] = (), quota_bytes: int = 0, quota_messages: int = 0
    ) -> Account:
        """Raises AlreadyExists. INBOX is always made; "Drafts", "Sent", "Trash", "Junk" and "Archive" get their special use."""

    async def set_quota(self, name: str, *, quota_bytes: int, quota_messages: int) -> Account: ...

    async def delete_account(self, name: str) -> None: ...

    async def room_for(self, name: str, size: int) -> bool:
        """Whether one more message of `size` bytes fits the quota. True for an account that does not exist yet."""

    # Mailboxes

    async def mailboxes(self, account_id: int) -> list[Mailbox]: ...

    async def mailbox(self, account_id: int, name: str) -> Mailbox | None: ...

    async def mailbox_by_id(self, mailbox_id: int) -> Mailbox | None: ...

    async def create_mailbox(self, account_id: int, name: str, *, special_use: str = "") -> Mailbox:
        """With its superiors; each inherits the rights others have on the mailbox above it.

        Raises AlreadyExists; NotAllowed for a name that is none; LimitReached for one mailbox more than MAX_MAILBOXES.
        """

    async def set_special_use(self, mailbox_id: int, special_use: str) -> None: ...

    async def rename_mailbox(self, account_id: int, old: str, new: str) -> None:
        """RFC 9051 §6.3.6: children follow; renaming INBOX moves its messages into a new mailbox."""

    async def delete_mailbox(self, account_id: int, name: str) -> None: ...

    async def subscribe(self, account_id: int, name: str, subscribed: bool) -> None:
        """A name may be subscribed without a mailbox of that name, and outlives it (RFC 9051 §6.3.7)."""

    async def subscriptions(self, account_id: int) -> list[str]: ...

    async def claim_recent(self, mailbox_id: int) -> int:
        """The first UID that is `\\Recent` for this caller; from now on its messages are recent for nobody else."""

    # Sharing (RFC 4314). An identifier is an account's name or "anyone"; with "-" before it, its rights are taken away. The
    # owner has all rights and no row. Rights go with the mailbox when it is renamed, and end with it.

    async def acl(self, mailbox_id: int) -> dict[str, str]:
        """Rights by identifier, in the order of identifiers."""

    async def set_rights(self, mailbox_id: int, identifier: str, rights: str) -> None:
        """Replace an identifier's rights; "" removes it. Raises LimitReached for one identifier more than MAX_IDENTIFIERS."""

    async def shared_mailboxes(self, identifiers: Sequence[str]) -> list[tuple[Mailbox, dict[str, str]]]:
        """The mailboxes whose lists name one of the identifiers, with their lists; by account and name."""

    # Annotations (RFC 5464)

    async def metadata(self, mailbox_id: int, account_id: int) -> dict[str, bytes]:
        """Entries by name. `mailbox_id` 0 is the server, `account_id` 0 is what all see, else it is whose private ones."""

    async def set_metadata(
        self, mailbox_id: int, account_id: int, entries: Mapping[str, bytes | None], *, max_entries: int = 0
    ) -> None:
        """Set entries, None removes.

        Shared ones and the owner's own are in the change log, as an update of the mailbox; of those of the server only
        listeners are told (account 0: all).

        Raises LimitReached when there would be more than `max_entries` of this mailbox and account (0 = no limit).
        """

    # Messages

    async def load_messages(self, mailbox_id: int, into: MailboxRows, *, first_uid: int = 1) -> Mailbox:
        """Add the messages from `first_uid` on; the mailbox of the same snapshot. Raises NotFound."""

    async def refresh_messages(self, mailbox_id: int, into: MailboxRows, since_modseq: int) -> Mailbox | None:
        """Bring rows that are as of `since_modseq` up to date: what came, what changed, and what went (as tombstones).

        None when the change log does not reach back so far: nothing was done, and the rows have to be loaded again.

        Raises:
            NotFound: the mailbox is gone.
        """

    async def expunged_since(self, mailbox_id: int, modseq: int) -> list[int] | None:
        """The UIDs that went after `modseq`, in order; None when the change log does not reach back so far."""

    def saved_dates(self, mailbox_id: int, uids: Sequence[int]) -> list[float | None]:
        """When the messages came into this mailbox (RFC 8514); None for one that is not there."""

    def email_facts(self, account_id: int, email_ids: Sequence[bytes]) -> list[EmailFacts | None]:
        """Of one snapshot, in the order of `email_ids`; None for one that is not there. For any thread."""

    def email_bodies(self, account_id: int, email_ids: Sequence[bytes], *, limit_bytes: int = 0) -> list[Rendering | None]:
        """The emails as they are sent, in the order of `email_ids`; None for one that is not there. For any thread.

        Stops before the email that would make more than `limit_bytes` together (0 = no limit); the first is always given.
        Bodies in files are not read, and do not count.
        """

    def scan_emails(self, account_id: int, email_ids: Sequence[bytes], reader: EmailReader, *, first: int = 0) -> None:
        """Show emails to the reader, which has the positions from `first` on for them. Their checksums are not looked at.

        For any thread, one at a time for one reader.
        """

    async def messages(self, mailbox_id: int, *, first_uid: int = 1, last_uid: int = 0) -> list[Message]:
        """In UID order; `last_uid` 0 = to the end."""

    async def open_message(self, mailbox_id: int, uid: int) -> StoredMessage:
        """Raises NotFound, StoreCorrupt."""

    async def emails(self, account_id: int, ids: Sequence[bytes]) -> list[Email | None]:
        """In the order of `ids`; None for one that does not exist."""

    async def thread(self, account_id: int, thread_id: bytes) -> list[bytes]:
        """The ids of a thread's emails, oldest first; empty when there is no such thread."""

    async def renderings(self, mailbox_id: int, uids: Sequence[int], *, limit_bytes: int = 0) -> list[Rendering]:
        """The messages as they are sent, and nothing else of them; one snapshot. Bodies that the store keeps inline come with
        their bytes (`content.data`).

        It stops before the first message that would make more than `limit_bytes` together (0 = no limit), and before one that
        is not there; the first is always given.

        Raises:
            NotFound: the first one is not there.
            StoreCorrupt
        """

    async def change_flags(self, mailbox_id: int, change: FlagChange, *, rows: MailboxRows | None = None) -> list[int]:
        """The UIDs of the messages that are so now, in order: those that are there and were not refused (`unchanged_since`).

        `rows` of the mailbox, and their `modseq`, may be brought up to date as well if they were; else `refresh_messages` does.
        """

    async def expunge(self, mailbox_id: int, uids: Sequence[int], *, only_deleted: bool = False) -> list[int]:
        """Remove messages; the UIDs that went. Blobs without references are removed in the same transaction."""

    async def copy(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        """(source UID, target UID) pairs (RFC 4315). The target may be another account's, whose quota it then counts for.

        `keep` has the rights to flags of who asks (RFC 4314 §4): "s" keeps \\Seen, "t" \\Deleted, "w" the others.

        Raises OverQuota.
        """

    async def move(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        """The same. The email stays the same one, unless it goes to another account."""

    # Changes

    def commit_number(self) -> tuple[int, int]:
        """Equal numbers at two moments: nothing was committed between them, by any process. (0, 0): not known."""

    async def changes(self, account_id: int, since_modseq: int, *, limit: int = 0) -> list[Change] | None:
        """The account's changes above `since_modseq`; None when the log does not reach back so far, or the number was never
        given (RFC 8620 §5.2, cannotCalculateChanges).

        Of a change of many flags, emails that went since may be left out: what became of them is told by a later change.
        """

    def on_change(self, listener: ChangeListener) -> None: ...

    # Care

    def verify(self) -> Iterator[Finding]:
        """Read every record and blob; yields what is wrong. Works beside a running server."""

    async def compact(self) -> CompactResult: ...


class RecipientState(Struct):
    """One recipient of a queue entry, as it survives a restart.

    `status`: queued | deferred | held | delivered | failed | expired. `attempts` counts tries; `due` is the exact next time
    (seconds since the epoch); `last_reply` is the peer's last word (at most 1000 characters, no control characters).
    """

    recipient: Recipient
    status: str = "queued"
    attempts: int = 0
    due: float = 0.0
    last_reply: str = ""
    last_attempt: float = 0.0
    last_host: str = ""
    delay_noticed: bool = False


class QueueEntry(Struct):
    """A queue row with its recipients' states, by index in `item.recipients`."""

    item: Queued
    states: list[RecipientState]


class QueueChange(Struct):
    """An outcome: new states by recipient index; `remove` deletes the entry and gives its blob back."""

    id: bytes
    states: dict[int, RecipientState]
    remove: bool = False
    replace_action: str = ""
    """New `action` of the entry ("" = unchanged): hold, relay, local, resume."""
    route: str | None = None
    """New `route` of the entry; None = unchanged."""
    is_known: bool = False
    """The entry is there, with the recipients `states` speaks of, and nobody else removes it meanwhile: where only states
    change, no look is needed."""
    content_id: bytes = b""
    """With `remove`: what the entry refers to, when nothing of it was changed since it was put: no look is needed."""


class QueueStore(Protocol):
    """The queue of one worker slot (`queue-<slot>.mdb`), written by one process only."""

    @property
    def slot(self) -> int: ...
    @property
    def blobs(self) -> BlobStore: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def is_writable(self) -> bool: ...

    async def put(self, items: Sequence[Queued]) -> None:
        """Make entries durable; one transaction."""

    def begin_put(self, items: Sequence[Queued], answer: Answer[None]) -> bool:
        """Like `put`, for whoever has no task: `answer` is told, later. False when that is more than a matter of a commit; then
        nothing was begun. Raises like `put`."""

    async def change(self, changes: Sequence[QueueChange], new: Sequence[Queued] = ()) -> None:
        """Commit outcomes and the entries they cause (DSNs) in one transaction."""

    async def get(self, id: bytes) -> QueueEntry | None: ...

    def entries(self) -> Iterator[QueueEntry]:
        """All entries in id order, for recovery and for listings. Each is as it is when it is reached: what is put or removed
        meanwhile may or may not be met, so a caller may change the queue while it iterates."""

    def page(self, after: bytes, limit: int) -> list[QueueEntry]:
        """At most `limit` entries in id order, those behind the id `after`, all as they are at one moment."""

    def verify(self) -> Iterator[Finding]: ...


class Ledger(Protocol):
    """Small records that survive a restart and that all processes share: suspensions, suppressed recipients, warm-up counts,
    policies of other domains. Not for anything that is written for every message.

    Tables are told apart by name. What is put is seen by this process at once, by the others within a second or so, and is
    durable after `flush`; without it within a second or so. A record whose time has come reads as absent.
    """

    @property
    def generation(self) -> int:
        """Grows when any process has changed any table: what was derived from it is to be read again."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def items(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """In key order; the records as they are at the first step."""

    def put(self, table: str, key: bytes, value: bytes, *, expires: float = 0.0) -> None:
        """`expires` in seconds since the epoch; 0 = never."""

    def delete(self, table: str, key: bytes) -> None: ...

    async def flush(self) -> None:
        """Raises StoreError, StoreFull."""
