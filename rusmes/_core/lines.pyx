"""A bounded buffer of lines, for protocols that speak in lines.

It holds what arrived by reference, copies only to join a line that came in pieces, and holds nothing while nothing waits.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from rusmes._core.scan cimport find_lf

from rusmes.errors import PeerError


class LineTooLong(PeerError):
    """A line was longer than the limit; it has been read to its end and dropped."""


class EndlessLine(PeerError):
    """A line goes on after the limit and the discard limit; the connection is not worth more."""


cdef class LineBuffer:
    """Bytes in, lines out, never more than `limit` + one read in memory.

    A line that is too long is discarded as it arrives and reported once, when its end is there, so that its rest is never
    taken for a command.
    """

    def __cinit__(self, *_arguments, **_options):
        self.discarded = -1

    def __init__(self, Py_ssize_t limit, *, Py_ssize_t discard_limit=65536):
        if limit < 2:
            raise ValueError("a limit counts the CRLF")
        self.limit = limit
        self.discard_limit = discard_limit

    cdef int add(self, bytes data) except -1:
        cdef Py_ssize_t kept = self.end - self.start
        cdef Py_ssize_t more = PyBytes_GET_SIZE(data)
        cdef bytes joined
        if more == 0:
            return 0
        if kept == 0:
            self.data = data
            self.start = 0
            self.end = more
            self.scanned = 0
            return 0
        joined = PyBytes_FromStringAndSize(NULL, kept + more)
        memcpy(PyBytes_AS_STRING(joined), PyBytes_AS_STRING(self.data) + self.start, <size_t>kept)
        memcpy(PyBytes_AS_STRING(joined) + kept, PyBytes_AS_STRING(data), <size_t>more)
        self.scanned = self.scanned - self.start if self.scanned > self.start else 0
        self.data = joined
        self.start = 0
        self.end = kept + more
        return 0

    cdef void consume(self, Py_ssize_t upto) noexcept:
        self.start = upto
        if self.scanned < upto:
            self.scanned = upto
        if self.start == self.end:
            self.data = None
            self.start = self.end = self.scanned = 0

    cdef int drop_line(self) except -1:
        """Discard up to the next LF: 1 when it was there (and is consumed), 0 when more is needed, 2 when it never ends."""
        cdef Py_ssize_t at
        if self.data is None:
            return 0
        at = find_lf(PyBytes_AS_STRING(self.data) + self.start, self.end - self.start)
        if at >= 0 and self.discarded + at <= self.discard_limit:
            self.discarded = -1
            self.consume(self.start + at + 1)
            return 1
        self.discarded += self.end - self.start if at < 0 else at
        self.consume(self.end)
        return 2 if self.discarded > self.discard_limit else 0

    def feed(self, bytes data not None) -> None:
        """Add what arrived."""
        self.add(data)

    def take_line(self):
        """The next line without its line end, or None when it is not complete yet.

        `bare_lf` says afterwards whether the line ended in an LF without a CR.

        Raises:
            LineTooLong: once for a line over `limit` (CRLF included), after all of it was dropped.
            EndlessLine: more than `discard_limit` octets of it were dropped and it has not ended.
        """
        cdef const char* p
        cdef Py_ssize_t at
        cdef Py_ssize_t length
        cdef int dropped
        if self.discarded < 0:
            if self.data is None:
                return None
            p = PyBytes_AS_STRING(self.data)
            at = find_lf(p + self.scanned, self.end - self.scanned)
            if at < 0:
                self.scanned = self.end
                if self.end - self.start < self.limit:
                    return None
                self.discarded = 0
            else:
                at += self.scanned
                length = at - self.start
                if length < self.limit:
                    self.bare_lf = not (length > 0 and p[at - 1] == c'\r')
                    line = PyBytes_FromStringAndSize(p + self.start, length - (0 if self.bare_lf else 1))
                    self.consume(at + 1)
                    return line
                self.discarded = 0
        dropped = self.drop_line()
        if dropped == 1:
            raise LineTooLong("line too long", f"over {self.limit} octets")
        if dropped == 2:
            raise EndlessLine("line too long", f"no end after {self.discarded} octets over the limit")
        return None

    def take_rest(self) -> bytes:
        """Everything that waits, out of the buffer."""
        cdef bytes rest = b""
        if self.data is not None:
            rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.data) + self.start, self.end - self.start)
            self.consume(self.end)
        self.discarded = -1
        return rest

    @property
    def waiting(self) -> int:
        """Octets that have arrived and are not consumed."""
        return self.end - self.start

    def __len__(self) -> int:
        return self.end - self.start
