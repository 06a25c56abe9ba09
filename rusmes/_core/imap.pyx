"""IMAP's words: the lexer of one command (RFC 9051 §9).

It reads what `framer` makes of the stream: the lines of a command, joined, with one NUL in the place of each literal ("~"
before it: literal8), and the list of the literals.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport INT64_MAX, UINT32_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memchr

from rusmes.errors import PeerError

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
