"""The SMTP wire: command lines, and which octets belong to what. xtext.

It knows octets and the limits it was given; order, replies and policy are `rusmes.smtp.session`'s; message text is
`_core.body`'s. The file is long because the reader and the events it makes are one hot path and inline into each other.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

from rusmes._core.body cimport BodyScanner
from rusmes._core.chars cimport ATEXT, CLASSES, DIGIT, HEX, LDH, LET_DIG, UPPER, VALUE, XCHAR
from rusmes._core.scan cimport find_lf, has_control


cdef enum:
    KIND_NEED_DATA = 0
    KIND_COMMAND = 1
    KIND_LINE = 2
    KIND_BODY_CHUNK = 3
    KIND_BODY_END = 4
    KIND_MALFORMED = 5
    KIND_FAULT = 6
    KIND_CLOSED = 255

COMMAND = KIND_COMMAND
LINE = KIND_LINE
BODY_CHUNK = KIND_BODY_CHUNK
BODY_END = KIND_BODY_END
MALFORMED = KIND_MALFORMED
FAULT = KIND_FAULT


# Verbs. Their order is the order of VERBS and of the session's bits.
cdef enum Verb:
    EHLO
    HELO
    LHLO
    MAIL
    RCPT
    DATA
    BDAT
    RSET
    NOOP
    QUIT
    VRFY
    HELP
    AUTH
    STARTTLS
    XCLIENT
    EXPN
    TURN
    ETRN
    KNOWN_VERBS
    HTTP
    UNKNOWN

VERBS = (
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "HELP", "AUTH", "STARTTLS",
    "XCLIENT", "EXPN", "TURN", "ETRN",
)  # fmt: skip

cdef tuple VERB_NAMES = VERBS


# What the reader is in the middle of
cdef enum Mode:
    IN_COMMAND
    IN_LINE
    IN_DATA
    IN_CHUNK
    IN_SKIP
    AT_END


cdef enum:
    MAX_LOCAL_OCTETS = 64     # RFC 5321 §4.5.3.1.1
    MAX_DOMAIN_OCTETS = 255   # RFC 5321 §4.5.3.1.2; 253 is what DNS can carry, and the address grammar asks for that
    MAX_LABEL_OCTETS = 63     # RFC 1035 §2.3.4


@cython.final
@cython.freelist(8)
cdef class Command:
    def __cinit__(self):
        self.kind = KIND_COMMAND
        self.size = -1

    @property
    def argument(self) -> bytes:
        return self.line[self.argument_at:]

    @property
    def text(self) -> str:
        if self.bit == 1 << AUTH:
            return self.mechanism
        return printable(self.line[self.argument_at:])

    @property
    def mechanism(self) -> str:
        word = self.line[self.argument_at:].partition(b" ")[0]
        return printable(word).upper()

    @property
    def initial(self):
        word, blank, rest = self.line[self.argument_at:].partition(b" ")
        return rest if blank else None

    def complete(self, address, parameters) -> None:
        self.address = address
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"Command({printable(self.line)!r})" if self.verb != "AUTH" else "Command('AUTH ...')"


@cython.final
@cython.freelist(4)
cdef class Line:
    def __cinit__(self, bytes data not None):
        self.kind = KIND_LINE
        self.data = data

    def __repr__(self) -> str:
        return "Line(...)"


@cython.final
@cython.freelist(8)
cdef class BodyChunk:
    def __cinit__(self, bytes data not None):
        self.kind = KIND_BODY_CHUNK
        self.data = data

    def __repr__(self) -> str:
        return f"BodyChunk({len(self.data)} octets)"


@cython.final
@cython.freelist(8)
cdef class BodyEnd:
    def __cinit__(self):
        self.kind = KIND_BODY_END

    def __repr__(self) -> str:
        return f"BodyEnd(faults={self.faults}, repaired={self.repaired}, last={self.last}, size={self.size})"


@cython.final
cdef class Fault:
    def __cinit__(self, str reason not None, str verb=""):
        self.kind = KIND_FAULT
        self.reason = reason
        self.verb = verb

    def __repr__(self) -> str:
        return f"Fault({self.reason!r}, {self.verb!r})"


@cython.final
cdef class Signal:
    def __cinit__(self, int kind, str name not None):
        self.kind = kind
        self.name = name

    def __repr__(self) -> str:
        return self.name


NEED_DATA = Signal(KIND_NEED_DATA, "NEED_DATA")
CLOSED = Signal(KIND_CLOSED, "CLOSED")

cdef object need_data = NEED_DATA


def printable(bytes text not None) -> str:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i
    for i in range(n):
        if p[i] < 32 or p[i] > 126:
            break
    else:
        return PyUnicode_DecodeASCII(<const char*>p, n, NULL)
    return "".join([chr(c) if 32 <= c <= 126 else "?" for c in text])


WireEvent = Command | Line | BodyChunk | BodyEnd | Fault | Signal


# ---- Command lines

cdef inline unsigned int four(const unsigned char* p) noexcept nogil:
    """Four letters in lower case as a number; the order of its octets is the same everywhere."""
    return (<unsigned int>(p[0] | 32) << 24 | <unsigned int>(p[1] | 32) << 16
            | <unsigned int>(p[2] | 32) << 8 | <unsigned int>(p[3] | 32))


cdef inline bint is_word(const unsigned char* p, Py_ssize_t n, const char* word, Py_ssize_t length) noexcept nogil:
    """Whether n octets are this lower-case word of letters."""
    cdef Py_ssize_t i
    if n != length:
        return False
    for i in range(n):
        if (p[i] | 32) != <unsigned char>word[i]:
            return False
    return True


cdef Verb find_verb(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """The verb that n octets spell. HTTP stands for the methods of HTTP, which come from browsers made to speak to us."""
    cdef unsigned int word
    cdef Py_ssize_t i
    if n < 3 or n > 8:
        return UNKNOWN
    for i in range(n):
        if not (65 <= (p[i] & 0xDF) <= 90):
            return UNKNOWN
    if n == 3:
        if is_word(p, n, b"get", 3) or is_word(p, n, b"put", 3) or is_word(p, n, b"pri", 3):
            return HTTP
        return UNKNOWN
    word = four(p)
    if n == 4:
        if word == 0x65686C6F: return EHLO
        if word == 0x68656C6F: return HELO
        if word == 0x6C686C6F: return LHLO
        if word == 0x6D61696C: return MAIL
        if word == 0x72637074: return RCPT
        if word == 0x64617461: return DATA
        if word == 0x62646174: return BDAT
        if word == 0x72736574: return RSET
        if word == 0x6E6F6F70: return NOOP
        if word == 0x71756974: return QUIT
        if word == 0x76726679: return VRFY
        if word == 0x68656C70: return HELP
        if word == 0x61757468: return AUTH
        if word == 0x6578706E: return EXPN
        if word == 0x7475726E: return TURN
        if word == 0x6574726E: return ETRN
        if word == 0x706F7374: return HTTP  # post
        if word == 0x68656164: return HTTP  # head
        return UNKNOWN
    if word == 0x73746172 and is_word(p, n, b"starttls", 8):
        return STARTTLS
    if word == 0x78636C69 and is_word(p, n, b"xclient", 7):
        return XCLIENT
    if (is_word(p, n, b"connect", 7) or is_word(p, n, b"options", 7) or is_word(p, n, b"delete", 6)
            or is_word(p, n, b"trace", 5) or is_word(p, n, b"patch", 5)):
        return HTTP
    return UNKNOWN


cdef inline Py_ssize_t skip_blanks(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    while i < n and p[i] == c' ':
        i += 1
    return i


cdef Py_ssize_t find_path_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The offset of the ">" that closes the path that begins at i, or -1. A quoted string may contain one."""
    cdef bint quoted = False
    while i < n:
        if p[i] == c'"':
            quoted = not quoted
        elif p[i] == c'\\' and quoted:
            i += 1
        elif p[i] == c'>' and not quoted:
            return i
        i += 1
    return -1


cdef int take_plain_address(const unsigned char* p, Py_ssize_t n, Command command) except -1:
    """The fast path: a dot-string in ASCII at a domain name. 1 when the n octets are that, 0 leaves it to the grammar."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t at
    cdef Py_ssize_t label = 0
    cdef Py_ssize_t domain_octets
    cdef bint in_digits = True
    cdef char domain[MAX_DOMAIN_OCTETS]
    while i < n and (CLASSES[p[i]] & ATEXT or (p[i] == c'.' and label)):
        label = 0 if p[i] == c'.' else label + 1
        i += 1
    at = i
    if i >= n or p[i] != c'@' or not label or at > MAX_LOCAL_OCTETS:
        return 0
    domain_octets = n - at - 1
    if not 1 <= domain_octets <= 253:
        return 0
    label = 0
    for i in range(domain_octets):
        c = p[at + 1 + i]
        if c == c'.':
            if not label or label > MAX_LABEL_OCTETS or domain[i - 1] == c'-':
                return 0
            label = 0
            in_digits = True
        elif CLASSES[c] & LDH and not (c == c'-' and not label):
            label += 1
            if not CLASSES[c] & DIGIT:
                in_digits = False
        else:
            return 0
        domain[i] = <char>(c | 32 if CLASSES[c] & UPPER else c)
    if not label or label > MAX_LABEL_OCTETS or domain[domain_octets - 1] == c'-' or in_digits:
        return 0
    command.local = PyUnicode_DecodeASCII(<const char*>p, at, NULL)
    command.domain = PyUnicode_DecodeASCII(domain, domain_octets, NULL)
    return 1


cdef list take_parameters(const unsigned char* p, Py_ssize_t i, Py_ssize_t n):
    """RFC 5321 §4.1.2: SP keyword ["=" value], repeated. None when it is not that."""
    cdef list pairs = []
    cdef Py_ssize_t start
    cdef Py_ssize_t key_end
    while i < n:
        if p[i] != c' ':
            return None
        i = skip_blanks(p, i, n)
        if i == n:
            break
        start = i
        if not CLASSES[p[i]] & LET_DIG:
            return None
        while i < n and CLASSES[p[i]] & LDH and p[i] != c'_':
            i += 1
        key_end = i
        key = PyUnicode_DecodeASCII(<const char*>p + start, key_end - start, NULL).upper()
        value = None
        if i < n and p[i] == c'=':
            i += 1
            start = i
            while i < n and CLASSES[p[i]] & VALUE:
                i += 1
            if i == start:
                return None
            value = PyBytes_FromStringAndSize(<const char*>p + start, i - start)
        pairs.append((key, value))
    return pairs


cdef object envelope_command(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Command command):
    """MAIL FROM:<path> parameters, RCPT TO:<path> parameters (RFC 5321 §4.1.1.2, §4.1.1.3). p is all of the line."""
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    if has_control(p, <size_t>n):
        return Fault("control", command.verb)
    if command.bit == 1 << MAIL:
        if n - i < 5 or not is_word(p + i, 4, b"from", 4) or p[i + 4] != c':':
            return Fault("syntax", command.verb)
        i += 5
    else:
        if n - i < 3 or not is_word(p + i, 2, b"to", 2) or p[i + 2] != c':':
            return Fault("syntax", command.verb)
        i += 3
    # A blank after the colon is not in the grammar and is in many clients.
    i = skip_blanks(p, i, n)
    if i >= n or p[i] != c'<':
        return Fault("brackets", command.verb)
    start = i + 1
    end = find_path_end(p, start, n)
    if end < 0:
        return Fault("brackets", command.verb)
    if not take_plain_address(p + start, end - start, command):
        command.path = PyBytes_FromStringAndSize(<const char*>p + start, end - start)
    if end + 1 < n:
        command.pairs = take_parameters(p, end + 1, n)
        if command.pairs is None:
            return Fault("parameters", command.verb)
        if not command.pairs:
            command.pairs = None
    return command


cdef object chunk_command(const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Command command):
    """BDAT size [LAST] (RFC 3030 §2). A size that cannot be read leaves no way to find the next command."""
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t start = i
    while i < n and CLASSES[p[i]] & DIGIT:
        if size > ((<Py_ssize_t>1 << 62) - 10) // 10:
            return Fault("chunk-size", command.verb)
        size = size * 10 + (p[i] - 48)
        i += 1
    if i == start:
        return Fault("chunk-size", command.verb)
    command.size = size
    if i < n:
        if p[i] != c' ':
            return Fault("chunk-size", command.verb)
        i = skip_blanks(p, i, n)
        if not is_word(p + i, n - i, b"last", 4):
            return Fault("chunk-size", command.verb)
        command.last = True
    return command


cdef object read_command(const unsigned char* p, Py_ssize_t n):
    """One line without its line end, and without the blanks at its end."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t word
    cdef Verb verb
    cdef Command command
    while n > 0 and p[n - 1] == c' ':
        n -= 1
    while i < n and p[i] != c' ' and i <= 8:
        i += 1
    word = i
    verb = find_verb(p, word)
    if verb >= KNOWN_VERBS:
        if verb == HTTP:
            return Fault("http")
        return Fault("empty" if n == 0 else "unknown")
    command = Command.__new__(Command)
    command.verb = VERB_NAMES[<int>verb]
    command.bit = 1 << <unsigned int>verb
    command.line = PyBytes_FromStringAndSize(<const char*>p, n)
    i = skip_blanks(p, i, n)
    command.argument_at = <int>i
    if verb == MAIL or verb == RCPT:
        return envelope_command(p, i, n, command)
    if verb == BDAT:
        return chunk_command(p, i, n, command)
    if i < n and has_control(p + i, <size_t>(n - i)):
        return Fault("control", command.verb)
    return command


@cython.final
cdef class CommandReader(LineBuffer):
    def __init__(self, Py_ssize_t limit, *, Py_ssize_t envelope_limit, Py_ssize_t auth_limit, Py_ssize_t discard_limit=65536,
                 bint bare_newline_allowed=False):
        LineBuffer.__init__(self, limit, discard_limit=discard_limit)
        self.envelope_limit = envelope_limit
        self.auth_limit = auth_limit
        self.bare_newline_allowed = bare_newline_allowed
        self.mode = IN_COMMAND

    cpdef object next_event(self):
        if self.mode == IN_COMMAND:
            return self.in_command__next()
        if self.mode == IN_DATA:
            return self.in_data__next()
        if self.mode == IN_CHUNK:
            return self.in_chunk__next()
        if self.mode == IN_SKIP:
            return self.in_skip__next()
        if self.mode == IN_LINE:
            return self.in_line__next()
        return self.body_end(True)

    cdef Py_ssize_t find_line(self, Py_ssize_t limit) except -4:
        """The offset of the LF of the next line that fits the limit; -1 more is needed, -2 too long, -3 endless."""
        cdef const char* p
        cdef Py_ssize_t at
        cdef int dropped
        if self.discarded < 0:
            p = PyBytes_AS_STRING(self.data)
            at = find_lf(p + self.scanned, self.end - self.scanned)
            if at < 0:
                self.scanned = self.end
                if self.end - self.start < limit:
                    return -1
            else:
                at += self.scanned
                if at - self.start < limit:
                    return at
            self.discarded = 0
        dropped = self.drop_line()
        return -1 if dropped == 0 else -2 if dropped == 1 else -3

    cdef object in_command__next(self):
        cdef const unsigned char* p
        cdef Py_ssize_t at
        cdef Py_ssize_t start
        cdef Py_ssize_t n
        cdef Py_ssize_t limit = self.limit
        cdef unsigned int word
        if self.data is None:
            return need_data
        p = <const unsigned char*>PyBytes_AS_STRING(self.data)
        start = self.start
        if self.discarded < 0:
            if p[start] == 0x16:  # a TLS record: ClientHello on a port that begins in the clear
                return Fault("tls")
            if self.end - start >= 4:
                word = four(p + start)
                if word == 0x6D61696C or word == 0x72637074:
                    limit = self.envelope_limit
                elif word == 0x61757468:
                    limit = self.auth_limit
        at = self.find_line(limit)
        if at < 0:
            return need_data if at == -1 else Fault("line-too-long" if at == -2 else "line-endless")
        n = at - start
        if n > 0 and p[at - 1] == c'\r':
            n -= 1
        elif not self.bare_newline_allowed:
            self.consume(at + 1)
            return Fault("bare-newline")
        event = read_command(p + start, n)
        self.consume(at + 1)
        return event

    cdef object in_line__next(self):
        cdef const char* p
        cdef Py_ssize_t at
        cdef Py_ssize_t n
        cdef bytes text
        if self.data is None:
            return need_data
        p = PyBytes_AS_STRING(self.data) + self.start
        at = self.find_line(self.auth_limit)
        if at < 0:
            if at != -1:
                self.mode = IN_COMMAND
            return need_data if at == -1 else Fault("line-too-long" if at == -2 else "line-endless", "AUTH")
        n = at - self.start
        self.mode = IN_COMMAND
        if n > 0 and p[n - 1] == c'\r':
            n -= 1
        elif not self.bare_newline_allowed:
            self.consume(at + 1)
            return Fault("bare-newline", "AUTH")
        text = PyBytes_FromStringAndSize(p, n)
        self.consume(at + 1)
        return Line.__new__(Line, text)

    cdef object in_data__next(self):
        cdef Py_ssize_t used
        cdef bytes source
        cdef bytes text
        cdef BodyScanner body = self.body
        if self.data is None:
            return need_data
        source = self.data
        used = body.scan_text(<const unsigned char*>PyBytes_AS_STRING(source) + self.start, self.end - self.start)
        self.consume(self.start + used)
        text = body.given(source)
        if body.overran():
            self.forget()
            return Fault("body-endless")
        if body.ended:
            self.mode = AT_END
            if PyBytes_GET_SIZE(text) == 0:
                return self.body_end(True)
        elif PyBytes_GET_SIZE(text) == 0:
            return need_data
        return BodyChunk.__new__(BodyChunk, text)

    cdef object in_chunk__next(self):
        cdef Py_ssize_t used
        cdef bytes source
        cdef bytes text = b""
        cdef BodyScanner body = self.body
        if self.chunk_left > 0:
            if self.data is None:
                return need_data
            source = self.data
            used = min(self.chunk_left, self.end - self.start)
            body.scan_octets(<const unsigned char*>PyBytes_AS_STRING(source) + self.start, used)
            self.chunk_left -= used
            if self.chunk_left == 0 and self.chunk_last:
                body.finish()
            text = body.given(source)
            self.consume(self.start + used)
            if body.overran():
                self.forget()
                return Fault("body-endless")
        elif self.chunk_last and not body.ended:
            body.finish()
            text = body.given(None)
        if PyBytes_GET_SIZE(text):
            return BodyChunk.__new__(BodyChunk, text)
        if self.chunk_left == 0:
            return self.body_end(self.chunk_last)
        return need_data

    cdef object in_skip__next(self):
        cdef Py_ssize_t used
        if self.chunk_left > 0 and self.data is not None:
            used = min(self.chunk_left, self.end - self.start)
            self.chunk_left -= used
            self.consume(self.start + used)
        if self.chunk_left > 0:
            return need_data
        self.mode = IN_COMMAND
        return Fault("chunk-skipped", "BDAT")

    cdef object body_end(self, bint last):
        """The facts about the message so far. The reader is back at commands; the scanner stays while chunks may follow."""
        cdef BodyEnd event = BodyEnd.__new__(BodyEnd)
        cdef BodyScanner body = self.body
        event.faults = body.faults
        event.repaired = body.repaired
        event.eight_bit = body.eight_bit
        event.size = body.size
        event.header_bytes = body.header.size
        event.received_count = body.header.received_count
        event.last = last
        self.mode = IN_COMMAND
        if last:
            self.body = None
        return event

    def expect_line(self) -> None:
        self.mode = IN_LINE

    def expect_data(self, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize) -> None:
        self.begin_data(max_bytes, max_header_bytes, normalize)

    cdef int begin_data(self, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize) except -1:
        self.body = BodyScanner.__new__(BodyScanner)
        self.body.limit(max_bytes, max_header_bytes, normalize, False)
        self.mode = IN_DATA
        return 0

    def expect_chunk(self, Py_ssize_t size, bint last, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize,
                     bint binary) -> None:
        if self.body is None:
            self.body = BodyScanner(max_bytes=max_bytes, max_header_bytes=max_header_bytes, normalize=normalize, binary=binary)
        self.chunk_left = size
        self.chunk_last = last
        self.mode = IN_CHUNK

    def skip_chunk(self, Py_ssize_t size) -> None:
        self.chunk_left = size
        self.mode = IN_SKIP

    def discard_body(self) -> None:
        if self.body is not None:
            self.body.discarding = True

    def end_body(self) -> None:
        self.body = None

    def forget(self) -> None:
        self.data = None
        self.start = self.end = self.scanned = 0
        self.discarded = -1
        self.body = None
        self.mode = IN_COMMAND


# ---- Addresses

def is_dot_string(str text not None) -> bool:
    cdef const unsigned char* p
    cdef Py_ssize_t n
    cdef Py_ssize_t i
    cdef bint in_atom = False
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return False
    p = <const unsigned char*>PyUnicode_DATA(text)
    n = PyUnicode_GET_LENGTH(text)
    for i in range(n):
        if CLASSES[p[i]] & ATEXT:
            in_atom = True
        elif p[i] == c'.' and in_atom:
            in_atom = False
        else:
            return False
    return in_atom


# ---- xtext

def decode_xtext(bytes text not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k = 0
    cdef bytes decoded = PyBytes_FromStringAndSize(NULL, n)
    cdef unsigned char* q = <unsigned char*>PyBytes_AS_STRING(decoded)
    while i < n:
        if CLASSES[p[i]] & XCHAR:
            q[k] = p[i]
            i += 1
        elif p[i] == c'+' and i + 2 < n and CLASSES[p[i + 1]] & HEX and CLASSES[p[i + 2]] & HEX:
            q[k] = <unsigned char>(hex_value(p[i + 1]) << 4 | hex_value(p[i + 2]))
            i += 3
        else:
            raise ValueError("not xtext")
        k += 1
    return decoded[:k] if k < n else decoded


cdef inline unsigned char hex_value(unsigned char c) noexcept nogil:
    return c - 48 if c < 58 else c - 55


def encode_xtext(bytes text not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i
    cdef Py_ssize_t k = 0
    cdef const char* digits = "0123456789ABCDEF"
    cdef bytes encoded = PyBytes_FromStringAndSize(NULL, 3 * n)
    cdef unsigned char* q = <unsigned char*>PyBytes_AS_STRING(encoded)
    for i in range(n):
        if CLASSES[p[i]] & XCHAR:
            q[k] = p[i]
            k += 1
        else:
            q[k] = c'+'
            q[k + 1] = digits[p[i] >> 4]
            q[k + 2] = digits[p[i] & 15]
            k += 3
    return encoded[:k]
