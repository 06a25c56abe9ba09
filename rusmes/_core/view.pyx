"""The messages of a mailbox as packed columns, shared by all sessions of a worker, and what each session knows of them.

See `view.pyi`; one file, because questions, changes and compaction work on the same columns. Tombstones: an expunged row stays, marked, until every cursor has told its client, because until then the row
counts in that client's sequence numbers. A cursor tells expunges in the order in which they were applied here (`serial`), not
by modseq, so that nothing depends on the order in which other workers' changes arrive.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.math cimport floor
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

cdef enum:
    ID_OCTETS = 16
    GONE = 128                 # in `bits`, inside of `compact` only
    COMPACT_SHARE = 256        # tombstones are worth a compaction when they are this part of the rows

cdef uint64_t NEVER = <uint64_t>0xFFFFFFFFFFFFFFFF


cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>

    /* Loops without branches over one column each: vector code at -O3. */
    static void rusmes_mask_bits(unsigned char *mask, const unsigned char *bits, size_t n, unsigned char which, unsigned char want)
    {
        size_t i;
        for (i = 0; i < n; i++)
            mask[i] = (unsigned char)((bits[i] & which) == want);
    }

    static size_t rusmes_count_bits(const unsigned char *bits, size_t n, unsigned char which, unsigned char want)
    {
        size_t i, found = 0;
        for (i = 0; i < n; i++)
            found += (bits[i] & which) == want;
        return found;
    }

    static void rusmes_mask_range(unsigned char *mask, const uint32_t *values, size_t n, uint32_t low, uint32_t high)
    {
        size_t i;
        for (i = 0; i < n; i++)
            mask[i] = (unsigned char)((values[i] >= low) & (values[i] <= high));
    }

    static void rusmes_mask_above(unsigned char *mask, const uint64_t *values, size_t n, uint64_t low)
    {
        size_t i;
        for (i = 0; i < n; i++)
            mask[i] = (unsigned char)(values[i] >= low);
    }

    static void rusmes_mask_words(unsigned char *mask, const uint16_t *words, size_t n, const unsigned char *wanted)
    {
        size_t i;
        for (i = 0; i < n; i++)
            mask[i] = wanted[words[i]];
    }

    static size_t rusmes_sum(const unsigned char *mask, size_t n)
    {
        size_t i, found = 0;
        for (i = 0; i < n; i++)
            found += mask[i];
        return found;
    }

    static void rusmes_and(unsigned char *a, const unsigned char *b, const unsigned char *c, size_t n)
    {
        size_t i;
        for (i = 0; i < n; i++)
            a[i] = b[i] & c[i];
    }

    static void rusmes_or(unsigned char *a, const unsigned char *b, const unsigned char *c, size_t n)
    {
        size_t i;
        for (i = 0; i < n; i++)
            a[i] = b[i] | c[i];
    }

    static void rusmes_not(unsigned char *a, const unsigned char *b, size_t n)
    {
        size_t i;
        for (i = 0; i < n; i++)
            a[i] = b[i] ^ 1;
    }
    """
    void mask_bits "rusmes_mask_bits"(unsigned char*, const unsigned char*, size_t, unsigned char, unsigned char) noexcept nogil
    size_t count_bits "rusmes_count_bits"(const unsigned char*, size_t, unsigned char, unsigned char) noexcept nogil
    void mask_range "rusmes_mask_range"(unsigned char*, const uint32_t*, size_t, uint32_t, uint32_t) noexcept nogil
    void mask_above "rusmes_mask_above"(unsigned char*, const uint64_t*, size_t, uint64_t) noexcept nogil
    void mask_words "rusmes_mask_words"(unsigned char*, const uint16_t*, size_t, const unsigned char*) noexcept nogil
    size_t sum_mask "rusmes_sum"(const unsigned char*, size_t) noexcept nogil
    void and_masks "rusmes_and"(unsigned char*, const unsigned char*, const unsigned char*, size_t) noexcept nogil
    void or_masks "rusmes_or"(unsigned char*, const unsigned char*, const unsigned char*, size_t) noexcept nogil
    void not_mask "rusmes_not"(unsigned char*, const unsigned char*, size_t) noexcept nogil


cdef void* resized(void* old, Py_ssize_t octets) except NULL:
    cdef void* new = PyMem_Realloc(old, <size_t>(octets if octets > 0 else 1))
    if new == NULL:
        raise MemoryError
    return new


cdef inline const unsigned char* octets_of(bytes value) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(value)


@cython.final
cdef class Uids:
    def __cinit__(self, uids=()):
        cdef object uid
        for uid in uids:
            self.push(<uint32_t>uid)

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int push(self, uint32_t uid) except -1:
        if self.n == self.capacity:
            self.capacity = self.n + self.n // 2 + 16
            self.data = <uint32_t*>resized(self.data, self.capacity * 4)
        self.data[self.n] = uid
        self.n += 1
        return 0

    def __len__(self):
        return self.n

    def __getitem__(self, Py_ssize_t at) -> int:
        if at < 0:
            at += self.n
        if at < 0 or at >= self.n:
            raise IndexError(at)
        return self.data[at]

    def __iter__(self):
        return iter(self.list())

    cdef bint holds(self, uint32_t uid) noexcept nogil:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.n
        cdef Py_ssize_t middle
        # As in `find_not_below`: without gaps, the distance from the first one says where.
        if high and uid >= self.data[0]:
            middle = <Py_ssize_t>(uid - self.data[0])
            if middle < high:
                if self.data[middle] == uid:
                    return True
                high = middle
        while low < high:
            middle = (low + high) >> 1
            if self.data[middle] < uid:
                low = middle + 1
            else:
                high = middle
        return low < self.n and self.data[low] == uid

    def __contains__(self, uint32_t uid) -> bool:
        return self.holds(uid)

    def ordered(self, order) -> list:
        cdef uint32_t uid
        return [uid for uid in order if self.holds(uid)]

    def list(self, Py_ssize_t start=0, Py_ssize_t stop=-1) -> list:
        cdef Py_ssize_t i
        if stop < 0 or stop > self.n:
            stop = self.n
        if start < 0:
            start = 0
        return [self.data[i] for i in range(start, stop)]

    def without(self, Uids other not None) -> Uids:
        cdef Uids found = Uids.__new__(Uids)
        cdef Py_ssize_t i
        cdef Py_ssize_t at = 0
        for i in range(self.n):
            while at < other.n and other.data[at] < self.data[i]:
                at += 1
            if at == other.n or other.data[at] != self.data[i]:
                found.push(self.data[i])
        return found

    def slice(self, Py_ssize_t start, Py_ssize_t stop) -> Uids:
        cdef Uids found = Uids.__new__(Uids)
        if start < 0 or stop > self.n or start > stop:
            raise IndexError(f"{start}:{stop} of {self.n}")
        found.data = <uint32_t*>resized(NULL, (stop - start) * 4)
        found.n = found.capacity = stop - start
        memcpy(found.data, self.data + start, <size_t>(stop - start) * 4)
        return found


@cython.final
cdef class Mask:
    def __cinit__(self, MailboxRows rows not None, unsigned char value=0):
        self.rows = rows
        self.size = rows.size
        self.data = <unsigned char*>resized(NULL, self.size)
        memset(self.data, value != 0, <size_t>self.size)

    def __dealloc__(self):
        PyMem_Free(self.data)

    def __len__(self):
        return self.size

    def __getitem__(self, Py_ssize_t row) -> bool:
        if row < 0 or row >= self.size:
            raise IndexError(row)
        return self.data[row] != 0

    def __setitem__(self, Py_ssize_t row, bint value):
        if row < 0 or row >= self.size:
            raise IndexError(row)
        self.data[row] = value

    cdef Mask paired(self, Mask other):
        if other.rows is not self.rows or other.size != self.size:
            raise ValueError("masks of different rows")
        return Mask.__new__(Mask, self.rows)

    def __and__(self, Mask other not None) -> Mask:
        cdef Mask found = self.paired(other)
        and_masks(found.data, self.data, other.data, <size_t>self.size)
        return found

    def __or__(self, Mask other not None) -> Mask:
        cdef Mask found = self.paired(other)
        or_masks(found.data, self.data, other.data, <size_t>self.size)
        return found

    def __invert__(self) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self.rows)
        not_mask(found.data, self.data, <size_t>self.size)
        return found

    def __bool__(self):
        cdef Py_ssize_t i
        for i in range(self.size):
            if self.data[i]:
                return True
        return False

    def count(self) -> int:
        return sum_mask(self.data, <size_t>self.size)

    def row_list(self) -> list:
        cdef Py_ssize_t i
        return [i for i in range(self.size) if self.data[i]]

    def octets(self, list row_list not None) -> bytes:
        cdef bytes found = PyBytes_FromStringAndSize(NULL, len(row_list))
        cdef unsigned char* p = <unsigned char*>PyBytes_AS_STRING(found)
        cdef Py_ssize_t i, row
        for i in range(len(row_list)):
            row = row_list[i]
            if row < 0 or row >= self.size:
                raise IndexError(row)
            p[i] = self.data[row]
        return found

    def uids(self) -> Uids:
        cdef Uids found = Uids.__new__(Uids)
        cdef Py_ssize_t i
        for i in range(self.size):
            if self.data[i]:
                found.push(self.rows.uids[i])
        return found


cdef class Watcher:
    pass


@cython.final
cdef class MailboxRows:
    def __cinit__(self, uint64_t mailbox_id=0, *, uint64_t account_id=0, uint32_t uid_validity=0):
        self.mailbox_id = mailbox_id
        self.account_id = account_id
        self.uid_validity = uid_validity
        self.uid_next = 1
        self.sets = [b""]
        self.places = {b"": 0}
        self.odd_words = {}
        self.odd = {}
        self.names = {}
        self.cursors = []

    def __dealloc__(self):
        PyMem_Free(self.uids)
        PyMem_Free(self.modseqs)
        PyMem_Free(self.dates)
        PyMem_Free(self.sizes)
        PyMem_Free(self.words)
        PyMem_Free(self.bits)
        PyMem_Free(self.ids)
        PyMem_Free(self.dead_rows)
        PyMem_Free(self.dead_serials)

    def __len__(self):
        return self.size - self.dead

    @property
    def exists(self) -> int:
        return self.size - self.dead

    @property
    def nbytes(self) -> int:
        return self.capacity * ROW_OCTETS + self.dead_capacity * 12

    @property
    def keyword_names(self) -> tuple:
        return tuple(self.names.values())

    @property
    def watcher_count(self) -> int:
        return len(self.cursors)

    def reserve(self, Py_ssize_t count) -> None:
        if count > self.capacity:
            self.grow(count)

    cdef int grow(self, Py_ssize_t capacity) except -1:
        self.uids = <uint32_t*>resized(self.uids, capacity * 4)
        self.modseqs = <uint64_t*>resized(self.modseqs, capacity * 8)
        self.dates = <uint32_t*>resized(self.dates, capacity * 4)
        self.sizes = <uint32_t*>resized(self.sizes, capacity * 4)
        self.words = <uint16_t*>resized(self.words, capacity * 2)
        self.bits = <unsigned char*>resized(self.bits, capacity)
        self.ids = <unsigned char*>resized(self.ids, capacity * ID_OCTETS)
        self.capacity = capacity
        return 0

    # Changes

    cdef int append_row(
        self, uint32_t uid, uint64_t modseq, const unsigned char* email_id, double internal_date, uint64_t size,
        unsigned char bits, const char* words, Py_ssize_t words_size,
    ) except -1:
        cdef Py_ssize_t row = self.size
        cdef double seconds = floor(internal_date)
        if row and self.uids[row - 1] >= uid:
            if self.find(uid) >= 0:
                self.update_row(uid, modseq, bits, words, words_size)
                return 0
            raise ValueError(f"UID {uid} comes after {self.uids[row - 1]}")
        if uid == 0:
            raise ValueError("0 is no UID")
        if row == self.capacity:
            self.grow(row + (row >> 4) + 64)
        self.uids[row] = uid
        self.modseqs[row] = modseq
        memcpy(self.ids + row * ID_OCTETS, email_id, ID_OCTETS)
        self.bits[row] = bits & SYSTEM_BITS
        if 0 <= seconds <= <double>0xFFFFFFFF and size <= 0xFFFFFFFF:
            self.dates[row] = <uint32_t>seconds
            self.sizes[row] = <uint32_t>size
        else:  # before 1970, after 2105, or 4 GiB
            self.odd[uid] = (seconds, size)
            self.bits[row] |= ODD
            self.dates[row] = <uint32_t>min(max(seconds, 0.0), <double>0xFFFFFFFF)
            self.sizes[row] = <uint32_t>min(size, <uint64_t>0xFFFFFFFF)
        self.words[row] = 0
        if words_size:
            self.set_words(row, PyBytes_FromStringAndSize(words, words_size))
        self.size = row + 1
        if self.uid_next <= uid:
            self.uid_next = <uint64_t>uid + 1
        self.version += 1
        return 0

    cdef int update_row(
        self, uint32_t uid, uint64_t modseq, unsigned char bits, const char* words, Py_ssize_t words_size
    ) except -1:
        cdef Py_ssize_t row = self.find(uid)
        return 0 if row < 0 else self.update_at(row, modseq, bits, words, words_size)

    cdef int update_at(
        self, Py_ssize_t row, uint64_t modseq, unsigned char bits, const char* words, Py_ssize_t words_size
    ) except -1:
        if self.bits[row] & EXPUNGED or modseq <= self.modseqs[row]:
            return 0
        if words_size or self.words[row]:
            self.set_words(row, PyBytes_FromStringAndSize(words, words_size))
        self.stamp(row, modseq, bits)
        return 1

    cdef void stamp(self, Py_ssize_t row, uint64_t modseq, unsigned char bits) noexcept nogil:
        self.modseqs[row] = modseq
        self.bits[row] = (self.bits[row] & ~<unsigned char>SYSTEM_BITS) | (bits & SYSTEM_BITS)
        self.ring[self.updates % RING] = self.uids[row]
        self.updates += 1
        self.version += 1

    def add(
        self, uint32_t uid, uint64_t modseq, bytes email_id not None, double internal_date, uint64_t size, unsigned char bits,
        tuple keywords not None=(),
    ) -> None:
        cdef bytes joined = " ".join(keywords).encode() if keywords else b""
        if PyBytes_GET_SIZE(email_id) != ID_OCTETS:
            raise ValueError("the id of an email has 16 octets")
        self.append_row(
            uid, modseq, octets_of(email_id), internal_date, size, bits, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined)
        )

    def update(self, uint32_t uid, uint64_t modseq, unsigned char bits, tuple keywords not None=()) -> bool:
        cdef bytes joined = " ".join(keywords).encode() if keywords else b""
        return self.update_row(uid, modseq, bits, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined)) == 1

    def expunge(self, uint32_t uid, uint64_t modseq) -> bool:
        cdef Py_ssize_t row = self.find(uid)
        if row < 0 or self.bits[row] & EXPUNGED:
            return False
        self.modseqs[row] = max(modseq, self.modseqs[row])
        self.bury(row)
        if not self.cursors:
            self.compact_if_due()
        return True

    def become(self, MailboxRows fresh not None, uint64_t modseq) -> None:
        cdef Py_ssize_t row
        cdef Py_ssize_t other
        cdef Py_ssize_t size = self.size
        cdef bytes words
        for row in range(size):
            other = fresh.find(self.uids[row])
            if not self.bits[row] & EXPUNGED and (other < 0 or fresh.bits[other] & EXPUNGED):
                self.modseqs[row] = max(modseq, self.modseqs[row])
                self.bury(row)
        for other in range(fresh.size):
            if fresh.bits[other] & EXPUNGED:
                continue
            words = fresh.words_at(other)
            row = self.find(fresh.uids[other])
            if row >= 0 and self.modseqs[row] >= fresh.modseqs[other]:
                continue
            date, size_of = fresh.odd.get(fresh.uids[other], (fresh.dates[other], fresh.sizes[other]))
            self.append_row(
                fresh.uids[other], fresh.modseqs[other], fresh.ids + other * ID_OCTETS, date, size_of,
                fresh.bits[other], PyBytes_AS_STRING(words), PyBytes_GET_SIZE(words),
            )
        self.modseq = max(self.modseq, fresh.modseq)
        self.uid_next = max(self.uid_next, fresh.uid_next)
        if not self.cursors:
            self.compact_if_due()

    cdef int bury(self, Py_ssize_t row) except -1:
        cdef Py_ssize_t at = self.dead
        if self.dead == self.dead_capacity:
            self.dead_capacity += (self.dead >> 1) + 16
            self.dead_rows = <uint32_t*>resized(self.dead_rows, self.dead_capacity * 4)
            self.dead_serials = <uint64_t*>resized(self.dead_serials, self.dead_capacity * 8)
        while at and self.dead_rows[at - 1] > <uint32_t>row:
            at -= 1
        memmove(self.dead_rows + at + 1, self.dead_rows + at, <size_t>(self.dead - at) * 4)
        memmove(self.dead_serials + at + 1, self.dead_serials + at, <size_t>(self.dead - at) * 8)
        self.expunges += 1
        self.version += 1
        self.dead_rows[at] = <uint32_t>row
        self.dead_serials[at] = self.expunges
        self.dead += 1
        self.bits[row] |= EXPUNGED
        return 0

    cdef int compact_if_due(self) except -1:
        cdef uint64_t told = NEVER
        cdef Watcher cursor
        if self.dead == 0 or self.dead * COMPACT_SHARE < self.size:
            return 0
        for cursor in self.cursors:
            told = min(told, cursor.told)
        return self.compact(told)

    cdef int compact(self, uint64_t told) except -1:
        """Give the rows of expunges up to the serial `told` back."""
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t kept = 0           # tombstones that stay
        cdef Py_ssize_t to = -1            # where the next run of rows goes
        cdef Py_ssize_t start, stop
        cdef uint32_t row
        cdef Watcher cursor
        for cursor in self.cursors:
            start = 0
            for k in range(self.dead):
                if self.dead_serials[k] <= told and <Py_ssize_t>self.dead_rows[k] < cursor.known:
                    start += 1
            cursor.known -= start
        k = 0
        while k < self.dead:
            row = self.dead_rows[k]
            if self.dead_serials[k] > told:
                # It stays: its new place is found by how many before it went.
                self.dead_rows[kept] = row - <uint32_t>(k - kept)
                self.dead_serials[kept] = self.dead_serials[k]
                kept += 1
            else:
                if self.odd or self.odd_words:
                    self.odd.pop(self.uids[row], None)
                    self.odd_words.pop(self.uids[row], None)
                self.bits[row] = GONE
            k += 1
        if kept == self.dead:
            return 0
        # Rows that go are marked; runs between them are moved, one memmove a column and run.
        start = 0
        to = 0
        while start < self.size:
            if self.bits[start] == GONE:
                start += 1
                continue
            stop = start
            while stop < self.size and self.bits[stop] != GONE:
                stop += 1
            self.move_rows(to, start, stop - start)
            to += stop - start
            start = stop
        self.size = to
        self.dead = kept
        self.version += 1
        if self.capacity > 256 and self.size < self.capacity >> 1:
            self.grow(self.size + (self.size >> 4) + 64)
        return 1

    cdef void move_rows(self, Py_ssize_t to, Py_ssize_t start, Py_ssize_t count) noexcept:
        cdef size_t n = <size_t>count
        if to == start:
            return
        memmove(self.uids + to, self.uids + start, n * 4)
        memmove(self.modseqs + to, self.modseqs + start, n * 8)
        memmove(self.dates + to, self.dates + start, n * 4)
        memmove(self.sizes + to, self.sizes + start, n * 4)
        memmove(self.words + to, self.words + start, n * 2)
        memmove(self.bits + to, self.bits + start, n)
        memmove(self.ids + to * ID_OCTETS, self.ids + start * ID_OCTETS, n * ID_OCTETS)

    # Keywords

    cdef int place_of(self, bytes joined) except -1:
        cdef object place = self.places.get(joined)
        cdef object word
        if place is not None:
            return place
        for word in joined.split(b" "):
            text = word.decode("utf-8", "replace")
            self.names.setdefault(text.lower(), text)
        if len(self.sets) == ODD_WORDS:
            if self.version >= self.sweep_at:
                self.sweep_sets()
                self.sweep_at = self.version + ODD_WORDS  # when all are in use, not for each new one
            if len(self.sets) == ODD_WORDS:
                return ODD_WORDS
        self.places[joined] = len(self.sets)
        self.sets.append(joined)
        return len(self.sets) - 1

    cdef int set_words(self, Py_ssize_t row, bytes joined) except -1:
        cdef int place = self.place_of(joined)
        if self.words[row] == ODD_WORDS:
            self.odd_words.pop(self.uids[row], None)
        if place == ODD_WORDS:
            self.odd_words[self.uids[row]] = joined
        self.words[row] = <uint16_t>place
        return 0

    cdef int sweep_sets(self) except -1:
        """Forget sets that no row has any more; called when there is no number left for a new one."""
        cdef dict used = {b"": 0}
        cdef list sets = [b""]
        cdef list moved = [0] * len(self.sets)
        cdef Py_ssize_t row
        cdef bytes joined
        for row in range(self.size):
            if self.words[row] == ODD_WORDS or self.words[row] == 0:
                continue
            joined = <bytes>self.sets[self.words[row]]
            if joined not in used:
                used[joined] = len(sets)
                sets.append(joined)
            self.words[row] = <uint16_t>used[joined]
        self.places = used
        self.sets = sets
        return 0

    cdef bytes words_at(self, Py_ssize_t row):
        if self.words[row] == ODD_WORDS:
            return <bytes>self.odd_words[self.uids[row]]
        return <bytes>self.sets[self.words[row]]

    # One row

    cdef Py_ssize_t find_not_below(self, uint64_t uid) noexcept nogil:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.size
        cdef Py_ssize_t middle
        # UIDs without gaps are where their distance from the first one says.
        if high and uid >= self.uids[0]:
            middle = <Py_ssize_t>(uid - self.uids[0])
            if middle < high and self.uids[middle] == uid:
                return middle
            if middle < high:
                high = middle
        while low < high:
            middle = (low + high) >> 1
            if self.uids[middle] < uid:
                low = middle + 1
            else:
                high = middle
        return low

    cdef Py_ssize_t find(self, uint32_t uid) noexcept nogil:
        cdef Py_ssize_t row = self.find_not_below(uid)
        return row if row < self.size and self.uids[row] == uid else -1

    cdef int check_row(self, Py_ssize_t row) except -1:
        if row < 0 or row >= self.size:
            raise IndexError(row)
        return 0

    def row_of(self, uint32_t uid) -> int:
        cdef Py_ssize_t row = self.find(uid)
        return -1 if row < 0 or self.bits[row] & EXPUNGED else row

    def uid(self, Py_ssize_t row) -> int:
        self.check_row(row)
        return self.uids[row]

    def modseq_of(self, Py_ssize_t row) -> int:
        self.check_row(row)
        return self.modseqs[row]

    def email_id(self, Py_ssize_t row) -> bytes:
        self.check_row(row)
        return PyBytes_FromStringAndSize(<const char*>self.ids + row * ID_OCTETS, ID_OCTETS)

    def internal_date(self, Py_ssize_t row) -> int:
        self.check_row(row)
        if self.bits[row] & ODD:
            return int(self.odd[self.uids[row]][0])
        return self.dates[row]

    def message_size(self, Py_ssize_t row) -> int:
        self.check_row(row)
        if self.bits[row] & ODD:
            return self.odd[self.uids[row]][1]
        return self.sizes[row]

    def system_bits(self, Py_ssize_t row) -> int:
        self.check_row(row)
        return self.bits[row] & SYSTEM_BITS

    def keywords(self, Py_ssize_t row) -> tuple:
        self.check_row(row)
        joined = self.words_at(row)
        return tuple(joined.decode().split(" ")) if joined else ()

    def is_expunged(self, Py_ssize_t row) -> bool:
        self.check_row(row)
        return self.bits[row] & EXPUNGED != 0

    def email_ids(self, list row_list not None) -> list:
        cdef Py_ssize_t row
        cdef list found = []
        for row in row_list:
            self.check_row(row)
            found.append(PyBytes_FromStringAndSize(<const char*>self.ids + row * ID_OCTETS, ID_OCTETS))
        return found

    def uids_of(self, list row_list not None) -> list:
        cdef Py_ssize_t row
        cdef list found = []
        for row in row_list:
            self.check_row(row)
            found.append(self.uids[row])
        return found

    # Questions about all rows

    def count(self, *, unsigned char which=0, unsigned char want=0) -> int:
        return count_bits(self.bits, <size_t>self.size, (which & SYSTEM_BITS) | EXPUNGED, want & SYSTEM_BITS)

    def total_size(self) -> int:
        cdef uint64_t total = 0
        cdef Py_ssize_t row
        for row in range(self.size):
            if not self.bits[row] & EXPUNGED:
                total += self.odd[self.uids[row]][1] if self.bits[row] & ODD else self.sizes[row]
        return total

    def mask_live(self) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        mask_bits(found.data, self.bits, <size_t>self.size, EXPUNGED, 0)
        return found

    def mask_flags(self, unsigned char which, unsigned char want) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        mask_bits(found.data, self.bits, <size_t>self.size, which & SYSTEM_BITS, want & SYSTEM_BITS)
        return found

    def mask_keyword(self, str keyword not None) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef unsigned char wanted[65536]
        cdef bytes folded = keyword.lower().encode()
        cdef Py_ssize_t i
        if keyword.lower() not in self.names:
            return found
        memset(wanted, 0, 65536)
        for i in range(1, len(self.sets)):
            wanted[i] = folded in (<bytes>self.sets[i]).lower().split(b" ")
        mask_words(found.data, self.words, <size_t>self.size, wanted)
        for uid, joined in self.odd_words.items():
            if folded in (<bytes>joined).lower().split(b" "):
                i = self.find(uid)
                if i >= 0:
                    found.data[i] = 1
        return found

    def mask_sizes(self, *, int64_t above=-1, int64_t below=0x7FFFFFFFFFFFFFFF) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef Py_ssize_t row
        cdef int64_t low = max(above, -1) + 1
        cdef int64_t high = below - 1
        if low <= 0xFFFFFFFF and high >= 0:
            mask_range(found.data, self.sizes, <size_t>self.size, <uint32_t>low, <uint32_t>min(high, <int64_t>0xFFFFFFFF))
        if self.odd:
            for uid, (_, size) in self.odd.items():
                row = self.find(uid)
                if row >= 0:
                    found.data[row] = low <= size <= high
        return found

    def mask_dates(self, *, double since=-1e18, double before=1e18) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef Py_ssize_t row
        cdef double low = since if since > 0 else 0
        cdef double high = before - 1
        if since != floor(since):
            low = floor(since) + 1
        if before != floor(before):
            high = floor(before)
        if low <= <double>0xFFFFFFFF and high >= 0:
            mask_range(
                found.data, self.dates, <size_t>self.size, <uint32_t>low,
                <uint32_t>(high if high < <double>0xFFFFFFFF else <double>0xFFFFFFFF),
            )
        if self.odd:
            for uid, (date, _) in self.odd.items():
                row = self.find(uid)
                if row >= 0:
                    found.data[row] = since <= date < before
        return found

    def mask_modseq(self, uint64_t modseq) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        mask_above(found.data, self.modseqs, <size_t>self.size, modseq)
        return found

    def mask_uids(self, list ranges not None) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef Py_ssize_t first, stop
        for low, high in ranges:
            first = self.find_not_below(<uint64_t>low)
            stop = self.find_not_below(<uint64_t>high + 1)
            if stop > first:
                memset(found.data + first, 1, <size_t>(stop - first))
        return found

    def mask_rows(self, list row_list not None) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef Py_ssize_t row
        for row in row_list:
            self.check_row(row)
            found.data[row] = 1
        return found

    def mask_email(self, bytes email_id not None) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self)
        cdef Py_ssize_t row
        if PyBytes_GET_SIZE(email_id) == ID_OCTETS:
            for row in range(self.size):
                found.data[row] = memcmp(self.ids + row * ID_OCTETS, octets_of(email_id), ID_OCTETS) == 0
        return found
