"""A transaction as the operations of a group commit see it. `rusmes.storage.commit` has the rules for operations."""

from collections.abc import Callable, Mapping
from typing import Any, final

MAX_HELD_WRITES: int

class NotNew(Exception):
    """A row that was to be inserted exists."""

class NotAhead(Exception):
    """What is to be read takes more than look-ups by key."""

def merge(into: list[dict[bytes, bytes | None]], held: list[dict[bytes, bytes | None]], newest: list[bytes]) -> None:
    """Add a batch's writes, by table, to those of others. A row that is deleted and cannot be in the data file, whose last key
    of the table is `newest`, is forgotten instead."""

def write_rows(txn: Any, handles: list[Any], held: list[dict[bytes, bytes | None]]) -> None:
    """Hand writes to a transaction, table by table in key order; they are kept."""

@final
class Batch:
    """The transaction as operations see it: their own writes first, then the batch's, then the store's.

    Writes are held back, so that each operation can be undone alone and all of them go out together, one call a table.
    `prefixes` names tables that are scanned often, with the length of the prefix: a scan of one of those looks at the held
    rows of that prefix, and not at all of them, which would make a large expunge quadratic. `cache` (rows by table) and
    `numbers` (the last number by table) outlive the batch. With `ahead`, writes that are durable and not in the data file, rows
    are looked up there before the transaction, which is asked only for keys up to the `newest` of the table; whatever else
    an operation would do with the transaction raises NotAhead.
    """

    now: float
    """When the batch began, seconds since the epoch."""
    held: list[dict[bytes, bytes | None]]
    spilled_rows: int
    """Rows that went to the transaction already: what is held is not all that was written."""
    after_commit: list[Callable[[], None]]
    notes: list[tuple[int, int]]

    def __init__(
        self,
        txn: Any,
        handles: list[Any],
        cache: dict[int, dict[bytes, bytes | None]],
        *,
        careful: bool = False,
        prefixes: Mapping[int, int] | None = None,
        numbers: dict[int, int] | None = None,
        now: float = 0.0,
        ahead: list[dict[bytes, bytes | None]] | None = None,
        newest: list[bytes] | None = None,
    ) -> None: ...
    def get(self, table: int, key: bytes) -> bytes | None: ...
    def has(self, table: int, key: bytes) -> bool:
        """Like `get`, without copying the value."""

    def holds(self, table: int, key: bytes) -> bool:
        """Whether this batch has written the row; quicker than `has` as long as nothing was spilled."""

    def scan(
        self, table: int, prefix: bytes, *, start: bytes = b"", stop: bytes = b"", limit: int = 0
    ) -> list[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`, from `start` to below `stop`, in order; at most `limit` unless it is 0."""

    def next_number(self, table: int) -> int:
        """One more than the last number of a table whose keys are numbers. One that an undone operation took is left out."""

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Write a row; None deletes it.

        Raises:
            StoreError: the key is longer than LMDB allows.
        """

    def insert(self, table: int, key: bytes, value: bytes) -> bool:
        """Write a row that must be new; False when it is not.

        Keys made for the purpose are new, so nobody looks: LMDB says it when the batch is written, and then the batch runs
        again and looks. A look is a call into LMDB, and gives the GIL away to a loop that may not give it back soon.
        """

    def delete(self, table: int, key: bytes) -> None: ...
    def note(self, account_id: int, modseq: int) -> None:
        """Tell the listeners of changes after the commit."""

    def spill_if_large(self) -> None:
        """Long operations call this between rows: what is held back goes to the transaction when it is a lot.

        An operation that raises afterwards costs the batch its transaction; the others run again.
        """

    def flush(self) -> None:
        """Hand the held writes to the transaction, table by table in key order, one call each."""

    @property
    def has_writes(self) -> bool: ...
    def begin_operation(self) -> tuple[int, int]: ...
    def undo_operation(self, mark: tuple[int, int]) -> bool:
        """Take back what the current operation wrote; False when it is too late for that."""
