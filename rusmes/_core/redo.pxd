from libc.stdint cimport int64_t, uint32_t, uint64_t

# In the order of a record's life: encoded, written and synced, read back after a crash.
cdef int write_synced(int descriptor, unsigned char* data, size_t size, int64_t at) noexcept nogil
cdef Py_ssize_t payload_length(
    const unsigned char* data, Py_ssize_t size, uint64_t epoch, uint64_t txn_id, uint32_t part
) noexcept nogil
