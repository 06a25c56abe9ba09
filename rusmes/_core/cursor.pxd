from libc.stdint cimport uint32_t, uint64_t

from rusmes._core.view cimport MailboxRows, Mask, Uids, Watcher


# What one session knows of the columns.
cdef class Cursor(Watcher):
    cdef readonly MailboxRows rows
    cdef readonly Py_ssize_t exists
    cdef uint64_t seen_updates
    cdef uint64_t seen_modseq
    cdef public uint32_t recent_from
    cdef bint attached
    cdef dict expected             # UID: (bits, keywords, modseq or 0), what the client knows without being told

    cdef Py_ssize_t number_at(self, Py_ssize_t row) noexcept nogil
    cdef bint is_gone(self, Py_ssize_t row) noexcept nogil
    cdef int check_mask(self, Mask mask) except -1
    cdef int copy_uids(self, Uids found, Py_ssize_t start, Py_ssize_t stop) except -1
    cdef Uids changed_rows(self)
    cdef int look_told(self, Py_ssize_t row, uint32_t uid) except -1
