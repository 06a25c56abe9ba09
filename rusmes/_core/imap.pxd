# Classes of octets (RFC 9051 §9), as bits in one table of 256.
cdef enum:
    ATOM_CHAR = 1        # any CHAR but ( ) { SP CTL % * " \ ]
    ASTRING_CHAR = 2     # ATOM-CHAR and ]
    TAG_CHAR = 4         # ASTRING-CHAR but +
    LIST_CHAR = 8        # ATOM-CHAR and % * ]
    QUOTED_CHAR = 16     # what stands for itself between quotes: TEXT-CHAR but " and \, octets below 128
    NAME_CHAR = 32       # letters, digits and "." of FETCH attributes
    DIGIT = 64


cdef class Lexer:
    cdef readonly bytes text
    cdef const unsigned char* p
    cdef Py_ssize_t n
    cdef readonly Py_ssize_t at
    cdef readonly object literals
    cdef Py_ssize_t next_literal
    # What the client enabled
    cdef readonly bint is_utf8
    cdef readonly bint forbids_charset

    cdef bytes span(self, unsigned char kind)
    cdef str name(self, unsigned char kind, str what)
    cdef bytes quoted(self)
    cdef bytes short_literal(self)
    cdef unsigned long long digits(self, unsigned long long largest) except? 0xffffffffffffffff
    cdef object set_number(self)
