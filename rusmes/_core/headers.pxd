cdef class HeaderScanner:
    # Facts
    cdef readonly Py_ssize_t size            # octets of the header block so far, its empty line included
    cdef readonly bint ended                 # the empty line was seen
    cdef readonly int received_count
    cdef readonly bint mbox_from             # the first line is an mbox separator, not a field
    # The line that is being read: its first octets, and how many there were (saturating)
    cdef unsigned char head[10]
    cdef Py_ssize_t line_octets
    cdef bint first_line

    cdef Py_ssize_t add(self, const unsigned char* p, Py_ssize_t n) noexcept nogil
