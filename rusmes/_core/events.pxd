"""Lines of the event log, collected in memory with the entries of their index."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct Entry:
    uint64_t key
    uint32_t offset   # of the line in the batch


cdef class EventBuffer:
    # What is collected
    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef Entry* entries
    cdef Py_ssize_t entry_count
    cdef Py_ssize_t entry_room
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t capacity
    cdef bint is_busy     # a line is being made; the text of an address is Python, and threads may change there
    # The second that was rendered last
    cdef int64_t second
    cdef char second_text[20]

    cdef int reserve(self, Py_ssize_t more) except -1
    cdef int add_entry(self, uint64_t key, uint32_t offset) except -1
    cdef int put_text(self, object text) except -1
    cdef int put_strange(self, bytes octets) except -1
    cdef void put_float(self, double number) noexcept
    cdef int put_time(self, double moment) except -1
    cdef int put_address(self, object address) except -1
    cdef int put_id(self, bytes value) except -1
    cdef int put_phases(self, object phases) except -1
    cdef int put_value(self, char code, object value) except -1
