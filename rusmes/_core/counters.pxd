# Shared counters: layout. The behaviour is in counters.pyx, the manual in counters.pyi.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    SLOTS = 8192            # metric slots in a column
    MAX_BOUNDS = 32         # buckets of a histogram
    STRIPES = 128           # locks of the keyed table; a key lives in the stripe its hash names


# Metrics: [column][slot], 8 bytes each. A column is written by one process only.

cdef class Histogram:
    cdef readonly int slot
    cdef readonly tuple bounds
    cdef double limits[MAX_BOUNDS]
    cdef int count


cdef class Metrics:
    cdef object memory
    cdef int64_t* base      # all columns
    cdef int64_t* own       # this process's column
    cdef readonly int columns
    cdef readonly int column

    cpdef object inc(self, int slot, int64_t n=*)


# The keyed table: STRIPES sub-tables with linear probing and backward-shift deletion, each under a robust mutex.

cdef struct Entry:
    uint64_t key[2]         # SipHash-1-3 of the key under two secrets; 0, 0 = empty
    double expires          # of rate and value; 0 = none
    double window_start     # of the current rate window
    double value
    uint32_t current        # events in the current window
    uint32_t previous       # events in the one before
    # uint32_t in_use[columns] follows


cdef class SharedCounters:
    cdef object memory
    cdef uint8_t* base
    cdef readonly int columns
    cdef readonly int column
    cdef uint32_t per_stripe
    cdef size_t entry_bytes
    cdef size_t stripe_bytes
    cdef uint64_t secret[4]

    cdef uint8_t* _lock(self, bytes key, uint64_t* hashed) except NULL
    cdef double _change_value(self, bytes key, double value, bint add, double expires, double now) except? -1
