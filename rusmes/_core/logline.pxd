"""What every log line has."""

cdef bint is_plain(const char* p, Py_ssize_t n) noexcept nogil
cdef void digits(char* p, int count, int number) noexcept nogil
cdef Py_ssize_t decimal(char* p, long long number) noexcept nogil
