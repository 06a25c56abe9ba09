from libc.stdint cimport uint64_t


cdef class IdSource:
    cdef uint64_t last_ms
    cdef unsigned int high    # of the counter: 16 bits
    cdef uint64_t low         # of the counter
