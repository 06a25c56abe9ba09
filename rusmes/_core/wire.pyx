# cython: language_level=3, boundscheck=False, wraparound=False
"""What a body needs on its way out, and replies on their way in; see `wire.pyi`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr


cdef enum:
    MAX_LINE = 998
    MAX_REPLY = 512  # RFC 5321 §4.5.3.1.5
    MAX_REPLY_TEXT = 1000


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


def simple_reply(bytes data not None, Py_ssize_t start):
    cdef const char* p = PyBytes_AS_STRING(data) + start
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data) - start
    cdef const char* lf
    cdef Py_ssize_t end
    if start < 0 or n < 6 or p[3] != b' ':
        return None
    if p[0] < b'2' or p[0] > b'5' or p[1] < b'0' or p[1] > b'9' or p[2] < b'0' or p[2] > b'9':
        return None
    lf = <const char*>memchr(p, b'\n', <size_t>(n if n < MAX_REPLY else MAX_REPLY))
    if lf == NULL:
        return None
    end = lf - p
    return (
        (p[0] - 48) * 100 + (p[1] - 48) * 10 + p[2] - 48,
        PyBytes_FromStringAndSize(p + 4, (end - 1 if p[end - 1] == b'\r' else end) - 4),
        start + end + 1,
    )


cdef inline bint is_digit(char c) noexcept nogil:
    return c'0' <= c <= c'9'


def plain_parts(int code, bytes line not None):
    cdef const char* p = PyBytes_AS_STRING(line)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(line)
    cdef Py_ssize_t i = 2
    cdef Py_ssize_t end
    cdef int field
    if n > MAX_REPLY_TEXT:
        return None
    for end in range(n):
        if p[end] < 32 or p[end] > 126:
            return None
    if n < 5 or p[0] == c'3' or p[0] - 48 != code // 100 or p[1] != c'.':
        return None
    for field in range(2):
        end = i
        while i < n and i - end < 3 and is_digit(p[i]):
            i += 1
        if i == end:
            return None
        if field == 0:
            if i == n or p[i] != c'.':
                return None
            i += 1
    end = i
    while i < n and p[i] == c' ':
        i += 1
    if i == end and i < n:
        return None
    return PyUnicode_DecodeASCII(p, end, NULL), PyUnicode_DecodeASCII(p + i, n - i, NULL)
