"""Lines of the event log, collected in memory with the entries of their index.

A line is made from a template (names and codes) and a tuple of values. Fields without a value ("", 0, None, ()) are left out. Text is
escaped so that no octet below 32, no DEL, no C1 control and no line separator of Unicode appears as such: one event is one line.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport floor, isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memchr, memcmp, memcpy

from rusmes._core.chars cimport ATEXT, CLASSES

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct tm:
        int tm_sec
        int tm_min
        int tm_hour
        int tm_mday
        int tm_mon
        int tm_year
    tm* gmtime_r(const time_t* seconds, tm* out)

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow) except? -1


cdef enum:
    MAX_TEXT_CHARACTERS = 1000   # of one value; a peer's words do not fill the disk by themselves
    MAX_LISTED = 100             # values of a list
    ID_OCTETS = 16
    ID_CHARACTERS = 26
    ENTRY_OCTETS = 12            # on disk: the key and the offset, both big-endian
    SMALL_OCTETS = 64            # what a number, a time or an identifier takes at most

cdef const char* HEX_DIGITS = "0123456789abcdef"
cdef const char* ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


# Keys. FNV-1a of 64 bits with a last mix; the first octet is the kind of key, so a recipient is not taken for a Message-ID.

cdef inline uint64_t mix(uint64_t h) noexcept nogil:
    h ^= h >> 32
    h *= <uint64_t>0xD6E8FEB86659FD93
    h ^= h >> 32
    return h


cdef uint64_t hash_octets(uint64_t h, const char* p, Py_ssize_t n) noexcept nogil:
    """ASCII letters count as small ones."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(n):
        c = <unsigned char>p[i]
        if c'A' <= c <= c'Z':
            c |= 0x20
        h = (h ^ c) * <uint64_t>0x100000001B3
    return h


cdef inline uint64_t first_of(char kind) noexcept nogil:
    return (<uint64_t>0xCBF29CE484222325 ^ <unsigned char>kind) * <uint64_t>0x100000001B3


cdef uint64_t key_of_octets(char kind, const char* p, Py_ssize_t n) noexcept nogil:
    return mix(hash_octets(first_of(kind), p, n))


cdef uint64_t key_of_id(bytes value) noexcept:
    """The octets of an identifier are no text: none of them is folded."""
    cdef const char* p = PyBytes_AS_STRING(value)
    cdef uint64_t h = first_of(c'q')
    cdef Py_ssize_t i
    for i in range(PyBytes_GET_SIZE(value)):
        h = (h ^ <unsigned char>p[i]) * <uint64_t>0x100000001B3
    return mix(h)


def queue_key(bytes id not None) -> bytes:
    return key_of_id(id).to_bytes(8, "big")


def text_key(str kind not None, str text not None) -> bytes:
    cdef bytes octets = text.encode("utf-8", "replace")
    cdef bytes name = kind.encode("ascii")
    return key_of_octets(PyBytes_AS_STRING(name)[0], PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets)).to_bytes(8, "big")


# Sorting an index.

cdef int compare_entries(const void* a, const void* b) noexcept nogil:
    return memcmp(a, b, ENTRY_OCTETS)


def sort_entries(bytes entries not None) -> bytes:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(entries)
    cdef bytes made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(entries), n)
    cdef char* p = PyBytes_AS_STRING(made)
    with nogil:
        qsort(p, <size_t>(n // ENTRY_OCTETS), ENTRY_OCTETS, &compare_entries)
    return made


# The Message-ID of a header.

cdef bint is_message_id(const char* p) noexcept nogil:
    """Whether 11 octets are the name of the field with its colon."""
    cdef const char* name = b"message-id:"
    cdef int i
    for i in range(11):
        if (p[i] | 0x20 if c'A' <= p[i] <= c'Z' else p[i]) != name[i]:
            return False
    return True


def find_message_id(bytes header not None, Py_ssize_t start=0) -> str:
    cdef const char* p = PyBytes_AS_STRING(header)
    cdef const char* end = p + PyBytes_GET_SIZE(header)
    cdef const char* line_end
    cdef const char* last
    if start < 0:
        raise ValueError("an offset is not negative")
    p += start
    while p < end:
        line_end = <const char*>memchr(p, c'\n', <size_t>(end - p))
        if line_end is NULL:
            line_end = end
        if p[0] == c'\r' or p[0] == c'\n':
            break
        if (p[0] == c'M' or p[0] == c'm') and line_end - p > 11 and is_message_id(p):
            p += 11
            # RFC 5322 §2.2.3: the value may begin on the next line.
            while p < end and (p[0] == c' ' or p[0] == c'\t' or p[0] == c'\r' or p[0] == c'\n'):
                if p[0] == c'\n' and (p + 1 >= end or (p[1] != c' ' and p[1] != c'\t')):
                    return ""
                p += 1
            last = p
            while last < end and last[0] != c'\r' and last[0] != c'\n' and last - p < MAX_TEXT_CHARACTERS:
                last += 1
            while last > p and (last[-1] == c' ' or last[-1] == c'\t'):
                last -= 1
            return p[: last - p].decode("utf-8", "replace")
        p = line_end + 1
    return ""


# Text.

cdef bint is_plain(const char* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef unsigned char c
    cdef unsigned char bad = 0
    for i in range(n):
        c = <unsigned char>p[i]
        bad |= <unsigned char>((c < 32) | (c > 126) | (c == c'"') | (c == c'\\'))
    return bad == 0


@cython.cdivision(True)
cdef inline Py_ssize_t decimal(char* p, int64_t number) noexcept nogil:
    cdef char text[24]
    cdef Py_ssize_t at = 24
    cdef int64_t rest = number if number < 0 else -number
    while True:
        at -= 1
        text[at] = <char>(48 - rest % 10)
        rest = rest / 10
        if rest == 0:
            break
    if number < 0:
        at -= 1
        text[at] = c'-'
    memcpy(p, text + at, <size_t>(24 - at))
    return 24 - at


@cython.cdivision(True)
cdef inline void digits(char* p, int count, int number) noexcept nogil:
    cdef int i
    for i in range(count - 1, -1, -1):
        p[i] = <char>(48 + number % 10)
        number /= 10


@cython.final
cdef class Template:
    """The fields of one kind of line."""

    cdef readonly tuple fields
    cdef bytes names        # ,"name": of all fields, one after the other
    cdef int ends[64]
    cdef char codes[64]
    cdef char keys[64]
    cdef int count

    def __cinit__(self, *fields):
        cdef int i
        cdef list pieces = []
        cdef int end = 0
        if len(fields) > 64:
            raise ValueError("too many fields")
        for i, (name, code, key) in enumerate(fields):
            if not name.isidentifier() or code not in "siftbqQaApx" or key not in ("", "m", "r", "q"):
                raise ValueError(f"no such field: {name} {code} {key}")
            piece = f',"{name}":'.encode("ascii")
            pieces.append(piece)
            end += len(piece)
            self.ends[i] = end
            self.codes[i] = <char>ord(code)
            self.keys[i] = <char>ord(key) if key else 0
        self.names = b"".join(pieces)
        self.count = len(fields)
        self.fields = fields


@cython.final
cdef class EventBuffer:
    def __cinit__(self, Py_ssize_t capacity):
        if capacity < 1024:
            raise ValueError("a buffer holds at least 1024 octets")
        self.capacity = capacity
        self.second = -1

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.entries)

    @property
    def pending(self) -> int:
        return self.size

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room
        cdef char* made
        if self.size + more <= self.room:
            return 0
        room = self.room if self.room else 16384
        while room < self.size + more:
            room *= 2
        made = <char*>PyMem_Realloc(self.data, <size_t>room)
        if made is NULL:
            raise MemoryError
        self.data = made
        self.room = room
        return 0

    cdef int add_entry(self, uint64_t key, uint32_t offset) except -1:
        cdef Py_ssize_t room
        cdef Entry* made
        if self.entry_count == self.entry_room:
            room = self.entry_room * 2 if self.entry_room else 512
            made = <Entry*>PyMem_Realloc(self.entries, <size_t>room * sizeof(Entry))
            if made is NULL:
                raise MemoryError
            self.entries = made
            self.entry_room = room
        self.entries[self.entry_count].key = key
        self.entries[self.entry_count].offset = offset
        self.entry_count += 1
        return 0

    # Values. Each reserves what it writes.

    cdef int put_text(self, object text) except -1:
        cdef const char* p
        cdef Py_ssize_t n
        if type(text) is not str:
            text = str(text)
        if PyUnicode_IS_COMPACT_ASCII(text):
            p = PyUnicode_DATA(text)
            n = PyUnicode_GET_LENGTH(text)
            if n > MAX_TEXT_CHARACTERS:
                n = MAX_TEXT_CHARACTERS
            if is_plain(p, n):
                self.reserve(n + 2)
                self.data[self.size] = c'"'
                memcpy(self.data + self.size + 1, p, <size_t>n)
                self.data[self.size + n + 1] = c'"'
                self.size += n + 2
                return 0
        return self.put_strange(text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace"))

    cdef int put_strange(self, bytes octets) except -1:
        """UTF-8 with something in it that is not written as it is."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(octets)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(octets)
        cdef Py_ssize_t i = 0
        cdef unsigned char c
        cdef unsigned int code
        self.reserve(6 * n + 2)
        cdef char* to = self.data + self.size
        to[0] = c'"'
        to += 1
        while i < n:
            c = p[i]
            code = 0
            if c < 32 or c == 127:
                code = c
                i += 1
            elif c == c'"' or c == c'\\':
                to[0] = c'\\'
                to[1] = <char>c
                to += 2
                i += 1
                continue
            elif c == 0xC2 and i + 1 < n and p[i + 1] < 0xA0:
                code = p[i + 1]
                i += 2
            elif c == 0xE2 and i + 2 < n and p[i + 1] == 0x80 and (p[i + 2] == 0xA8 or p[i + 2] == 0xA9):
                code = 0x2000 + <unsigned int>(p[i + 2] - 0x80)
                i += 3
            else:
                to[0] = <char>c
                to += 1
                i += 1
                continue
            to[0] = c'\\'
            to[1] = c'u'
            to[2] = HEX_DIGITS[code >> 12 & 15]
            to[3] = HEX_DIGITS[code >> 8 & 15]
            to[4] = HEX_DIGITS[code >> 4 & 15]
            to[5] = HEX_DIGITS[code & 15]
            to += 6
        to[0] = c'"'
        self.size = to + 1 - self.data
        return 0

    cdef void put_float(self, double number) noexcept:
        """Six decimals at most; there is room. Infinities and NaN, which JSON has not, are 0."""
        cdef int64_t parts
        cdef int64_t whole
        cdef int rest
        cdef char* to = self.data + self.size
        if not isfinite(number) or number > 1e12 or number < -1e12:
            number = 0.0
        parts = <int64_t>floor(number * 1e6 + 0.5)
        if parts < 0:
            to[0] = c'-'
            to += 1
            parts = -parts
        with cython.cdivision(True):
            whole = parts / 1000000
            rest = <int>(parts % 1000000)
        to += decimal(to, whole)
        to[0] = c'.'
        digits(to + 1, 6, rest)
        to += 7
        while to[-1] == c'0' and to[-2] != c'.':
            to -= 1
        self.size = to - self.data

    cdef int put_time(self, double moment) except -1:
        """2026-11-24T05:43:38.123Z, with its quotes."""
        cdef tm parts
        cdef time_t seconds
        cdef char* text = self.second_text
        cdef char* to
        cdef int64_t ms
        if not isfinite(moment) or moment < 0 or moment > 253402300799.0:
            moment = 0
        ms = <int64_t>floor(moment * 1000.0 + 0.5)
        with cython.cdivision(True):
            seconds = <time_t>(ms / 1000)
            ms = ms % 1000
        if seconds != self.second:
            gmtime_r(&seconds, &parts)
            digits(text, 4, parts.tm_year + 1900)
            digits(text + 5, 2, parts.tm_mon + 1)
            digits(text + 8, 2, parts.tm_mday)
            digits(text + 11, 2, parts.tm_hour)
            digits(text + 14, 2, parts.tm_min)
            digits(text + 17, 2, parts.tm_sec)
            text[4] = text[7] = c'-'
            text[10] = c'T'
            text[13] = text[16] = c':'
            text[19] = c'.'
            self.second = seconds
        self.reserve(SMALL_OCTETS)
        to = self.data + self.size
        to[0] = c'"'
        memcpy(to + 1, text, 20)
        digits(to + 21, 3, <int>ms)
        to[24] = c'Z'
        to[25] = c'"'
        self.size += 26
        return 0

    cdef int put_address(self, object address) except -1:
        """An `Address`; None is the null sender."""
        cdef const unsigned char* p
        cdef const unsigned char* q
        cdef Py_ssize_t n
        cdef Py_ssize_t m
        cdef Py_ssize_t i
        cdef bint in_atom = False
        cdef char* to
        if address is None:
            return self.put_text("")
        local = address.local
        domain = address.domain
        if (
            type(local) is str and type(domain) is str
            and PyUnicode_IS_COMPACT_ASCII(local) and PyUnicode_IS_COMPACT_ASCII(domain)
        ):
            p = <const unsigned char*>PyUnicode_DATA(local)
            n = PyUnicode_GET_LENGTH(local)
            q = <const unsigned char*>PyUnicode_DATA(domain)
            m = PyUnicode_GET_LENGTH(domain)
            for i in range(n):
                if CLASSES[p[i]] & ATEXT:
                    in_atom = True
                elif p[i] == c'.' and in_atom:
                    in_atom = False
                else:
                    in_atom = False
                    break
            if in_atom and m and n + m < MAX_TEXT_CHARACTERS and is_plain(<const char*>q, m):
                self.reserve(n + m + 3)
                to = self.data + self.size
                to[0] = c'"'
                memcpy(to + 1, p, <size_t>n)
                to[n + 1] = c'@'
                memcpy(to + n + 2, q, <size_t>m)
                to[n + m + 2] = c'"'
                self.size += n + m + 3
                return 0
        return self.put_text(str(address))

    cdef int put_id(self, bytes value) except -1:
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
        cdef unsigned int bits = 0
        cdef int count = 0
        cdef int at = ID_CHARACTERS + 1
        cdef int i
        cdef char* to
        if PyBytes_GET_SIZE(value) != ID_OCTETS:
            raise ValueError("an identifier has 16 octets")
        self.reserve(SMALL_OCTETS)
        to = self.data + self.size
        to[0] = to[ID_CHARACTERS + 1] = c'"'
        for i in range(ID_OCTETS - 1, -1, -1):
            bits |= <unsigned int>p[i] << count
            count += 8
            while count >= 5:
                at -= 1
                to[at] = ID_ALPHABET[bits & 31]
                bits >>= 5
                count -= 5
        to[1] = ID_ALPHABET[bits & 31]
        self.size += ID_CHARACTERS + 2
        return 0

    cdef int put_phases(self, object phases) except -1:
        """((name, seconds), ...) as an object."""
        cdef bint is_first = True
        self.reserve(1)
        self.data[self.size] = c'{'
        self.size += 1
        for name, seconds in phases:
            if not is_first:
                self.reserve(1)
                self.data[self.size] = c','
                self.size += 1
            is_first = False
            self.put_text(name)
            self.reserve(SMALL_OCTETS)
            self.data[self.size] = c':'
            self.size += 1
            self.put_float(seconds)
        self.reserve(1)
        self.data[self.size] = c'}'
        self.size += 1
        return 0

    cdef int put_value(self, char code, object value) except -1:
        """A value that is not empty."""
        cdef int overflow = 0
        cdef long long number
        cdef Py_ssize_t n
        cdef int listed = 0
        cdef bytes raw
        if code == c's':
            return self.put_text(value)
        if code == c'a':
            return self.put_address(value)
        if code == c'q':
            return self.put_id(value)
        if code == c'i':
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            self.reserve(SMALL_OCTETS)
            self.size += decimal(self.data + self.size, 0 if overflow else number)
        elif code == c'f':
            self.reserve(SMALL_OCTETS)
            self.put_float(value)
        elif code == c't':
            return self.put_time(value)
        elif code == c'b':
            self.reserve(SMALL_OCTETS)
            memcpy(self.data + self.size, b"true", 4)
            self.size += 4
        elif code == c'p':
            return self.put_phases(value)
        elif code == c'x':
            raw = value
            n = PyBytes_GET_SIZE(raw)
            self.reserve(n)
            memcpy(self.data + self.size, PyBytes_AS_STRING(raw), <size_t>n)
            self.size += n
        else:
            self.reserve(1)
            self.data[self.size] = c'['
            self.size += 1
            for item in value:
                if listed == MAX_LISTED:
                    break
                if listed:
                    self.reserve(1)
                    self.data[self.size] = c','
                    self.size += 1
                listed += 1
                if code == c'Q':
                    self.put_id(item)
                else:
                    self.put_address(item.address)
            self.reserve(1)
            self.data[self.size] = c']'
            self.size += 1
        return 0

    def add(self, bytes kind not None, double moment, Template template not None, tuple values not None) -> bool:
        cdef Py_ssize_t start = self.size
        cdef Py_ssize_t first_entry = self.entry_count
        cdef Py_ssize_t n = PyBytes_GET_SIZE(kind)
        cdef Py_ssize_t before
        cdef const char* names = PyBytes_AS_STRING(template.names)
        cdef int i
        cdef int name_start
        cdef int name_octets
        cdef char code
        cdef char key
        cdef object value
        cdef object item
        cdef int listed
        if start >= self.capacity or self.is_busy:
            return False
        if PyTuple_GET_SIZE(values) != template.count:
            raise ValueError("a value for each field, please")
        self.is_busy = True
        try:
            self.reserve(SMALL_OCTETS + n)
            memcpy(self.data + self.size, b'{"time":', 8)
            self.size += 8
            self.put_time(moment)
            self.reserve(SMALL_OCTETS + n)
            memcpy(self.data + self.size, b',"kind":"', 9)
            memcpy(self.data + self.size + 9, PyBytes_AS_STRING(kind), <size_t>n)
            self.data[self.size + 9 + n] = c'"'
            self.size += 10 + n
            for i in range(template.count):
                value = <object>PyTuple_GET_ITEM(values, i)
                code = template.codes[i]
                if code != c'a' and not value:
                    continue
                if code == c'x':
                    # Fields that somebody else has written already.
                    self.reserve(1)
                    self.data[self.size] = c','
                    self.size += 1
                    self.put_value(code, value)
                    continue
                name_start = template.ends[i - 1] if i else 0
                name_octets = template.ends[i] - name_start
                self.reserve(name_octets)
                memcpy(self.data + self.size, names + name_start, <size_t>name_octets)
                self.size += name_octets
                before = self.size
                self.put_value(code, value)
                key = template.keys[i]
                if key == 0:
                    continue
                if code == c'q':
                    self.add_entry(key_of_id(value), <uint32_t>start)
                elif code == c'Q':
                    listed = 0
                    for item in value:
                        listed += 1
                        if listed > MAX_LISTED:
                            break
                        self.add_entry(key_of_id(item), <uint32_t>start)
                elif code == c'A':
                    listed = 0
                    for item in value:
                        listed += 1
                        if listed > MAX_LISTED:
                            break
                        self.add_entry(key_of_text(key, str(item.address)), <uint32_t>start)
                elif code == c'a':
                    # The text between the quotes; where it was escaped, the text itself.
                    self.add_entry(key_of_written(key, self.data + before + 1, self.size - before - 2, value), <uint32_t>start)
                else:
                    self.add_entry(key_of_text(key, value), <uint32_t>start)
            self.reserve(2)
            self.data[self.size] = c'}'
            self.data[self.size + 1] = c'\n'
            self.size += 2
        except BaseException:
            self.size = start
            self.entry_count = first_entry
            raise
        finally:
            self.is_busy = False
        self.count += 1
        return True

    def take(self):
        if self.is_busy:
            return b"", b"", 0
        cdef bytes lines = PyBytes_FromStringAndSize(self.data, self.size)
        cdef bytes entries = PyBytes_FromStringAndSize(NULL, self.entry_count * ENTRY_OCTETS)
        cdef unsigned char* to = <unsigned char*>PyBytes_AS_STRING(entries)
        cdef Py_ssize_t i
        cdef int k
        cdef Py_ssize_t count = self.count
        for i in range(self.entry_count):
            for k in range(8):
                to[k] = <unsigned char>(self.entries[i].key >> (56 - 8 * k))
            for k in range(4):
                to[8 + k] = <unsigned char>(self.entries[i].offset >> (24 - 8 * k))
            to += ENTRY_OCTETS
        if self.room > 1 << 20 and self.size < self.room // 4:
            # A burst is over; what it took is given back.
            PyMem_Free(self.data)
            self.data = NULL
            self.room = 0
        self.size = self.entry_count = self.count = 0
        return lines, entries, count


cdef uint64_t key_of_text(char kind, object text) except? 0:
    cdef bytes octets
    if type(text) is not str:
        text = str(text)
    if PyUnicode_IS_COMPACT_ASCII(text):
        return key_of_octets(kind, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
    octets = text.encode("utf-8", "replace")
    return key_of_octets(kind, PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))


cdef uint64_t key_of_written(char kind, const char* p, Py_ssize_t n, object address) except? 0:
    cdef Py_ssize_t i
    for i in range(n):
        if p[i] == c'\\' or <unsigned char>p[i] > 126:
            return key_of_text(kind, str(address))
    return key_of_octets(kind, p, n)


def shift_entries(bytes entries not None, unsigned long long by) -> bytes:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(entries)
    cdef bytes made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(entries), n)
    cdef unsigned char* p = <unsigned char*>PyBytes_AS_STRING(made)
    cdef uint64_t offset
    cdef Py_ssize_t i
    cdef int k
    for i in range(n // ENTRY_OCTETS):
        offset = 0
        for k in range(4):
            offset = offset << 8 | p[8 + k]
        offset += by
        for k in range(4):
            p[8 + k] = <unsigned char>(offset >> (24 - 8 * k))
        p += ENTRY_OCTETS
    return made
