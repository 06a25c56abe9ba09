# Canonical forms of DKIM: what a body's stream has held back.

cdef class BodyCanonicalizer:
    cdef bint relaxed
    cdef bint finished
    cdef bint has_output
    # Held back: line ends that may be the last, blanks that may end a line, and a CR whose LF may come.
    cdef Py_ssize_t line_ends
    cdef bint blank
    cdef bint carriage_return
    cdef object sink

    cdef int put_line_ends(self, Py_ssize_t count) except -1
    cdef int feed_simple(self, bytes data) except -1
    cdef int feed_relaxed(self, bytes data) except -1
    cdef Py_ssize_t relax(self, const unsigned char* p, Py_ssize_t n, unsigned char* q) noexcept nogil
