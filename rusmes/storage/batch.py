"""A transaction as the operations of a group commit see it: writes are held back, so that each operation can be undone
alone and all of them go out together, one call a table. The rules for operations are in `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from rusmes.errors import StoreError
from rusmes.storage.lmdb.environment import MAX_KEY_BYTES, Transaction

# Writes held back in memory by one batch before they go to the transaction (an account with a million messages is deleted).
MAX_HELD_WRITES: Final = 50_000

_ABSENT: Final = object()


class NotNew(Exception):
    """A row that was to be inserted exists."""


class Batch:
    """The transaction as operations see it: their own writes first, then the batch's, then the store's.

    `prefixes` names tables that are scanned often, with the length of the prefix: a scan of one of those looks at the held
    rows of that prefix, and not at all of them, which would make a large expunge quadratic.
    """

    __slots__ = (
        "_by_prefix", "_cache", "_handles", "_held", "_inserted", "_is_careful", "_is_spilled", "_notes", "_txn", "_undo",
        "after_commit", "held",
    )  # fmt: skip

    def __init__(
        self,
        txn: Transaction,
        handles: Sequence[Any],
        cache: dict[int, dict[bytes, bytes | None]],
        *,
        careful: bool = False,
        prefixes: Mapping[int, int] | None = None,
    ) -> None:
        self._by_prefix: dict[int, tuple[int, dict[bytes, set[bytes]]]] = {
            table: (length, {}) for table, length in (prefixes or {}).items()
        }
        self._txn = txn
        self._is_careful = careful
        self._inserted: dict[int, set[bytes]] = {}
        self._handles = handles
        self._cache = cache
        self.held: list[dict[bytes, bytes | None]] = [{} for _ in handles]
        self._held = 0
        self._is_spilled = False
        self._undo: list[tuple[dict[bytes, bytes | None], bytes, Any]] = []
        self._notes: list[tuple[int, int]] = []
        self.after_commit: list[Callable[[], None]] = []

    def get(self, table: int, key: bytes) -> bytes | None:
        held = self.held[table]
        if key in held:
            return held[key]
        cache = self._cache.get(table)
        if cache is not None and key in cache:
            return cache[key]
        found = self._txn.get(key, db=self._handles[table])
        value = bytes(found) if found is not None else None
        if cache is not None:
            cache[key] = value
        return value

    def has(self, table: int, key: bytes) -> bool:
        """Like `get`, without copying the value."""
        held = self.held[table]
        if key in held:
            return held[key] is not None
        return self._txn.get(key, db=self._handles[table]) is not None

    def holds(self, table: int, key: bytes) -> bool:
        """Whether this batch has written the row; quicker than `has` as long as nothing was spilled."""
        return self.has(table, key) if self._held else self.held[table].get(key) is not None

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Write a row; None deletes it.

        Raises:
            StoreError: the key is longer than LMDB allows.
        """
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError("storage failure", f"a key of {len(key)} bytes")
        held = self.held[table]
        self._undo.append((held, key, held.get(key, _ABSENT)))
        held[key] = value
        if table in self._by_prefix:
            length, groups = self._by_prefix[table]
            groups.setdefault(key[:length], set()).add(key)

    def insert(self, table: int, key: bytes, value: bytes) -> bool:
        """Write a row that must be new; False when it is not.

        Keys made for the purpose are new, so nobody looks: LMDB says it when the batch is written, and then the batch runs
        again and looks. A look is a call into LMDB, and gives the GIL away to a loop that may not give it back soon.
        """
        held = self.held[table]
        if held[key] is not None if key in held else self._is_careful and self.has(table, key):
            return False
        if not self._is_careful:
            self._inserted.setdefault(table, set()).add(key)
        self.put(table, key, value)
        return True

    def delete(self, table: int, key: bytes) -> None:
        self.put(table, key, None)

    def scan(
        self, table: int, prefix: bytes, *, start: bytes = b"", stop: bytes = b"", limit: int = 0
    ) -> list[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`, from `start` to below `stop`, in order; at most `limit` unless it is 0."""
        held = self.held[table]
        candidates: Iterable[bytes] = held
        if table in self._by_prefix and len(prefix) == self._by_prefix[table][0]:
            candidates = [key for key in self._by_prefix[table][1].get(prefix, ()) if key in held]
        mine = [key for key in candidates if key.startswith(prefix) and key >= start and (not stop or key < stop)]
        rows: dict[bytes, bytes | None] = {key: held[key] for key in mine}
        wanted = limit or float("inf")
        with self._txn.cursor(self._handles[table]) as cursor:
            if cursor.set_range(max(prefix, start)):
                for found, value in cursor:
                    key = bytes(found)
                    if wanted <= 0 or not key.startswith(prefix) or (stop and key >= stop):
                        break
                    if key not in rows:
                        rows[key] = bytes(value)
                        wanted -= 1
        present = [(key, value) for key, value in rows.items() if value is not None]
        if mine:
            present.sort()
        return present[:limit] if limit else present

    def note(self, account_id: int, modseq: int) -> None:
        """Tell the listeners of changes after the commit."""
        self._notes.append((account_id, modseq))

    def spill_if_large(self) -> None:
        """Long operations call this between rows: what is held back goes to the transaction when it is a lot.

        An operation that raises afterwards costs the batch its transaction; the others run again.
        """
        if len(self._undo) >= MAX_HELD_WRITES:
            self.flush()
            self._undo.clear()
            self._is_spilled = True

    def flush(self) -> None:
        """Hand the held writes to the transaction, table by table in key order, one call each."""
        for table, held in enumerate(self.held):
            if not held:
                continue
            handle = self._handles[table]
            puts = sorted(item for item in held.items() if item[1] is not None)
            if puts:
                with self._txn.cursor(handle) as cursor:
                    self._write(cursor, puts, self._inserted.pop(table, None))
            if len(puts) < len(held):
                for key in sorted(key for key, value in held.items() if value is None):
                    self._txn.delete(key, db=handle)
            cache = self._cache.get(table)
            if cache is not None:
                cache.update(held)
            self._held += len(held)
            held.clear()
            if table in self._by_prefix:
                self._by_prefix[table][1].clear()

    def _write(self, cursor: Any, puts: list[tuple[bytes, bytes | None]], inserted: set[bytes] | None) -> None:
        if inserted:
            new = [item for item in puts if item[0] in inserted]
            _, added = cursor.putmulti(new, overwrite=False)
            if added < len(new):
                raise NotNew
            puts = [item for item in puts if item[0] not in inserted] if len(new) < len(puts) else []
        if puts:
            cursor.putmulti(puts)

    @property
    def has_writes(self) -> bool:
        return self._held > 0 or any(self.held)

    def begin_operation(self) -> tuple[int, int]:
        self._undo.clear()
        self._is_spilled = False
        return len(self.after_commit), len(self._notes)

    def undo_operation(self, mark: tuple[int, int]) -> bool:
        """Take back what the current operation wrote; False when it is too late for that."""
        if self._is_spilled:
            return False
        for held, key, value in reversed(self._undo):
            if value is _ABSENT:
                del held[key]
            else:
                held[key] = value
        del self.after_commit[mark[0] :], self._notes[mark[1] :]
        return True

    @property
    def notes(self) -> list[tuple[int, int]]:
        return self._notes
