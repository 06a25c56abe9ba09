"""What delivery reads of a header block: fields and identifiers. `rusmes.mime` has the grammar; this is the
part of it that every message meets, without regular expressions."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp

from rusmes._core.quoting cimport quoted, unfolded
from rusmes._core.scan cimport find_lf

cdef enum:
    MAX_IDENTIFIER_OCTETS = 998
    MAX_PLAIN_ADDRESSES = 1000   # a longer list goes the long way, where it is cut


cdef inline const unsigned char* octets(bytes data) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(data)


cdef inline bytes cut(const unsigned char* p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef bytes lowered(const unsigned char* p, Py_ssize_t n):
    cdef bytes name = PyBytes_FromStringAndSize(NULL, n)
    cdef unsigned char* q = <unsigned char*>PyBytes_AS_STRING(name)
    cdef Py_ssize_t i
    for i in range(n):
        q[i] = p[i] | 32 if 65 <= p[i] <= 90 else p[i]
    return name


cdef Py_ssize_t line_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The offset of the LF that ends the line at i, or n."""
    cdef Py_ssize_t at = find_lf(<const char*>p + i, n - i)
    return n if at < 0 else i + at


cdef bint next_field(const unsigned char* p, Py_ssize_t n, FieldPlace* field) noexcept nogil:
    """Find the field at or after `field.next`; False when there is none. Lines that are no field are stepped over."""
    cdef Py_ssize_t i = field.next
    cdef Py_ssize_t name_end
    cdef Py_ssize_t colon
    cdef Py_ssize_t end
    while i < n:
        name_end = i
        while name_end < n and 33 <= p[name_end] <= 126 and p[name_end] != c':':
            name_end += 1
        colon = name_end
        while colon < n and is_blank(p[colon]):
            colon += 1
        end = line_end(p, name_end, n)
        if name_end == i or colon >= n or p[colon] != c':':
            i = end + 1
            continue
        while end + 1 < n and is_blank(p[end + 1]):
            end = line_end(p, end + 1, n)
        field.start, field.name_end, field.value, field.end, field.next = i, name_end, colon + 1, end, end + 1
        return True
    return False


@cython.final
cdef class FieldNames:
    def __init__(self, names not None):
        cdef bytes name
        self.names = frozenset(names)
        for name in self.names:
            if not 0 < len(name) < 64 or name != name.lower():
                raise ValueError("names of fields are given in lower case")
            self.lengths[name[0] & 31] |= <uint64_t>1 << len(name)

    cdef bint may_have(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        return n < 64 and self.lengths[p[0] & 31] >> n & 1


def parse_fields(bytes block not None) -> list:
    cdef const unsigned char* p = octets(block)
    cdef FieldPlace field
    cdef list fields = []
    field.next = 0
    while next_field(p, PyBytes_GET_SIZE(block), &field):
        fields.append(
            (lowered(p + field.start, field.name_end - field.start), cut(p + field.value, field.end - field.value))
        )
    return fields


def pick_fields(bytes block not None, FieldNames names not None) -> tuple:
    cdef const unsigned char* p = octets(block)
    cdef FieldPlace field
    cdef Py_ssize_t stop
    cdef list fields = []
    cdef list lines = []
    cdef bytes name
    field.next = 0
    while next_field(p, PyBytes_GET_SIZE(block), &field):
        if not names.may_have(p + field.start, field.name_end - field.start):
            continue
        name = lowered(p + field.start, field.name_end - field.start)
        if name in names.names:
            fields.append((name, cut(p + field.value, field.end - field.value)))
            stop = field.end
            while stop > field.start and p[stop - 1] == c'\r':
                stop -= 1
            lines.append(cut(p + field.start, stop - field.start))
    lines.append(b"")
    return fields, b"\r\n".join(lines)


def identifiers(bytes value not None) -> list:
    cdef const unsigned char* p = octets(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k
    cdef const unsigned char* found
    cdef bint has_blank
    cdef list result = []
    while i < n:
        found = <const unsigned char*>memchr(p + i, c'<', <size_t>(n - i))
        if found == NULL:
            break
        i = found - p + 1
        k = i
        has_blank = False
        while k < n and p[k] not in b"<>\r\n":
            has_blank |= p[k] == c' ' or 9 <= p[k] <= 12
            k += 1
        if k < n and p[k] == c'>' and 0 < k - i <= MAX_IDENTIFIER_OCTETS:
            result.append(b"".join(cut(p + i, k - i).split()) if has_blank else cut(p + i, k - i))
            i = k + 1
        else:
            i = k
    return result


def content_fields(list fields not None) -> dict:
    cdef dict first = {}
    cdef bytes name
    for name, value in fields:
        if PyBytes_GET_SIZE(name) >= 8 and memcmp(PyBytes_AS_STRING(name), b"content-", 8) == 0 and name not in first:
            first[name] = value
    return first


cdef inline bint same(bytes name, const char* other, Py_ssize_t n) noexcept:
    return PyBytes_GET_SIZE(name) == n and memcmp(PyBytes_AS_STRING(name), other, <size_t>n) == 0


cdef int envelope_place(bytes name) noexcept:
    """Where a field stands in an ENVELOPE, or -1. Date, Subject, In-Reply-To and Message-ID are texts, the others addresses."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(name)
    if n == 2:
        return 5 if same(name, b"to", 2) else 6 if same(name, b"cc", 2) else -1
    if n == 3:
        return 7 if same(name, b"bcc", 3) else -1
    if n == 4:
        return 0 if same(name, b"date", 4) else 2 if same(name, b"from", 4) else -1
    if n == 6:
        return 3 if same(name, b"sender", 6) else -1
    if n == 7:
        return 1 if same(name, b"subject", 7) else -1
    if n == 8:
        return 4 if same(name, b"reply-to", 8) else -1
    if n == 10:
        return 9 if same(name, b"message-id", 10) else -1
    if n == 11:
        return 8 if same(name, b"in-reply-to", 11) else -1
    return -1


def envelope_values(list fields not None) -> list:
    cdef list values = [None] * 10
    cdef bytes name
    cdef int place
    for name, value in fields:
        place = envelope_place(name)
        if place < 0:
            continue
        if values[place] is None:
            values[place] = value
        elif 2 <= place <= 7:
            values[place] = values[place] + b"," + value
    return values


def render_envelope(list fields not None, render_addresses) -> bytes:
    cdef list values = envelope_values(fields)
    cdef list parts = []
    cdef int place
    for place in range(10):
        value = values[place]
        if value is None:
            parts.append(b"NIL")
        elif 2 <= place <= 7:
            parts.append(render_addresses(value))
        else:
            parts.append(quoted(unfolded(<bytes>value)))
    # RFC 9051 §7.5.2: an absent or empty Sender or Reply-To is the From.
    for place in (3, 4):
        if <bytes>parts[place] == b"NIL":
            parts[place] = parts[2]
    return b"(" + b" ".join(parts) + b")"


cdef inline bint is_plain(unsigned char c) noexcept nogil:
    """Whether an octet of an address or a name has no meaning of its own, and is no blank."""
    return c > 32 and c != 127 and c not in b'"(),:;<>@\\[]'


cdef Py_ssize_t plain_address(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* at) noexcept nogil:
    """The end of "local@domain" at i, and where its "@" is; -1 when there is none."""
    cdef Py_ssize_t start = i
    while i < n and is_plain(p[i]):
        i += 1
    if i == start or i >= n or p[i] != c'@':
        return -1
    at[0] = i
    i += 1
    start = i
    while i < n and is_plain(p[i]):
        i += 1
    return -1 if i == start else i


cdef Py_ssize_t plain_name(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* start, Py_ssize_t* stop) noexcept nogil:
    """The offset behind a name at i and the "<" that follows it; -1 when there is no such thing. [start, stop) is the name,
    without quotes and outer blanks."""
    start[0] = stop[0] = i
    if i < n and p[i] == c'"':
        i += 1
        start[0] = i
        while i < n and p[i] >= 32 and p[i] != 127 and p[i] != c'"' and p[i] != c'\\':
            i += 1
        if i >= n or p[i] != c'"':
            return -1
        stop[0] = i
        i += 1
        while start[0] < stop[0] and p[start[0]] == c' ':
            start[0] += 1
        while start[0] < stop[0] and p[stop[0] - 1] == c' ':
            stop[0] -= 1
        while i < n and is_blank(p[i]):
            i += 1
    else:
        # Words with one space between them: what other blanks become is for the scanner of all lists to say.
        while i < n and is_plain(p[i]):
            while i < n and is_plain(p[i]):
                i += 1
            stop[0] = i
            if i < n and p[i] == c' ':
                i += 1
    return i + 1 if i < n and p[i] == c'<' else -1


def plain_addresses(bytes value not None):
    cdef bytes text = unfolded(value)
    cdef const unsigned char* p = octets(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef Py_ssize_t first
    cdef Py_ssize_t at
    cdef Py_ssize_t end
    cdef list out = [b"("]
    while count < MAX_PLAIN_ADDRESSES:
        start = stop = first = i
        end = plain_address(p, i, n, &at)
        if end >= 0:
            i = end
        else:
            first = plain_name(p, i, n, &start, &stop)
            if first < 0:
                return None
            end = plain_address(p, first, n, &at)
            if end < 0 or end >= n or p[end] != c'>':
                return None
            i = end + 1
        out.append(b"(")
        out.append(quoted(cut(p + start, stop - start)) if stop > start else b"NIL")
        out.append(b" NIL ")
        out.append(quoted(cut(p + first, at - first)))
        out.append(b" ")
        out.append(quoted(cut(p + at + 1, end - at - 1)))
        out.append(b")")
        count += 1
        while i < n and is_blank(p[i]):
            i += 1
        if i == n:
            out.append(b")")
            return b"".join(out)
        if p[i] != c',':
            return None
        i += 1
        while i < n and is_blank(p[i]):
            i += 1
    return None


def message_ids(list fields not None, Py_ssize_t most) -> tuple:
    cdef list own = []
    cdef list parents = []
    cdef list references = []
    cdef bytes name
    for name, value in fields:
        if same(name, b"message-id", 10):
            own += identifiers(value)[:1]
        elif same(name, b"in-reply-to", 11):
            parents += identifiers(value)
        elif same(name, b"references", 10):
            references += identifiers(value)
    if not parents and not references:
        return tuple(own if len(own) < 2 else dict.fromkeys(own))[:most]
    references.reverse()
    return tuple(dict.fromkeys(own + parents + references))[:most]
