from libc.stdint cimport uint32_t, uint64_t

from rusmes._core.view cimport MailboxRows, Mask, Uids, Watcher


cdef struct Expected:
    uint32_t uid
    uint32_t order                 # in which they came
    uint32_t place                 # in `told_flags`, NOTHING for what did not happen


# What one session knows of the columns.
cdef class Cursor(Watcher):
    cdef readonly MailboxRows rows
    cdef readonly Py_ssize_t exists
    cdef uint64_t seen_updates
    cdef uint64_t seen_modseq
    cdef public uint32_t recent_from
    cdef bint attached
    # What the client knows without being told: of a UID, the last one counts. They last until `advance`.
    cdef Expected* expected
    cdef Py_ssize_t expected_count
    cdef Py_ssize_t expected_capacity
    cdef bint is_expected_sorted   # by UID, each of them once
    cdef list told_flags           # (bits, keywords, modseq or 0)

    cdef Py_ssize_t number_at(self, Py_ssize_t row) noexcept nogil
    cdef bint is_gone(self, Py_ssize_t row) noexcept nogil
    cdef int check_mask(self, Mask mask) except -1
    cdef int copy_uids(self, Uids found, Py_ssize_t start, Py_ssize_t stop) except -1
    cdef Uids changed_rows(self)
    cdef int push_expected(self, uint32_t uid, uint32_t place) except -1
    cdef void sort_expected(self) noexcept
    cpdef void expect_nothing(self) noexcept
    cdef int place_of(self, tuple flags, dict places) except -1
    cdef int look_told(self, Py_ssize_t row, uint32_t place) except -1
