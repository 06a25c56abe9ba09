"""Identifiers that sort by time, and their text. `rusmes.model.ids` says what they are."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint64_t

import os

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)
    enum: CLOCK_REALTIME


cdef enum:
    ID_OCTETS = 16
    TEXT_CHARACTERS = 26

cdef const char* ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@cython.final
cdef class IdSource:
    def __cinit__(self):
        # The top of the counter stays clear, so that it does not come back to 0 in anybody's lifetime.
        cdef bytes start = os.urandom(9)
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(start)
        cdef int i
        self.high = p[0]
        for i in range(1, 9):
            self.low = self.low << 8 | p[i]

    def next_id(self) -> bytes:
        cdef timespec now
        cdef unsigned char octets[ID_OCTETS]
        cdef uint64_t ms
        cdef int i
        clock_gettime(CLOCK_REALTIME, &now)
        ms = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1_000_000
        if ms > self.last_ms:
            self.last_ms = ms
        self.low += 1
        if self.low == 0:
            self.high = (self.high + 1) & 0xFFFF
        for i in range(6):
            octets[i] = <unsigned char>(self.last_ms >> (40 - 8 * i))
        octets[6] = <unsigned char>(self.high >> 8)
        octets[7] = <unsigned char>self.high
        for i in range(8):
            octets[8 + i] = <unsigned char>(self.low >> (56 - 8 * i))
        return PyBytes_FromStringAndSize(<char*>octets, ID_OCTETS)


def id_text(bytes value not None) -> str:
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef char text[TEXT_CHARACTERS]
    cdef unsigned int bits
    cdef int count
    cdef int at = TEXT_CHARACTERS
    cdef int i
    if PyBytes_GET_SIZE(value) != ID_OCTETS:
        raise ValueError(f"an identifier has {ID_OCTETS} bytes, not {len(value)}")
    # From the end, five bits a character; the first character holds the three that are left.
    bits = 0
    count = 0
    for i in range(ID_OCTETS - 1, -1, -1):
        bits |= <unsigned int>p[i] << count
        count += 8
        while count >= 5:
            at -= 1
            text[at] = ALPHABET[bits & 31]
            bits >>= 5
            count -= 5
    text[0] = ALPHABET[bits & 31]
    return PyUnicode_DecodeASCII(text, TEXT_CHARACTERS, NULL)
