# cython: language_level=3, boundscheck=False, wraparound=False
"""Canonical forms of messages for DKIM and ARC (RFC 6376 §3.4); see `dkim.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from rusmes._core.headers import offsets


cdef enum:
    PIECE_LINES = 16384  # line ends given to the sink at once
    NOGIL_OCTETS = 4096


cdef bytes CRLFS = b"\r\n" * PIECE_LINES


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 32 if c'A' <= c <= c'Z' else c


# Bodies


@cython.final
cdef class BodyCanonicalizer:
    def __cinit__(self, sink not None, *, bint relaxed):
        self.sink = sink
        self.relaxed = relaxed

    def feed(self, bytes data not None) -> None:
        if self.finished:
            raise ValueError("the body has ended")
        if PyBytes_GET_SIZE(data) == 0:
            return
        if self.relaxed:
            self.feed_relaxed(data)
        else:
            self.feed_simple(data)

    def finish(self) -> None:
        """The end of the body; safe to call twice."""
        if self.finished:
            return
        self.finished = True
        if self.carriage_return:
            self.put_line_ends(self.line_ends)
            if self.blank:
                self.sink(b" ")
            self.sink(b"\r")
            self.has_output = True
        # RFC 6376 §3.4.3: an empty body is one line end; §3.4.4: an empty body is nothing.
        if self.has_output or not self.relaxed:
            self.sink(b"\r\n")

    cdef int put_line_ends(self, Py_ssize_t count) except -1:
        self.line_ends -= count
        while count > PIECE_LINES:
            self.sink(CRLFS)
            count -= PIECE_LINES
        if count:
            self.sink(CRLFS[:2 * count])
        return 0

    cdef int feed_simple(self, bytes data) except -1:
        """RFC 6376 §3.4.3: line ends at the end are one line end."""
        cdef const unsigned char* p
        cdef Py_ssize_t n
        cdef Py_ssize_t end
        cdef Py_ssize_t ends = 0
        if self.carriage_return:
            data = b"\r" + data
            self.carriage_return = False
        p = <const unsigned char*>PyBytes_AS_STRING(data)
        n = PyBytes_GET_SIZE(data)
        if p[n - 1] == c'\r':
            self.carriage_return = True
            n -= 1
        end = n
        while end >= 2 and p[end - 1] == c'\n' and p[end - 2] == c'\r':
            end -= 2
            ends += 1
        if end:
            self.put_line_ends(self.line_ends)
            self.sink(data if end == PyBytes_GET_SIZE(data) else memoryview(data)[:end])
            self.has_output = True
        self.line_ends += ends
        return 0

    cdef int feed_relaxed(self, bytes data) except -1:
        """RFC 6376 §3.4.4: no blanks at the end of lines, one blank for several, no empty lines at the end."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t carried = self.line_ends
        cdef Py_ssize_t size
        # What this chunk puts out has at most its own octets, and the blank and the CR of before.
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 2)
        cdef unsigned char* q = <unsigned char*>PyBytes_AS_STRING(out)
        self.line_ends = 0
        if n >= NOGIL_OCTETS:
            with nogil:
                size = self.relax(p, n, q)
        else:
            size = self.relax(p, n, q)
        if size == 0:
            self.line_ends += carried
            return 0
        if carried:
            self.line_ends += carried
            self.put_line_ends(carried)
        self.sink(memoryview(out)[:size])
        self.has_output = True
        return 0

    cdef Py_ssize_t relax(self, const unsigned char* p, Py_ssize_t n, unsigned char* q) noexcept nogil:
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t ends = 0
        cdef bint blank = self.blank
        cdef unsigned char c
        cdef bint held = self.carriage_return
        self.carriage_return = False
        while i < n or held:
            if held:
                # The CR that ended the chunk before.
                held = False
                if p[0] == c'\n':
                    i = 1
                    ends += 1
                    blank = False
                    continue
                c = c'\r'
            else:
                c = p[i]
                i += 1
                if c == c' ' or c == c'\t':
                    blank = True
                    continue
                if c == c'\r':
                    if i == n:
                        self.carriage_return = True
                        break
                    if p[i] == c'\n':
                        i += 1
                        ends += 1
                        blank = False
                        continue
            while ends:
                q[k] = c'\r'
                q[k + 1] = c'\n'
                k += 2
                ends -= 1
            if blank:
                q[k] = c' '
                k += 1
                blank = False
            q[k] = c
            k += 1
            # A word; the checks above are for its first octet.
            while i < n and p[i] != c' ' and p[i] != c'\r' and p[i] != c'\t':
                q[k] = p[i]
                k += 1
                i += 1
        self.blank = blank
        self.line_ends = ends
        return k


# Header fields


cdef Py_ssize_t relax_field(const unsigned char* p, Py_ssize_t n, Py_ssize_t colon, unsigned char* q) noexcept nogil:
    """RFC 6376 §3.4.2."""
    cdef Py_ssize_t i
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t start
    cdef bint blank = False
    for i in range(colon):
        if not is_blank(p[i]):
            q[k] = lower(p[i])
            k += 1
    q[k] = c':'
    k += 1
    start = k
    i = colon + 1
    while i < n:
        if is_blank(p[i]):
            blank = True
        elif p[i] == c'\r' and i + 1 < n and p[i + 1] == c'\n':
            i += 1  # unfolded; the blank of the next line is enough
        else:
            if blank and k > start:
                q[k] = c' '
                k += 1
            blank = False
            q[k] = p[i]
            k += 1
        i += 1
    q[k] = c'\r'
    q[k + 1] = c'\n'
    return k + 2


def relaxed_field(bytes field not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(field)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(field)
    cdef Py_ssize_t colon = 0
    cdef bytes out
    while colon < n and p[colon] != c':':
        colon += 1
    if colon == n:
        raise ValueError("a header field has a colon")
    out = PyBytes_FromStringAndSize(NULL, n + 2)
    return out[:relax_field(p, n, colon, <unsigned char*>PyBytes_AS_STRING(out))]


def field_names(bytes block not None) -> tuple:
    return tuple([block[start:colon].rstrip(b" \t").lower() for start, colon, _ in offsets(block)])


cdef struct Field:
    Py_ssize_t start
    Py_ssize_t colon
    Py_ssize_t end
    Py_ssize_t name
    bint taken


cdef Field* find_unused(Field* found, Py_ssize_t count, const unsigned char* p, const unsigned char* name, Py_ssize_t n) noexcept nogil:
    """The last field of this (lower-case) name that was not taken yet, or NULL (RFC 6376 §5.4.2)."""
    cdef Py_ssize_t at = count
    cdef Py_ssize_t i
    while at > 0:
        at -= 1
        if found[at].taken or found[at].name != n:
            continue
        for i in range(n):
            if lower(p[found[at].start + i]) != name[i]:
                break
        else:
            return found + at
    return NULL


def select_fields(bytes block not None, names, *, bint relaxed) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef list places = offsets(block)
    cdef Py_ssize_t count = len(places)
    cdef Py_ssize_t index = 0
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t n
    cdef Field* found
    cdef Field* field
    cdef bytes name
    cdef bytes out
    cdef unsigned char* q
    found = <Field*>malloc(<size_t>(count + 1) * sizeof(Field))
    if found == NULL:
        raise MemoryError
    try:
        for start, colon, end in places:
            field = found + index
            field.start, field.colon, field.end, field.taken = start, colon, end, False
            n = field.colon
            while n > field.start and is_blank(p[n - 1]):
                n -= 1
            field.name = n - field.start
            index += 1
        # Each field is taken once, and its form has at most two octets more (a last line without its end).
        out = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(block) + 2 * count)
        q = <unsigned char*>PyBytes_AS_STRING(out)
        for name in names:
            field = find_unused(
                found, count, p, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
            )
            if field == NULL:
                continue
            field.taken = True
            n = field.end - field.start
            if relaxed:
                size += relax_field(p + field.start, n, field.colon - field.start, q + size)
                continue
            memcpy(q + size, p + field.start, <size_t>n)
            size += n
            if q[size - 1] != c'\n':
                q[size] = c'\r'
                q[size + 1] = c'\n'
                size += 2
        return out[:size]
    finally:
        free(found)
