from libc.stdint cimport uint64_t

from rusmes._core.casemap cimport Needle


cdef enum Encoding:
    IDENTITY = 0               # 7bit, 8bit, binary, and what nobody knows
    BASE64 = 1
    QUOTED_PRINTABLE = 2

cdef enum CharsetKind:
    UTF8 = 0                   # and ASCII, and what nobody knows
    TABLE = 1                  # one octet, one character
    CODEC = 2                  # one of Python's codecs

# How the octets of a text become characters.
cdef struct Charset:
    int kind
    bint keeps_ascii           # octets below 128 are ASCII, and part of no other character
    unsigned int* table


# Text of a message on its way through decoding and folding into a buffer, where up to 64 patterns are looked for.
cdef class TextPipe:
    cdef list patterns
    cdef Needle needle[64]     # of `patterns`
    cdef bint has_space[64]    # a match may be cut by a fold, or take in what is none
    cdef int count
    cdef Py_ssize_t carry      # octets of a searched buffer that a match may begin in
    # The run
    cdef uint64_t wanted       # patterns that are looked for
    cdef uint64_t found
    # Decoded octets of the transfer encoding, then characters folded
    cdef unsigned char* raw
    cdef Py_ssize_t raw_size
    cdef unsigned char* wide
    cdef unsigned char* folded
    cdef Py_ssize_t folded_size
    cdef unsigned char* scratch
    cdef Py_ssize_t scratch_room
    # Instead of a search: the characters themselves
    cdef bint keeps
    cdef unsigned char* kept
    cdef Py_ssize_t kept_size
    cdef Py_ssize_t kept_room
    # Of the codec of Python that is at work
    cdef object decoder
    cdef bint failed           # there was no memory

    cdef void begin(self) noexcept nogil
    cdef void end(self) noexcept nogil
    cdef void look(self, bint is_last) noexcept nogil
    cdef void put_utf8(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
    cdef void keep(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
    cdef void convert(self, const Charset* charset, bint is_last) noexcept nogil
    cdef void convert_by_codec(self, bint is_last) noexcept with gil
    cdef void start_codec(self, const unsigned char* name, Py_ssize_t size) noexcept with gil
    cdef void page_of(self, int page) noexcept with gil

    # A text in a transfer encoding and a charset (its name in lower case): look for what is wanted.
    cdef void take_text(
        self, const unsigned char* p, Py_ssize_t n, int encoding, const unsigned char* name, Py_ssize_t name_size
    ) noexcept nogil
    # A header block or a part of one: unfolded, with its encoded words decoded.
    cdef void take_header(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
    cdef void put_words(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
    cdef bint has_room(self, Py_ssize_t size) noexcept nogil


cdef Charset find_charset(const unsigned char* name, Py_ssize_t size) noexcept nogil
