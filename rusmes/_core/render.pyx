"""FETCH responses, many at a time, from the columns of a mailbox and the emails' stored forms. See `render.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcpy

from rusmes._core.cursor cimport Cursor
from rusmes._core.encode cimport Buffer
from rusmes._core.rows cimport EmailFacts
from rusmes._core.scan cimport find_lf
from rusmes._core.view cimport EXPUNGED, ODD, SYSTEM_BITS, MailboxRows, Uids

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char*, const char*, size_t)


cdef enum:
    WITH_UID = 1
    WITH_FLAGS = 2
    WITH_INTERNALDATE = 4
    WITH_SIZE = 8
    WITH_MODSEQ = 16
    WITH_EMAILID = 32
    WITH_THREADID = 64
    WITH_ENVELOPE = 128
    WITH_BODYSTRUCTURE = 256
    WITH_BODY = 512
    AS_UIDFETCH = 1024
    NEEDS_FACTS = 64 | 128 | 256 | 512
    ID_OCTETS = 16
    MAX_PICKED = 32
    MAX_NESTING = 200          # of parentheses in a stored structure: mime stops at a depth of 32

UID = WITH_UID
FLAGS = WITH_FLAGS
INTERNALDATE = WITH_INTERNALDATE
SIZE = WITH_SIZE
MODSEQ = WITH_MODSEQ
EMAILID = WITH_EMAILID
THREADID = WITH_THREADID
ENVELOPE = WITH_ENVELOPE
BODYSTRUCTURE = WITH_BODYSTRUCTURE
BODY = WITH_BODY
UIDFETCH = AS_UIDFETCH
FACTS = NEEDS_FACTS

cdef const char* ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
cdef const char* MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
# By bit, in the order of storage.flags.SYSTEM_FLAGS.
cdef const char* SYSTEM_FLAGS[5]
cdef int SYSTEM_FLAG_SIZES[5]
SYSTEM_FLAGS[:] = ["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft"]
SYSTEM_FLAG_SIZES[:] = [5, 9, 8, 8, 6]


cdef int put_flags(Buffer out, MailboxRows rows, Py_ssize_t row, bint is_recent) except -1:
    cdef unsigned int bits = rows.bits[row] & SYSTEM_BITS
    cdef bytes words
    cdef bint after = False
    cdef int i
    out.put("FLAGS (", 7)
    for i in range(5):
        if bits >> i & 1:
            if after:
                out.put_char(c' ')
            out.put(SYSTEM_FLAGS[i], SYSTEM_FLAG_SIZES[i])
            after = True
    if rows.words[row]:
        words = rows.words_at(row)
        if after:
            out.put_char(c' ')
        out.put_bytes(words)
        after = True
    if is_recent:
        out.put(" \\Recent" if after else "\\Recent", 8 if after else 7)
    return out.put_char(c')')


cdef int put_two(char* p, int64_t number) noexcept:
    p[0] = <char>(c'0' + number // 10)
    p[1] = <char>(c'0' + number % 10)
    return 0


cdef int put_date(Buffer out, int64_t seconds) except -1:
    """RFC 9051 §9 date-time: "dd-mon-yyyy hh:mm:ss +0000"; its year has four digits."""
    cdef char text[28]
    cdef int64_t days = seconds // 86400
    cdef int64_t rest = seconds % 86400
    cdef int64_t era, year, month, day, of_era, of_year, m
    if rest < 0:  # C division
        rest += 86400
        days -= 1
    # Days since 0000-03-01; 400 years have 146,097 days, and the leap day comes last.
    days += 719468
    if days < 0:
        days = 0
    era = days // 146097
    of_era = days % 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    m = (5 * of_year + 2) // 153
    day = of_year - (153 * m + 2) // 5 + 1
    month = m + 3 if m < 10 else m - 9
    year += era * 400 + (1 if month <= 2 else 0)
    if year > 9999:
        year = 9999
    text[0] = c'"'
    put_two(text + 1, day)
    text[3] = c'-'
    text[4] = MONTHS[3 * (month - 1)]
    text[5] = MONTHS[3 * (month - 1) + 1]
    text[6] = MONTHS[3 * (month - 1) + 2]
    text[7] = c'-'
    put_two(text + 8, year // 100)
    put_two(text + 10, year % 100)
    text[12] = c' '
    put_two(text + 13, rest // 3600)
    text[15] = c':'
    put_two(text + 16, rest // 60 % 60)
    text[18] = c':'
    put_two(text + 19, rest % 60)
    return out.put(text, 21) or out.put(" +0000\"", 7)


cdef int put_id(Buffer out, const unsigned char* p) except -1:
    """As `ids.id_text`: 128 bits in 26 characters of five, the first has three."""
    cdef char text[26]
    cdef unsigned int bits = 0
    cdef int count = 0
    cdef int at = 26
    cdef int i
    for i in range(ID_OCTETS - 1, -1, -1):
        bits |= <unsigned int>p[i] << count
        count += 8
        while count >= 5:
            at -= 1
            text[at] = ALPHABET[bits & 31]
            bits >>= 5
            count -= 5
    text[0] = ALPHABET[bits & 31]
    return out.put(text, 26)


# BODY from BODYSTRUCTURE

cdef Py_ssize_t skip_value(const char* p, Py_ssize_t n, Py_ssize_t at) noexcept nogil:
    """Behind the value at `at`: a string, a literal, a number, NIL or a list. -1: it is broken."""
    cdef Py_ssize_t size
    cdef int depth = 0
    while at < n:
        if p[at] == c'"':
            at += 1
            while at < n and p[at] != c'"':
                at += 2 if p[at] == c'\\' else 1
            at += 1
        elif p[at] == c'{':
            size = 0
            at += 1
            while at < n and c'0' <= p[at] <= c'9' and size < n:
                size = size * 10 + (p[at] - c'0')
                at += 1
            at += 3 + size  # } CR LF
        elif p[at] == c'(':
            depth += 1
            at += 1
        elif p[at] == c')':
            depth -= 1
            at += 1
        elif p[at] == c' ':
            at += 1
        else:
            while at < n and p[at] != c' ' and p[at] != c')' and p[at] != c'(':
                at += 1
        if depth == 0 and at <= n and p[at - 1] != c' ':
            return at
        if depth < 0:
            return -1
    return -1


cdef Py_ssize_t put_body(Buffer out, const char* p, Py_ssize_t n, Py_ssize_t at, int nesting) except -2:
    """Copy the structure at `at` without its extension data (RFC 9051 §7.5.2); where it ends, -1 when it is broken."""
    cdef Py_ssize_t start = at
    cdef Py_ssize_t end = skip_value(p, n, at)
    cdef int i
    if end < 0 or p[at] != c'(' or nesting > MAX_NESTING:
        return -1
    out.put_char(c'(')
    at += 1
    if p[at] == c'(':  # multipart: parts, subtype
        while at < n and p[at] == c'(':
            at = put_body(out, p, n, at, nesting + 1)
            if at < 0:
                return -1
        start = at
        at = skip_value(p, n, at + 1)
        if at < 0:
            return -1
        out.put(p + start, at - start)
    else:  # type, subtype, parameters, id, description, encoding, octets
        start = at
        for i in range(7):
            at = skip_value(p, n, at + (1 if i else 0))
            if at < 0:
                return -1
        out.put(p + start, at - start)
        if at + 1 < n and p[at] == c' ':
            if p[at + 1] == c'(':  # message/rfc822: envelope, structure, lines
                start = at
                at = skip_value(p, n, at + 1)
                if at < 0 or at + 1 >= n:
                    return -1
                out.put(p + start, at + 1 - start)
                at = put_body(out, p, n, at + 1, nesting + 1)
                if at < 0:
                    return -1
            if at + 1 < n and c'0' <= p[at + 1] <= c'9':
                start = at
                at = skip_value(p, n, at + 1)
                if at < 0:
                    return -1
                out.put(p + start, at - start)
    out.put_char(c')')
    return end


def numbers(Uids found not None, Py_ssize_t start, Py_ssize_t stop) -> bytes:
    cdef Buffer out = Buffer.__new__(Buffer)
    cdef Py_ssize_t i
    if start < 0 or stop > found.n or start > stop:
        raise IndexError(f"{start}:{stop} of {found.n}")
    for i in range(start, stop):
        out.put_char(b" ")
        out.put_number(found.data[i])
    return out.take()


def body_of(bytes structure not None) -> bytes:
    cdef Buffer out = Buffer.__new__(Buffer)
    if put_body(out, PyBytes_AS_STRING(structure), PyBytes_GET_SIZE(structure), 0, 0) < 0:
        raise ValueError("not a BODYSTRUCTURE")
    return out.take()


def internal_date(int64_t seconds) -> bytes:
    cdef Buffer out = Buffer.__new__(Buffer)
    put_date(out, seconds)
    return out.take()


# Header fields that the store has at hand

@cython.final
cdef class HeaderPick:
    """The lines of some fields of a block, as a literal."""
    cdef bytes heading
    cdef tuple names
    cdef const char* pointers[MAX_PICKED]
    cdef Py_ssize_t sizes[MAX_PICKED]
    cdef int count

    def __cinit__(self, bytes heading not None, names not None):
        cdef bytes name
        self.heading = heading
        self.names = tuple(names)
        if len(self.names) > MAX_PICKED or b"" in self.names:
            raise ValueError(f"an empty name, or more than {MAX_PICKED}")
        for name in self.names:
            self.pointers[self.count] = PyBytes_AS_STRING(name)
            self.sizes[self.count] = PyBytes_GET_SIZE(name)
            self.count += 1

    cdef bint is_named(self, const char* p, Py_ssize_t n) noexcept nogil:
        """Whether the line begins with one of the names, blanks (RFC 5322 §4.5) and a colon."""
        cdef int i
        cdef Py_ssize_t k
        for i in range(self.count):
            k = self.sizes[i]
            if p[0] != self.pointers[i][0] and p[0] | 32 != self.pointers[i][0]:
                continue
            if n <= k or strncasecmp(p, self.pointers[i], <size_t>k) != 0:
                continue
            while k < n and (p[k] == c' ' or p[k] == c'\t'):
                k += 1
            if k < n and p[k] == c':':
                return True
        return False

    cdef Py_ssize_t walk(self, const char* p, Py_ssize_t n, char* to) noexcept nogil:
        """How many octets the fields have; they are copied when there is a place for them."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t end, line
        cdef Py_ssize_t size = 0
        while at < n:
            end = at
            while True:
                line = find_lf(p + end, n - end)
                end = n if line < 0 else end + line + 1
                if end >= n or (p[end] != c' ' and p[end] != c'\t'):
                    break
            if self.is_named(p + at, end - at):
                if to != NULL:
                    memcpy(to + size, p + at, <size_t>(end - at))
                size += end - at
            at = end
        return size

    cdef int put(self, Buffer out, const char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t size = self.walk(p, n, NULL)
        cdef char* at
        out.put_bytes(self.heading)
        out.put_char(c'{')
        out.put_number(<uint64_t>size + 2)
        out.put("}\r\n", 3)
        if out.capacity - out.n < size:
            out.grow(size)
        self.walk(p, n, out.data + out.n)
        while True:  # RFC 9051 §4.3: no NUL in a literal
            at = <char*>memchr(out.data + out.n, 0, <size_t>size)
            if at == NULL:
                break
            at[0] = <char>0x80
        out.n += size
        # The empty line belongs to every header that is fetched (RFC 9051 §6.4.5.1).
        return out.put("\r\n ", 3)


def have_headers(list facts not None) -> bool:
    cdef EmailFacts fact
    for fact in facts:
        if fact is not None and fact.headers_at == fact.end:
            return False
    return True


# Responses

cdef int put_facts(Buffer out, EmailFacts facts, int items) except -1:
    cdef const char* p = PyBytes_AS_STRING(facts.row)
    cdef Py_ssize_t mark
    if items & WITH_THREADID:
        out.put("THREADID (", 10)
        put_id(out, <const unsigned char*>p + 24)
        out.put(") ", 2)
    if items & WITH_ENVELOPE:
        out.put("ENVELOPE ", 9)
        out.put(p + facts.envelope_at, <Py_ssize_t>(facts.structure_at - facts.envelope_at))
        out.put_char(c' ')
    if items & WITH_BODY:
        out.put("BODY ", 5)
        if put_body(
            out, p + facts.structure_at, <Py_ssize_t>(facts.identifiers_at - facts.structure_at), 0, 0
        ) < 0:
            raise ValueError("not a BODYSTRUCTURE")
        out.put_char(c' ')
    if items & WITH_BODYSTRUCTURE:
        out.put("BODYSTRUCTURE ", 14)
        out.put(p + facts.structure_at, <Py_ssize_t>(facts.identifiers_at - facts.structure_at))
        out.put_char(c' ')
    return 0


cdef int put_columns(Buffer out, Cursor cursor, Py_ssize_t row, int items) except -1:
    cdef MailboxRows rows = cursor.rows
    if items & WITH_UID:
        out.put("UID ", 4)
        out.put_number(rows.uids[row])
        out.put_char(c' ')
    if items & WITH_FLAGS:
        put_flags(out, rows, row, rows.uids[row] >= cursor.recent_from)
        out.put_char(c' ')
    if items & WITH_MODSEQ:
        out.put("MODSEQ (", 8)
        out.put_number(rows.modseqs[row])
        out.put(") ", 2)
    if items & WITH_INTERNALDATE:
        out.put("INTERNALDATE ", 13)
        put_date(out, rows.internal_date(row) if rows.bits[row] & ODD else <int64_t>rows.dates[row])
        out.put_char(c' ')
    if items & WITH_SIZE:
        out.put("RFC822.SIZE ", 12)
        out.put_number(rows.message_size(row) if rows.bits[row] & ODD else <uint64_t>rows.sizes[row])
        out.put_char(c' ')
    if items & WITH_EMAILID:
        out.put("EMAILID (", 9)
        put_id(out, rows.ids + row * ID_OCTETS)
        out.put(") ", 2)
    return 0


cdef int put_more(Buffer out, object more) except -1:
    if type(more) is not tuple:
        return out.put_bytes(<bytes?>more)
    for piece in <tuple>more:
        out.put_bytes(<bytes?>piece)
    return 0


cdef Py_ssize_t octets_of(list more) except -1:
    """About as many as these take, with what stands before them."""
    cdef Py_ssize_t size = 0
    for item in more:
        size += 64
        if type(item) is tuple:
            for piece in <tuple>item:
                size += len(piece)
        elif item is not None:
            size += len(item)
    return size


def fetch_responses(
    Cursor cursor not None, Uids uids not None, Py_ssize_t start, Py_ssize_t stop, int items, list facts=None, list more=None,
    tuple picks not None=(),
) -> tuple:
    cdef Buffer out = Buffer.__new__(Buffer)
    cdef MailboxRows rows = cursor.rows
    cdef Py_ssize_t row = -1
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t gone = 0
    cdef Py_ssize_t missing = 0
    cdef Py_ssize_t begin
    cdef Py_ssize_t i
    cdef EmailFacts fact
    if start < 0 or stop > uids.n or start > stop:
        raise IndexError(f"{start}:{stop} of {uids.n}")
    if ((items & NEEDS_FACTS or picks) and facts is None) or (facts is not None and len(facts) != stop - start) or (
        more is not None and len(more) != stop - start
    ):
        raise ValueError("not as many as messages")
    if more is not None:
        out.grow(octets_of(more))
    for i in range(start, stop):
        if 0 <= row and row + 1 < rows.size and rows.uids[row + 1] == uids.data[i]:
            row += 1
        else:
            row = rows.find(uids.data[i])
            k = 0
            gone = 0
        # Tombstones before the row, which the client knows of
        while k < rows.dead and <Py_ssize_t>rows.dead_rows[k] < row:
            gone += rows.dead_serials[k] <= cursor.told
            k += 1
        if row < 0 or row >= cursor.known or (
            k < rows.dead and <Py_ssize_t>rows.dead_rows[k] == row and rows.dead_serials[k] <= cursor.told
        ):
            missing += 1
            continue
        fact = None
        if facts is not None:
            fact = <EmailFacts?>facts[i - start] if facts[i - start] is not None else None
            if fact is None:
                missing += 1
                continue
        if more is not None and more[i - start] is None:
            missing += 1
            continue
        begin = out.n
        out.put("* ", 2)
        if items & AS_UIDFETCH:
            out.put_number(rows.uids[row])
            out.put(" UIDFETCH (", 11)
        else:
            out.put_number(<uint64_t>(row + 1 - gone))
            out.put(" FETCH (", 8)
        put_columns(out, cursor, row, items)
        if items & NEEDS_FACTS:
            put_facts(out, fact, items)
        for pick in picks:
            (<HeaderPick?>pick).put(
                out, PyBytes_AS_STRING(fact.row) + fact.headers_at, <Py_ssize_t>(fact.end - fact.headers_at)
            )
        if more is not None and more[i - start]:
            put_more(out, more[i - start])
        elif out.data[out.n - 1] == c' ':
            out.n -= 1
        else:  # there is nothing to say of it
            out.n = begin
            continue
        out.put(")\r\n", 3)
    return out.take(), missing
