"""Header blocks: where they end while a message streams by, and where the fields of a complete one are (RFC 5322 §2.2)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from rusmes._core.scan cimport find_lf


cdef enum:
    HEAD_OCTETS = 10


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 32 if 65 <= c <= 90 else c


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == 32 or c == 9


cdef inline bint same_name(const unsigned char* p, const unsigned char* name, Py_ssize_t n) noexcept nogil:
    """Whether n octets are the same but for ASCII case."""
    cdef Py_ssize_t i
    for i in range(n):
        if lower(p[i]) != lower(name[i]):
            return False
    return True


@cython.final
@cython.freelist(8)
cdef class HeaderScanner:
    """Follows a message as it arrives and finds the end of its header block: the first line that is nothing but CRLF."""

    def __cinit__(self):
        self.first_line = True

    cdef Py_ssize_t add(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        """Read on; the number of octets that belong to the header block."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t at
        cdef Py_ssize_t fresh
        if self.ended:
            return 0
        while i < n:
            at = find_lf(<const char*>p + i, n - i)
            fresh = n - i if at < 0 else at + 1
            if self.line_octets < HEAD_OCTETS:
                memcpy(self.head + self.line_octets, p + i, <size_t>min(fresh, HEAD_OCTETS - self.line_octets))
            self.line_octets += fresh
            i += fresh
            if at < 0:
                break
            if self.line_octets == 2 and self.head[0] == c'\r':
                self.ended = True
                break
            if self.line_octets >= HEAD_OCTETS and same_name(self.head, b"received:", 9):
                self.received_count += 1
            if self.first_line:
                # Some senders hand on what they took from an mbox file; it is no field, and would end the block elsewhere.
                self.first_line = False
                if self.line_octets > 6 and self.head[0] in b"F>":
                    self.mbox_from = memcmp(self.head, b"From ", 5) == 0 or memcmp(self.head, b">From ", 6) == 0
            self.line_octets = 0
        self.size += i
        return i

    def feed(self, bytes data not None) -> int:
        """Read on; the number of octets of `data` that belong to the header block."""
        return self.add(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef Py_ssize_t field_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The offset after the field that starts at i: its line and the continuation lines that follow."""
    cdef Py_ssize_t at
    while i < n:
        at = find_lf(<const char*>p + i, n - i)
        if at < 0:
            return n
        i += at + 1
        if i < n and not is_blank(p[i]):
            return i
    return n


cdef inline bint is_empty_line(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    return p[i] == c'\n' or (p[i] == c'\r' and i + 1 < n and p[i + 1] == c'\n')


cdef Py_ssize_t name_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t end) noexcept nogil:
    """The offset of the colon of the field at i, or -1 when this is no field (RFC 5322 §3.6.8, printable ASCII)."""
    cdef Py_ssize_t start = i
    while i < end:
        if p[i] == c':':
            return i if i > start else -1
        if p[i] < 33 or p[i] > 126:
            break
        i += 1
    # RFC 5322 §4.5.8 (obsolete): blanks before the colon.
    if i == start:
        return -1
    while i < end and is_blank(p[i]):
        i += 1
    return i if i < end and p[i] == c':' else -1


cdef bytes unfolded(const unsigned char* p, Py_ssize_t i, Py_ssize_t end):
    """RFC 5322 §2.2.3: the octets of a body without line ends, and without blanks around it."""
    cdef bytes text
    cdef unsigned char* q
    cdef Py_ssize_t k = 0
    while i < end and (is_blank(p[i]) or p[i] == c'\r' or p[i] == c'\n'):
        i += 1
    while end > i and (is_blank(p[end - 1]) or p[end - 1] == c'\r' or p[end - 1] == c'\n'):
        end -= 1
    text = PyBytes_FromStringAndSize(<const char*>p + i, end - i)
    if find_lf(<const char*>p + i, end - i) < 0:
        return text
    text = PyBytes_FromStringAndSize(NULL, end - i)
    q = <unsigned char*>PyBytes_AS_STRING(text)
    while i < end:
        if p[i] == c'\n' or (p[i] == c'\r' and i + 1 < end and p[i + 1] == c'\n'):
            i += 1
            continue
        q[k] = p[i]
        k += 1
        i += 1
    return text[:k]


def offsets(bytes block not None) -> list:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end
    cdef Py_ssize_t colon
    cdef list found = []
    while i < n and not is_empty_line(p, i, n):
        end = field_end(p, i, n)
        colon = name_end(p, i, end)
        if colon >= 0:
            found.append((i, colon, end))
        i = end
    return found


def fields(bytes block not None) -> list:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end
    cdef Py_ssize_t colon
    cdef list found = []
    while i < n and not is_empty_line(p, i, n):
        end = field_end(p, i, n)
        colon = name_end(p, i, end)
        if colon >= 0:
            name = PyBytes_FromStringAndSize(<const char*>p + i, colon - i).rstrip(b" \t")
            found.append((name, unfolded(p, colon + 1, end)))
        i = end
    return found


cdef inline bint is_named(
    const unsigned char* p, Py_ssize_t i, Py_ssize_t end, const unsigned char* name, Py_ssize_t length
) noexcept nogil:
    """Whether the field at i has this name. The colon is at or, in the obsolete form, after some blanks behind it."""
    if length == 0 or end - i <= length or not same_name(p + i, name, length):
        return False
    i += length
    while i < end and is_blank(p[i]):
        i += 1
    return i < end and p[i] == c':'


cdef Py_ssize_t find_named(
    const unsigned char* p, Py_ssize_t i, Py_ssize_t n, const unsigned char* name, Py_ssize_t length, Py_ssize_t* end
) noexcept nogil:
    """The offset of the next field of this name at or after i, or -1; `end` is then the offset after it."""
    while i < n and not is_empty_line(p, i, n):
        end[0] = field_end(p, i, n)
        if is_named(p, i, end[0], name, length):
            return i
        i = end[0]
    return -1


cdef bytes value_at(const unsigned char* p, Py_ssize_t i, Py_ssize_t end):
    while p[i] != c':':
        i += 1
    return unfolded(p, i + 1, end)


def find_value(bytes block not None, bytes name not None):
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t i = find_named(p, 0, PyBytes_GET_SIZE(block), <const unsigned char*>PyBytes_AS_STRING(name),
                                   PyBytes_GET_SIZE(name), &end)
    return None if i < 0 else value_at(p, i, end)


def find_values(bytes block not None, bytes name not None) -> list:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t i
    cdef list found = []
    while True:
        i = find_named(p, end, n, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &end)
        if i < 0:
            return found
        found.append(value_at(p, i, end))


def without(bytes block not None, names not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t kept = 0
    cdef Py_ssize_t end
    cdef Py_ssize_t colon
    cdef list parts = []
    while i < n and not is_empty_line(p, i, n):
        end = field_end(p, i, n)
        colon = name_end(p, i, end)
        if colon >= 0:
            name = PyBytes_FromStringAndSize(<const char*>p + i, colon - i).rstrip(b" \t").lower()
            if name in names:
                if i > kept:
                    parts.append(block[kept:i])
                kept = end
        i = end
    if kept == 0:
        return block
    parts.append(block[kept:])
    return b"".join(parts)


def only(bytes block not None, names not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end
    cdef Py_ssize_t colon
    cdef list parts = []
    while i < n and not is_empty_line(p, i, n):
        end = field_end(p, i, n)
        colon = name_end(p, i, end)
        if colon >= 0:
            name = PyBytes_FromStringAndSize(<const char*>p + i, colon - i).rstrip(b" \t").lower()
            if name in names:
                parts.append(PyBytes_FromStringAndSize(<const char*>p + i, end - i))
        i = end
    return b"".join(parts)
