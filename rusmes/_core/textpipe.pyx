"""Text of messages, decoded and folded in a stream, and searched as it goes by. See `textpipe.pyi`.

Nothing here holds more than some buffers of a fixed size, whatever the size of the text; only the unfolded header block is kept
whole, and a block is read no further than MAX_HEADER_OCTETS. All of it runs without the GIL but for charsets that only
Python knows.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

import codecs
import encodings.aliases
import re

from rusmes._core.casemap cimport (
    Pattern, find_ascii, find_folded, fold_utf8, is_seven_bit, make_page, next_character, put_character,
)

cdef extern from *:
    """
    static inline void rusmes_publish_int(int *place, int value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }
    static inline int rusmes_read_int(int *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }
    """
    void publish_int "rusmes_publish_int"(int*, int) noexcept nogil
    int read_int "rusmes_read_int"(int*) noexcept nogil


cdef enum:
    RAW_OCTETS = 16 * 1024
    WIDE_OCTETS = 4 * RAW_OCTETS
    FOLDED_OCTETS = 64 * 1024
    MAX_NAME_OCTETS = 40
    MAX_SLOTS = 128
    MAX_PENDING_OCTETS = 64
    MAX_HEADER_OCTETS = 256 * 1024   # as rusmes.mime.fields.MAX_HEADER_BYTES
    MAX_KEPT_OCTETS = 64 * 1024 * 1024


# Charsets

# A charset by a name that was met, for those who hold no lock. Only names that Python has are kept, so there are few.
cdef struct Slot:
    unsigned char name[MAX_NAME_OCTETS]
    int size
    Charset charset

cdef Slot slots[MAX_SLOTS]
cdef int slot_count = 0

# Codecs that are no charsets, or whose decoders take more than linear time.
cdef object NO_CHARSETS = frozenset(
    "base64_codec bz2_codec hex_codec idna mbcs oem punycode quopri_codec raw_unicode_escape rot_13 tactis undefined "
    "unicode_escape unicode_internal uu_codec zlib_codec".split()
)
cdef object OTHER_NAMES = {
    "ascii": "utf_8", "iso8859_1": "latin_1", "latin_1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030",
    "iso_8859_8_i": "iso8859_8", "iso_8859_8_e": "iso8859_8", "x_sjis": "cp932", "shift_jis": "cp932", "windows_31j": "cp932",
    "x_gbk": "gb18030", "windows_874": "cp874", "dos_874": "cp874", "x_euc_jp": "euc_jp", "ks_c_5601_1987": "cp949",
    "euc_kr": "cp949", "x_mac_roman": "mac_roman", "x_mac_cyrillic": "mac_cyrillic", "x_user_defined": "utf_8",
}
# Some have no other name than their own.
cdef object CODECS = frozenset(encodings.aliases.aliases.values()) - NO_CHARSETS | frozenset(
    "cp720 cp737 cp856 cp874 cp875 cp1006 koi8_r koi8_t koi8_u mac_arabic mac_croatian mac_farsi mac_romanian".split()
)
cdef object MANY_OCTETS = re.compile("big5|cp93|cp94|cp95|cp65001|euc_|gb|hz|iso2022|johab|shift_jis|utf_")
cdef object NO_LETTER = re.compile("[^a-z0-9]+")


def codec_of(bytes charset not None):
    cdef str name = NO_LETTER.sub("_", charset.decode("latin-1").lower()).strip("_")
    cdef object codec = OTHER_NAMES.get(name) or encodings.aliases.aliases.get(name, name)
    codec = OTHER_NAMES.get(codec, codec)
    codec = OTHER_NAMES.get(codec, codec)
    return codec if codec in CODECS else None


cdef bint has_charset(bytes name, Charset* charset) except -1:
    """Whether Python knows it."""
    cdef object codec = codec_of(name)
    cdef int octet
    cdef str character
    charset.kind = UTF8
    charset.keeps_ascii = True
    charset.table = NULL
    if codec is None or codec == "utf_8":
        return codec is not None
    if MANY_OCTETS.match(codec):
        charset.kind = CODEC
        charset.keeps_ascii = False
        return True
    charset.table = <unsigned int*>calloc(256, sizeof(unsigned int))
    if charset.table == NULL:
        raise MemoryError
    for octet in range(256):
        character = bytes((octet,)).decode(codec, "replace")
        charset.table[octet] = ord(character) if character != "\N{REPLACEMENT CHARACTER}" else octet
        if octet < 128 and charset.table[octet] != <unsigned int>octet:
            charset.keeps_ascii = False
    charset.kind = TABLE
    return True


cdef Charset utf8_charset() noexcept nogil:
    cdef Charset charset
    charset.kind = UTF8
    charset.keeps_ascii = True
    charset.table = NULL
    return charset


cdef Charset learn_charset(const unsigned char* name, Py_ssize_t size) noexcept with gil:
    cdef Charset charset = utf8_charset()
    cdef Slot* slot
    cdef bytes key = PyBytes_FromStringAndSize(<const char*>name, size)
    try:
        if has_charset(key, &charset) and slot_count < MAX_SLOTS:
            slot = &slots[slot_count]
            memcpy(slot.name, name, <size_t>size)
            slot.size = <int>size
            slot.charset = charset
            publish_int(&slot_count, slot_count + 1)
        elif charset.table != NULL:   # no room to remember it: the names of Python's charsets in all their spellings
            free(charset.table)
            charset = utf8_charset()
    except Exception:
        charset = utf8_charset()
    return charset


cdef Charset find_charset(const unsigned char* name, Py_ssize_t size) noexcept nogil:
    """By a name in lower case."""
    cdef int i
    if size == 0 or size > MAX_NAME_OCTETS:
        return utf8_charset()
    if (size == 5 and memcmp(name, b"utf-8", 5) == 0) or (size == 8 and memcmp(name, b"us-ascii", 8) == 0):
        return utf8_charset()
    for i in range(read_int(&slot_count)):
        if slots[i].size == size and memcmp(slots[i].name, name, <size_t>size) == 0:
            return slots[i].charset
    return learn_charset(name, size)


# Transfer encodings

# 0 to 63; 64 the padding; 65 anything else.
cdef unsigned char BASE64_VALUES[256]
cdef const char* BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef int _fill_values() except -1:
    cdef int i
    for i in range(256):
        BASE64_VALUES[i] = 65
    for i in range(64):
        BASE64_VALUES[<unsigned char>BASE64_ALPHABET[i]] = <unsigned char>i
    BASE64_VALUES[c'='] = 64
    return 0
_fill_values()


cdef inline int hexadecimal(unsigned char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 65 <= c <= 70 or 97 <= c <= 102:
        return (c & 15) + 9
    return -1


# Where a decoder is in its text, when the buffer it decodes into is full.
cdef struct Decoding:
    Py_ssize_t at
    unsigned int bits          # of base64, and how many
    int bit_count


cdef Py_ssize_t decode_base64(
    const unsigned char* p, Py_ssize_t n, Decoding* state, unsigned char* out, Py_ssize_t room
) noexcept nogil:
    """RFC 2045 §6.8: other characters are stepped over. Padding ends a group; another text may follow it."""
    cdef Py_ssize_t i = state.at
    cdef Py_ssize_t k = 0
    cdef unsigned char value
    cdef unsigned int group
    while i < n and k + 3 <= room:
        if state.bit_count == 0 and i + 4 <= n:
            group = (
                <unsigned int>BASE64_VALUES[p[i]] << 24 | <unsigned int>BASE64_VALUES[p[i + 1]] << 16
                | <unsigned int>BASE64_VALUES[p[i + 2]] << 8 | BASE64_VALUES[p[i + 3]]
            )
            if not group & 0x40404040u:
                group = (group >> 24) << 18 | (group >> 16 & 63) << 12 | (group >> 8 & 63) << 6 | (group & 63)
                out[k] = <unsigned char>(group >> 16)
                out[k + 1] = <unsigned char>(group >> 8)
                out[k + 2] = <unsigned char>group
                k += 3
                i += 4
                continue
        value = BASE64_VALUES[p[i]]
        i += 1
        if value < 64:
            state.bits = (state.bits << 6 | value) & 0xFFFF
            state.bit_count += 6
            if state.bit_count >= 8:
                state.bit_count -= 8
                out[k] = <unsigned char>(state.bits >> state.bit_count)
                k += 1
        elif value == 64:
            state.bit_count = 0
    state.at = i
    return k


cdef Py_ssize_t line_blanks_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the line end that comes after nothing but blanks, or -1. The end of the text is one."""
    while i < n and (p[i] == c' ' or p[i] == c'\t'):
        i += 1
    if i < n and p[i] == c'\r':
        i += 1
    if i >= n:
        return n
    return i + 1 if p[i] == c'\n' else -1


cdef Py_ssize_t decode_quoted(
    const unsigned char* p, Py_ssize_t n, Decoding* state, unsigned char* out, Py_ssize_t room
) noexcept nogil:
    """RFC 2045 §6.7. Blanks at the end of a line were added on the way; a broken escape stays as it is."""
    cdef Py_ssize_t i = state.at
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t end
    while i < n and k < room:
        if p[i] == c'=':
            if i + 2 < n and hexadecimal(p[i + 1]) >= 0 and hexadecimal(p[i + 2]) >= 0:
                out[k] = <unsigned char>(hexadecimal(p[i + 1]) << 4 | hexadecimal(p[i + 2]))
                k += 1
                i += 3
                continue
            end = line_blanks_end(p, i + 1, n)
            if end >= 0:
                i = end
                continue
        elif p[i] == c' ' or p[i] == c'\t':
            if (i == 0 or (p[i - 1] != c' ' and p[i - 1] != c'\t')) and line_blanks_end(p, i, n) >= 0:
                while i < n and (p[i] == c' ' or p[i] == c'\t'):
                    i += 1
                continue
        out[k] = p[i]
        k += 1
        i += 1
    state.at = i
    return k


cdef Py_ssize_t decode_q(
    const unsigned char* p, Py_ssize_t n, Decoding* state, unsigned char* out, Py_ssize_t room
) noexcept nogil:
    """RFC 2047 §4.2."""
    cdef Py_ssize_t i = state.at
    cdef Py_ssize_t k = 0
    while i < n and k < room:
        if p[i] == c'=' and i + 2 < n and hexadecimal(p[i + 1]) >= 0 and hexadecimal(p[i + 2]) >= 0:
            out[k] = <unsigned char>(hexadecimal(p[i + 1]) << 4 | hexadecimal(p[i + 2]))
            i += 3
        else:
            out[k] = c' ' if p[i] == c'_' else p[i]
            i += 1
        k += 1
    state.at = i
    return k


# An encoded word that begins at p (RFC 2047 §2).
cdef struct Word:
    unsigned char charset[MAX_NAME_OCTETS]   # in lower case, without a language (RFC 2231 §5)
    Py_ssize_t charset_size
    unsigned char encoding                   # b or q
    const unsigned char* text
    Py_ssize_t size
    Py_ssize_t length                        # of the whole word


cdef bint find_word(const unsigned char* p, Py_ssize_t n, Word* word) noexcept nogil:
    cdef Py_ssize_t i = 2
    cdef bint is_language = False
    cdef const unsigned char* end
    if n < 8 or p[0] != c'=' or p[1] != c'?':
        return False
    word.charset_size = 0
    while i < n and p[i] != c'?':
        if p[i] <= 32 or p[i] >= 127:
            return False
        if p[i] == c'*':
            is_language = True
        if not is_language:
            if word.charset_size == MAX_NAME_OCTETS:
                return False
            word.charset[word.charset_size] = p[i] | 32 if 65 <= p[i] <= 90 else p[i]
            word.charset_size += 1
        i += 1
    if word.charset_size == 0 or i + 3 > n or p[i + 2] != c'?':
        return False
    word.encoding = p[i + 1] | 32
    if word.encoding != c'b' and word.encoding != c'q':
        return False
    word.text = p + i + 3
    end = <const unsigned char*>memchr(word.text, c'?', <size_t>(n - i - 3))
    if end == NULL or end + 1 == p + n or end[1] != c'=':
        return False
    word.size = end - word.text
    word.length = end + 2 - p
    return True


cdef Py_ssize_t find_mark(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The offset of the next "=?", or n."""
    cdef const unsigned char* at
    while i + 1 < n:
        at = <const unsigned char*>memchr(p + i, c'=', <size_t>(n - i - 1))
        if at == NULL:
            break
        i = at - p
        if p[i + 1] == c'?':
            return i
        i += 1
    return n


cdef class TextPipe:
    def __cinit__(self, list patterns not None=[]):
        cdef int i
        self.patterns = patterns
        self.count = <int>len(patterns)
        if self.count > 64:
            raise ValueError("at most 64 patterns")
        for i in range(self.count):
            self.needle[i] = (<Pattern?>patterns[i]).needle
            self.carry = max(self.carry, self.needle[i].n - 1)
            self.has_space[i] = any(space in (<Pattern>patterns[i]).folded for space in b" \t\r\n")
        self.raw = <unsigned char*>malloc(RAW_OCTETS + 16)
        self.wide = <unsigned char*>malloc(WIDE_OCTETS)
        self.folded = <unsigned char*>malloc(<size_t>(FOLDED_OCTETS + self.carry))
        if self.raw == NULL or self.wide == NULL or self.folded == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.raw)
        free(self.wide)
        free(self.folded)
        free(self.scratch)
        free(self.kept)

    cdef void begin(self) noexcept nogil:
        self.raw_size = 0
        self.folded_size = 0

    cdef void end(self) noexcept nogil:
        self.look(True)

    cdef void look(self, bint is_last) noexcept nogil:
        """Search what is folded, and keep as much of it as a match may begin in."""
        cdef int i
        cdef Py_ssize_t left
        for i in range(self.count):
            if self.wanted >> i & 1 and find_folded(&self.needle[i], self.folded, self.folded_size) >= 0:
                self.found |= <uint64_t>1 << i
                self.wanted &= ~(<uint64_t>1 << i)
        left = 0 if is_last else min(self.carry, self.folded_size)
        memmove(self.folded, self.folded + self.folded_size - left, <size_t>left)
        self.folded_size = left

    cdef void keep(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t size
        cdef unsigned int code = 0
        cdef unsigned char* grown
        if self.kept_room - self.kept_size < 2 * n:
            size = self.kept_size + 2 * n + (self.kept_size >> 1)
            grown = <unsigned char*>realloc(self.kept, <size_t>size) if size <= MAX_KEPT_OCTETS else NULL
            if grown == NULL:
                self.failed = True
                return
            self.kept = grown
            self.kept_room = size
        while n:
            size = next_character(p, n, True, &code)
            self.kept_size += put_character(code, self.kept + self.kept_size)
            p += size
            n -= size

    cdef void page_of(self, int page) noexcept with gil:
        try:
            make_page(page)
        except Exception:
            self.failed = True

    cdef void put_utf8(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        """Whole characters: what is incomplete at the end is taken as it is."""
        cdef Py_ssize_t used = 0
        cdef int page = -1
        if self.keeps:
            self.keep(p, n)
            return
        while n and self.wanted and not self.failed:
            self.folded_size += fold_utf8(
                p, n, True, self.folded + self.folded_size, FOLDED_OCTETS + self.carry - self.folded_size, &used, &page
            )
            p += used
            n -= used
            if page >= 0:
                self.page_of(page)
            elif n:
                self.look(False)

    cdef void convert(self, const Charset* charset, bint is_last) noexcept nogil:
        """Hand on the decoded octets as UTF-8; a character that is not whole waits for the rest."""
        cdef Py_ssize_t whole = self.raw_size
        cdef Py_ssize_t i, k
        cdef unsigned int code = 0
        if charset.kind == CODEC:
            self.convert_by_codec(is_last)
            return
        if charset.kind == TABLE:
            k = 0
            for i in range(self.raw_size):
                k += put_character(charset.table[self.raw[i]], self.wide + k)
            self.put_utf8(self.wide, k)
            self.raw_size = 0
            return
        if not is_last:
            i = max(whole - 3, 0)
            while i < whole:
                k = next_character(self.raw + i, whole - i, False, &code)
                if k == 0:
                    whole = i
                    break
                i += k
        self.put_utf8(self.raw, whole)
        self.raw_size -= whole
        memmove(self.raw, self.raw + whole, <size_t>self.raw_size)

    cdef void start_codec(self, const unsigned char* name, Py_ssize_t size) noexcept with gil:
        try:
            codec = codec_of(PyBytes_FromStringAndSize(<const char*>name, size))
            self.decoder = codecs.getincrementaldecoder(codec)("replace")
        except Exception:
            self.decoder = None

    cdef void convert_by_codec(self, bint is_last) noexcept with gil:
        cdef bytes text
        cdef bytes data = PyBytes_FromStringAndSize(<const char*>self.raw, self.raw_size)
        self.raw_size = 0
        try:
            characters = self.decoder.decode(data, is_last)
            # UTF-7 may wait for the end of a text, and would begin anew with every piece of it.
            if not is_last and len(self.decoder.getstate()[0]) > MAX_PENDING_OCTETS:
                characters += self.decoder.decode(b"", True)
            text = characters.encode("utf-8", "replace")
        except Exception:
            text = data
        self.put_utf8(<const unsigned char*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef void take_text(
        self, const unsigned char* p, Py_ssize_t n, int encoding, const unsigned char* name, Py_ssize_t name_size
    ) noexcept nogil:
        cdef Charset charset = find_charset(name, name_size)
        cdef Decoding state
        cdef Py_ssize_t size
        cdef int i
        if encoding == IDENTITY and charset.keeps_ascii and not self.keeps:
            # What is ASCII stands there as it is, but letters with accents hide some: only octets below 128 settle it.
            for i in range(self.count):
                if self.wanted >> i & 1 and self.needle[i].is_ascii and find_ascii(&self.needle[i], p, n) >= 0:
                    self.found |= <uint64_t>1 << i
                    self.wanted &= ~(<uint64_t>1 << i)
            if self.wanted == 0 or is_seven_bit(p, n):
                return
        if charset.kind == CODEC:
            self.start_codec(name, name_size)
        self.begin()
        state.at = 0
        state.bits = 0
        state.bit_count = 0
        while state.at < n and (self.wanted or self.keeps) and not self.failed:
            if encoding == BASE64:
                self.raw_size += decode_base64(p, n, &state, self.raw + self.raw_size, RAW_OCTETS - self.raw_size)
            elif encoding == QUOTED_PRINTABLE:
                self.raw_size += decode_quoted(p, n, &state, self.raw + self.raw_size, RAW_OCTETS - self.raw_size)
            else:
                size = min(n - state.at, RAW_OCTETS - self.raw_size)
                memcpy(self.raw + self.raw_size, p + state.at, <size_t>size)
                self.raw_size += size
                state.at += size
            self.convert(&charset, state.at >= n)
        self.end()

    cdef bint has_room(self, Py_ssize_t size) noexcept nogil:
        cdef unsigned char* grown
        if size > self.scratch_room:
            grown = <unsigned char*>realloc(self.scratch, <size_t>size)
            if grown == NULL:
                self.failed = True
                return False
            self.scratch = grown
            self.scratch_room = size
        return True

    cdef void take_header(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t returns = 0   # CRs right before, which belong to the fold when LF follows
        cdef uint64_t open = 0        # patterns that a look at the bare octets does not settle
        cdef int j
        cdef bint has_folds
        n = min(n, MAX_HEADER_OCTETS)
        if find_mark(p, 0, n) == n:
            has_folds = memchr(p, c'\n', <size_t>n) != NULL
            for j in range(self.count):
                # A match across a fold has the blank that the next line begins with.
                if self.wanted >> j & 1 and self.needle[j].is_ascii and not (has_folds and self.has_space[j]):
                    if find_ascii(&self.needle[j], p, n) >= 0:
                        self.found |= <uint64_t>1 << j
                        self.wanted &= ~(<uint64_t>1 << j)
                elif self.wanted >> j & 1 and self.needle[j].is_ascii:
                    open |= <uint64_t>1 << j
            if self.wanted == 0 or (open == 0 and is_seven_bit(p, n)):
                return
        if not self.has_room(n):
            return
        while i < n:
            if p[i] == c'\n' and i + 1 < n and (p[i + 1] == c' ' or p[i + 1] == c'\t'):
                k -= returns
                returns = 0
            else:
                returns = returns + 1 if p[i] == c'\r' else 0
                self.scratch[k] = p[i]
                k += 1
            i += 1
        self.begin()
        self.put_words(self.scratch, k)
        self.end()

    cdef void put_words(self, const unsigned char* p, Py_ssize_t n) noexcept nogil:
        """Unfolded text with encoded words."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t next_at
        cdef Word word, following
        cdef Charset charset
        cdef Decoding state
        cdef bint more
        while i < n and (self.wanted or self.keeps) and not self.failed:
            at = find_mark(p, at, n)
            if at < n and not find_word(p + at, n - at, &word):
                at += 2
                continue
            self.put_utf8(p + i, at - i)
            i = at
            more = i < n
            if more:
                charset = find_charset(word.charset, word.charset_size)
                if charset.kind == CODEC:
                    self.start_codec(word.charset, word.charset_size)
            while more:
                state.at = 0
                state.bits = 0
                state.bit_count = 0
                while state.at < word.size and not self.failed:
                    if word.encoding == c'b':
                        self.raw_size += decode_base64(
                            word.text, word.size, &state, self.raw + self.raw_size, RAW_OCTETS - self.raw_size
                        )
                    else:
                        self.raw_size += decode_q(
                            word.text, word.size, &state, self.raw + self.raw_size, RAW_OCTETS - self.raw_size
                        )
                    if state.at < word.size:
                        self.convert(&charset, False)
                i += word.length
                # RFC 2047 §6.2: blanks between two words are not shown. A character may be cut between them.
                next_at = i
                while next_at < n and (p[next_at] == c' ' or p[next_at] == c'\t'):
                    next_at += 1
                more = next_at < n and find_word(p + next_at, n - next_at, &following)
                if more and following.charset_size == word.charset_size and memcmp(
                    following.charset, word.charset, <size_t>word.charset_size
                ) == 0:
                    self.convert(&charset, False)
                else:
                    self.convert(&charset, True)
                    if more:
                        charset = find_charset(following.charset, following.charset_size)
                        if charset.kind == CODEC:
                            self.start_codec(following.charset, following.charset_size)
                if more:
                    i = next_at
                    word = following
            at = i


cdef str kept_text(TextPipe pipe):
    if pipe.failed:
        raise MemoryError
    return PyUnicode_DecodeUTF8(<const char*>pipe.kept, pipe.kept_size, NULL) if pipe.kept_size else ""


def decode_header(bytes value not None) -> str:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef TextPipe pipe
    if n > MAX_HEADER_OCTETS:
        value = value[:MAX_HEADER_OCTETS]
        p = <const unsigned char*>PyBytes_AS_STRING(value)
        n = MAX_HEADER_OCTETS
    if memchr(p, c'\n', <size_t>n) != NULL:
        value = FOLD.sub(b"", value)
        p = <const unsigned char*>PyBytes_AS_STRING(value)
        n = PyBytes_GET_SIZE(value)
    if is_seven_bit(p, n) and find_mark(p, 0, n) == n:
        return PyUnicode_DecodeUTF8(<const char*>p, n, NULL).strip(" \t\r\n")
    pipe = TextPipe.__new__(TextPipe, [])
    pipe.keeps = True
    pipe.begin()
    pipe.put_words(p, n)
    return kept_text(pipe).strip(" \t\r\n")


cdef object FOLD = re.compile(rb"\r*\n")


def decode_text(bytes data not None, bytes encoding not None, bytes charset not None) -> str:
    cdef TextPipe pipe = TextPipe.__new__(TextPipe, [])
    cdef bytes name = charset.strip().lower()
    cdef bytes word = encoding.strip().lower()
    cdef int how = BASE64 if word == b"base64" else QUOTED_PRINTABLE if word == b"quoted-printable" else IDENTITY
    pipe.keeps = True
    pipe.take_text(
        <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), how,
        <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
    )
    return kept_text(pipe)
