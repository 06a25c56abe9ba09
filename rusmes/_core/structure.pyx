"""BODYSTRUCTURE of a message in memory, in one walk. `rusmes.mime.structure` has the theory and the rules for broken mail,
does the same to files, and is asked for what few messages have; a test holds the two against each other.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

from rusmes._core.mime cimport FieldPlace, next_field
from rusmes._core.quoting cimport quoted, unfolded

cdef extern from *:
    """
    #include <stddef.h>
    /* Loops without a branch, which become vector code; bytes.count asks memchr for each line. 240: a counter of one octet
       does not overflow. */
    static size_t rusmes_count_lf(const unsigned char *p, size_t n)
    {
        size_t found = 0, i, block;
        unsigned char here;
        for (; n; p += block, n -= block) {
            block = n < 240 ? n : 240;
            for (here = 0, i = 0; i < block; i++)
                here += (unsigned char)(p[i] == 10);
            found += here;
        }
        return found;
    }
    """
    size_t count_lf "rusmes_count_lf"(const unsigned char* p, size_t n) noexcept nogil


# The limits of rusmes.mime.structure and rusmes.mime.fields (a test compares)
cdef enum:
    MAX_PART_DEPTH = 32
    MAX_PART_COUNT = 2000
    MAX_HEADER_OCTETS = 256 * 1024
    MAX_VALUE_OCTETS = 16 * 1024
    MAX_BOUNDARY_OCTETS = 200
    # A Content-Type longer than this, or with more parameters, is read by rusmes.mime.structure
    MAX_TYPE_OCTETS = 1000
    MAX_TYPE_PARAMETERS = 20

LIMITS = (MAX_PART_DEPTH, MAX_PART_COUNT, MAX_HEADER_OCTETS, MAX_VALUE_OCTETS, MAX_BOUNDARY_OCTETS)

# The fields of interest, in the order in which they stand in a Span array
cdef enum:
    TYPE
    ENCODING
    ID
    DESCRIPTION
    MD5
    DISPOSITION
    LANGUAGE
    LOCATION
    FIELD_COUNT

cdef bytes EMPTY_PART = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'
cdef tuple DEFAULT_TYPE = (b"text", b"plain", ((b"charset", b"us-ascii"),))
cdef tuple DIGEST_TYPE = (b"message", b"rfc822", ())


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == c' ' or 9 <= c <= 13


cdef inline bint is_token(unsigned char c) noexcept nogil:
    """RFC 2045 §5.1, but for "=" and "?", as in `structure._TYPE`."""
    if c >= c'a':
        return c <= c'~'
    if c >= c'0':
        return c <= c'9' or (c'A' <= c <= c'Z') or c >= c'^'
    return c == c'!' or (c'#' <= c <= c"'") or (c'*' <= c <= c'+') or c == c'-' or c == c'.'


cdef inline bytes cut(const unsigned char* p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)


cdef inline bint same(const unsigned char* p, Py_ssize_t n, const char* lower_name) noexcept nogil:
    """Whether n octets are the name, but for ASCII case."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(n):
        c = p[i] | 32 if c'A' <= p[i] <= c'Z' else p[i]
        if c != <unsigned char>lower_name[i]:
            return False
    return lower_name[n] == 0


cdef inline bint is_word(bytes value, const char* lower_word) noexcept:
    return same(<const unsigned char*>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), lower_word)


cdef int place_of(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """Which field of interest has this name, or -1."""
    if n < 10 or not same(p, 8, b"content-"):
        return -1
    if n == 12 and same(p, n, b"content-type"):
        return TYPE
    if n == 25 and same(p, n, b"content-transfer-encoding"):
        return ENCODING
    if n == 10 and same(p, n, b"content-id"):
        return ID
    if n == 19 and same(p, n, b"content-description"):
        return DESCRIPTION
    if n == 11 and same(p, n, b"content-md5"):
        return MD5
    if n == 19 and same(p, n, b"content-disposition"):
        return DISPOSITION
    if n == 16 and same(p, n, b"content-language"):
        return LANGUAGE
    if n == 16 and same(p, n, b"content-location"):
        return LOCATION
    return -1


cdef void find_fields(const unsigned char* p, Py_ssize_t n, Span* found) noexcept nogil:
    """The first of each field of interest in a header block."""
    cdef FieldPlace field
    cdef int place
    for place in range(FIELD_COUNT):
        found[place].p = NULL
        found[place].n = 0
    field.next = 0
    while next_field(p, n, &field):
        place = place_of(p + field.start, field.name_end - field.start)
        if place >= 0 and found[place].p == NULL:
            found[place].p = p + field.value
            found[place].n = field.end - field.value


cdef tuple plain_type(const unsigned char* p, Py_ssize_t n):
    """A Content-Type as nearly all programs write it: (type, subtype, parameters). None for every other."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef bytes kind
    cdef bytes subtype
    cdef bytes name
    cdef list parameters = []
    if n > MAX_TYPE_OCTETS or memchr(p, 0, <size_t>n) != NULL:
        return None
    while i < n and is_space(p[i]):
        i += 1
    start = i
    while i < n and is_token(p[i]):
        i += 1
    if i == start or i >= n or p[i] != c'/':
        return None
    kind = cut(p + start, i - start)
    i += 1
    start = i
    while i < n and is_token(p[i]):
        i += 1
    if i == start:
        return None
    subtype = cut(p + start, i - start)
    while True:
        while i < n and is_space(p[i]):
            i += 1
        if i == n:
            return kind, subtype, tuple(parameters)
        if p[i] != c';' or len(parameters) == MAX_TYPE_PARAMETERS:
            return None
        while i < n and (is_space(p[i]) or p[i] == c';'):
            i += 1
        if i == n:
            continue
        start = i
        while i < n and is_token(p[i]):
            i += 1
        if i == start or i + 1 >= n or p[i] != c'=':
            return None
        name = cut(p + start, i - start)
        i += 1
        start = i
        if p[i] == c'"':
            start += 1
            i += 1
            while i < n and p[i] >= 32 and p[i] != c'"' and p[i] != c'\\':
                i += 1
            if i >= n or p[i] != c'"':
                return None
            stop = i
            i += 1
        else:
            while i < n and p[i] > 32 and p[i] != c';':
                i += 1
            if i == start:
                return None
            stop = i
        parameters.append((name, cut(p + start, stop - start)))


cdef inline bytes text_of(Span field):
    if field.p == NULL:
        return b"NIL"
    return quoted(unfolded(cut(field.p, min(field.n, <Py_ssize_t>MAX_VALUE_OCTETS))))


cdef Py_ssize_t find(const unsigned char* p, Py_ssize_t at, Py_ssize_t end, const unsigned char* what, Py_ssize_t n) noexcept nogil:
    """Where `what`, of at least one octet, is in [at, end), or -1."""
    cdef const unsigned char* found
    while end - at >= n:
        found = <const unsigned char*>memchr(p + at, what[0], <size_t>(end - at - n + 1))
        if found == NULL:
            return -1
        at = found - p
        if memcmp(found, what, <size_t>n) == 0:
            return at
        at += 1
    return -1


cdef Py_ssize_t header_end(const unsigned char* p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Behind the first empty line; LF alone ends a line too."""
    cdef const unsigned char* found
    cdef Py_ssize_t at = start
    if start < end and p[start] == c'\n':
        return start + 1
    if start + 1 < end and p[start] == c'\r' and p[start + 1] == c'\n':
        return start + 2
    while at < end:
        found = <const unsigned char*>memchr(p + at, c'\n', <size_t>(end - at))
        if found == NULL:
            return end
        at = found - p + 1
        if at < end and p[at] == c'\n':
            return at + 1
        if at + 1 < end and p[at] == c'\r' and p[at + 1] == c'\n':
            return at + 2
    return end


@cython.final
cdef class _Walk:
    cdef int part(self, const Span* fields, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest) except -1:
        """Put down a part with these fields whose body is [start, end)."""
        cdef bytes kind
        cdef bytes subtype
        cdef bytes boundary
        cdef bint is_open
        cdef Py_ssize_t children
        cdef list out = self.out
        self.count += 1
        kind, subtype, parameters = self.type_of(fields[TYPE], is_digest)
        is_open = depth < MAX_PART_DEPTH and self.count < MAX_PART_COUNT
        out.append(b"(")
        if is_word(kind, b"multipart"):
            children = len(out)
            if is_open:
                for name, value in <tuple>parameters:
                    if is_word(name, b"boundary"):
                        boundary = (<bytes>value).rstrip()
                        if 0 < len(boundary) <= MAX_BOUNDARY_OCTETS:
                            self.split(b"--" + boundary, is_word(subtype, b"digest"), start, end, depth)
                        break
            if len(out) == children:
                out.append(EMPTY_PART)
            out.append(b" ")
            out.append(quoted(subtype))
            self.put_parameters(parameters)
        else:
            self.leaf(fields, kind, subtype, parameters, end - start)
            if is_open and is_word(kind, b"message") and (is_word(subtype, b"rfc822") or is_word(subtype, b"global")):
                self.whole(start, end, depth + 1, False, True)
                out.append(b" %d" % count_lf(self.p + start, <size_t>(end - start)))
            elif is_word(kind, b"text"):
                out.append(b" %d" % count_lf(self.p + start, <size_t>(end - start)))
            out.append(b" ")
            out.append(text_of(fields[MD5]))
        self.put_extension(fields)
        out.append(b")")
        return 0

    cdef int leaf(self, const Span* fields, bytes kind, bytes subtype, parameters, Py_ssize_t size) except -1:
        """The fields of a body of one part, up to its size."""
        cdef list out = self.out
        cdef bytes encoding = None
        if fields[ENCODING].p != NULL:
            encoding = unfolded(cut(fields[ENCODING].p, fields[ENCODING].n))
        out.append(quoted(kind))
        out.append(b" ")
        out.append(quoted(subtype))
        self.put_parameters(parameters)
        if fields[ID].p == NULL and fields[DESCRIPTION].p == NULL:
            out.append(b" NIL NIL ")
        else:
            out.append(b" %b %b " % (text_of(fields[ID]), text_of(fields[DESCRIPTION])))
        out.append(quoted(encoding) if encoding else b'"7bit"')
        out.append(b" %d" % size)
        return 0

    cdef tuple type_of(self, Span field, bint is_digest):
        """Type, subtype and parameters; an unreadable Content-Type is the default (RFC 2045 §5.2, RFC 2046 §5.1.5)."""
        cdef tuple found = None
        if field.p != NULL:
            found = plain_type(field.p, field.n)
            if found is None:
                found = self.content_type(cut(field.p, field.n))
        if found is None:
            return DIGEST_TYPE if is_digest else DEFAULT_TYPE
        return found

    cdef int put_parameters(self, parameters) except -1:
        cdef list out = self.out
        cdef bytes before = b" ("
        if not parameters:
            out.append(b" NIL")
            return 0
        for name, value in <tuple>parameters:
            out.append(before)
            out.append(quoted(<bytes>name))
            out.append(b" ")
            out.append(quoted(<bytes>value))
            before = b" "
        out.append(b")")
        return 0

    cdef int put_extension(self, const Span* fields) except -1:
        """Disposition, language and location."""
        if fields[DISPOSITION].p == NULL and fields[LANGUAGE].p == NULL and fields[LOCATION].p == NULL:
            self.out.append(b" NIL NIL NIL")
            return 0
        disposition = language = b"NIL"
        if fields[DISPOSITION].p != NULL:
            disposition = self.disposition(cut(fields[DISPOSITION].p, fields[DISPOSITION].n))
        if fields[LANGUAGE].p != NULL:
            language = self.language(cut(fields[LANGUAGE].p, fields[LANGUAGE].n))
        self.out.append(b" %b %b %b" % (disposition, language, text_of(fields[LOCATION])))
        return 0

    cdef int whole(self, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest, bint has_envelope) except -1:
        """A part or message that begins with its header; of a message the envelope stands before the structure."""
        cdef Span fields[FIELD_COUNT]
        cdef Py_ssize_t body = header_end(self.p, start, end)
        cdef Py_ssize_t octets = min(body - start, <Py_ssize_t>MAX_HEADER_OCTETS)
        find_fields(self.p + start, octets, fields)
        if has_envelope:
            self.out.append(b" %b " % self.envelope(cut(self.p + start, octets)))
        return self.part(fields, body, end, depth, is_digest)

    cdef int split(self, bytes boundary, bint is_digest, Py_ssize_t start, Py_ssize_t end, int depth) except -1:
        """The parts between the lines of a multipart that begin with `boundary` (RFC 2046 §5.1.1)."""
        cdef const unsigned char* p = self.p
        cdef const unsigned char* mark = <const unsigned char*>PyBytes_AS_STRING(boundary)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(boundary)
        cdef Py_ssize_t begin = -1       # of the part that is open
        cdef Py_ssize_t at = start       # where the search began: a line begins there
        cdef Py_ssize_t line = start
        cdef Py_ssize_t after
        cdef Py_ssize_t tail
        cdef Py_ssize_t stop
        cdef bint is_closed = False
        while not is_closed and self.count < MAX_PART_COUNT:
            line = find(p, line, end, mark, n)
            if line < 0:
                if begin >= 0:
                    self.whole(begin, end, depth + 1, is_digest, False)
                return 0
            tail = line + n
            if line != at and p[line - 1] != c'\n':
                line = tail
                continue
            after = find(p, tail, end, <const unsigned char*>b"\n", 1) + 1
            if after == 0:
                after = end
            stop = min(after, tail + 80)
            while stop > tail and is_space(p[stop - 1]):
                stop -= 1
            is_closed = stop - tail == 2 and p[tail] == c'-' and p[tail + 1] == c'-'
            if stop != tail and not is_closed:
                line = tail
                continue
            if begin >= 0:
                # The line end before a boundary belongs to the boundary.
                stop = max(begin, line - 1)
                if stop > begin and p[stop - 1] == c'\r' and p[stop] == c'\n':
                    stop -= 1
                self.whole(begin, stop, depth + 1, is_digest, False)
            begin = at = line = after
        return 0


def render_structure(
    bytes block not None, bytes data not None, Py_ssize_t start, Py_ssize_t end, content_type, disposition, language, envelope
) -> bytes:
    cdef Span fields[FIELD_COUNT]
    cdef _Walk walk = _Walk.__new__(_Walk)
    if not 0 <= start <= end <= PyBytes_GET_SIZE(data):
        raise ValueError("the body is not in the data")
    walk.p = <const unsigned char*>PyBytes_AS_STRING(data)
    walk.out = []
    walk.content_type = content_type
    walk.disposition = disposition
    walk.language = language
    walk.envelope = envelope
    find_fields(
        <const unsigned char*>PyBytes_AS_STRING(block), min(PyBytes_GET_SIZE(block), <Py_ssize_t>MAX_HEADER_OCTETS), fields
    )
    walk.part(fields, start, end, 0, False)
    return b"".join(walk.out)


def count_lines(bytes data not None, Py_ssize_t start, Py_ssize_t end) -> int:
    if not 0 <= start <= end <= PyBytes_GET_SIZE(data):
        raise ValueError("not in the data")
    return count_lf(<const unsigned char*>PyBytes_AS_STRING(data) + start, <size_t>(end - start))
