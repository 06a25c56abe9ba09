"""A transaction as the operations of a group commit see it. `rusmes.storage.commit` has the rules for operations."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject

from rusmes.errors import StoreError

# Writes held back in memory by one batch before they go to the transaction (an account with a million messages is deleted).
MAX_HELD_WRITES = 50_000

cdef enum:
    MAX_KEY_OCTETS = 511
    UNDO_ITEMS = 3           # of a write: the table's held rows, the key, what was there. Flat, because tuples cost the collector

cdef extern from "Python.h":
    PyObject* GetItem "PyDict_GetItemWithError"(object mapping, object key) except? NULL

cdef object ABSENT = object()


class NotNew(Exception):
    """A row that was to be inserted exists."""


class NotAhead(Exception):
    """What is to be read takes more than look-ups by key."""


def merge(list into not None, list held not None, list newest not None) -> None:
    cdef int table
    cdef dict rows
    cdef bytes last
    for table in range(len(held)):
        rows = into[table]
        last = newest[table]
        for key, value in (<dict>held[table]).items():
            if value is None and <bytes>key > last:
                rows.pop(key, None)
            else:
                rows[key] = value


def write_rows(object txn, list handles not None, list held not None) -> None:
    cdef int table
    cdef dict rows
    cdef list puts
    for table in range(len(held)):
        rows = held[table]
        if not rows:
            continue
        puts = [item for item in rows.items() if item[1] is not None]
        if puts:
            puts.sort()
            with txn.cursor(handles[table]) as cursor:
                cursor.putmulti(puts)
        if len(puts) < len(rows):
            for key in sorted([key for key, value in rows.items() if value is None]):
                txn.delete(key, db=handles[table])


@cython.final
cdef class Batch:
    def __init__(
        self, object txn, list handles not None, dict cache not None, *, bint careful=False, object prefixes=None,
        dict numbers=None, double now=0.0, list ahead=None, list newest=None,
    ):
        self.txn = txn
        self.ahead = ahead
        self.newest = newest
        self.now = now
        self.handles = handles
        self.cache = cache
        self.numbers = {} if numbers is None else numbers
        self.is_careful = careful
        self.by_prefix = {table: (length, {}) for table, length in (prefixes or {}).items()}
        self.inserted = {}
        self.held = [{} for _ in handles]
        self.undo = []
        self.after_commit = []
        self.notes = []

    # Reading

    cpdef object get(self, int table, bytes key):
        cdef PyObject* found = GetItem(self.held[table], key)
        cdef dict cache
        if found != NULL:
            return <object>found
        if self.ahead is not None:
            found = GetItem(self.ahead[table], key)
            if found != NULL:
                return <object>found
            if self.is_newer(table, key):
                return None
        cache = self.cache.get(table)
        if cache is not None:
            found = GetItem(cache, key)
            if found != NULL:
                return <object>found
        row = self.txn.get(key, db=self.handles[table])
        if row is not None:
            row = bytes(row)
        if cache is not None:
            cache[key] = row
        return row

    def has(self, int table, bytes key not None) -> bool:
        cdef PyObject* found = GetItem(self.held[table], key)
        if found == NULL and self.ahead is not None:
            found = GetItem(self.ahead[table], key)
            if found == NULL and self.is_newer(table, key):
                return False
        if found != NULL:
            return <object>found is not None
        return self.txn.get(key, db=self.handles[table]) is not None

    cdef bint is_newer(self, int table, bytes key) except -1:
        """Whether the key is above all that the data file has."""
        return key > <bytes>self.newest[table]

    def holds(self, int table, bytes key not None) -> bool:
        cdef PyObject* found
        if self.spilled_rows:
            return self.has(table, key)
        found = GetItem(self.held[table], key)
        return found != NULL and <object>found is not None

    def scan(self, int table, bytes prefix not None, *, bytes start=b"", bytes stop=b"", Py_ssize_t limit=0) -> list:
        cdef dict held = self.held[table]
        cdef dict rows = {}
        cdef list present
        cdef bint is_mixed
        cdef Py_ssize_t wanted = limit
        if self.ahead is not None:
            raise NotAhead
        candidates = held
        if table in self.by_prefix and PyBytes_GET_SIZE(prefix) == self.by_prefix[table][0]:
            candidates = [key for key in self.by_prefix[table][1].get(prefix, ()) if key in held]
        for key in candidates:
            if key.startswith(prefix) and key >= start and (not stop or key < stop):
                rows[key] = held[key]
        is_mixed = bool(rows)
        with self.txn.cursor(self.handles[table]) as cursor:
            if cursor.set_range(max(prefix, start)):
                for found, value in cursor:
                    key = bytes(found)
                    if (limit and wanted <= 0) or not key.startswith(prefix) or (stop and key >= stop):
                        break
                    if key not in rows:
                        rows[key] = bytes(value)
                        wanted -= 1
        present = [(key, value) for key, value in rows.items() if value is not None]
        if is_mixed:
            present.sort()
        return present[:limit] if limit else present

    def next_number(self, int table) -> int:
        number = self.numbers.get(table)
        if number is None:
            with self.txn.cursor(self.handles[table]) as cursor:
                number = int.from_bytes(bytes(cursor.key()), "big") if cursor.last() else 0
        number += 1
        self.numbers[table] = number
        return number

    # Writing

    cpdef put(self, int table, bytes key, bytes value):
        cdef dict held
        cdef PyObject* old
        if not 0 < PyBytes_GET_SIZE(key) <= MAX_KEY_OCTETS:
            raise StoreError("storage failure", f"a key of {len(key)} bytes")
        held = self.held[table]
        old = GetItem(held, key)
        self.undo.append(held)
        self.undo.append(key)
        self.undo.append(ABSENT if old == NULL else <object>old)
        held[key] = value
        if self.by_prefix and table in self.by_prefix:
            length, groups = self.by_prefix[table]
            groups.setdefault(key[:length], set()).add(key)

    def insert(self, int table, bytes key not None, bytes value not None) -> bool:
        cdef PyObject* found = GetItem(self.held[table], key)
        cdef bint looks = self.is_careful or self.ahead is not None
        if (<object>found is not None) if found != NULL else (looks and self.has(table, key)):
            return False
        if not looks:
            self.inserted.setdefault(table, set()).add(key)
        self.put(table, key, value)
        return True

    def delete(self, int table, bytes key not None) -> None:
        self.put(table, key, None)

    def note(self, account_id: int, modseq: int) -> None:
        self.notes.append((account_id, modseq))

    def spill_if_large(self) -> None:
        if len(self.undo) >= UNDO_ITEMS * MAX_HELD_WRITES:
            self.flush()
            self.undo.clear()
            self.is_spilled = True

    def flush(self) -> None:
        cdef int table
        cdef dict held
        cdef list puts
        if self.ahead is not None:
            raise NotAhead
        for table in range(len(self.held)):
            held = self.held[table]
            if not held:
                continue
            handle = self.handles[table]
            puts = [item for item in held.items() if item[1] is not None]
            if puts:
                puts.sort()
                with self.txn.cursor(handle) as cursor:
                    self.write(cursor, puts, self.inserted.pop(table, None))
            if len(puts) < len(held):
                for key in sorted([key for key, value in held.items() if value is None]):
                    self.txn.delete(key, db=handle)
            if table in self.cache:
                self.cache[table].update(held)
            self.spilled_rows += len(held)
            held.clear()
            if table in self.by_prefix:
                self.by_prefix[table][1].clear()

    cdef int write(self, object cursor, list puts, set inserted) except -1:
        cdef list new
        if inserted:
            new = puts if len(inserted) == len(puts) else [item for item in puts if item[0] in inserted]
            _, added = cursor.putmulti(new, overwrite=False)
            if added < len(new):
                raise NotNew
            if len(new) == len(puts):
                return 0
            puts = [item for item in puts if item[0] not in inserted]
        if puts:
            cursor.putmulti(puts)
        return 0

    @property
    def has_writes(self):
        cdef dict held
        if self.spilled_rows:
            return True
        for held in self.held:
            if held:
                return True
        return False

    # Operations

    def begin_operation(self) -> tuple:
        self.undo.clear()
        self.is_spilled = False
        return len(self.after_commit), len(self.notes)

    def undo_operation(self, tuple mark not None) -> bool:
        cdef dict held
        cdef Py_ssize_t at
        if self.is_spilled:
            return False
        for at in range(len(self.undo) - UNDO_ITEMS, -1, -UNDO_ITEMS):
            held = self.undo[at]
            if self.undo[at + 2] is ABSENT:
                del held[self.undo[at + 1]]
            else:
                held[self.undo[at + 1]] = self.undo[at + 2]
        del self.after_commit[mark[0]:]
        del self.notes[mark[1]:]
        return True
