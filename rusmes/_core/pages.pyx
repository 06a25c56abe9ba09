"""Reading LMDB's pages where they are mapped. See `pages.pyi`; names are those of LMDB's `mdb.c`."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from *:
    """
    static inline uint64_t rusmes_read_again(const unsigned char *p) { return *(const volatile uint64_t *)p; }
    """
    uint64_t read_again "rusmes_read_again"(const unsigned char* p) noexcept nogil


cdef enum:
    PAGE_HEAD = 16             # number 8, padding 2, flags 2, lower 2, upper 2 (or the count of overflow pages 4)
    P_BRANCH = 1
    P_LEAF = 2
    P_OVERFLOW = 4
    NODE_HEAD = 8              # low 2, high 2, flags 2, size of the key 2
    F_BIGDATA = 1              # the value is on pages of its own
    F_SUBDATA = 2              # the value is a table
    DB_OCTETS = 48             # padding 4, flags 2, depth 2, counts of pages 24, entries 8, root 8
    DB_ROOT = 40
    META_MAGIC = 16
    META_VERSION = 20
    META_TABLES = 40           # behind address 8 and map size 8: that of free pages, whose padding is the page size, and the main one
    META_LAST_PAGE = 136
    META_TXN = 144
    DEEPEST = 32

cdef uint32_t MAGIC = 0xBEEFC0DE


cdef inline uint16_t u16(const unsigned char* p) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, p, 2)
    return value


cdef inline uint32_t u32(const unsigned char* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline uint64_t u64(const unsigned char* p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline int key_count(const unsigned char* page) noexcept nogil:
    """NUMKEYS"""
    return (<int>u16(page + 12) - PAGE_HEAD) >> 1


@cython.final
cdef class Snapshot:
    def __cinit__(self, mapped, uint64_t txn_id):
        cdef const unsigned char* meta
        PyObject_GetBuffer(mapped, &self.view, PyBUF_SIMPLE)
        self.map = <const unsigned char*>self.view.buf
        if self.view.len < 8192:
            raise ValueError("not a file of LMDB")
        self.page_octets = u32(self.map + META_TABLES)
        if u32(self.map + META_MAGIC) != MAGIC or self.page_octets < 512 or self.page_octets > 65536 or (
            self.page_octets & (self.page_octets - 1)
        ) or self.view.len < 2 * self.page_octets:
            raise ValueError("not a file of LMDB")
        meta = self.map + (txn_id & 1) * <uint64_t>self.page_octets
        if u32(meta + META_MAGIC) != MAGIC or u32(meta + META_VERSION) != 1 or u64(meta + META_TXN) != txn_id:
            raise ValueError("a snapshot of before, or another LMDB")
        self.last_page = u64(meta + META_LAST_PAGE)
        self.main = u64(meta + META_TABLES + DB_OCTETS + DB_ROOT)
        # The meta page is written by the next transaction but one: what was read is of this one if it still is.
        if read_again(meta + META_TXN) != txn_id or self.last_page >= <uint64_t>(self.view.len // self.page_octets):
            raise ValueError("a snapshot of before, or more than is mapped")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def table(self, bytes name not None) -> Table:
        cdef Py_ssize_t size = 0
        cdef int flags = 0
        cdef Place near
        cdef const unsigned char* record
        cdef Table table
        near.leaf = NULL
        record = self.find(
            self.main, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), &near, &size, &flags
        )
        if record == NULL or not flags & F_SUBDATA or size != DB_OCTETS:
            raise KeyError(name)
        table = Table.__new__(Table)
        table.snapshot = self
        table.root = u64(record + DB_ROOT)
        return table

    cdef const unsigned char* page(self, uint64_t number, int flag) noexcept nogil:
        """A page of this kind, or NULL."""
        cdef const unsigned char* page
        if number < 2 or number > self.last_page:
            return NULL
        page = self.map + number * <uint64_t>self.page_octets
        if u64(page) != number or not u16(page + 10) & flag:
            return NULL
        return page

    cdef const unsigned char* node(self, const unsigned char* page, int place, Py_ssize_t* key_size) noexcept nogil:
        """A node of a page, or NULL; its key is in the page."""
        cdef Py_ssize_t at = u16(page + PAGE_HEAD + 2 * place)
        if at < PAGE_HEAD or at + NODE_HEAD > self.page_octets:
            return NULL
        key_size[0] = u16(page + at + 6)
        return page + at if at + NODE_HEAD + key_size[0] <= self.page_octets else NULL

    cdef int search(
        self, const unsigned char* page, int first, const unsigned char* key, Py_ssize_t size, bint* is_equal
    ) noexcept nogil:
        """The place of the last node from `first` on whose key is not above this one; `first` - 1 when all are. -2: damage."""
        cdef int low = first - 1
        cdef int high = key_count(page)
        cdef int middle, order
        cdef Py_ssize_t other_size = 0
        cdef const unsigned char* node
        is_equal[0] = False
        if high < 0 or PAGE_HEAD + 2 * high > self.page_octets:
            return -2
        while high - low > 1:
            middle = (low + high) >> 1
            node = self.node(page, middle, &other_size)
            if node == NULL:
                return -2
            order = memcmp(node + NODE_HEAD, key, <size_t>min(size, other_size))
            if order == 0:
                order = (other_size > size) - (other_size < size)
            if order == 0:
                is_equal[0] = True
                return middle
            if order < 0:
                low = middle
            else:
                high = middle
        return low

    cdef const unsigned char* find(
        self, uint64_t root, const unsigned char* key, Py_ssize_t key_size, Place* near, Py_ssize_t* size, int* flags
    ) noexcept nogil:
        cdef const unsigned char* page
        cdef const unsigned char* node
        cdef Py_ssize_t other_size = 0
        cdef bint is_equal = False
        cdef int place, depth
        if near.leaf != NULL:
            page = near.leaf
            if near.node + 1 < key_count(page):   # the next one: ids are asked for in the order in which they were given
                node = self.node(page, near.node + 1, &other_size)
                if node != NULL and other_size == key_size and memcmp(node + NODE_HEAD, key, <size_t>key_size) == 0:
                    near.node += 1
                    return self.value(page, near.node, size, flags)
            place = self.search(page, 0, key, key_size, &is_equal)
            if is_equal or 0 <= place < key_count(page) - 1:   # between two keys of this page there is no other page
                near.node = place
                return self.value(page, place, size, flags) if is_equal else NULL
        for depth in range(DEEPEST):
            page = self.page(root, P_LEAF | P_BRANCH)
            if page == NULL:
                return NULL
            if u16(page + 10) & P_LEAF:
                near.leaf = page
                place = near.node = self.search(page, 0, key, key_size, &is_equal)
                return self.value(page, place, size, flags) if is_equal else NULL
            # The first key of a branch is less than all.
            place = self.search(page, 1, key, key_size, &is_equal)
            node = self.node(page, place, &other_size) if place >= 0 else NULL
            if node == NULL:
                return NULL
            root = u16(node) | <uint64_t>u16(node + 2) << 16 | <uint64_t>u16(node + 4) << 32
        return NULL

    cdef const unsigned char* value(self, const unsigned char* page, int place, Py_ssize_t* size, int* flags) noexcept nogil:
        cdef Py_ssize_t key_size = 0
        cdef const unsigned char* node = self.node(page, place, &key_size)
        cdef const unsigned char* data
        cdef uint64_t number
        if node == NULL:
            return NULL
        data = node + NODE_HEAD + key_size
        size[0] = <Py_ssize_t>(u16(node) | <uint32_t>u16(node + 2) << 16)
        flags[0] = u16(node + 4)
        if not flags[0] & F_BIGDATA:
            return data if size[0] <= self.page_octets - (data - page) else NULL
        if data - page + 8 > self.page_octets:
            return NULL
        number = u64(data)
        data = self.page(number, P_OVERFLOW)
        if data == NULL or <uint64_t>size[0] > (self.last_page - number + 1) * <uint64_t>self.page_octets - PAGE_HEAD:
            return NULL
        return data + PAGE_HEAD


@cython.final
cdef class Table:
    cdef const unsigned char* find(self, const unsigned char* key, Py_ssize_t key_size, Py_ssize_t* size) noexcept nogil:
        cdef int flags = 0
        return self.snapshot.find(self.root, key, key_size, &self.near, size, &flags)

    def get(self, bytes key not None):
        cdef Py_ssize_t size = 0
        cdef const unsigned char* value = self.find(
            <const unsigned char*>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &size
        )
        return None if value == NULL else PyBytes_FromStringAndSize(<const char*>value, size)
