"""Message text on its way in: what follows DATA, and the octets of BDAT chunks.

The rules, in every mode (RFC 5321 §4.1.1.4, §4.5.2):
1. Only CRLF "." CRLF ends it, or "." CRLF as the first line. An LF or CR alone ends nothing, whatever surrounds a dot.
2. A dot that begins a line is dropped where the line begins after CRLF (or is the first), and nowhere else.
3. After a fault the scanner goes on to the true end; it gives out no more text.
"reject": an LF or CR alone is a fault. "normalize": an LF alone becomes CRLF, a CR alone a space (one message still; a line "."
that comes to be this way keeps its dot and is stuffed again on its way out). NUL is a fault in both.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.string cimport memcpy

from rusmes._core.headers cimport HeaderScanner
from rusmes._core.scan cimport (
    SCAN_BARE_CR,
    SCAN_BARE_LF,
    SCAN_EIGHT_BIT,
    SCAN_LINE_DOT,
    SCAN_NUL,
    find_lf,
    survey,
)


# Faults of a body: the first three are what `survey` reports.
cdef enum:
    FAULT_BARE_CR = 1
    FAULT_BARE_LF = 2
    FAULT_NUL = 4
    FAULT_TOO_LARGE = 8
    FAULT_HEADER_TOO_LARGE = 16
    FAULT_MBOX_FROM = 32

BARE_CR = FAULT_BARE_CR
BARE_LF = FAULT_BARE_LF
NUL = FAULT_NUL
TOO_LARGE = FAULT_TOO_LARGE
HEADER_TOO_LARGE = FAULT_HEADER_TOO_LARGE
MBOX_FROM = FAULT_MBOX_FROM


cdef enum:
    BLOCK_OCTETS = 16384      # what `survey` looks at before the walk over lines: half of an L1 cache
    SMALL_OCTETS = 2048       # less than this is walked at once; two passes would not pay
    EXCESS_OCTETS = 65536     # swallowed beyond twice the largest message before the connection is given up


@cython.final
cdef class BodyScanner:
    def __cinit__(self, *, Py_ssize_t max_bytes=0, Py_ssize_t max_header_bytes=0, bint normalize=False, bint binary=False):
        self.limit(max_bytes, max_header_bytes, normalize, binary)
        self.header = HeaderScanner.__new__(HeaderScanner)
        # As if a line had just ended: "." CRLF as the first line is the end (RFC 5321 §4.1.1.4).
        self.before2 = c'\r'
        self.before = c'\n'

    def __dealloc__(self):
        PyMem_Free(self.out)

    cdef void limit(self, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize, bint binary) noexcept:
        self.max_bytes = max_bytes
        self.max_header_bytes = max_header_bytes
        self.normalize = normalize
        self.binary = binary

    cdef int put(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Content, as it is to be given out. Pointers live until `given`."""
        cdef Py_ssize_t room
        cdef unsigned char* moved
        if n == 0:
            return 0
        self.size += n
        if not self.header.ended:
            self.header.add(p, n)
            if self.header.mbox_from:
                self.faults |= FAULT_MBOX_FROM
            if self.header.size > self.max_header_bytes:
                self.faults |= FAULT_HEADER_TOO_LARGE
        if self.size > self.max_bytes:
            self.faults |= FAULT_TOO_LARGE
        if self.faults or self.discarding:
            return 0
        if self.out == NULL:
            if self.run_octets == 0:
                self.run = p
                self.run_octets = n
                return 0
            if self.run + self.run_octets == p:
                self.run_octets += n
                return 0
        if self.out == NULL or self.out_octets + n > self.out_room:
            room = (self.run_octets if self.out == NULL else self.out_octets) + n
            room += room // 2 + 256
            moved = <unsigned char*>PyMem_Realloc(self.out, <size_t>room)
            if moved == NULL:
                raise MemoryError()
            if self.out == NULL:
                memcpy(moved, self.run, <size_t>self.run_octets)
                self.out_octets = self.run_octets
            self.out = moved
            self.out_room = room
        memcpy(self.out + self.out_octets, p, <size_t>n)
        self.out_octets += n
        return 0

    cdef int mend(self, const unsigned char* p, Py_ssize_t n) except -1:
        """"normalize" where something is to be mended: an LF alone becomes CRLF, a CR alone a space."""
        cdef Py_ssize_t i
        cdef Py_ssize_t begun = 0
        for i in range(n):
            if self.held_cr:
                self.held_cr = False
                begun = i
                if p[i] == c'\n':
                    self.put(b"\r\n", 2)
                    begun = i + 1
                    continue
                self.put(b" ", 1)
            if p[i] == c'\r':
                self.put(p + begun, i - begun)
                self.held_cr = True
            elif p[i] == c'\n':
                self.put(p + begun, i - begun)
                self.put(b"\r\n", 2)
                begun = i + 1
        if not self.held_cr:
            self.put(p + begun, n - begun)
        return 0

    cdef int take(self, const unsigned char* p, Py_ssize_t n, unsigned int found) except -1:
        """A stretch of content as it came, with what `survey` said about it."""
        cdef unsigned int bare
        if n == 0:
            return 0
        self.eight_bit |= (found & SCAN_EIGHT_BIT) != 0
        if self.binary:
            self.put(p, n)
        else:
            bare = found & (SCAN_BARE_CR | SCAN_BARE_LF)
            self.faults |= found & SCAN_NUL
            if not self.normalize:
                self.faults |= bare
                self.put(p, n)
            else:
                self.repaired |= bare
                if bare or self.held_cr:
                    self.mend(p, n)
                elif p[n - 1] == c'\r':
                    self.put(p, n - 1)
                    self.held_cr = True
                else:
                    self.put(p, n)
        self.before2 = p[n - 2] if n > 1 else self.before
        self.before = p[n - 1]
        return 0

    cdef Py_ssize_t scan_text(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Read DATA on; the octets consumed. `ended` says whether the end was among them."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t block_end
        cdef Py_ssize_t dot_at
        cdef unsigned int found
        while i < n and not self.ended:
            if self.dot:
                i += self.after_dot(p, i)
                continue
            block_end = min(n, i + BLOCK_OCTETS)
            if block_end - i > SMALL_OCTETS:
                found = survey(p + i, <size_t>(block_end - i), self.before)
                if not found & SCAN_LINE_DOT:
                    self.take(p + i, block_end - i, found)
                    i = block_end
                    continue
            while i < block_end and not self.dot and not self.ended:
                dot_at = find_line_dot(p + i, block_end - i, self.before)
                if dot_at < 0:
                    dot_at = block_end - i
                self.take(p + i, dot_at, survey(p + i, <size_t>dot_at, self.before))
                i += dot_at
                if i == block_end:
                    break
                if self.before2 == c'\r':
                    self.dot = 1
                else:  # after an LF alone: rule 2
                    self.take(p + i, 1, 0)
                i += 1
                while self.dot and i < n and not self.ended:
                    i += self.after_dot(p, i)
        self.swallowed += i
        return i

    cdef int after_dot(self, const unsigned char* p, Py_ssize_t i) except -1:
        """The octet at i follows CRLF "." (dot = 1) or CRLF "." CR (dot = 2). 1 when it is used up."""
        if self.dot == 1:
            if p[i] == c'\r':
                self.dot = 2
                return 1
            self.dot = 0
            self.before2 = c'\n'
            self.before = c'.'
            if p[i] == c'\n' and self.normalize:
                self.put(b".", 1)
            return 0
        self.dot = 0
        if p[i] == c'\n':
            self.ended = True
            return 1
        # The CR belongs to the text. `survey` finds it alone, since no LF follows.
        self.before2 = c'.'
        self.before = c'\r'
        if self.normalize:
            self.held_cr = True
        else:
            self.put(b"\r", 1)
        return 0

    cdef Py_ssize_t scan_octets(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Read octets of a BDAT chunk: no dots, no end."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t step
        while i < n:
            step = min(n - i, BLOCK_OCTETS)
            self.take(p + i, step, survey(p + i, <size_t>step, self.before))
            i += step
        self.swallowed += n
        return n

    cdef int finish(self) except -1:
        """The last BDAT chunk is complete: a CR at the very end stands alone."""
        if self.before == c'\r' and not self.binary:
            if self.normalize:
                self.repaired |= FAULT_BARE_CR
                if self.held_cr:
                    self.held_cr = False
                    self.put(b" ", 1)
            else:
                self.faults |= FAULT_BARE_CR
        self.ended = True
        return 0

    cdef bytes given(self, bytes source):
        """What was put since the last time, as an object of its own or as `source` itself when it is all of that."""
        cdef bytes text = b""
        if self.faults or self.discarding:
            pass
        elif self.out != NULL:
            text = PyBytes_FromStringAndSize(<const char*>self.out, self.out_octets)
        elif self.run_octets:
            if (source is not None and self.run_octets == PyBytes_GET_SIZE(source)
                    and self.run == <const unsigned char*>PyBytes_AS_STRING(source)):
                text = source
            else:
                text = PyBytes_FromStringAndSize(<const char*>self.run, self.run_octets)
        PyMem_Free(self.out)
        self.out = NULL
        self.run = NULL
        self.run_octets = self.out_octets = self.out_room = 0
        return text

    cdef bint overran(self) noexcept:
        return self.swallowed > 2 * self.max_bytes + EXCESS_OCTETS

    def feed(self, bytes data not None):
        cdef Py_ssize_t used = self.scan_text(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return used, self.given(data)

    def feed_octets(self, bytes data not None, *, bint last=False):
        self.scan_octets(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if last:
            self.finish()
        return self.given(data)


cdef Py_ssize_t find_line_dot(const unsigned char* p, Py_ssize_t n, unsigned char before) noexcept nogil:
    """The offset of the first dot that follows an LF, or -1."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t at
    if n > 0 and before == c'\n' and p[0] == c'.':
        return 0
    while i < n:
        at = find_lf(<const char*>p + i, n - i)
        if at < 0:
            return -1
        i += at + 1
        if i < n and p[i] == c'.':
            return i
    return -1
