"""A body on its way in, as long as it is in memory. `rusmes.storage.spool` has a subclass for what is larger."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy


cdef class Collector:
    def __cinit__(self, *arguments, **named):
        self.header_end = -1
        self.chunks = []
        # As if a line had ended before the first byte: a message may begin with the empty line.
        self.tail[1] = c'\r'
        self.tail[2] = c'\n'

    def write(self, bytes data not None) -> None:
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if n == 0:
            return
        if self.header_end < 0:
            self.find_header_end(<const unsigned char*>PyBytes_AS_STRING(data), n)
        self.chunks.append(data)
        self.chunk_octets += n
        self.size += n
        if self.chunk_octets > self.spill_above:
            self.spill()

    cdef void find_header_end(self, const unsigned char* p, Py_ssize_t n) noexcept:
        """The header ends with the first empty line (RFC 5322 §2.1): CR LF CR LF, of which octets may be in the tail."""
        cdef unsigned char around[6]
        cdef const unsigned char* found
        cdef Py_ssize_t head = min(n, 3)
        cdef Py_ssize_t at
        memcpy(around, self.tail, 3)
        memcpy(around + 3, p, <size_t>head)
        for at in range(3, 3 + head):
            if around[at] == c'\n' and around[at - 1] == c'\r' and around[at - 2] == c'\n' and around[at - 3] == c'\r':
                self.header_end = self.size + at - 2
                return
        at = 3
        while at < n:
            found = <const unsigned char*>memchr(p + at, c'\n', <size_t>(n - at))
            if found == NULL:
                break
            at = found - p + 1
            if p[at - 2] == c'\r' and p[at - 3] == c'\n' and p[at - 4] == c'\r':
                self.header_end = self.size + at
                return
        memcpy(self.tail, around + head, 3)
        if n > 3:
            memcpy(self.tail, p + n - 3, 3)

    def take_chunks(self) -> bytes:
        cdef list chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.chunk_octets = 0
        return data

    @property
    def in_memory(self) -> int:
        return self.chunk_octets

    @property
    def header_bytes(self) -> int:
        return self.size if self.header_end < 0 else self.header_end
