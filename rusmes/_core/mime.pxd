from libc.stdint cimport uint64_t


# One field of a header block, by offsets: the name is [start, name_end), the value [value, end), the next line begins at `next`
cdef struct FieldPlace:
    Py_ssize_t start
    Py_ssize_t name_end
    Py_ssize_t value
    Py_ssize_t end
    Py_ssize_t next

cdef bint next_field(const unsigned char* p, Py_ssize_t n, FieldPlace* field) noexcept nogil


cdef class FieldNames:
    cdef frozenset names
    cdef uint64_t lengths[32]                 # for each first letter, the lengths that occur: a bit each

    cdef bint may_have(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
