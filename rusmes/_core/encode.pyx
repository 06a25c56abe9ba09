"""What IMAP's responses are made of: a buffer, strings, sets of numbers. See `encode.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcpy

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* data, Py_ssize_t size) except NULL
    char* bytes_data "PyBytes_AS_STRING"(PyObject* value) noexcept
    int resize_bytes "_PyBytes_Resize"(PyObject** value, Py_ssize_t size) except -1
    void Py_XDECREF(PyObject* value) noexcept

cdef enum:
    MAX_QUOTED_OCTETS = 1000   # as in quoting.pyx: longer text goes as a literal
    ATOM = 0                   # what a string may be sent as
    QUOTED = 1
    LITERAL = 2

cdef unsigned char is_astring_char[256]


cdef void fill_classes() noexcept:
    """RFC 9051 §9: ASTRING-CHAR = ATOM-CHAR / resp-specials ("]")."""
    cdef int c
    for c in range(256):
        is_astring_char[c] = 32 < c < 127
    for c in b'(){%*"\\':
        is_astring_char[c] = 0

fill_classes()


@cython.final
cdef class Buffer:
    def __dealloc__(self):
        Py_XDECREF(self.octets)

    cdef int grow(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t capacity = max(self.n + more, self.capacity * 2, <Py_ssize_t>512)
        if self.octets == NULL:
            self.octets = new_bytes(NULL, capacity)
        else:
            self.capacity = 0
            self.data = NULL
            resize_bytes(&self.octets, capacity)
        self.data = bytes_data(self.octets)
        self.capacity = capacity
        return 0

    cdef int put_bytes(self, bytes value) except -1:
        return self.put(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))

    cdef int put_number(self, uint64_t number) except -1:
        cdef char digits[20]
        cdef int at = 20
        while True:
            at -= 1
            digits[at] = <char>(c'0' + <int>(number % 10))
            number //= 10
            if number == 0:
                break
        return self.put(digits + at, 20 - at)

    def __len__(self):
        return self.n

    def write(self, bytes data not None) -> None:
        self.put_bytes(data)

    def take(self) -> bytes:
        cdef Py_ssize_t n = self.n
        if n == 0:
            return b""
        self.n = self.capacity = 0
        self.data = NULL
        # What was written becomes the result; only its end is cut off.
        resize_bytes(&self.octets, n)
        taken = <object>self.octets
        Py_XDECREF(self.octets)
        self.octets = NULL
        return taken


# Strings

cdef int form_of(bytes value, bint utf8) except -1:
    """The shortest form a string may have. Raises ValueError for NUL, which none can hold (RFC 9051 §4.3)."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t i
    cdef int form = ATOM
    cdef bint high = False
    if memchr(p, 0, <size_t>n) != NULL:
        raise ValueError("NUL in a string")
    if n == 0:
        return QUOTED
    if n > MAX_QUOTED_OCTETS:
        return LITERAL
    for i in range(n):
        if is_astring_char[p[i]]:
            continue
        form = QUOTED
        if p[i] == c'\r' or p[i] == c'\n':
            return LITERAL
        if p[i] > 127:
            high = True
    if high:
        if not utf8:
            return LITERAL
        try:
            value.decode()
        except UnicodeDecodeError:
            return LITERAL
    return form


cdef bytes quote(bytes value):
    cdef const char* p = PyBytes_AS_STRING(value)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t escapes = 0
    cdef Py_ssize_t i
    cdef bytes text
    cdef char* q
    for i in range(n):
        escapes += p[i] == c'"' or p[i] == c'\\'
    text = PyBytes_FromStringAndSize(NULL, n + escapes + 2)
    q = PyBytes_AS_STRING(text)
    q[0] = c'"'
    q += 1
    for i in range(n):
        if p[i] == c'"' or p[i] == c'\\':
            q[0] = c'\\'
            q += 1
        q[0] = p[i]
        q += 1
    q[0] = c'"'
    return text


def literal(bytes value not None) -> bytes:
    if memchr(PyBytes_AS_STRING(value), 0, <size_t>PyBytes_GET_SIZE(value)) != NULL:
        raise ValueError("NUL in a literal")
    return b"{%d}\r\n%b" % (PyBytes_GET_SIZE(value), value)


def literal8(bytes value not None) -> bytes:
    return b"~{%d}\r\n%b" % (PyBytes_GET_SIZE(value), value)


def quoted(bytes value not None, *, bint utf8=False) -> bytes:
    if form_of(value, utf8) == LITERAL:
        raise ValueError("not to be quoted")
    return quote(value)


def string(bytes value not None, *, bint utf8=False) -> bytes:
    return literal(value) if form_of(value, utf8) == LITERAL else quote(value)


def nstring(bytes value, *, bint utf8=False) -> bytes:
    return b"NIL" if value is None else string(value, utf8=utf8)


def astring(bytes value not None, *, bint utf8=False) -> bytes:
    cdef int form = form_of(value, utf8)
    if form == ATOM:
        # "NIL" as an astring is a string of three letters; some clients take it for nothing.
        return quote(value) if PyBytes_GET_SIZE(value) == 3 and value.upper() == b"NIL" else value
    return quote(value) if form == QUOTED else literal(value)


def atom(bytes value not None) -> bytes:
    if form_of(value, False) != ATOM or b"]" in value:
        raise ValueError(f"not an atom: {value!r}")
    return value


def line_text(str value not None) -> bytes:
    """RFC 9051 §9: `text` has no CR and LF; ASCII, which every revision takes."""
    cdef bytes text = value.encode("ascii", "replace")
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(text)
    cdef Py_ssize_t i
    cdef bytes clean
    cdef char* q
    for i in range(PyBytes_GET_SIZE(text)):
        if p[i] < 32 or p[i] == 127:
            break
    else:
        return text
    clean = PyBytes_FromStringAndSize(<const char*>p, PyBytes_GET_SIZE(text))
    q = PyBytes_AS_STRING(clean)
    for i in range(PyBytes_GET_SIZE(text)):
        if p[i] < 32 or p[i] == 127:
            q[i] = c'?'
    return clean


def line_bytes(bytes value not None) -> bytes:
    """What goes between the parts of a response as it is."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t i
    for i in range(PyBytes_GET_SIZE(value)):
        if p[i] == c'\r' or p[i] == c'\n' or p[i] == 0:
            raise ValueError("CR, LF or NUL in a response")
    return value


# Sets

cdef int put_run(Buffer out, uint64_t first, uint64_t last) except -1:
    if first == 0:
        return 0
    if out.n:
        out.put_char(c',')
    out.put_number(first)
    if last != first:
        out.put_char(c':')
        out.put_number(last)
    return 0


def number_set(numbers) -> bytes:
    cdef Buffer out = Buffer.__new__(Buffer)
    cdef uint64_t first = 0
    cdef uint64_t last = 0
    cdef uint64_t number
    for number in numbers:
        if first and number == last + 1:
            last = number
            continue
        put_run(out, first, last)
        first = last = number
    put_run(out, first, last)
    return out.take()
