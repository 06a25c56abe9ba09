# Functions of libcrypto, found when they are needed: this extension is not linked with it.

ctypedef void* (*ReadKey)(void**, const unsigned char**, long) noexcept nogil
ctypedef void (*Release)(void*) noexcept nogil
ctypedef void* (*Make)() noexcept nogil
ctypedef int (*Begin)(void*, void**, void*, void*, void*) noexcept nogil
ctypedef int (*Sign)(void*, unsigned char*, size_t*, const unsigned char*, size_t) noexcept nogil
ctypedef void (*Forget)() noexcept nogil

cdef class NativeKey:
    cdef void* key
    cdef bint hashes  # whether the algorithm takes a hash of its own (RSA), or none (Ed25519)
