"""The rows that one new message makes. `rusmes.storage.lmdb.messages` does the same to messages that exist, in Python."""

from rusmes._core.batch import Batch
from rusmes._core.rows import AccountRow, EmailRow, MailboxRow

TABLES: tuple[int, ...]
"""The numbers of accounts, mailboxes, messages, emails, threads, message_ids and changes."""

def add_new(
    batch: Batch,
    account: AccountRow,
    mailbox: MailboxRow,
    email: EmailRow,
    id: bytes,
    identifiers: tuple[bytes, ...],
    bits: int,
    keywords: tuple[str, ...],
    marks: bytes = b"",
    internal_date: float | None = None,
) -> int:
    """Write an email and its message in one mailbox, with thread, counts and the account's line in the change log; the UID.

    The thread is that of the first identifier that is known, else a new one named like the email. The identifiers that were not
    known lead there from now on; the email's row lists them, so that they can be removed with the thread. The records are
    brought up to date, but for the account's modseq, which is that of this change. `marks` are what it did before.
    `internal_date` None is the time the email was received.

    Raises:
        NotAllowed: the mailbox has no UID left.
    """
