"""Strings of IMAP and values of header fields. `rusmes.mime.quoting` and `rusmes.mime.fields` are their places."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

cdef enum:
    MAX_QUOTED_OCTETS = 1000   # longer text goes as a literal, which every client takes

MAX_QUOTED_BYTES = MAX_QUOTED_OCTETS


cdef bytes quoted(bytes value):
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t i
    cdef Py_ssize_t escapes = 0
    cdef bint is_literal = n > MAX_QUOTED_OCTETS
    cdef bytes text
    cdef char* q
    if not is_literal:
        for i in range(n):
            if p[i] == c'"' or p[i] == c'\\':
                escapes += 1
            elif p[i] > 127 or p[i] == c'\r' or p[i] == c'\n' or p[i] == 0:
                is_literal = True
                break
    if is_literal:
        value = value.replace(b"\0", b"")
        return b"{%d}\r\n%b" % (len(value), value)
    text = PyBytes_FromStringAndSize(NULL, n + escapes + 2)
    q = PyBytes_AS_STRING(text)
    q[0] = c'"'
    q += 1
    if escapes == 0:
        memcpy(q, p, <size_t>n)
        q += n
    else:
        for i in range(n):
            if p[i] == c'"' or p[i] == c'\\':
                q[0] = c'\\'
                q += 1
            q[0] = <char>p[i]
            q += 1
    q[0] = c'"'
    return text


cdef bytes unfolded(bytes value):
    cdef const char* p = PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t i
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t returns = 0   # CRs right before, which belong to the fold when LF follows
    cdef bytes text
    cdef char* q
    if memchr(p, c'\n', <size_t>n) != NULL or memchr(p, 0, <size_t>n) != NULL:
        text = PyBytes_FromStringAndSize(NULL, n)
        q = PyBytes_AS_STRING(text)
        for i in range(n):
            if p[i] == c'\n':
                k -= returns
                returns = 0
            elif p[i] == 0:
                returns = 0
            else:
                returns = returns + 1 if p[i] == c'\r' else 0
                q[k] = p[i]
                k += 1
        return text[:k].strip(b" \t\r")
    while start < n and (p[start] == c' ' or p[start] == c'\t' or p[start] == c'\r'):
        start += 1
    while n > start and (p[n - 1] == c' ' or p[n - 1] == c'\t' or p[n - 1] == c'\r'):
        n -= 1
    return value if n - start == PyBytes_GET_SIZE(value) else PyBytes_FromStringAndSize(p + start, n - start)


def nstring(bytes value) -> bytes:
    return b"NIL" if value is None else quoted(value)


def unfold(bytes value not None) -> bytes:
    return unfolded(value)


def field_text(bytes value) -> bytes:
    return b"NIL" if value is None else quoted(unfolded(value))
