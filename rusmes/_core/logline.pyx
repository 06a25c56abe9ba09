"""What every log line has: the time, and mostly short printable ASCII texts and numbers under constant names."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.mem cimport PyMem_Free
from libc.math cimport isfinite
from libc.string cimport memcpy, strlen

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    struct tm:
        int tm_sec
        int tm_min
        int tm_hour
        int tm_mday
        int tm_mon
        int tm_year
    int clock_gettime(int clock, timespec* out)
    tm* gmtime_r(const time_t* seconds, tm* out)
    enum: CLOCK_REALTIME

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow)
    char* PyOS_double_to_string(double number, char format, int precision, int flags, int* kind) except NULL
    enum: Py_DTSF_ADD_DOT_0


cdef enum:
    MAX_FIELDS_OCTETS = 1000   # more goes the long way, where values are cut
    INTEGER_OCTETS = 24
    TIMESTAMP_OCTETS = 24
    BEGINNING_OCTETS = 14

cdef const char* BEGINNING = b'{"timestamp":"'


cdef bint is_plain(const char* p, Py_ssize_t n) noexcept nogil:
    """Whether a JSON string holds these octets as they are."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(n):
        c = <unsigned char>p[i]
        if c < 32 or c > 126 or c == c'"' or c == c'\\':
            return False
    return True


@cython.cdivision(True)
cdef void digits(char* p, int count, int number) noexcept nogil:
    """`number` as so many decimal digits."""
    cdef int i
    for i in range(count - 1, -1, -1):
        p[i] = <char>(48 + number % 10)
        number //= 10


@cython.cdivision(True)
cdef Py_ssize_t decimal(char* p, long long number) noexcept nogil:
    """The number's text at p; its length."""
    cdef char text[INTEGER_OCTETS]
    cdef Py_ssize_t at = INTEGER_OCTETS
    # Negative all the way: the smallest number has no positive twin.
    cdef long long rest = number if number < 0 else -number
    while True:
        at -= 1
        text[at] = <char>(48 - rest % 10)
        rest = rest / 10
        if rest == 0:
            break
    if number < 0:
        at -= 1
        text[at] = c'-'
    memcpy(p, text + at, <size_t>(INTEGER_OCTETS - at))
    return INTEGER_OCTETS - at


cdef void put_timestamp(char* text) noexcept nogil:
    cdef timespec now
    cdef tm parts
    clock_gettime(CLOCK_REALTIME, &now)
    gmtime_r(&now.tv_sec, &parts)
    digits(text, 4, parts.tm_year + 1900)
    digits(text + 5, 2, parts.tm_mon + 1)
    digits(text + 8, 2, parts.tm_mday)
    digits(text + 11, 2, parts.tm_hour)
    digits(text + 14, 2, parts.tm_min)
    digits(text + 17, 2, parts.tm_sec)
    digits(text + 20, 3, <int>(now.tv_nsec // 1_000_000))
    text[4] = text[7] = c'-'
    text[10] = c'T'
    text[13] = text[16] = c':'
    text[19] = c'.'
    text[23] = c'Z'


def timestamp() -> bytes:
    cdef char text[TIMESTAMP_OCTETS]
    put_timestamp(text)
    return PyBytes_FromStringAndSize(text, TIMESTAMP_OCTETS)


cdef Py_ssize_t put_fields(char* line, dict fields) except -2:
    """The fields, each after a comma, at `line`; their length, at most MAX_FIELDS_OCTETS, or -1 when they need more care."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t place = 0
    cdef Py_ssize_t n
    cdef PyObject* key
    cdef PyObject* value
    cdef const char* p
    cdef long long number
    cdef int overflow = 0
    cdef char* text
    while PyDict_Next(fields, &place, &key, &value):
        name = <object>key
        if type(name) is not str or not PyUnicode_IS_COMPACT_ASCII(name):
            return -1
        p = PyUnicode_DATA(name)
        n = PyUnicode_GET_LENGTH(name)
        if at + n + 6 > MAX_FIELDS_OCTETS or not is_plain(p, n):
            return -1
        line[at] = c','
        line[at + 1] = c'"'
        memcpy(line + at + 2, p, <size_t>n)
        at += n + 2
        line[at] = c'"'
        line[at + 1] = c':'
        at += 2
        item = <object>value
        if type(item) is str:
            if not PyUnicode_IS_COMPACT_ASCII(item):
                return -1
            p = PyUnicode_DATA(item)
            n = PyUnicode_GET_LENGTH(item)
            if at + n + 2 > MAX_FIELDS_OCTETS or not is_plain(p, n):
                return -1
            line[at] = c'"'
            memcpy(line + at + 1, p, <size_t>n)
            at += n + 1
            line[at] = c'"'
            at += 1
        elif type(item) is int:
            number = PyLong_AsLongLongAndOverflow(item, &overflow)
            if overflow or at + INTEGER_OCTETS > MAX_FIELDS_OCTETS:
                return -1
            at += decimal(line + at, number)
        elif type(item) is float:
            # As `repr` has it, which JSON has too (but for infinities and NaN): 0.135, 1e-05.
            if not isfinite(<double>item) or at + INTEGER_OCTETS + 2 > MAX_FIELDS_OCTETS:
                return -1
            text = PyOS_double_to_string(<double>item, c'r', 0, Py_DTSF_ADD_DOT_0, NULL)
            n = <Py_ssize_t>strlen(text)
            memcpy(line + at, text, <size_t>n)
            PyMem_Free(text)
            at += n
        else:
            return -1
    return at


def flat_json(dict fields not None):
    cdef char line[MAX_FIELDS_OCTETS + 8]
    cdef Py_ssize_t at = put_fields(line, fields)
    if at <= 0:
        return None
    line[at] = c'}'
    line[at + 1] = c'\n'
    return PyBytes_FromStringAndSize(line + 1, at + 1)


def whole_line(bytes middle not None, dict fields not None):
    cdef char line[MAX_FIELDS_OCTETS + 8]
    cdef Py_ssize_t at = put_fields(line, fields)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(middle)
    cdef bytes whole
    cdef char* p
    if at < 0:
        return None
    whole = PyBytes_FromStringAndSize(NULL, BEGINNING_OCTETS + TIMESTAMP_OCTETS + n + at + 2)
    p = PyBytes_AS_STRING(whole)
    memcpy(p, BEGINNING, BEGINNING_OCTETS)
    p += BEGINNING_OCTETS
    put_timestamp(p)
    p += TIMESTAMP_OCTETS
    memcpy(p, PyBytes_AS_STRING(middle), <size_t>n)
    p += n
    memcpy(p, line, <size_t>at)
    p[at] = c'}'
    p[at + 1] = c'\n'
    return whole
