"""IMAP's stream: commands with their literals cut out of it (RFC 9051 §4.3, RFC 7888).

A command is its lines, joined, with one NUL in the place of each literal, and the list of the literals: a NUL is in no line
(RFC 9051 §9: text is CHAR without NUL), so nothing a client writes can look like one. "~" before it says literal8.

Line ends: CRLF, and a bare LF as well. In IMAP a line end that others do not see smuggles nothing, because no one relays
commands; and people test servers by hand. A CR that no LF follows is an octet like any other, which the grammar refuses.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from rusmes._core.scan cimport find_lf

from rusmes._core.lines import EndlessLine, LineTooLong

NEED_DATA = E_NEED_DATA
COMMAND = E_COMMAND
OFFER = E_OFFER
REFUSED = E_REFUSED

BY_CALLER = R_CALLER
TOO_LONG = R_TOO_LONG
HAS_NUL = R_NUL
SINK_FAILED = R_SINK


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
                # An idle session holds nothing of its last command.
                self.text = None
                self.literals = None
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
            if literal.synchronising:
                # The client waits for "+" and gets the tagged reply instead: it does not send the literal.
                self.ended = True
                self.text = PyBytes_FromStringAndSize(self.kept, self.size)
                return E_REFUSED
            # The text is not made before the end: a copy for each of many literals would be quadratic.
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
