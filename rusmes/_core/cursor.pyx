"""What one session knows of the columns of its mailbox. See `cursor.pyi`; `view.pyx` says how tombstones are told."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from rusmes._core.view cimport EXPUNGED, ODD_WORDS, RING, SYSTEM_BITS, MailboxRows, Mask, Uids, Watcher

cdef enum:
    ID_OCTETS = 16
    NOTHING = 0xFFFFFFFF

cdef bytes NO_ID = b"\0" * 16


cdef extern from *:
    """
    #include <stdint.h>

    /* Of a struct that begins with UID and order. */
    static int rusmes_by_uid(const void *a, const void *b)
    {
        const uint32_t *x = a, *y = b;
        int uids = x[0] < y[0] ? -1 : x[0] > y[0];
        return uids ? uids : x[1] < y[1] ? -1 : x[1] > y[1];
    }

    static int rusmes_by_value(const void *a, const void *b)
    {
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        return x < y ? -1 : x > y;
    }
    """
    int by_value "rusmes_by_value"(const void*, const void*) noexcept nogil
    int by_uid "rusmes_by_uid"(const void*, const void*) noexcept nogil


@cython.final
cdef class Cursor(Watcher):
    def __cinit__(self, MailboxRows rows not None, *, uint32_t recent_from=0xFFFFFFFF):
        self.rows = rows
        self.recent_from = recent_from
        self.told = rows.expunges
        self.known = rows.size
        self.exists = rows.size - rows.dead
        self.seen_updates = rows.updates
        self.seen_modseq = rows.modseq
        self.attached = True
        self.is_expected_sorted = True
        rows.cursors.append(self)

    def __dealloc__(self):
        PyMem_Free(self.expected)

    def detach(self) -> None:
        if self.attached:
            self.attached = False
            self.rows.cursors.remove(self)
            self.rows.compact_if_due()

    @property
    def has_news(self) -> bool:
        return (
            self.known != self.rows.size or self.told != self.rows.expunges or self.seen_updates != self.rows.updates
        )

    # Numbers

    cdef bint is_gone(self, Py_ssize_t row) noexcept nogil:
        """Whether the client was told that this row is expunged."""
        cdef Py_ssize_t k
        if not self.rows.bits[row] & EXPUNGED:
            return False
        for k in range(self.rows.dead):
            if self.rows.dead_rows[k] == <uint32_t>row:
                return self.rows.dead_serials[k] <= self.told
        return False

    cdef Py_ssize_t number_at(self, Py_ssize_t row) noexcept nogil:
        cdef Py_ssize_t gone = 0
        cdef Py_ssize_t k
        for k in range(self.rows.dead):
            if <Py_ssize_t>self.rows.dead_rows[k] >= row:
                break
            gone += self.rows.dead_serials[k] <= self.told
        return row + 1 - gone

    def number_of(self, uint32_t uid) -> int:
        cdef Py_ssize_t row = self.rows.find(uid)
        if row < 0 or row >= self.known or self.is_gone(row):
            return 0
        return self.number_at(row)

    def numbers(self, Mask mask not None) -> list:
        cdef list found = []
        cdef Py_ssize_t row
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t gone = 0
        self.check_mask(mask)
        for row in range(min(self.known, mask.size)):
            if k < self.rows.dead and self.rows.dead_rows[k] == <uint32_t>row:
                k += 1
                if self.rows.dead_serials[k - 1] <= self.told:
                    gone += 1
                    continue
            if mask.data[row]:
                found.append(row + 1 - gone)
        return found

    cdef int check_mask(self, Mask mask) except -1:
        if mask.rows is not self.rows or mask.size != self.rows.size:
            raise ValueError("a mask of other rows")
        return 0

    def number_list(self, Uids uids not None) -> list:
        cdef Mask mask = Mask.__new__(Mask, self.rows)
        cdef Py_ssize_t i, row
        for i in range(uids.n):
            row = self.rows.find(uids.data[i])
            if row >= 0:
                mask.data[row] = 1
        return self.numbers(mask)

    def numbers_of(self, Uids uids not None) -> Uids:
        cdef MailboxRows rows = self.rows
        cdef Uids found = Uids.__new__(Uids)
        cdef Py_ssize_t known = min(self.known, rows.size)
        cdef uint32_t* numbers = NULL          # by row, 0 for what the client does not know; without tombstones the row says it
        cdef uint32_t number = 0
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t row = -1
        cdef Py_ssize_t i
        if rows.dead:
            numbers = <uint32_t*>PyMem_Realloc(NULL, <size_t>(known + 1) * sizeof(uint32_t))
            if numbers == NULL:
                raise MemoryError
            for i in range(known):
                numbers[i] = 0
                if k < rows.dead and rows.dead_rows[k] == <uint32_t>i:
                    k += 1
                    if rows.dead_serials[k - 1] <= self.told:
                        continue
                number += 1
                numbers[i] = number
        try:
            for i in range(uids.n):
                if row >= 0 and row + 1 < rows.size and rows.uids[row + 1] == uids.data[i]:
                    row += 1
                else:
                    row = rows.find(uids.data[i])
                if 0 <= row < known:
                    number = <uint32_t>row + 1 if numbers == NULL else numbers[row]
                    if number:
                        found.push(number)
        finally:
            PyMem_Free(numbers)
        return found

    def uid_at(self, Py_ssize_t number) -> int:
        """0: there is no such message."""
        cdef Py_ssize_t row = number - 1
        cdef Py_ssize_t k
        if number < 1 or number > self.exists:
            return 0
        for k in range(self.rows.dead):
            if self.rows.dead_serials[k] <= self.told:
                if <Py_ssize_t>self.rows.dead_rows[k] > row:
                    break
                row += 1
        return self.rows.uids[row]

    def largest_uid(self) -> int:
        return self.uid_at(self.exists)

    def mask(self) -> Mask:
        """The rows the client knows."""
        cdef Mask found = Mask.__new__(Mask, self.rows)
        cdef Py_ssize_t k
        memset(found.data, 1, <size_t>self.known)
        for k in range(self.rows.dead):
            if self.rows.dead_serials[k] <= self.told:
                found.data[self.rows.dead_rows[k]] = 0
        return found

    def mask_numbers(self, list ranges not None) -> Mask:
        cdef Mask known = self.mask()
        cdef Mask found = Mask.__new__(Mask, self.rows)
        cdef Py_ssize_t row
        cdef Py_ssize_t number = 0
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t count = len(ranges)
        cdef Py_ssize_t low, high
        if count == 0:
            return found
        low, high = ranges[0]
        for row in range(self.known):
            if not known.data[row]:
                continue
            number += 1
            while number > high:
                at += 1
                if at == count:
                    return found
                low, high = ranges[at]
            found.data[row] = number >= low
        return found

    def mask_recent(self) -> Mask:
        cdef Mask found = Mask.__new__(Mask, self.rows)
        cdef Py_ssize_t first = self.rows.find_not_below(self.recent_from)
        if first < found.size:
            memset(found.data + first, 1, <size_t>(found.size - first))
        return found

    def select_uids(self, list ranges not None) -> Uids:
        return (self.rows.mask_uids(ranges) & self.mask()).uids()

    def select_numbers(self, list ranges not None) -> Uids:
        cdef Uids found
        if self.rows.dead == 0 and len(ranges) == 1:
            found = Uids.__new__(Uids)
            low = max(ranges[0][0], 1)
            high = min(ranges[0][1], self.known)
            if high >= low:
                self.copy_uids(found, low - 1, high)
            return found
        return self.mask_numbers(ranges).uids()

    def email_ids(self, Uids uids not None, Py_ssize_t start, Py_ssize_t stop) -> list:
        cdef list found = []
        cdef Py_ssize_t row = -1
        cdef Py_ssize_t i
        if start < 0 or stop > uids.n or start > stop:
            raise IndexError(f"{start}:{stop} of {uids.n}")
        for i in range(start, stop):
            if 0 <= row and row + 1 < self.rows.size and self.rows.uids[row + 1] == uids.data[i]:
                row += 1
            else:
                row = self.rows.find(uids.data[i])
            found.append(
                NO_ID if row < 0 else PyBytes_FromStringAndSize(<const char*>self.rows.ids + row * ID_OCTETS, ID_OCTETS)
            )
        return found

    cdef int copy_uids(self, Uids found, Py_ssize_t start, Py_ssize_t stop) except -1:
        found.data = <uint32_t*>PyMem_Realloc(NULL, <size_t>(stop - start) * 4)
        if found.data == NULL:
            raise MemoryError
        found.n = found.capacity = stop - start
        memcpy(found.data, self.rows.uids + start, <size_t>(stop - start) * 4)
        return 0

    def first_unseen(self) -> int:
        """The sequence number of the first message without \\Seen, 0 without one."""
        cdef Py_ssize_t row
        for row in range(self.known):
            if not self.rows.bits[row] & (EXPUNGED | 1):
                return self.number_at(row)
        return 0

    def recent_count(self) -> int:
        cdef Py_ssize_t first = self.rows.find_not_below(self.recent_from)
        cdef Py_ssize_t found = max(self.known - first, <Py_ssize_t>0)
        cdef Py_ssize_t k
        for k in range(self.rows.dead):
            if self.rows.dead_serials[k] <= self.told and first <= <Py_ssize_t>self.rows.dead_rows[k] < self.known:
                found -= 1
        return found

    # News

    def advance(self, bint may_expunge, bint with_flags=True) -> tuple:
        cdef MailboxRows rows = self.rows
        cdef Py_ssize_t known = self.known
        cdef Py_ssize_t exists = self.exists
        cdef list numbers = []
        cdef Uids expunged = Uids.__new__(Uids)
        cdef Uids pending
        cdef Uids changed = Uids.__new__(Uids)
        cdef Uids expected = Uids.__new__(Uids)
        cdef Py_ssize_t gone = 0
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t k
        cdef int told
        if may_expunge and self.told != rows.expunges:
            for k in range(rows.dead):
                if rows.dead_serials[k] <= self.told:
                    gone += 1
                elif <Py_ssize_t>rows.dead_rows[k] < known:
                    numbers.append(<Py_ssize_t>rows.dead_rows[k] + 1 - gone)
                    expunged.push(rows.uids[rows.dead_rows[k]])
            numbers.reverse()
            self.told = rows.expunges
        if with_flags:
            pending = changed = self.changed_rows()
            self.seen_updates = rows.updates
            self.seen_modseq = rows.modseq
            if self.expected_count:
                self.sort_expected()
                changed = Uids.__new__(Uids)
                for k in range(pending.n):
                    while at < self.expected_count and self.expected[at].uid < pending.data[k]:
                        at += 1
                    told = 0
                    if at < self.expected_count and self.expected[at].uid == pending.data[k]:
                        told = self.look_told(rows.find(pending.data[k]), self.expected[at].place)
                    if told == 0:
                        changed.push(pending.data[k])
                    elif told == 1:
                        expected.push(pending.data[k])
                self.expect_nothing()
        self.known = rows.size
        self.exists = rows.size
        for k in range(rows.dead):
            self.exists -= rows.dead_serials[k] <= self.told
        if may_expunge:
            rows.compact_if_due()
        return numbers, expunged, self.exists != exists - expunged.n, changed, expected

    cdef int look_told(self, Py_ssize_t row, uint32_t place) except -1:
        """0: the client has to be told of the row's flags. 1: it knows them, but not their modseq. 2: it knows both."""
        if place == NOTHING:
            return 0
        bits, words, modseq = <tuple>self.told_flags[place]
        if bits != self.rows.bits[row] & SYSTEM_BITS or words != self.rows.words_at(row):
            return 0
        return 2 if modseq == self.rows.modseqs[row] else 1

    cdef int push_expected(self, uint32_t uid, uint32_t place) except -1:
        cdef Expected* found
        cdef Py_ssize_t n = self.expected_count
        if n == self.expected_capacity:
            self.expected_capacity = n + n // 2 + 16
            found = <Expected*>PyMem_Realloc(self.expected, <size_t>self.expected_capacity * sizeof(Expected))
            if found == NULL:
                raise MemoryError
            self.expected = found
        if n and self.expected[n - 1].uid >= uid:
            self.is_expected_sorted = False
        self.expected[n].uid = uid
        self.expected[n].order = <uint32_t>n
        self.expected[n].place = place
        self.expected_count = n + 1
        return 0

    cdef void sort_expected(self) noexcept:
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t i
        if self.is_expected_sorted:
            return
        qsort(self.expected, <size_t>self.expected_count, sizeof(Expected), by_uid)
        for i in range(self.expected_count):
            if n and self.expected[n - 1].uid == self.expected[i].uid:
                n -= 1
            self.expected[n] = self.expected[i]
            self.expected[n].order = <uint32_t>n
            n += 1
        self.expected_count = n
        self.is_expected_sorted = True

    cpdef void expect_nothing(self) noexcept:
        PyMem_Free(self.expected)
        self.expected = NULL
        self.expected_count = self.expected_capacity = 0
        self.is_expected_sorted = True
        self.told_flags = None

    cdef int place_of(self, tuple flags, dict places) except -1:
        """Where in `told_flags`; `places` knows those of one call."""
        place = places.get(flags)
        if place is None:
            if self.told_flags is None:
                self.told_flags = []
            place = places[flags] = len(self.told_flags)
            self.told_flags.append(flags)
        return place

    def expect(self, Uids uids not None, change) -> None:
        cdef MailboxRows rows = self.rows
        cdef Uids pending = self.changed_rows()
        cdef dict results = {}             # flags before: those after
        cdef dict places = {}
        cdef Py_ssize_t i, row
        cdef Py_ssize_t at = 0
        cdef unsigned char bits
        cdef int last_bits = -1
        cdef int last_words = -1
        cdef uint32_t place = 0
        for i in range(uids.n):
            row = rows.find(uids.data[i])
            while at < pending.n and pending.data[at] < uids.data[i]:
                at += 1
            if row < 0 or (at < pending.n and pending.data[at] == uids.data[i]):
                continue
            bits = rows.bits[row] & SYSTEM_BITS
            if bits != last_bits or rows.words[row] != last_words or rows.words[row] == ODD_WORDS:
                words = rows.words_at(row)
                result = results.get((bits, words))
                if result is None:
                    after, keywords = change(bits, tuple(words.decode().split(" ")) if words else ())
                    result = results[(bits, words)] = (after, " ".join(keywords).encode(), 0)
                place = <uint32_t>self.place_of(result, places)
                last_bits = bits
                last_words = rows.words[row]
            self.push_expected(uids.data[i], place)

    def tell(self, Uids uids not None) -> None:
        cdef MailboxRows rows = self.rows
        cdef dict places = {}
        cdef Py_ssize_t i, row
        for i in range(uids.n):
            row = rows.find(uids.data[i])
            if row >= 0:
                flags = (rows.bits[row] & SYSTEM_BITS, rows.words_at(row), rows.modseqs[row])
                self.push_expected(uids.data[i], <uint32_t>self.place_of(flags, places))

    def forget_expected(self, uids) -> None:
        for uid in uids:
            self.push_expected(uid, NOTHING)

    def pending(self) -> Uids:
        return self.changed_rows()

    cdef Uids changed_rows(self):
        """UIDs of the rows the client knows whose flags changed since it was told."""
        cdef MailboxRows rows = self.rows
        cdef Uids found = Uids.__new__(Uids)
        cdef uint32_t recent[RING]
        cdef Py_ssize_t n = 0
        cdef Py_ssize_t row
        cdef uint64_t i
        if self.seen_updates == rows.updates:
            return found
        if rows.updates - self.seen_updates <= RING:
            for i in range(self.seen_updates, rows.updates):
                recent[n] = rows.ring[i % RING]
                n += 1
            qsort(recent, <size_t>n, sizeof(uint32_t), by_value)
            for i in range(<uint64_t>n):
                if i and recent[i] == recent[i - 1]:
                    continue
                row = rows.find(recent[i])
                if 0 <= row < self.known and not rows.bits[row] & EXPUNGED:
                    found.push(recent[i])
        else:
            for row in range(self.known):
                if rows.modseqs[row] > self.seen_modseq and not rows.bits[row] & EXPUNGED:
                    found.push(rows.uids[row])
        return found
