# cython: language_level=3, boundscheck=False, wraparound=False
"""Many signatures without the GIL between them; see `evp.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc


cdef enum:
    SIGNATURE_OCTETS = 1024  # RSA with 8192 bits


cdef struct Job:
    void* key
    bint hashes
    const unsigned char* data
    Py_ssize_t size
    size_t signature_size
    unsigned char signature[SIGNATURE_OCTETS]


cdef ReadKey read_key = NULL
cdef Release free_key = NULL
cdef Make new_context = NULL
cdef Release free_context = NULL
cdef Make sha256 = NULL
cdef Begin sign_begin = NULL
cdef Sign sign = NULL
cdef Forget forget_errors = NULL

NAMES = (
    "d2i_AutoPrivateKey", "EVP_PKEY_free", "EVP_MD_CTX_new", "EVP_MD_CTX_free", "EVP_sha256", "EVP_DigestSignInit",
    "EVP_DigestSign", "ERR_clear_error",
)


def use(addresses not None) -> None:
    global read_key, free_key, new_context, free_context, sha256, sign_begin, sign, forget_errors
    cdef uintptr_t[8] found
    cdef int i
    if len(addresses) != 8 or not all(addresses):
        raise ValueError("an address for each of NAMES")
    for i in range(8):
        found[i] = addresses[i]
    read_key = <ReadKey>found[0]
    free_key = <Release>found[1]
    new_context = <Make>found[2]
    free_context = <Release>found[3]
    sha256 = <Make>found[4]
    sign_begin = <Begin>found[5]
    sign = <Sign>found[6]
    forget_errors = <Forget>found[7]


def is_usable() -> bool:
    return sign != NULL


@cython.final
cdef class NativeKey:
    def __cinit__(self, bytes der not None, *, bint hashes):
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(der)
        if sign == NULL:
            raise ValueError("libcrypto is not in use")
        self.hashes = hashes
        self.key = read_key(NULL, &p, <long>PyBytes_GET_SIZE(der))
        if self.key == NULL:
            forget_errors()
            raise ValueError("this is no private key")

    def __dealloc__(self):
        if self.key != NULL:
            free_key(self.key)


cdef void run(Job* jobs, Py_ssize_t count) noexcept nogil:
    """Sign; a failure leaves a signature of no octets."""
    cdef Py_ssize_t i
    cdef void* context
    cdef Job* job
    for i in range(count):
        job = jobs + i
        context = new_context()
        if context == NULL:
            continue
        job.signature_size = SIGNATURE_OCTETS
        if (
            sign_begin(context, NULL, sha256() if job.hashes else NULL, NULL, job.key) != 1
            or sign(context, job.signature, &job.signature_size, job.data, <size_t>job.size) != 1
        ):
            job.signature_size = 0
        free_context(context)
    forget_errors()


def sign_all(list pairs not None) -> list:
    cdef Py_ssize_t count = len(pairs)
    cdef Py_ssize_t i
    cdef NativeKey key
    cdef bytes data
    cdef Job* jobs
    cdef list out = []
    if count == 0:
        return out
    jobs = <Job*>malloc(<size_t>count * sizeof(Job))
    if jobs == NULL:
        raise MemoryError
    try:
        for i in range(count):
            key, data = pairs[i]
            if key is None or data is None:
                raise TypeError("pairs of a key and octets")
            jobs[i].key = key.key
            jobs[i].hashes = key.hashes
            jobs[i].data = <const unsigned char*>PyBytes_AS_STRING(data)
            jobs[i].size = PyBytes_GET_SIZE(data)
            jobs[i].signature_size = 0
        # `pairs` keeps keys and octets alive: nobody else has it.
        with nogil:
            run(jobs, count)
        for i in range(count):
            out.append(PyBytes_FromStringAndSize(<const char*>jobs[i].signature, <Py_ssize_t>jobs[i].signature_size))
        return out
    finally:
        free(jobs)
