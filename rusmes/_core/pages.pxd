from libc.stdint cimport uint64_t


# A leaf page, and a node of it.
cdef struct Place:
    const unsigned char* leaf
    int node


# A snapshot of an LMDB environment, read from a map of its file; good as long as a transaction keeps the snapshot.
cdef class Snapshot:
    cdef Py_buffer view
    cdef const unsigned char* map
    cdef Py_ssize_t page_octets
    cdef uint64_t last_page
    cdef uint64_t main         # root of the table of tables

    cdef const unsigned char* page(self, uint64_t number, int flag) noexcept nogil
    cdef const unsigned char* node(self, const unsigned char* page, int place, Py_ssize_t* key_size) noexcept nogil
    cdef int search(
        self, const unsigned char* page, int first, const unsigned char* key, Py_ssize_t size, bint* is_equal
    ) noexcept nogil
    # The value of a key below the root page, or NULL; `near` is where to look first, and then where it was found.
    cdef const unsigned char* find(
        self, uint64_t root, const unsigned char* key, Py_ssize_t key_size, Place* near, Py_ssize_t* size, int* flags
    ) noexcept nogil
    cdef const unsigned char* value(self, const unsigned char* page, int place, Py_ssize_t* size, int* flags) noexcept nogil


# One table of it; a key is looked for behind the last one first, then in its page.
cdef class Table:
    cdef Snapshot snapshot
    cdef uint64_t root
    cdef Place near

    cdef const unsigned char* find(self, const unsigned char* key, Py_ssize_t key_size, Py_ssize_t* size) noexcept nogil
