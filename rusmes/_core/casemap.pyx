"""Comparing texts without case (RFC 5051), and finding one in another. See `casemap.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

import unicodedata

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    /* Vectors of the compiler: SSE2 on x86-64, NEON on AArch64. */
    typedef unsigned char rusmes_v16 __attribute__((vector_size(16)));

    static inline rusmes_v16 rusmes_load16(const unsigned char *p)
    {
        rusmes_v16 v;
        memcpy(&v, p, 16);
        return v;
    }

    static inline int rusmes_any(rusmes_v16 v)
    {
        uint64_t half[2];
        memcpy(half, &v, 16);
        return (half[0] | half[1]) != 0;
    }

    static inline rusmes_v16 rusmes_fill16(unsigned char c)
    {
        rusmes_v16 v = {c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c};
        return v;
    }

    static inline unsigned char rusmes_upper(unsigned char c) { return (unsigned char)(c - 32 * ((unsigned char)(c - 'a') < 26)); }

    static inline int rusmes_same(const unsigned char *p, const unsigned char *q, ptrdiff_t n, int insensitive)
    {
        ptrdiff_t i;
        if (!insensitive)
            return memcmp(p, q, (size_t)n) == 0;
        for (i = 0; i < n; i++)
            if (rusmes_upper(p[i]) != q[i])
                return 0;
        return 1;
    }

    /* Knuth, Morris, Pratt. */
    static ptrdiff_t rusmes_find_linear(const unsigned char *p, ptrdiff_t n, const unsigned char *q, ptrdiff_t m,
                                        const int32_t *borders, int insensitive)
    {
        ptrdiff_t i, k = 0;
        for (i = 0; i < n; i++) {
            unsigned char c = insensitive ? rusmes_upper(p[i]) : p[i];
            while (k && q[k] != c)
                k = borders[k - 1];
            if (q[k] == c && ++k == m)
                return i - m + 1;
        }
        return -1;
    }

    /* Places where two seldom octets of q stand at their distance are found 64 at a time; there the rest is compared. When
       comparing costs more than looking, the text is of the kind that was made for it, and is gone on with by the linear way.
       q is in capitals when `insensitive`. */
    static ptrdiff_t rusmes_find(const unsigned char *p, ptrdiff_t n, const unsigned char *q, ptrdiff_t m, ptrdiff_t a,
                                 ptrdiff_t b, const int32_t *borders, int insensitive)
    {
        ptrdiff_t i = 0, k, work = 0, ends = n - m + 1;
        unsigned char first_mask, second_mask;
        rusmes_v16 first, second, mask_a, mask_b;
        if (m == 0)
            return 0;
        if (ends <= 0)
            return -1;
        first_mask = insensitive && q[a] >= 'A' && q[a] <= 'Z' ? 32 : 0;
        second_mask = insensitive && q[b] >= 'A' && q[b] <= 'Z' ? 32 : 0;
        first = rusmes_fill16(q[a] | first_mask);
        second = rusmes_fill16(q[b] | second_mask);
        mask_a = rusmes_fill16(first_mask);
        mask_b = rusmes_fill16(second_mask);
    #define RUSMES_PAIR(at) \\
        ((rusmes_v16)((rusmes_load16(p + (at) + a) | mask_a) == first) & (rusmes_v16)((rusmes_load16(p + (at) + b) | mask_b) == second))
        while (i < ends) {
            ptrdiff_t stop;
            if (i + 64 <= ends) {
                rusmes_v16 any = RUSMES_PAIR(i) | RUSMES_PAIR(i + 16) | RUSMES_PAIR(i + 32) | RUSMES_PAIR(i + 48);
                if (!rusmes_any(any)) {
                    i += 64;
                    continue;
                }
                stop = i + 64;
            } else
                stop = ends;
            for (k = i; k < stop; k++)
                if ((p[k + a] | first_mask) == (q[a] | first_mask) && (p[k + b] | second_mask) == (q[b] | second_mask)) {
                    if (rusmes_same(p + k, q, m, insensitive))
                        return k;
                    work += m;
                }
            i = stop;
            if (work > 4 * i + 4096) {
                k = rusmes_find_linear(p + i, n - i, q, m, borders, insensitive);
                return k < 0 ? k : k + i;
            }
        }
    #undef RUSMES_PAIR
        return -1;
    }

    /* A page is whole before a thread that holds no lock can see it. */
    static inline void rusmes_publish(void **place, void *value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }

    static int rusmes_is_seven_bit(const unsigned char *p, size_t n)
    {
        unsigned char high = 0;
        size_t i;
        for (i = 0; i < n; i++)
            high |= p[i];
        return high < 128;
    }

    /* Sixteen octets in capitals, when none of them is above 127. */
    static inline int rusmes_capitals16(const unsigned char *p, unsigned char *out)
    {
        rusmes_v16 v = rusmes_load16(p);
        if (rusmes_any(v & rusmes_fill16(128)))
            return 0;
        v -= (rusmes_v16)((v >= rusmes_fill16('a')) & (v <= rusmes_fill16('z'))) & rusmes_fill16(32);
        memcpy(out, &v, 16);
        return 1;
    }
    """
    Py_ssize_t find_pattern "rusmes_find"(
        const unsigned char*, Py_ssize_t, const unsigned char*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const int32_t*, int
    ) noexcept nogil
    bint is_seven_bit_c "rusmes_is_seven_bit"(const unsigned char*, size_t) noexcept nogil
    bint capitals16 "rusmes_capitals16"(const unsigned char*, unsigned char*) noexcept nogil
    void publish "rusmes_publish"(void**, void*) noexcept nogil
    unsigned char upper "rusmes_upper"(unsigned char) noexcept nogil


cdef enum:
    PAGE = 256
    PAGES = 0x1100             # 17 planes of 256 pages
    SAME = 0xFFFF              # in `at`: the character is its own folding
    HANGUL_FIRST = 0xAC00
    HANGUL_LAST = 0xD7A3


# What 256 characters fold to. A page of which no character changes (most are like that: ideographs) is `untouched`.
cdef struct Page:
    uint16_t at[PAGE]
    unsigned char size[PAGE]
    unsigned char* pool

cdef Page* pages[PAGES]
cdef Page untouched


cdef str simple_title(str character):
    """The titlecase mapping of one character to one; what has none is left (RFC 5051 §2.1 uses UnicodeData.txt only)."""
    title = character.title()
    return title if len(title) == 1 else character


cdef str folded_character(unsigned int code):
    cdef str text = chr(code)
    cdef str before = ""
    if HANGUL_FIRST <= code <= HANGUL_LAST or 0xD800 <= code <= 0xDFFF:
        return text
    while text != before:
        before = text
        text = unicodedata.normalize("NFKD", "".join([simple_title(character) for character in text]))
    return text


cdef int make_page(int page) except -1:
    cdef bytearray pool = bytearray()
    cdef bytes text
    cdef Page* new
    cdef int i
    cdef bint changed = False
    cdef uint16_t at[PAGE]
    cdef unsigned char size[PAGE]
    if pages[page] != NULL:
        return 0
    for i in range(PAGE):
        text = folded_character(page * PAGE + i).encode("utf-8", "surrogatepass")
        if text == chr(page * PAGE + i).encode("utf-8", "surrogatepass"):
            at[i] = SAME
            size[i] = 0
        else:
            changed = True
            at[i] = <uint16_t>len(pool)
            size[i] = <unsigned char>len(text)
            pool += text
    if not changed:
        pages[page] = &untouched
        return 0
    new = <Page*>calloc(1, sizeof(Page))
    if new == NULL:
        raise MemoryError
    new.pool = <unsigned char*>malloc(<size_t>len(pool))
    if new.pool == NULL:
        free(new)
        raise MemoryError
    memcpy(new.pool, PyBytes_AS_STRING(bytes(pool)), <size_t>len(pool))
    memcpy(new.at, at, sizeof(at))
    memcpy(new.size, size, sizeof(size))
    publish(<void**>&pages[page], new)      # never freed: another thread may fold without the GIL
    return 0


cdef Py_ssize_t put_character(unsigned int code, unsigned char* out) noexcept nogil:
    if code < 0x80:
        out[0] = <unsigned char>code
        return 1
    if code < 0x800:
        out[0] = <unsigned char>(0xC0 | code >> 6)
        out[1] = <unsigned char>(0x80 | (code & 63))
        return 2
    if code < 0x10000:
        out[0] = <unsigned char>(0xE0 | code >> 12)
        out[1] = <unsigned char>(0x80 | (code >> 6 & 63))
        out[2] = <unsigned char>(0x80 | (code & 63))
        return 3
    out[0] = <unsigned char>(0xF0 | code >> 18)
    out[1] = <unsigned char>(0x80 | (code >> 12 & 63))
    out[2] = <unsigned char>(0x80 | (code >> 6 & 63))
    out[3] = <unsigned char>(0x80 | (code & 63))
    return 4


cdef Py_ssize_t next_character(const unsigned char* p, Py_ssize_t n, bint is_last, unsigned int* code) noexcept nogil:
    cdef unsigned int c = p[0]
    cdef unsigned int low, high
    cdef Py_ssize_t size, k
    code[0] = c
    if c < 0xC2 or c > 0xF4:      # ASCII, a continuation, an overlong form, or above U+10FFFF
        return 1
    # RFC 3629 §4: the second octet is narrower after some first ones.
    low = 0xA0 if c == 0xE0 else 0x90 if c == 0xF0 else 0x80
    high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
    size = 2 if c < 0xE0 else 3 if c < 0xF0 else 4
    c &= 0x7F >> size
    for k in range(1, size):
        if k == n:
            return 1 if is_last else 0
        if p[k] < low or p[k] > high:
            return 1
        c = c << 6 | (p[k] & 63)
        low = 0x80
        high = 0xBF
    code[0] = c
    return size


cdef Py_ssize_t fold_utf8(
    const unsigned char* p, Py_ssize_t n, bint is_last, unsigned char* out, Py_ssize_t room, Py_ssize_t* used, int* page
) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t size
    cdef unsigned int code = 0
    cdef Page* table
    page[0] = -1
    while i < n and k + FOLD_ROOM <= room:
        if p[i] < 0x80:
            if i + 16 <= n and capitals16(p + i, out + k):
                i += 16
                k += 16
                continue
            out[k] = upper(p[i])
            i += 1
            k += 1
            continue
        size = next_character(p + i, n - i, is_last, &code)
        if size == 0:
            break
        table = pages[code >> 8]
        if table == NULL:
            page[0] = <int>(code >> 8)
            break
        if table == &untouched or table.at[code & 255] == SAME:
            k += put_character(code, out + k)
        else:
            memcpy(out + k, table.pool + table.at[code & 255], table.size[code & 255])
            k += table.size[code & 255]
        i += size
    used[0] = i
    return k


cdef bint is_seven_bit(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    return is_seven_bit_c(p, <size_t>n)


def fold_octets(bytes text not None) -> bytes:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t capacity = n + (n >> 3) + FOLD_ROOM
    cdef bytes grown
    cdef bytes out = PyBytes_FromStringAndSize(NULL, capacity)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t used = 0
    cdef int page = -1
    while i < n:
        k += fold_utf8(p + i, n - i, True, <unsigned char*>PyBytes_AS_STRING(out) + k, capacity - k, &used, &page)
        i += used
        if page >= 0:
            make_page(page)
        elif i < n:
            capacity += (capacity >> 1) + FOLD_ROOM
            grown = PyBytes_FromStringAndSize(NULL, capacity)
            memcpy(PyBytes_AS_STRING(grown), PyBytes_AS_STRING(out), <size_t>k)
            out = grown
    return out[:k]


def fold(str text not None) -> bytes:
    return fold_octets(text.encode("utf-8", "surrogatepass"))


# How often octets are met in mail, the commonest first; those that are not named are seldom.
cdef bytes COMMON = b" ETAOINSRHLDCUMFPGWYBVK.,=\r\n-0123456789:/>\"<;_"


cdef Py_ssize_t find_folded(const Needle* needle, const unsigned char* p, Py_ssize_t n) noexcept nogil:
    return find_pattern(p, n, needle.p, needle.n, needle.first_rare, needle.second_rare, needle.borders, 0)


cdef Py_ssize_t find_ascii(const Needle* needle, const unsigned char* p, Py_ssize_t n) noexcept nogil:
    return find_pattern(p, n, needle.p, needle.n, needle.first_rare, needle.second_rare, needle.borders, 1)


@cython.final
cdef class Pattern:
    def __cinit__(self, str text not None):
        cdef Py_ssize_t i, n
        cdef Py_ssize_t k = 0
        cdef const unsigned char* p
        self.folded = fold(text)
        p = <const unsigned char*>PyBytes_AS_STRING(self.folded)
        n = PyBytes_GET_SIZE(self.folded)
        self.borders = <int32_t*>PyMem_Malloc(<size_t>(n + 1) * sizeof(int32_t))
        if self.borders == NULL:
            raise MemoryError
        self.borders[0] = 0
        for i in range(1, n):
            while k and p[i] != p[k]:
                k = self.borders[k - 1]
            if p[i] == p[k]:
                k += 1
            self.borders[i] = <int32_t>k
        ranks = [COMMON.find(octet) if octet in COMMON else len(COMMON) for octet in self.folded]
        order = sorted(range(n), key=lambda place: -ranks[place])
        self.needle.p = p
        self.needle.n = n
        self.needle.first_rare = order[0] if order else 0
        self.needle.second_rare = order[1] if len(order) > 1 else self.needle.first_rare
        self.needle.borders = self.borders
        self.needle.is_ascii = is_seven_bit(p, n)

    def __dealloc__(self):
        PyMem_Free(self.borders)

    @property
    def is_ascii(self) -> bool:
        return self.needle.is_ascii

    def find_in_folded(self, bytes text not None) -> int:
        return find_folded(&self.needle, <const unsigned char*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    def find_in_ascii(self, bytes text not None) -> int:
        return find_ascii(&self.needle, <const unsigned char*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
