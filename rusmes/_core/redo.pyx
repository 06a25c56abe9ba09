"""Records of the redo journal: what a transaction writes, as bytes. `rusmes.storage.lmdb.journal` says where they lie.

A record is a header, the writes, and zeros up to a whole page, so that no page is ever written twice with something in it
that was acknowledged. Numbers are little-endian:

    magic 4, part 4, XXH64 of what follows 8, epoch 8, transaction 8, octets of the writes 8; then of each write
    table 2, octets of the key 2, octets of the value 4 (all ones: the row is deleted), key, value

A transaction has one record, part 0, or several that follow one another.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, ENOSPC, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    object NewByteArray "PyByteArray_FromStringAndSize"(const char* data, Py_ssize_t size)

cdef extern from "unistd.h" nogil:
    ssize_t pwrite(int descriptor, const void* data, size_t size, int64_t at)
    int fdatasync(int descriptor)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline void rusmes_put_le(unsigned char *p, uint64_t v, int n)
    {
        while (n--) { *p++ = (unsigned char)v; v >>= 8; }
    }
    static inline uint64_t rusmes_get_le(const unsigned char *p, int n)
    {
        uint64_t v = 0;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (n == 8) {
            memcpy(&v, p, 8);
            return v;
        }
    #endif
        while (n--) v = v << 8 | p[n];
        return v;
    }

    /* XXH64 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) with seed 0: some 10 GB/s anywhere, and a batch may have megabytes. */
    #define RUSMES_P1 0x9E3779B185EBCA87u
    #define RUSMES_P2 0xC2B2AE3D27D4EB4Fu
    #define RUSMES_P3 0x165667B19E3779F9u
    #define RUSMES_P4 0x85EBCA77C2B2AE63u
    #define RUSMES_P5 0x27D4EB2F165667C5u
    static inline uint64_t rusmes_rotate(uint64_t v, int n) { return v << n | v >> (64 - n); }
    static inline uint64_t rusmes_round(uint64_t acc, uint64_t v) { return rusmes_rotate(acc + v * RUSMES_P2, 31) * RUSMES_P1; }
    static inline uint64_t rusmes_merge(uint64_t acc, uint64_t v) { return (acc ^ rusmes_round(0, v)) * RUSMES_P1 + RUSMES_P4; }
    static uint64_t rusmes_hash(const unsigned char *p, size_t n)
    {
        uint64_t h, a = RUSMES_P1 + RUSMES_P2, b = RUSMES_P2, c = 0, d = 0 - RUSMES_P1;
        size_t whole = n;
        if (n < 32) {
            h = RUSMES_P5;
        } else {
            for (; n >= 32; p += 32, n -= 32) {
                a = rusmes_round(a, rusmes_get_le(p, 8));
                b = rusmes_round(b, rusmes_get_le(p + 8, 8));
                c = rusmes_round(c, rusmes_get_le(p + 16, 8));
                d = rusmes_round(d, rusmes_get_le(p + 24, 8));
            }
            h = rusmes_rotate(a, 1) + rusmes_rotate(b, 7) + rusmes_rotate(c, 12) + rusmes_rotate(d, 18);
            h = rusmes_merge(rusmes_merge(rusmes_merge(rusmes_merge(h, a), b), c), d);
        }
        h += whole;
        for (; n >= 8; p += 8, n -= 8)
            h = rusmes_rotate(h ^ rusmes_round(0, rusmes_get_le(p, 8)), 27) * RUSMES_P1 + RUSMES_P4;
        if (n >= 4) {
            h = rusmes_rotate(h ^ rusmes_get_le(p, 4) * RUSMES_P1, 23) * RUSMES_P2 + RUSMES_P3;
            p += 4, n -= 4;
        }
        while (n--)
            h = rusmes_rotate(h ^ *p++ * RUSMES_P5, 11) * RUSMES_P1;
        h = (h ^ h >> 33) * RUSMES_P2;
        h = (h ^ h >> 29) * RUSMES_P3;
        return h ^ h >> 32;
    }
    """
    uint64_t hash_of "rusmes_hash"(const unsigned char* p, size_t n) noexcept nogil
    void put_le "rusmes_put_le"(unsigned char* p, uint64_t v, int n) noexcept nogil
    uint64_t get_le "rusmes_get_le"(const unsigned char* p, int n) noexcept nogil

cdef enum:
    MAGIC = 0x314A4D52          # "RMJ1"
    PART_AT = 4
    HASH_AT = 8
    EPOCH_AT = 16
    TXN_AT = 24
    LENGTH_AT = 32
    HEADER = 40
    ROW_HEADER = 8
    DELETED = 0xFFFFFFFF
    PAGE = 4096

PAGE_BYTES = PAGE
# A record is written with one call under the writer mutex; what is larger goes by a checkpoint instead.
MAX_RECORD_BYTES = 16 * 1024 * 1024


def encode(list held not None, uint64_t epoch, uint64_t txn_id, uint32_t part=0):
    cdef Py_ssize_t size = HEADER
    cdef Py_ssize_t limit = MAX_RECORD_BYTES
    cdef Py_ssize_t whole
    cdef unsigned char* start
    cdef unsigned char* p
    cdef int table
    cdef dict rows
    cdef bytes key
    cdef object value
    for rows in held:
        for key, value in rows.items():
            size += ROW_HEADER + PyBytes_GET_SIZE(key) + (0 if value is None else PyBytes_GET_SIZE(<bytes?>value))
        if size > limit:
            return None
    whole = (size + PAGE - 1) // PAGE * PAGE
    record = NewByteArray(NULL, whole)
    start = <unsigned char*>PyByteArray_AS_STRING(record)
    memset(start + size, 0, <size_t>(whole - size))
    put_le(start, MAGIC, 4)
    put_le(start + PART_AT, part, 4)
    put_le(start + HASH_AT, 0, 8)
    put_le(start + EPOCH_AT, epoch, 8)
    put_le(start + TXN_AT, txn_id, 8)
    put_le(start + LENGTH_AT, <uint64_t>(size - HEADER), 8)
    p = start + HEADER
    for table in range(len(held)):
        rows = held[table]
        for key, value in rows.items():
            put_le(p, <uint64_t>table, 2)
            put_le(p + 2, <uint64_t>PyBytes_GET_SIZE(key), 2)
            if value is None:
                put_le(p + 4, DELETED, 4)
                p += ROW_HEADER
                memcpy(p, PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
                p += PyBytes_GET_SIZE(key)
                continue
            put_le(p + 4, <uint64_t>PyBytes_GET_SIZE(value), 4)
            p += ROW_HEADER
            memcpy(p, PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
            p += PyBytes_GET_SIZE(key)
            memcpy(p, PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value))
            p += PyBytes_GET_SIZE(value)
    return record


def append(int descriptor, bytearray record not None, int64_t at) -> None:
    cdef unsigned char* data = <unsigned char*>PyByteArray_AS_STRING(record)
    cdef size_t size = <size_t>PyByteArray_GET_SIZE(record)
    cdef int error
    if size < HEADER or HEADER + get_le(data + LENGTH_AT, 8) > size:
        raise ValueError("not a record")
    # One stretch without the GIL: a loop that is never idle gives it back late.
    with nogil:
        put_le(data + HASH_AT, hash_of(data + EPOCH_AT, <size_t>(HEADER - EPOCH_AT + get_le(data + LENGTH_AT, 8))), 8)
        error = write_synced(descriptor, data, size, at)
    if error:
        raise OSError(error, "writing the journal")


cdef int write_synced(int descriptor, unsigned char* data, size_t size, int64_t at) noexcept nogil:
    """0, or an error number."""
    cdef ssize_t done
    while size:
        done = pwrite(descriptor, data, size, at)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        if done == 0:
            return ENOSPC
        data += done
        size -= <size_t>done
        at += done
    while fdatasync(descriptor) < 0:
        if errno != EINTR:
            return errno
    return 0


cdef Py_ssize_t payload_length(
    const unsigned char* data, Py_ssize_t size, uint64_t epoch, uint64_t txn_id, uint32_t part
) noexcept nogil:
    """Octets of the writes, -1 when this part of this transaction does not stand there whole."""
    cdef uint64_t length
    if size < HEADER or get_le(data, 4) != MAGIC or get_le(data + PART_AT, 4) != part:
        return -1
    if get_le(data + EPOCH_AT, 8) != epoch or get_le(data + TXN_AT, 8) != txn_id:
        return -1
    length = get_le(data + LENGTH_AT, 8)
    if length > <uint64_t>(size - HEADER):
        return -1
    if hash_of(data + EPOCH_AT, <size_t>(HEADER - EPOCH_AT + length)) != get_le(data + HASH_AT, 8):
        return -1
    return <Py_ssize_t>length


def checksum(bytes data not None) -> int:
    return hash_of(<const unsigned char*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


def transaction_at(bytes data not None, Py_ssize_t at, uint64_t epoch) -> tuple:
    cdef const unsigned char* p
    if at < 0 or at + HEADER > PyBytes_GET_SIZE(data):
        return 0, 0
    p = <const unsigned char*>PyBytes_AS_STRING(data) + at
    if get_le(p, 4) != MAGIC or get_le(p + EPOCH_AT, 8) != epoch:
        return 0, 0
    return get_le(p + TXN_AT, 8), get_le(p + PART_AT, 4)


def read(bytes data not None, Py_ssize_t at, uint64_t epoch, uint64_t txn_id, uint32_t part=0):
    cdef Py_ssize_t end, length
    cdef uint32_t key_octets, value_octets
    cdef const unsigned char* p
    cdef list rows = []
    if at < 0 or at > PyBytes_GET_SIZE(data):
        return None
    length = payload_length(
        <const unsigned char*>PyBytes_AS_STRING(data) + at, PyBytes_GET_SIZE(data) - at, epoch, txn_id, part
    )
    if length < 0:
        return None
    at += HEADER
    end = at + length
    while at < end:
        if end - at < ROW_HEADER:
            return None
        p = <const unsigned char*>PyBytes_AS_STRING(data) + at
        table = get_le(p, 2)
        key_octets = <uint32_t>get_le(p + 2, 2)
        value_octets = <uint32_t>get_le(p + 4, 4)
        at += ROW_HEADER
        if value_octets == DELETED:
            if key_octets > end - at:
                return None
            rows.append((table, data[at:at + key_octets], None))
            at += key_octets
            continue
        if <uint64_t>key_octets + value_octets > <uint64_t>(end - at):
            return None
        rows.append((table, data[at:at + key_octets], data[at + key_octets:at + key_octets + value_octets]))
        at += key_octets + value_octets
    return (end + PAGE - 1) // PAGE * PAGE, rows
