"""IMAP's bytes: commands with their literals cut out of the stream, and the lexer of one command (RFC 9051 §4, §9).

A command is its lines, joined, with one NUL in the place of each literal, and the list of the literals: a NUL is in no line
(RFC 9051 §9: text is CHAR without NUL), so nothing a client writes can look like one. "~" before it says literal8.

Line ends: CRLF, and a bare LF as well. In IMAP a line end that others do not see smuggles nothing, because no one relays
commands; and people test servers by hand. A CR that no LF follows is an octet like any other, which the grammar refuses.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport INT64_MAX, UINT32_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove

from rusmes._core.scan cimport find_lf

from rusmes._core.lines import EndlessLine, LineTooLong
from rusmes.errors import PeerError

NEED_DATA = E_NEED_DATA
COMMAND = E_COMMAND
OFFER = E_OFFER
REFUSED = E_REFUSED

BY_CALLER = R_CALLER
TOO_LONG = R_TOO_LONG
HAS_NUL = R_NUL
SINK_FAILED = R_SINK

cdef unsigned char CLASSES[256]
cdef dict SYSTEM_FLAGS = {
    name.lower().encode(): name for name in ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "\\Recent")
}


class GrammarError(PeerError):
    """A command is not what the grammar allows; `public` says what was expected."""


class LiteralReached(Exception):
    """The lexer came to the literal that is only announced yet: everything before it is grammar."""


def _fill():
    cdef int c
    cdef unsigned char bits
    for c in range(128):
        bits = 0
        if c > 32 and c < 127 and chr(c) not in '(){%*"\\]':
            bits |= ATOM_CHAR | ASTRING_CHAR | LIST_CHAR
            if c != c'+':
                bits |= TAG_CHAR
        if c == c']':
            bits |= ASTRING_CHAR | TAG_CHAR | LIST_CHAR
        if c == c'%' or c == c'*':
            bits |= LIST_CHAR
        if c not in (0, 10, 13, 34, 92):
            bits |= QUOTED_CHAR
        if chr(c).isalnum() or c == c'.':
            bits |= NAME_CHAR
        if c'0' <= c <= c'9':
            bits |= DIGIT
        CLASSES[c] = bits


_fill()


cdef struct Announced:
    long long size                   # -1 = no literal
    bint synchronising
    bint binary
    Py_ssize_t length                # of its announcement


cdef Announced announced(const char* p, Py_ssize_t n) noexcept nogil:
    """The literal that the end of a line announces (RFC 9051 §4.3, RFC 7888 §3): "{" number ["+"] "}".

    A number over 63 bits is the largest there is, which no limit allows.
    """
    cdef Announced found
    cdef Py_ssize_t i = n - 1
    cdef Py_ssize_t first
    cdef long long size = 0
    found.size = -1
    found.synchronising = True
    found.binary = False
    found.length = 0
    if n < 3 or p[i] != c'}':
        return found
    i -= 1
    if p[i] == c'+':
        found.synchronising = False
        i -= 1
    first = i
    while i >= 0 and c'0' <= p[i] <= c'9':
        i -= 1
    if i == first or i < 0 or p[i] != c'{':
        return found
    found.length = n - i
    if i > 0 and p[i - 1] == c'~':
        found.binary = True
    i += 1
    while i <= first:
        if size > INT64_MAX // 10 - 1:
            size = INT64_MAX
            break
        size = size * 10 + (p[i] - c'0')
        i += 1
    found.size = size
    return found


@cython.final
cdef class Framer:
    """Bytes in, commands with their literals out; never more in memory than the limits allow."""

    def __cinit__(self, *, Py_ssize_t text_limit, long long discard_limit):
        self.text_limit = text_limit
        self.discard_limit = discard_limit
        self.ended = True

    def __dealloc__(self):
        free(self.kept)

    # Input

    def feed(self, bytes data not None) -> None:
        """Add what arrived."""
        cdef Py_ssize_t kept = self.end - self.start
        cdef Py_ssize_t more = PyBytes_GET_SIZE(data)
        cdef bytes joined
        if more == 0:
            return
        if kept == 0:
            self.data = data
            self.start = 0
            self.end = more
            return
        joined = PyBytes_FromStringAndSize(NULL, kept + more)
        memcpy(PyBytes_AS_STRING(joined), PyBytes_AS_STRING(self.data) + self.start, <size_t>kept)
        memcpy(PyBytes_AS_STRING(joined) + kept, PyBytes_AS_STRING(data), <size_t>more)
        self.data = joined
        self.start = 0
        self.end = kept + more

    cdef void consume(self, Py_ssize_t upto) noexcept:
        self.start = upto
        if self.start == self.end:
            self.data = None
            self.start = self.end = 0

    cdef int keep(self, const char* p, Py_ssize_t n) except -1:
        """Append to the text of the command; past the limit, only the end of the line is remembered."""
        cdef Py_ssize_t room
        cdef Py_ssize_t fits
        cdef char* grown
        if self.overflowed:
            return self.drop(p, n)
        fits = min(n, max(self.text_limit - self.size, 0))
        if self.size + fits > self.room:
            room = max(self.size + fits, min(2 * self.room, self.text_limit), 128)
            grown = <char*>realloc(self.kept, <size_t>room)
            if grown == NULL:
                raise MemoryError
            self.kept = grown
            self.room = room
        if fits:
            memcpy(self.kept + self.size, p, <size_t>fits)
            self.size += fits
        if fits == n:
            return 0
        self.overflowed = True
        if self.reason == R_NONE:
            self.reason = R_TOO_LONG
        # The announcement of a literal may begin before the limit and end behind it.
        room = min(self.size - self.line, TAIL)
        self.tail_size = <int>room
        if room:
            memcpy(self.tail, self.kept + self.size - room, <size_t>room)
        return self.drop(p + fits, n - fits)

    cdef int drop(self, const char* p, Py_ssize_t n) except -1:
        """Octets of a line that is too long: counted, the last ones remembered."""
        cdef int more
        self.discarded += n
        if self.discarded > self.discard_limit:
            raise EndlessLine("command too long", f"{self.discarded} octets were dropped and it has not ended")
        if n >= TAIL:
            memcpy(self.tail, p + n - TAIL, TAIL)
            self.tail_size = TAIL
            return 0
        more = <int>n
        if self.tail_size + more > TAIL:
            memmove(self.tail, self.tail + self.tail_size + more - TAIL, <size_t>(TAIL - more))
            self.tail_size = TAIL - more
        if more:
            memcpy(self.tail + self.tail_size, p, <size_t>more)
            self.tail_size += more
        return 0

    cdef void begin(self) noexcept:
        """Forget the command that ended."""
        free(self.kept)
        self.kept = NULL
        self.size = self.room = self.line = 0
        self.overflowed = False
        self.ended = False
        self.reason = R_NONE
        self.failure = None
        self.discarded = 0
        self.text = None
        self.literals = None

    # Commands

    def next(self) -> int:
        """What comes next: NEED_DATA, COMMAND, OFFER or REFUSED.

        Raises:
            EndlessLine: more than `discard_limit` octets of one command had to be dropped.
            RuntimeError: a literal that was offered is neither accepted nor refused.
        """
        cdef const char* p
        cdef Py_ssize_t at
        cdef int event
        if self.mode == OFFERED:
            raise RuntimeError("a literal waits for accept or refuse")
        if self.ended:
            if self.data is None:
                return E_NEED_DATA
            self.begin()
        while True:
            if self.mode != IN_LINE:
                if not self.take_literal():
                    return E_NEED_DATA
            if self.data is None:
                return E_NEED_DATA
            p = PyBytes_AS_STRING(self.data) + self.start
            at = find_lf(p, self.end - self.start)
            if at < 0:
                self.keep(p, self.end - self.start)
                self.consume(self.end)
                return E_NEED_DATA
            event = self.line_done(p, at)
            if event:
                return event

    cdef int line_done(self, const char* p, Py_ssize_t n) except -1:
        """A line's rest is `p[:n]` and its LF: the event it makes, or 0 when a literal is skipped first."""
        cdef Announced literal
        cdef Py_ssize_t upto = self.start + n + 1
        cdef const char* line
        cdef Py_ssize_t length
        if self.size == 0 and not self.overflowed and n <= self.text_limit:
            # Nearly always: a whole command without literals, in one piece.
            if n > 0 and p[n - 1] == c'\r':
                n -= 1
            if (n == 0 or p[n - 1] != c'}') and memchr(p, 0, <size_t>n) == NULL:
                self.text = PyBytes_FromStringAndSize(p, n)
                self.consume(upto)
                self.ended = True
                return E_COMMAND
            if upto - 1 - self.start > n:
                n += 1
        self.keep(p, n)
        self.consume(upto)
        if self.overflowed:
            line = self.tail
            length = self.tail_size
        else:
            line = self.kept + self.line
            length = self.size - self.line
        if length and line[length - 1] == c'\r':
            length -= 1
            if not self.overflowed:
                self.size -= 1
        if self.reason == R_NONE and length and memchr(line, 0, <size_t>length) != NULL:
            self.reason = R_NUL
        literal = announced(line, length)
        if literal.size < 0:
            self.ended = True
            self.text = PyBytes_FromStringAndSize(self.kept, self.size)
            return E_REFUSED if self.reason else E_COMMAND
        self.literal_size = literal.size
        self.is_synchronising = literal.synchronising
        self.is_binary = literal.binary
        if not self.overflowed:
            self.size -= literal.length
        self.overflowed = False
        if self.reason:
            self.text = PyBytes_FromStringAndSize(self.kept, self.size)
            if literal.synchronising:
                # The client waits for "+" and gets the tagged reply instead: it does not send the literal.
                self.ended = True
                return E_REFUSED
            self.left = literal.size
            self.refuse()
            return 0
        self.keep(b"\0", 1)
        if self.reason:  # no room for one octet more
            self.overflowed = False
        self.line = self.size
        self.text = PyBytes_FromStringAndSize(self.kept, self.size)
        self.left = literal.size
        if self.literals is None:
            self.literals = []
        self.mode = OFFERED
        return E_OFFER

    def accept(self, sink=None) -> None:
        """Read the literal that was offered: into memory, or into `sink` as it arrives."""
        if self.mode != OFFERED:
            raise RuntimeError("no literal is offered")
        if sink is not None:
            self.sink = sink
            self.mode = IN_SINK
            return
        self.literal = None
        self.filled = 0
        self.mode = IN_LITERAL

    def refuse(self) -> None:
        """Drop the command. A literal that comes without being asked for is read and forgotten, with the rest of the command.

        Raises:
            EndlessLine: it is larger than what is left of `discard_limit`.
        """
        if self.mode == OFFERED:
            if self.is_synchronising:
                self.mode = IN_LINE
                self.ended = True
                return
        elif not self.reason:
            raise RuntimeError("no literal is offered")
        if self.reason == R_NONE:
            self.reason = R_CALLER
        if self.left > self.discard_limit - self.discarded:
            raise EndlessLine("literal too long", f"{self.left} octets come without being asked for")
        self.discarded += self.left
        self.mode = SKIPPING
        self.line = self.size

    cdef int take_literal(self) except -1:
        """Move what is there of the literal; 1 when all of it is."""
        cdef Py_ssize_t there
        cdef Py_ssize_t n
        cdef const char* p
        cdef bytes piece
        while True:
            if self.mode == IN_LINE:
                return 1
            if self.left == 0 and not (self.mode == IN_LITERAL and self.literal is None):
                self.literal_done()
                return 1
            there = self.end - self.start
            if there == 0 and self.left:
                return 0
            n = there if self.left > there else <Py_ssize_t>self.left
            p = NULL if n == 0 else PyBytes_AS_STRING(self.data) + self.start
            if self.mode == IN_LITERAL:
                if self.literal is None:
                    if n == self.left:
                        self.literal = PyBytes_FromStringAndSize(p, n)
                        self.filled = n
                    else:
                        self.literal = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.left)
                if self.filled < PyBytes_GET_SIZE(self.literal):
                    # Nobody else has seen these bytes yet.
                    memcpy(PyBytes_AS_STRING(self.literal) + self.filled, p, <size_t>n)
                    self.filled += n
            elif self.mode == IN_SINK:
                piece = self.data if n == PyBytes_GET_SIZE(self.data) else PyBytes_FromStringAndSize(p, n)
                try:
                    self.sink.write(piece)
                except Exception as error:
                    self.sink_failed(error)
            self.left -= n
            if n:
                self.consume(self.start + n)

    cdef int sink_failed(self, error) except -1:
        """Go on reading, so that the rest of the message never becomes a command."""
        self.sink = None
        self.mode = SKIPPING
        if self.reason == R_NONE:
            self.reason = R_SINK
            self.failure = error
        return 0

    cdef int literal_done(self) except -1:
        cdef object content
        if self.mode == IN_LITERAL:
            self.literals.append(self.literal)
            self.literal = None
        elif self.mode == IN_SINK:
            sink, self.sink = self.sink, None
            try:
                content = sink.finish()
            except Exception as error:
                self.sink_failed(error)
            else:
                self.literals.append(content)
        self.mode = IN_LINE
        return 0

    # Lines, and what is left

    def take_line(self, Py_ssize_t limit):
        """The next line without its line end, for answers that are not commands; None when it is not complete yet.

        Raises:
            LineTooLong: once for a line over `limit` octets, after all of it was dropped.
            EndlessLine
        """
        cdef const char* p
        cdef Py_ssize_t at
        cdef Py_ssize_t command_limit = self.text_limit
        if self.mode != IN_LINE:
            raise RuntimeError("a literal is being read")
        if self.ended:
            if self.data is None:
                return None
            self.begin()
        if self.data is None:
            return None
        p = PyBytes_AS_STRING(self.data) + self.start
        at = find_lf(p, self.end - self.start)
        self.text_limit = limit
        try:
            self.keep(p, self.end - self.start if at < 0 else at)
        finally:
            self.text_limit = command_limit
        self.consume(self.end if at < 0 else self.start + at + 1)
        if at < 0:
            return None
        self.ended = True
        if self.overflowed:
            raise LineTooLong("line too long", f"over {limit} octets")
        if self.size and self.kept[self.size - 1] == c'\r':
            self.size -= 1
        return PyBytes_FromStringAndSize(self.kept, self.size)

    def take_rest(self) -> bytes:
        """Everything that waits and that no event was made of, out of the buffer."""
        cdef bytes rest = b""
        if not self.ended and self.mode == IN_LINE and self.literals is None and not self.overflowed:
            rest = PyBytes_FromStringAndSize(self.kept, self.size)
        if self.data is not None:
            rest += PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.data) + self.start, self.end - self.start)
            self.consume(self.end)
        self.abandon()
        return rest

    def abandon(self) -> list:
        """Forget the command that has not ended: its sink is aborted, and the literals that were complete are returned."""
        cdef list whole = self.literals if self.literals is not None and not self.ended else []
        if self.sink is not None:
            sink, self.sink = self.sink, None
            sink.abort()
        self.literal = None
        self.mode = IN_LINE
        self.begin()
        self.ended = True
        return whole

    @property
    def waiting(self) -> int:
        """Octets that have arrived and that no event was made of (those of literals aside)."""
        return self.end - self.start + (0 if self.ended else self.size)


@cython.final
@cython.freelist(8)
cdef class Lexer:
    """One command, read from left to right. Methods take what they name, or raise GrammarError where it is not."""

    def __cinit__(self, bytes text not None, literals=(), *, bint is_utf8=False, bint forbids_charset=False):
        self.text = text
        self.p = <const unsigned char*>PyBytes_AS_STRING(text)
        self.n = PyBytes_GET_SIZE(text)
        self.literals = literals
        self.is_utf8 = is_utf8
        self.forbids_charset = forbids_charset

    # Single octets. The octet after the last one is the NUL that ends every `bytes`; within the text a NUL is a literal.

    def peek(self) -> int:
        """The next octet; -1 at the end, 0 where a literal is."""
        return self.p[self.at] if self.at < self.n else -1

    def is_at(self, int octet) -> bool:
        """Whether the next octet is this one."""
        return self.at < self.n and self.p[self.at] == octet

    def skip(self, int octet) -> bool:
        """Take the octet if it is the next one."""
        if self.at < self.n and self.p[self.at] == octet:
            self.at += 1
            return True
        return False

    def take(self, int octet) -> None:
        """The octet, which must be there."""
        if self.at >= self.n or self.p[self.at] != octet:
            raise GrammarError(f"expected '{chr(octet)}'")
        self.at += 1

    def space(self) -> None:
        """One space."""
        if self.at >= self.n or self.p[self.at] != c' ':
            raise GrammarError("expected a space" if self.at < self.n else "missing argument")
        self.at += 1

    def skip_space(self) -> bool:
        """A space, if one is there and something follows it: spaces at the end of a line are no argument."""
        cdef Py_ssize_t i
        if self.at >= self.n or self.p[self.at] != c' ':
            return False
        if self.at + 1 >= self.n or self.p[self.at + 1] == c' ':
            i = self.at
            while i < self.n and self.p[i] == c' ':
                i += 1
            if i == self.n:
                return False
        self.at += 1
        return True

    def end(self) -> None:
        """The end of the command. Spaces before it are forgiven, as some clients send one."""
        while self.at < self.n and self.p[self.at] == c' ':
            self.at += 1
        if self.at < self.n:
            raise GrammarError("too many arguments")

    def rest(self) -> bytes:
        """Everything to the end, for one who takes it apart elsewhere. There is no literal in it.

        Returns b"" when there is one.
        """
        if self.next_literal < len(self.literals) or memchr(self.p + self.at, 0, <size_t>(self.n - self.at)) != NULL:
            return b""
        rest = PyBytes_FromStringAndSize(<const char*>self.p + self.at, self.n - self.at)
        self.at = self.n
        return rest

    # Words

    cdef bytes span(self, unsigned char kind):
        """As many octets of a class as there are, perhaps none."""
        cdef Py_ssize_t start = self.at
        while self.at < self.n and CLASSES[self.p[self.at]] & kind:
            self.at += 1
        return PyBytes_FromStringAndSize(<const char*>self.p + start, self.at - start)

    cdef str name(self, unsigned char kind, str what):
        """A word of a class, in capitals."""
        cdef char short[64]
        cdef Py_ssize_t start = self.at
        cdef Py_ssize_t n
        cdef Py_ssize_t i
        cdef unsigned char c
        while self.at < self.n and CLASSES[self.p[self.at]] & kind:
            self.at += 1
        n = self.at - start
        if n == 0:
            raise GrammarError(f"expected {what}" if self.at < self.n else "missing argument")
        if n > 64:
            raise GrammarError(f"unknown {what}")
        for i in range(n):
            c = self.p[start + i]
            short[i] = <char>(c - 32 if c'a' <= c <= c'z' else c)
        return PyUnicode_DecodeASCII(short, n, NULL)

    def tag(self) -> bytes:
        """tag = 1*<any ASTRING-CHAR except "+">, and at most 128 of them."""
        cdef bytes tag = self.span(TAG_CHAR)
        if not 0 < PyBytes_GET_SIZE(tag) <= 128:
            raise GrammarError("expected a tag")
        return tag

    def word(self) -> str:
        """An atom of at most 64 octets, in capitals: the name of a command, option or item."""
        return self.name(ATOM_CHAR, "a name")

    def attribute(self) -> str:
        """The name of a FETCH attribute, in capitals, up to its section or arguments."""
        return self.name(NAME_CHAR, "an attribute")

    def atom(self) -> str:
        """An atom as it was written."""
        cdef Py_ssize_t start = self.at
        while self.at < self.n and CLASSES[self.p[self.at]] & ATOM_CHAR:
            self.at += 1
        if self.at == start:
            raise GrammarError("expected an atom" if self.at < self.n else "missing argument")
        return PyUnicode_DecodeASCII(<const char*>self.p + start, self.at - start, NULL)

    def flag(self) -> str:
        """flag = "\\" atom / atom; system flags in the RFC's spelling."""
        cdef Py_ssize_t start = self.at
        if self.at < self.n and self.p[self.at] == c'\\':
            self.at += 1
        cdef Py_ssize_t first = self.at
        while self.at < self.n and CLASSES[self.p[self.at]] & ATOM_CHAR:
            self.at += 1
        if self.at == first:
            raise GrammarError("expected a flag")
        if first > start:
            found = SYSTEM_FLAGS.get(PyBytes_FromStringAndSize(<const char*>self.p + start, self.at - start).lower())
            if found is not None:
                return found
        return PyUnicode_DecodeASCII(<const char*>self.p + start, self.at - start, NULL)

    def flag_list(self) -> tuple:
        """flag-list = "(" [flag *(SP flag)] ")"."""
        cdef list flags = []
        self.take(c'(')
        if self.skip(c')'):
            return ()
        while True:
            flags.append(self.flag())
            if self.skip(c')'):
                return tuple(flags)
            self.space()

    # Strings

    cdef bytes quoted(self):
        """What is between quotes; `at` is behind the first one."""
        cdef Py_ssize_t start = self.at
        cdef Py_ssize_t i = self.at
        cdef unsigned char c
        cdef bint plain = True
        cdef bint eight_bit = False
        cdef bytes out
        cdef char* q
        while i < self.n:
            c = self.p[i]
            if CLASSES[c] & QUOTED_CHAR:
                i += 1
            elif c == c'"':
                break
            elif c == c'\\':
                plain = False
                if i + 1 >= self.n or (self.p[i + 1] != c'"' and self.p[i + 1] != c'\\'):
                    raise GrammarError("only quotes and backslashes are quoted by a backslash")
                i += 2
            elif c > 127:
                if not self.is_utf8:
                    raise GrammarError("octets above 127 in a quoted string")
                eight_bit = True
                i += 1
            else:
                raise GrammarError("CR or NUL in a quoted string")
        if i >= self.n:
            raise GrammarError("a quoted string has no end")
        self.at = i + 1
        out = PyBytes_FromStringAndSize(<const char*>self.p + start, i - start)
        if not plain:
            q = <char*>malloc(<size_t>(i - start))
            if q == NULL:
                raise MemoryError
            try:
                out = PyBytes_FromStringAndSize(q, unescape(self.p + start, i - start, q))
            finally:
                free(q)
        if eight_bit:
            # RFC 9051 §9: QUOTED-CHAR =/ UTF8-2 / UTF8-3 / UTF8-4.
            try:
                out.decode("utf-8")
            except UnicodeDecodeError:
                raise GrammarError("a quoted string is not UTF-8") from None
        return out

    def literal(self):
        """The literal that begins here, as it was collected. `~` before it is taken with `skip`.

        Raises:
            GrammarError
            LiteralReached: it is only announced yet.
        """
        if self.at >= self.n or self.p[self.at] != 0:
            raise GrammarError("expected a literal" if self.at < self.n else "missing argument")
        if self.next_literal >= len(self.literals):
            raise LiteralReached
        self.at += 1
        self.next_literal += 1
        return self.literals[self.next_literal - 1]

    cdef bytes short_literal(self):
        """A literal that is a string: text without NUL."""
        found = self.literal()
        if type(found) is not bytes:
            raise GrammarError("this literal cannot be a message")
        if memchr(PyBytes_AS_STRING(<bytes>found), 0, <size_t>PyBytes_GET_SIZE(<bytes>found)) != NULL:
            raise GrammarError("NUL in a literal")
        return <bytes>found

    def string(self) -> bytes:
        """string = quoted / literal."""
        if self.at < self.n:
            if self.p[self.at] == c'"':
                self.at += 1
                return self.quoted()
            if self.p[self.at] == 0:
                return self.short_literal()
            raise GrammarError("expected a string")
        raise GrammarError("missing argument")

    def astring(self) -> bytes:
        """astring = 1*ASTRING-CHAR / string."""
        if self.at < self.n and CLASSES[self.p[self.at]] & ASTRING_CHAR:
            return self.span(ASTRING_CHAR)
        return self.string()

    def list_mailbox(self) -> bytes:
        """list-mailbox = 1*list-char / string."""
        if self.at < self.n and CLASSES[self.p[self.at]] & LIST_CHAR:
            return self.span(LIST_CHAR)
        return self.string()

    def nstring(self):
        """nstring = string / nil."""
        if self.at + 3 <= self.n and (self.p[self.at] & 0xdf) == c'N':
            if (self.p[self.at + 1] & 0xdf) == c'I' and (self.p[self.at + 2] & 0xdf) == c'L':
                if self.at + 3 == self.n or not CLASSES[self.p[self.at + 3]] & ATOM_CHAR:
                    self.at += 3
                    return None
        return self.string()

    # Numbers

    cdef unsigned long long digits(self, unsigned long long largest) except? 0xffffffffffffffff:
        cdef unsigned long long value = 0
        cdef unsigned int digit
        if self.at >= self.n or not CLASSES[self.p[self.at]] & DIGIT:
            raise GrammarError("expected a number" if self.at < self.n else "missing argument")
        while self.at < self.n and CLASSES[self.p[self.at]] & DIGIT:
            digit = self.p[self.at] - c'0'
            if value > (largest - digit) // 10:
                raise GrammarError("number too large")
            value = value * 10 + digit
            self.at += 1
        return value

    def number(self) -> int:
        """number = 1*DIGIT, 32 bits."""
        return self.digits(UINT32_MAX)

    def nz_number(self) -> int:
        """nz-number: not 0, 32 bits."""
        cdef unsigned long long value = self.digits(UINT32_MAX)
        if value == 0:
            raise GrammarError("number must not be 0")
        return value

    def number64(self) -> int:
        """number64, and mod-sequence-valzer: 63 bits (RFC 7162 §7)."""
        return self.digits(<unsigned long long>INT64_MAX)

    def nz_number64(self) -> int:
        """nz-number64, and mod-sequence-value: not 0, 63 bits."""
        cdef unsigned long long value = self.digits(<unsigned long long>INT64_MAX)
        if value == 0:
            raise GrammarError("number must not be 0")
        return value

    cdef object set_number(self):
        if self.at < self.n and self.p[self.at] == c'*':
            self.at += 1
            return 0
        return self.nz_number()

    def sequence_set(self, Py_ssize_t limit):
        """sequence-set: its ranges as pairs, 0 for "*"; None for "$", the saved result.

        A single number is a pair of it. More than `limit` ranges are refused.
        """
        cdef list ranges
        if self.at < self.n and self.p[self.at] == c'$':
            self.at += 1
            return None
        ranges = []
        while True:
            first = self.set_number()
            last = first
            if self.at < self.n and self.p[self.at] == c':':
                self.at += 1
                last = self.set_number()
            if len(ranges) >= limit:
                raise GrammarError("too many ranges in a set")
            ranges.append((first, last))
            if self.at < self.n and self.p[self.at] == c',':
                self.at += 1
                continue
            return tuple(ranges)


cdef Py_ssize_t unescape(const unsigned char* p, Py_ssize_t n, char* out) noexcept nogil:
    """Without the backslashes that quote; the octets written. Each backslash has an octet behind it."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t written = 0
    while i < n:
        if p[i] == c'\\':
            i += 1
        out[written] = <char>p[i]
        written += 1
        i += 1
    return written
