from rusmes._core.headers cimport HeaderScanner


cdef class BodyScanner:
    # Given
    cdef bint normalize
    cdef bint binary
    cdef Py_ssize_t max_bytes
    cdef Py_ssize_t max_header_bytes
    # Found
    cdef readonly unsigned int faults
    cdef readonly unsigned int repaired
    cdef readonly bint eight_bit
    cdef readonly bint ended             # the end of DATA was seen
    cdef readonly Py_ssize_t size        # octets of content
    cdef readonly HeaderScanner header
    cdef Py_ssize_t swallowed            # octets of wire
    # Where the wire is: the last two octets, what is known of a line that began with a dot, a CR held by normalize
    cdef unsigned char before
    cdef unsigned char before2
    cdef int dot
    cdef bint held_cr
    cdef bint discarding
    # What this call gives out: one run of the source as long as that is enough, a buffer otherwise
    cdef const unsigned char* run
    cdef Py_ssize_t run_octets
    cdef unsigned char* out
    cdef Py_ssize_t out_octets
    cdef Py_ssize_t out_room

    cdef void limit(self, Py_ssize_t max_bytes, Py_ssize_t max_header_bytes, bint normalize, bint binary) noexcept
    cdef int put(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int mend(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int take(self, const unsigned char* p, Py_ssize_t n, unsigned int found) except -1
    cdef Py_ssize_t scan_text(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int after_dot(self, const unsigned char* p, Py_ssize_t i) except -1
    cdef Py_ssize_t scan_octets(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int finish(self) except -1
    cdef bytes given(self, bytes source)
    cdef bint overran(self) noexcept
