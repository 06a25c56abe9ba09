cdef class Collector:
    cdef readonly Py_ssize_t size            # octets so far
    cdef Py_ssize_t header_end               # octets of the header with its empty line, -1 until that was seen
    cdef list chunks                         # what is in memory
    cdef Py_ssize_t chunk_octets
    cdef public Py_ssize_t spill_above       # more octets than this in memory are spilled
    cdef unsigned char tail[3]               # what was last: an empty line may come in pieces

    cdef void find_header_end(self, const unsigned char* p, Py_ssize_t n) noexcept
