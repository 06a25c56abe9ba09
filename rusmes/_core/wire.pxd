# What a body needs on its way out: bit flags (1 unclean, 2 dots, 4 a long line) for n octets at p.
cdef int examine_octets(const char* p, Py_ssize_t n) noexcept nogil
