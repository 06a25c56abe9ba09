from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy


# Responses grow here and leave as one bytes object: the one in which they grew.
cdef class Buffer:
    cdef PyObject* octets          # nobody else has it
    cdef char* data                # its content, of which `n` octets are written
    cdef Py_ssize_t n
    cdef Py_ssize_t capacity

    cdef int grow(self, Py_ssize_t more) except -1
    cdef int put_bytes(self, bytes value) except -1
    cdef int put_number(self, uint64_t number) except -1

    cdef inline int put(self, const char* p, Py_ssize_t n) except -1:
        if self.capacity - self.n < n:
            self.grow(n)
        memcpy(self.data + self.n, p, <size_t>n)
        self.n += n
        return 0

    cdef inline int put_char(self, char c) except -1:
        if self.capacity == self.n:
            self.grow(1)
        self.data[self.n] = c
        self.n += 1
        return 0
