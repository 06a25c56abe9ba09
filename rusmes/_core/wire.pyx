# cython: language_level=3, boundscheck=False, wraparound=False
"""What a body needs on its way out; see `wire.pyi`."""

from libc.string cimport memchr


cdef enum:
    MAX_LINE = 998


UNCLEAN = 1
DOTS = 2
LONG = 4


cdef int examine_octets(const char* p, Py_ssize_t n) noexcept nogil:
    cdef int found = 0
    cdef const char* end = p + n
    cdef const char* lf
    if n < 2 or p[n - 1] != b'\n' or p[n - 2] != b'\r':
        return 1
    while p < end:
        if p[0] == b'.':
            found |= 2
        lf = <const char*>memchr(p, b'\n', <size_t>(end - p))
        # The last byte is an LF, so there is always one.
        if lf == p or (lf - 1)[0] != b'\r' or memchr(p, b'\r', <size_t>(lf - 1 - p)) != NULL:
            return found | 1
        if lf - 1 - p > MAX_LINE:
            found |= 4
        p = lf + 1
    return found


def examine(bytes data not None):
    return examine_octets(data, len(data))
