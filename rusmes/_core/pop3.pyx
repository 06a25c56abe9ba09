"""POP3's bytes: command lines (RFC 1939 §3) and messages on their way out, dot-stuffed (RFC 1939 §3 multi-line responses).

A message is stuffed where it is copied for sending anyway; without a dot at the start of a line (nearly always) the chunk
itself is sent.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

from rusmes._core.scan cimport has_control

VERBS = ("", "CAPA", "USER", "PASS", "AUTH", "APOP", "STLS", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP",
         "QUIT", "UTF8", "LANG")
CAPA = V_CAPA
USER = V_USER
PASS = V_PASS
AUTH = V_AUTH
APOP = V_APOP
STLS = V_STLS
STAT = V_STAT
LIST = V_LIST
UIDL = V_UIDL
RETR = V_RETR
TOP = V_TOP
DELE = V_DELE
RSET = V_RSET
NOOP = V_NOOP
QUIT = V_QUIT
UTF8 = V_UTF8
LANG = V_LANG

cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>

    /* How many dots follow an LF (`before` is the octet before the first). Blocks of 255, so that the inner loop
       counts in octets and is vectorised at -O3. */
    static inline size_t rusmes_line_dots(const unsigned char *p, size_t n, unsigned char before)
    {
        size_t total, i = 1;
        if (n == 0)
            return 0;
        total = (size_t)((before == 10) & (p[0] == 46));
        while (i < n) {
            size_t end = n - i < 255 ? n : i + 255;
            unsigned char some = 0;
            for (; i < end; i++)
                some += (unsigned char)((p[i - 1] == 10) & (p[i] == 46));
            total += some;
        }
        return total;
    }

    /* Four letters in capitals as one number. */
    static inline unsigned rusmes_word(const unsigned char *p)
    {
        unsigned word;
        memcpy(&word, p, 4);
        return word & 0xdfdfdfdfu;
    }
    static inline unsigned rusmes_word_of(const char *p)
    {
        unsigned word;
        memcpy(&word, p, 4);
        return word & 0xdfdfdfdfu;
    }
    """
    size_t line_dots "rusmes_line_dots"(const unsigned char* p, size_t n, unsigned char before) noexcept nogil
    unsigned int word_at "rusmes_word"(const unsigned char* p) noexcept nogil
    unsigned int word_of "rusmes_word_of"(const char* p) noexcept nogil


@cython.final
@cython.freelist(64)
cdef class Command:
    """A command line, taken apart."""

    def __repr__(self) -> str:
        argument = b"***" if self.verb in (V_PASS, V_AUTH, V_APOP) and self.argument else self.argument
        return f"Command({VERBS[self.verb]!r}, {self.number}, {self.lines}, {argument!r}, {self.well_formed})"


cdef int find_verb(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    cdef unsigned int word
    if n == 3:
        return V_TOP if (p[0] & 0xdf) == c'T' and (p[1] & 0xdf) == c'O' and (p[2] & 0xdf) == c'P' else V_UNKNOWN
    if n != 4:
        return V_UNKNOWN
    word = word_at(p)
    if word == word_of(b"RETR"):
        return V_RETR
    if word == word_of(b"DELE"):
        return V_DELE
    if word == word_of(b"LIST"):
        return V_LIST
    if word == word_of(b"UIDL"):
        return V_UIDL
    if word == word_of(b"STAT"):
        return V_STAT
    if word == word_of(b"NOOP"):
        return V_NOOP
    if word == word_of(b"QUIT"):
        return V_QUIT
    if word == word_of(b"CAPA"):
        return V_CAPA
    if word == word_of(b"USER"):
        return V_USER
    if word == word_of(b"PASS"):
        return V_PASS
    if word == word_of(b"AUTH"):
        return V_AUTH
    if word == word_of(b"STLS"):
        return V_STLS
    if word == word_of(b"RSET"):
        return V_RSET
    if word == word_of(b"APOP"):
        return V_APOP
    if word == word_of(b"LANG"):
        return V_LANG
    if word == word_of(b"UTF8") and p[3] == c'8':
        return V_UTF8
    return V_UNKNOWN


cdef const unsigned char* take_number(const unsigned char* p, const unsigned char* end, long* number) noexcept nogil:
    """A decimal number after spaces; NULL when there is none. It stops growing at 2**31-1: no maildrop has that many."""
    cdef long value = 0
    while p < end and p[0] == c' ':
        p += 1
    if p == end or p[0] < c'0' or p[0] > c'9':
        return NULL
    while p < end and c'0' <= p[0] <= c'9':
        value = value * 10 + (p[0] - c'0')
        if value > 2147483647:
            value = 2147483647
        p += 1
    number[0] = value
    return p


def parse(bytes line not None) -> Command:
    """The command of a line without its line end. Never fails: what makes no sense is not `well_formed`."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(line)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(line)
    cdef const unsigned char* end = p + n
    cdef const unsigned char* space = <const unsigned char*>memchr(p, c' ', <size_t>n)
    cdef const unsigned char* rest
    cdef Command command = Command.__new__(Command)
    if space == NULL:
        space = end
    command.verb = find_verb(p, space - p)
    command.number = -1
    command.lines = -1
    command.argument = b""
    # A control character is in no command, not even in a password (RFC 4616 §2 and RFC 4013 §2.3 refuse it there too).
    if has_control(p, <size_t>n):
        return command
    if command.verb in (V_USER, V_PASS, V_AUTH, V_APOP, V_LANG):
        rest = space + 1 if space < end else end
        command.argument = PyBytes_FromStringAndSize(<const char*>rest, end - rest)
        # RFC 5034 §4: AUTH alone asks which mechanisms there are.
        command.well_formed = rest < end or command.verb in (V_AUTH, V_LANG)
        return command
    if command.verb == V_UNKNOWN:
        return command
    rest = space
    if command.verb in (V_RETR, V_TOP, V_DELE, V_LIST, V_UIDL):
        rest = take_number(space, end, &command.number)
        if rest == NULL:
            if command.verb not in (V_LIST, V_UIDL):
                return command
            rest = space
        if command.verb == V_TOP:
            if rest == end or rest[0] != c' ':
                return command
            rest = take_number(rest, end, &command.lines)
            if rest == NULL:
                return command
    while rest < end and rest[0] == c' ':
        rest += 1
    command.well_formed = rest == end
    return command


cdef Py_ssize_t stuff(const unsigned char* p, Py_ssize_t n, unsigned char before, unsigned char* out) noexcept nogil:
    """Copy with a dot before each dot that begins a line; the octets written."""
    cdef unsigned char* start = out
    cdef const unsigned char* end = p + n
    cdef const unsigned char* lf
    cdef Py_ssize_t size
    if n > 0 and before == c'\n' and p[0] == c'.':
        out[0] = c'.'
        out += 1
    while True:
        lf = <const unsigned char*>memchr(p, c'\n', <size_t>(end - p))
        if lf == NULL:
            memcpy(out, p, <size_t>(end - p))
            return out + (end - p) - start
        size = lf + 1 - p
        memcpy(out, p, <size_t>size)
        out += size
        p += size
        if p < end and p[0] == c'.':
            out[0] = c'.'
            out += 1


cdef bytes stuffed(bytes chunk, Py_ssize_t size, unsigned char before):
    """The first `size` octets of a chunk as they are sent; the chunk itself when nothing is to be done."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(chunk)
    cdef size_t dots = line_dots(p, <size_t>size, before)
    cdef bytes out
    if dots == 0:
        return chunk if size == PyBytes_GET_SIZE(chunk) else PyBytes_FromStringAndSize(<const char*>p, size)
    out = PyBytes_FromStringAndSize(NULL, size + <Py_ssize_t>dots)
    stuff(p, size, before, <unsigned char*>PyBytes_AS_STRING(out))
    return out


def message_reply(bytes head not None, bytes prefix not None, bytes data not None, Py_ssize_t skip=0) -> bytes:
    """A whole small message as one reply: `head` (the status line), `prefix` and `data[skip:]` stuffed, and the end."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(prefix)
    cdef const unsigned char* q = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t head_size = PyBytes_GET_SIZE(head)
    cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(prefix)
    cdef Py_ssize_t data_size = PyBytes_GET_SIZE(data) - skip
    cdef unsigned char between = c'\n' if prefix_size == 0 else p[prefix_size - 1]
    cdef Py_ssize_t dots
    cdef bint ended
    cdef unsigned char* out
    cdef bytes reply
    if skip < 0 or data_size < 0:
        raise ValueError("skip is outside of the data")
    q += skip
    dots = <Py_ssize_t>(line_dots(p, <size_t>prefix_size, c'\n') + line_dots(q, <size_t>data_size, between))
    if data_size > 1:
        ended = q[data_size - 2] == c'\r' and q[data_size - 1] == c'\n'
    elif data_size == 1:
        ended = between == c'\r' and q[0] == c'\n'
    else:
        ended = prefix_size == 0 or (prefix_size > 1 and p[prefix_size - 2] == c'\r' and between == c'\n')
    reply = PyBytes_FromStringAndSize(NULL, head_size + prefix_size + data_size + dots + (3 if ended else 5))
    out = <unsigned char*>PyBytes_AS_STRING(reply)
    memcpy(out, PyBytes_AS_STRING(head), <size_t>head_size)
    out += head_size
    if dots == 0:
        memcpy(out, p, <size_t>prefix_size)
        memcpy(out + prefix_size, q, <size_t>data_size)
        out += prefix_size + data_size
    else:
        out += stuff(p, prefix_size, c'\n', out)
        out += stuff(q, data_size, between, out)
    if not ended:
        memcpy(out, b"\r\n", 2)
        out += 2
    memcpy(out, b".\r\n", 3)
    return reply


cdef inline bint only_cr(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n and p[i] == c'\r':
        i += 1
    return i == n


@cython.final
cdef class DotStuffer:
    """A message in chunks, out as it is sent. With `lines` >= 0 only the header and that many lines of the body (TOP)."""

    def __cinit__(self, long lines=-1):
        self.before = c'\r'
        self.last = c'\n'
        self.lines_left = lines
        self.place = IN_HEADER if lines >= 0 else IN_BODY
        self.line_is_empty = True

    def feed(self, bytes chunk not None) -> bytes:
        """The next chunk, stuffed; b"" when `is_done`."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(chunk)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(chunk)
        cdef bytes out
        if self.place == FINISHED or n == 0:
            return b""
        if self.lines_left >= 0:
            n = self.cut(p, n)
            if n == 0:
                return b""
        out = stuffed(chunk, n, self.last)
        self.before = self.last if n == 1 else p[n - 2]
        self.last = p[n - 1]
        self.octets += n
        return out

    cdef Py_ssize_t cut(self, const unsigned char* p, Py_ssize_t n) noexcept:
        """How many octets of this chunk TOP wants."""
        cdef Py_ssize_t at = 0
        cdef const unsigned char* lf
        cdef Py_ssize_t length
        while at < n:
            if self.place == IN_BODY and self.lines_left == 0:
                self.place = FINISHED
                return at
            lf = <const unsigned char*>memchr(p + at, c'\n', <size_t>(n - at))
            length = (n if lf == NULL else lf - p) - at
            # An empty line holds nothing but CRs, however the chunks cut it.
            if self.line_is_empty and not only_cr(p + at, length):
                self.line_is_empty = False
            if lf == NULL:
                return n
            at += length + 1
            if self.place == IN_BODY:
                self.lines_left -= 1
            elif self.line_is_empty:
                self.place = IN_BODY
            self.line_is_empty = True
        if self.place == IN_BODY and self.lines_left == 0:
            self.place = FINISHED
        return n

    @property
    def is_done(self) -> bool:
        """Whether no more of the message is wanted."""
        return self.place == FINISHED

    def finish(self) -> bytes:
        """The end of the reply; a line that has not ended is ended first (the terminator is CRLF, dot, CRLF)."""
        self.place = FINISHED
        return b".\r\n" if self.before == c'\r' and self.last == c'\n' else b"\r\n.\r\n"
