from rusmes._core.body cimport BodyScanner
from rusmes._core.lines cimport LineBuffer


# Events

cdef class Command:
    cdef readonly int kind
    cdef readonly unsigned int bit       # 1 << the verb's place in VERBS
    cdef readonly str verb
    cdef readonly bytes line             # without its line end
    cdef int argument_at
    # MAIL and RCPT
    cdef readonly str local              # the fast path: a dot-string in ASCII, and its domain in lower case
    cdef readonly str domain
    cdef readonly bytes path             # otherwise: what is between the angle brackets
    cdef readonly list pairs             # ESMTP parameters as written, None when there are none
    cdef readonly object address
    cdef readonly object parameters
    # BDAT
    cdef readonly Py_ssize_t size
    cdef readonly bint last

    cdef inline bint has_argument(self):
        return self.argument_at < len(self.line)


cdef class Line:
    cdef readonly int kind
    cdef readonly bytes data


cdef class BodyChunk:
    cdef readonly int kind
    cdef readonly bytes data


cdef class BodyEnd:
    cdef readonly int kind
    cdef readonly unsigned int faults
    cdef readonly unsigned int repaired
    cdef readonly bint last
    cdef readonly bint eight_bit
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t header_bytes
    cdef readonly int received_count


cdef class Fault:
    cdef readonly int kind
    cdef readonly str reason
    cdef readonly str verb


cdef class Signal:
    cdef readonly int kind
    cdef str name


# The wire

cdef class CommandReader(LineBuffer):
    cdef int mode
    cdef BodyScanner body
    cdef Py_ssize_t chunk_left
    cdef bint chunk_last
    cdef bint bare_newline_allowed
    cdef Py_ssize_t envelope_limit
    cdef Py_ssize_t auth_limit

    cpdef object next_event(self)
    cdef int begin_data(self, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize) except -1
    cdef object in_command__next(self)
    cdef object in_line__next(self)
    cdef object in_data__next(self)
    cdef object in_chunk__next(self)
    cdef object in_skip__next(self)
    cdef Py_ssize_t find_line(self, Py_ssize_t limit) except -4
    cdef object body_end(self, bint last)
