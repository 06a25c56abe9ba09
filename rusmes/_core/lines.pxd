cdef class LineBuffer:
    # What has arrived and is not consumed: data[start:end]. `data` is None while nothing waits, so an idle connection
    # holds no buffer.
    cdef bytes data
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    cdef Py_ssize_t scanned          # no LF before this offset
    # Limits
    cdef public Py_ssize_t limit
    cdef readonly Py_ssize_t discard_limit
    cdef Py_ssize_t discarded        # octets of a line that is too long, -1 when not discarding
    # About the line taken last
    cdef readonly bint bare_lf

    cdef int add(self, bytes data) except -1
    cdef void consume(self, Py_ssize_t upto) noexcept
    cdef int drop_line(self) except -1
