# Where the parts of a row of `emails` are, for those who read it where it lies (`rusmes.storage.lmdb.layout` describes it). Its
# checksum is not looked at: what is found is searched, and never sent or changed.

from libc.stdint cimport uint64_t


cdef struct EmailPlaces:
    uint64_t account_id
    const unsigned char* blob_id
    const unsigned char* thread_id
    const unsigned char* prefix
    Py_ssize_t prefix_size
    const unsigned char* headers
    Py_ssize_t headers_size
    uint64_t skip

cdef struct BlobPlaces:
    bint is_file
    uint64_t size
    uint64_t header_size
    const unsigned char* body      # of one that is not in a file


cdef inline uint64_t number_at(const unsigned char* p, int octets) noexcept nogil:
    cdef uint64_t number = 0
    cdef int i
    for i in range(octets):
        number = number << 8 | p[i]
    return number


cdef inline bint find_email_places(const unsigned char* p, Py_ssize_t n, EmailPlaces* places) noexcept nogil:
    """Whether it can be a row."""
    cdef Py_ssize_t at, end
    n -= 4
    if n < 85:
        return False
    at = 85 + <Py_ssize_t>number_at(p + 65, 4) * 12
    places.account_id = number_at(p, 8)
    places.blob_id = p + 8
    places.thread_id = p + 24
    places.skip = number_at(p + 56, 8)
    places.prefix_size = <Py_ssize_t>number_at(p + 69, 4)
    end = at + places.prefix_size + <Py_ssize_t>number_at(p + 73, 4) + <Py_ssize_t>number_at(p + 77, 4) + <Py_ssize_t>number_at(p + 81, 4)
    if end > n:
        return False
    places.prefix = p + at
    places.headers = p + end
    places.headers_size = n - end
    return True


cdef inline bint find_blob_places(const unsigned char* p, Py_ssize_t n, BlobPlaces* places) noexcept nogil:
    if n < 25:
        return False
    places.is_file = p[0] != 0
    places.size = number_at(p + 1, 8)
    places.header_size = min(number_at(p + 9, 8), places.size)
    places.body = p + 25
    return places.is_file or places.size == <uint64_t>(n - 25)
