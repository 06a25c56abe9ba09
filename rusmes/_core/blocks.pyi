"""Messages of one mailbox, up to 16 with neighbouring UIDs in one row: a client that opens a mailbox reads all of them, and
a change of many flags writes as many rows as it has blocks.

A look into LMDB gives the GIL away, to a loop that may not give it back soon; so there should be few. Measured (100,000
messages): a row a message is 25 ms to walk over, this is 4 with everything that is done with them.
"""

from collections.abc import Callable, Iterable
from typing import Any, final

from rusmes._core.batch import Batch
from rusmes._core.rows import MailboxRow, MessageRow
from rusmes._core.view import MailboxRows, Uids

UID_BITS: int
"""UIDs that are the same but for these bits are in one block."""


def block_key(mailbox_id: int, uid: int) -> bytes:
    """The row in which a message is."""

def block_of_key(key: bytes) -> tuple[int, int]:
    """Mailbox, and the first UID that a row may have."""

def with_message(key: bytes, row: bytes | None, uid: int, message: MessageRow) -> bytes:
    """The row with a message put into it, or in the place of the one with this UID.

    Raises:
        StoreCorrupt: here and below, the row's checksum or lengths do not fit.
    """

def without_message(key: bytes, row: bytes, uid: int) -> bytes | None:
    """None: it was the last one."""

def message_in(key: bytes, row: bytes, uid: int) -> MessageRow | None: ...
def messages_in(key: bytes, row: bytes) -> list[tuple[int, MessageRow]]:
    """In the order of UIDs."""

def email_in(key: bytes, row: bytes, uid: int) -> tuple[bytes, int] | None:
    """The email of a message and its size: all that sending it needs."""

def load_blocks(cursor: Any, mailbox_id: int, first_uid: int, into: MailboxRows) -> None:
    """Add the messages of a mailbox from `first_uid` on. The cursor is one of the messages' table."""

def saved_dates(
    get: Callable[..., bytes | None], table: object, mailbox_id: int, uids: Iterable[int]
) -> list[float | None]:
    """When the messages came into the mailbox, in the order of `uids`; `get` is that of an LMDB transaction."""

def add_to(into: MailboxRows, key: bytes, row: bytes, uid: int) -> bool:
    """Add a message, or bring flags and modseq of one that is there up to date; False when the row has it not."""

def add_all_to(
    into: MailboxRows, get: Callable[..., bytes | None], table: object, mailbox_id: int, uids: Uids
) -> None:
    """`add_to` for ascending UIDs, each row looked at once; those that are not there are passed over."""

def changed_messages(rows: list[tuple[int, bytes]], mailbox_key: bytes) -> tuple[list[tuple[int, int]], Uids]:
    """What rows of the change log, the newest first, say of the messages of one mailbox. The rows are modseq and marks.

    Those that went, with the modseq of that; and those that are new or other than they were. One that came and went is in
    neither: who asks never knew it.
    """

@final
class Flagging:
    """One change of flags in one mailbox.

    `change_words` is `storage.flags.change`, for keywords. `operation` is set, add or remove; `unchanged_since` -1 lets all
    pass. `changed` counts the messages that are other than before; `passed` collects the UIDs of all that were not refused,
    `shared` of those among them whose email is in other places too: they are left as they are.
    """

    @property
    def changed(self) -> int: ...
    @property
    def unseen_changed(self) -> bool: ...
    @property
    def shared(self) -> list[int]: ...
    @property
    def passed(self) -> Uids: ...
    @property
    def marks(self) -> bytes:
        """For the change log: each message and email, or ranges when there are many."""

    def __init__(
        self,
        mailbox: MailboxRow,
        modseq: int,
        operation: str,
        bits: int,
        keywords: tuple[str, ...],
        unchanged_since: int,
        change_words: Callable[[str, int, tuple[str, ...], int, tuple[str, ...]], tuple[int, tuple[str, ...]]],
    ) -> None: ...
    def change(self, batch: Batch, table: int, uids: Iterable[int]) -> None:
        """Change these messages, and the counts of the mailbox; the caller writes the mailbox and the log."""

    def apply(self, rows: MailboxRows) -> bool:
        """Do the same to the columns of the mailbox, once it is committed, if they lack nothing else: then nobody has to read
        the rows again. Not for keywords, nor with emails in other places.
        """
