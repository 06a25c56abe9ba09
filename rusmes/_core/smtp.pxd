from rusmes._core.headers cimport HeaderScanner
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


# Message text: DATA and BDAT

cdef class BodyScanner:
    # Given
    cdef bint normalize
    cdef bint binary
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_header_bytes
    # Found
    cdef readonly unsigned int faults
    cdef readonly unsigned int repaired
    cdef readonly bint eight_bit
    cdef readonly bint ended             # the end of DATA was seen
    cdef readonly Py_ssize_t size        # octets of content
    cdef readonly HeaderScanner header
    cdef Py_ssize_t swallowed            # octets of wire
    # Where the wire is: the last two octets, what is known of a line that began with a dot, a CR held by normalize
    cdef unsigned char before
    cdef unsigned char before2
    cdef int dot
    cdef bint held_cr
    cdef bint discarding
    # What this call gives out: one run of the source as long as that is enough, a buffer otherwise
    cdef const unsigned char* run
    cdef Py_ssize_t run_octets
    cdef unsigned char* out
    cdef Py_ssize_t out_octets
    cdef Py_ssize_t out_room

    cdef int put(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int mend(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int take(self, const unsigned char* p, Py_ssize_t n, unsigned int found) except -1
    cdef Py_ssize_t scan_text(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int after_dot(self, const unsigned char* p, Py_ssize_t i) except -1
    cdef Py_ssize_t scan_octets(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int finish(self) except -1
    cdef bytes given(self, bytes source)
    cdef bint overran(self) noexcept


# The wire

cdef class CommandReader(LineBuffer):
    cdef int mode
    cdef BodyScanner body
    cdef Py_ssize_t chunk_left
    cdef bint chunk_last
    cdef bint bare_newline_allowed
    cdef Py_ssize_t envelope_limit
    cdef Py_ssize_t auth_limit

    cdef object in_command__next(self)
    cdef object in_line__next(self)
    cdef object in_data__next(self)
    cdef object in_chunk__next(self)
    cdef object in_skip__next(self)
    cdef Py_ssize_t find_line(self, Py_ssize_t limit) except -4
    cdef object body_end(self, bint last)
