# What a part's header says of its content: values as they stand in the block, p is NULL for an absent field
cdef struct Span:
    const unsigned char* p
    Py_ssize_t n


cdef class _Walk:
    # The message, for as long as the call lasts
    cdef const unsigned char* p
    cdef Py_ssize_t count                      # parts so far
    cdef list out
    # What is asked of `rusmes.mime`
    cdef object content_type
    cdef object disposition
    cdef object language
    cdef object envelope

    # A part, its children, and where they begin and end
    cdef int part(self, const Span* fields, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest) except -1
    cdef int whole(self, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest, bint has_envelope) except -1
    cdef int split(self, bytes boundary, bint is_digest, Py_ssize_t start, Py_ssize_t end, int depth) except -1
    cdef int leaf(self, const Span* fields, bytes kind, bytes subtype, parameters, Py_ssize_t size) except -1
    # Values of fields
    cdef tuple type_of(self, Span field, bint is_digest)
    cdef int put_parameters(self, parameters) except -1
    cdef int put_extension(self, const Span* fields) except -1
