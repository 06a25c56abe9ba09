from libc.stdint cimport int32_t


cdef enum:
    FOLD_ROOM = 64             # a character folds to fewer octets than this (the longest of Unicode, U+FDFA, to 33)


# Folding: UTF-8 in, folded UTF-8 out, without the GIL.

# Fold as much of the text as fits in `room`; the number of octets written. `used` says how many were read: all of them, unless
# `room` was up, the last character is incomplete (and `is_last` false), or a page of the table has to be made first: then
# `page` is its number (else -1), and `make_page` makes it.
cdef Py_ssize_t fold_utf8(
    const unsigned char* p, Py_ssize_t n, bint is_last, unsigned char* out, Py_ssize_t room, Py_ssize_t* used, int* page
) noexcept nogil

cdef int make_page(int page) except -1

# The code point at p and how many octets it takes; an octet that begins no character is itself (ISO 8859-1). 0 octets: the
# text ends inside of a character.
cdef Py_ssize_t next_character(const unsigned char* p, Py_ssize_t n, bint is_last, unsigned int* code) noexcept nogil

cdef Py_ssize_t put_character(unsigned int code, unsigned char* out) noexcept nogil

cdef bint is_seven_bit(const unsigned char* p, Py_ssize_t n) noexcept nogil


# What is looked for, for loops that know no objects: it lasts as long as its Pattern.
cdef struct Needle:
    const unsigned char* p
    Py_ssize_t n
    Py_ssize_t first_rare      # places of two octets of it that are seldom in mail
    Py_ssize_t second_rare
    const int32_t* borders     # of Knuth, Morris and Pratt, for texts made to be slow
    bint is_ascii              # so are the octets it may be found in without folding them

# The offset in text that is folded, or -1.
cdef Py_ssize_t find_folded(const Needle* needle, const unsigned char* p, Py_ssize_t n) noexcept nogil
# The offset in any text, whose octets are compared without the case of ASCII letters, or -1.
cdef Py_ssize_t find_ascii(const Needle* needle, const unsigned char* p, Py_ssize_t n) noexcept nogil

cdef class Pattern:
    cdef readonly bytes folded
    cdef Needle needle
    cdef int32_t* borders
