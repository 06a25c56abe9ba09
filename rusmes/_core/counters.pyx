"""Counters in memory that the supervisor and all workers share.

Two things live here. Metric slots: plain 64-bit cells, one column a process, so nobody waits for anybody. And a keyed table for
limits, which has to be exact over all processes: STRIPES small tables, each under a process-shared *robust* mutex. A mutex
and not a lock-free scheme, because "count all columns, then take a place" is one decision; robust, because a worker may
be killed inside it. The cells of an entry are changed by single stores only, so whatever a dead owner left is consistent.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.string cimport memcpy, memset

import mmap
import os

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    #include <errno.h>
    #include <pthread.h>

    static inline void rm_add(int64_t* cell, int64_t n) { __atomic_fetch_add(cell, n, __ATOMIC_RELAXED); }
    static inline int64_t rm_load(int64_t* cell) { return __atomic_load_n(cell, __ATOMIC_RELAXED); }
    static inline void rm_store_double(int64_t* cell, double value) {
        int64_t bits; memcpy(&bits, &value, 8); __atomic_store_n(cell, bits, __ATOMIC_RELAXED);
    }
    static inline double rm_load_double(int64_t* cell) {
        int64_t bits = rm_load(cell); double value; memcpy(&value, &bits, 8); return value;
    }
    static inline void rm_add_double(int64_t* cell, double delta) {
        int64_t old = rm_load(cell), next; double value;
        do {
            memcpy(&value, &old, 8); value += delta; memcpy(&next, &value, 8);
        } while (!__atomic_compare_exchange_n(cell, &old, next, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    }

    static int rm_mutex_init(void* place) {
        pthread_mutexattr_t a;
        int rc = pthread_mutexattr_init(&a);
        if (rc) return rc;
        pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
        rc = pthread_mutex_init((pthread_mutex_t*)place, &a);
        pthread_mutexattr_destroy(&a);
        return rc;
    }
    static int rm_mutex_lock(void* place) {
        int rc = pthread_mutex_lock((pthread_mutex_t*)place);
        if (rc == EOWNERDEAD) { pthread_mutex_consistent((pthread_mutex_t*)place); rc = 0; }
        return rc;
    }
    static void rm_mutex_unlock(void* place) { pthread_mutex_unlock((pthread_mutex_t*)place); }

    /* SipHash-1-3 (Aumasson, Bernstein): keyed, so that no peer can choose addresses that collide. */
    static inline uint64_t rm_rotl(uint64_t x, int b) { return (x << b) | (x >> (64 - b)); }
    #define RM_ROUND v0 += v1; v1 = rm_rotl(v1, 13); v1 ^= v0; v0 = rm_rotl(v0, 32); v2 += v3; v3 = rm_rotl(v3, 16); \\
        v3 ^= v2; v0 += v3; v3 = rm_rotl(v3, 21); v3 ^= v0; v2 += v1; v1 = rm_rotl(v1, 17); v1 ^= v2; v2 = rm_rotl(v2, 32);
    static uint64_t rm_siphash(uint64_t k0, uint64_t k1, const unsigned char* p, size_t n) {
        uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
        uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
        uint64_t m, last = (uint64_t)n << 56;
        const unsigned char* end = p + (n & ~(size_t)7);
        for (; p != end; p += 8) { memcpy(&m, p, 8); v3 ^= m; RM_ROUND v0 ^= m; }
        for (size_t i = 0; i < (n & 7); i++) last |= (uint64_t)p[i] << (8 * i);
        v3 ^= last; RM_ROUND v0 ^= last;
        v2 ^= 0xff; RM_ROUND RM_ROUND RM_ROUND
        return v0 ^ v1 ^ v2 ^ v3;
    }
    enum { RM_MUTEX_BYTES = sizeof(pthread_mutex_t) };
    """
    void rm_add(int64_t* cell, int64_t n)
    int64_t rm_load(int64_t* cell)
    void rm_store_double(int64_t* cell, double value)
    double rm_load_double(int64_t* cell)
    void rm_add_double(int64_t* cell, double delta)
    int rm_mutex_init(void* place)
    int rm_mutex_lock(void* place)
    void rm_mutex_unlock(void* place)
    uint64_t rm_siphash(uint64_t k0, uint64_t k1, const unsigned char* p, size_t n)
    int RM_MUTEX_BYTES

SLOT_COUNT = int(SLOTS)


cdef void* _address(object memory) except NULL:
    """Where a mapping lies; it stays there until the process ends or the object that holds it goes."""
    cdef Py_buffer view
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    cdef void* address = view.buf
    PyBuffer_Release(&view)
    return address


# Metrics

cdef class Histogram:
    def __init__(self, int slot, tuple bounds not None):
        if not 0 < len(bounds) <= MAX_BOUNDS:
            raise ValueError(f"a histogram has 1 to {int(MAX_BOUNDS)} bounds, not {len(bounds)}")
        if list(bounds) != sorted(set(bounds)):
            raise ValueError("the bounds of a histogram ascend")
        if slot < 0 or slot + len(bounds) + 2 > SLOTS:
            raise ValueError("the histogram does not fit into the slots")
        self.slot = slot
        self.bounds = bounds
        self.count = <int>len(bounds)
        for i in range(self.count):
            self.limits[i] = bounds[i]


cdef class Metrics:
    def __init__(self, int columns=1):
        if not 0 < columns <= 1024:
            raise ValueError("1 to 1024 columns")
        self.columns = columns
        self.column = 0
        self.memory = mmap.mmap(-1, columns * SLOTS * 8)
        self.base = <int64_t*>_address(self.memory)
        self.own = self.base

    def use_column(self, int column):
        if not 0 <= column < self.columns:
            raise IndexError(f"no column {column}")
        self.column = column
        self.own = self.base + <size_t>column * SLOTS

    cpdef object inc(self, int slot, int64_t n=1):
        if not 0 <= slot < SLOTS:
            raise IndexError(f"no slot {slot}")
        rm_add(self.own + slot, n)

    def set(self, int slot, double value):
        if not 0 <= slot < SLOTS:
            raise IndexError(f"no slot {slot}")
        rm_store_double(self.own + slot, value)

    def add(self, int slot, double delta):
        if not 0 <= slot < SLOTS:
            raise IndexError(f"no slot {slot}")
        rm_add_double(self.own + slot, delta)

    def observe(self, Histogram histogram not None, double value):
        cdef int i = 0
        while i < histogram.count and value > histogram.limits[i]:
            i += 1
        rm_add(self.own + histogram.slot + i, 1)
        rm_add_double(self.own + histogram.slot + histogram.count + 1, value)

    def count(self, int slot, int column=-1):
        if not 0 <= slot < SLOTS or column >= self.columns:
            raise IndexError(f"no slot {slot} in column {column}")
        if column >= 0:
            return rm_load(self.base + <size_t>column * SLOTS + slot)
        cdef int64_t total = 0
        cdef int i
        for i in range(self.columns):
            total += rm_load(self.base + <size_t>i * SLOTS + slot)
        return total

    def level(self, int slot, int column):
        if not 0 <= slot < SLOTS or not 0 <= column < self.columns:
            raise IndexError(f"no slot {slot} in column {column}")
        return rm_load_double(self.base + <size_t>column * SLOTS + slot)

    def sample(self, Histogram histogram not None):
        cdef list counts = [0] * (histogram.count + 1)
        cdef double total = 0
        cdef int64_t* at
        cdef int i, k
        for i in range(self.columns):
            at = self.base + <size_t>i * SLOTS + histogram.slot
            for k in range(histogram.count + 1):
                counts[k] += rm_load(at + k)
            total += rm_load_double(at + histogram.count + 1)
        return counts, total

    def clear_level(self, int slot, int column):
        if not 0 <= slot < SLOTS or not 0 <= column < self.columns:
            raise IndexError(f"no slot {slot} in column {column}")
        rm_store_double(self.base + <size_t>column * SLOTS + slot, 0.0)


# The keyed table. A stripe is: mutex (64 bytes), used (4), spare (4), latest (8), then its entries.

cdef enum:
    USED_AT = 64
    LATEST_AT = 72
    ENTRIES_AT = 80


cdef inline uint32_t* _used(uint8_t* stripe) noexcept nogil:
    return <uint32_t*>(stripe + USED_AT)


cdef inline double* _latest(uint8_t* stripe) noexcept nogil:
    return <double*>(stripe + LATEST_AT)


cdef inline uint32_t* _in_use(Entry* entry) noexcept nogil:
    return <uint32_t*>(<uint8_t*>entry + sizeof(Entry))


cdef inline uint32_t _total(Entry* entry, int columns) noexcept nogil:
    cdef uint32_t total = 0
    cdef int i
    for i in range(columns):
        total += _in_use(entry)[i]
    return total


cdef inline void _roll(Entry* entry, double window, double now) noexcept nogil:
    """Bring the two rate windows to the present."""
    cdef double age = now - entry.window_start
    if entry.window_start == 0 or age >= 2 * window or age < 0:
        entry.previous = 0
        entry.current = 0
        entry.window_start = now
    elif age >= window:
        entry.previous = entry.current
        entry.current = 0
        entry.window_start += window


cdef inline double _rate(Entry* entry, double window, double now) noexcept nogil:
    cdef double inside = 1.0 - (now - entry.window_start) / window
    return entry.current + entry.previous * (inside if inside > 0 else 0)


cdef class SharedCounters:
    def __init__(self, int columns=1, int entries=131072):
        if not 0 < columns <= 1024:
            raise ValueError("1 to 1024 columns")
        if entries < STRIPES:
            raise ValueError(f"at least {int(STRIPES)} entries")
        if <int>RM_MUTEX_BYTES > <int>USED_AT:
            raise RuntimeError("a mutex of this system is larger than its place")
        self.columns = columns
        self.column = 0
        self.per_stripe = <uint32_t>((entries + STRIPES - 1) // STRIPES)
        self.entry_bytes = (sizeof(Entry) + 4 * <size_t>columns + 7) & ~<size_t>7
        self.stripe_bytes = (ENTRIES_AT + self.per_stripe * self.entry_bytes + 63) & ~<size_t>63
        self.memory = mmap.mmap(-1, self.stripe_bytes * STRIPES)
        self.base = <uint8_t*>_address(self.memory)
        cdef bytes secret = os.urandom(32)
        cdef int i
        memcpy(self.secret, PyBytes_AS_STRING(secret), 32)
        for i in range(STRIPES):
            if rm_mutex_init(self.base + i * self.stripe_bytes) != 0:
                raise OSError("process-shared robust mutexes do not work here")

    def use_column(self, int column):
        if not 0 <= column < self.columns:
            raise IndexError(f"no column {column}")
        self.column = column

    cdef uint8_t* _lock(self, bytes key, uint64_t* hashed) except NULL:
        """Lock the key's stripe."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(key)
        cdef size_t n = <size_t>PyBytes_GET_SIZE(key)
        hashed[0] = rm_siphash(self.secret[0], self.secret[1], p, n)
        hashed[1] = rm_siphash(self.secret[2], self.secret[3], p, n) | 1  # never the empty key
        cdef uint8_t* stripe = self.base + (hashed[1] >> 57) * self.stripe_bytes
        if rm_mutex_lock(stripe) != 0:
            raise OSError("the lock of the shared counters is broken")
        return stripe

    def acquire(self, bytes key not None, int limit):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        cdef bint taken = False
        if entry == NULL:
            entry = _insert(stripe, self, hashed)
        if entry != NULL and (limit <= 0 or _total(entry, self.columns) < <uint32_t>limit):
            _in_use(entry)[self.column] += 1
            taken = True
        rm_mutex_unlock(stripe)
        return taken

    def release(self, bytes key not None):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry != NULL and _in_use(entry)[self.column]:
            _in_use(entry)[self.column] -= 1
            if entry.expires == 0 and _total(entry, self.columns) == 0:
                _remove(stripe, self, entry)
        rm_mutex_unlock(stripe)

    def count(self, bytes key not None):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        cdef uint32_t total = 0 if entry == NULL else _total(entry, self.columns)
        rm_mutex_unlock(stripe)
        return total

    def take_rate(self, bytes key not None, int limit, double window_seconds, double now, int n=1):
        if limit <= 0:
            return True
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef bint taken = False
        _latest(stripe)[0] = now
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry == NULL:
            entry = _insert(stripe, self, hashed)
        if entry == NULL:
            taken = True  # every place of the stripe is a connection in use: those are limited already
        else:
            _roll(entry, window_seconds, now)
            if _rate(entry, window_seconds, now) + n <= limit:
                entry.current += <uint32_t>n
                taken = True
            if entry.expires < entry.window_start + 2 * window_seconds:
                entry.expires = entry.window_start + 2 * window_seconds
        rm_mutex_unlock(stripe)
        return taken

    def take_paced(self, bytes key not None, double interval_seconds, double burst, double now, int n=1):
        if interval_seconds <= 0:
            return 0.0
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef double arrival = now
        cdef double wait = 0
        _latest(stripe)[0] = now
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry == NULL and n > 0:
            entry = _insert(stripe, self, hashed)
        if entry != NULL:
            if entry.expires > now:
                arrival = entry.value
            wait = arrival - (burst - n) * interval_seconds - now if n > 0 else 0
            if wait <= 1e-9:
                wait = 0
                entry.value = arrival + n * interval_seconds
                entry.expires = entry.value
        rm_mutex_unlock(stripe)
        return wait

    def peek_rate(self, bytes key not None, double window_seconds, double now):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        cdef double rate = 0
        if entry != NULL:
            _roll(entry, window_seconds, now)
            rate = _rate(entry, window_seconds, now)
        rm_mutex_unlock(stripe)
        return rate

    def set_value(self, bytes key not None, double value, double expires, double now):
        self._change_value(key, value, False, expires, now)

    def add_value(self, bytes key not None, double delta, double expires, double now):
        return self._change_value(key, delta, True, expires, now)

    cdef double _change_value(self, bytes key, double value, bint add, double expires, double now) except? -1:
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        _latest(stripe)[0] = now
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry == NULL:
            entry = _insert(stripe, self, hashed)
        if entry != NULL:
            if add and entry.expires > now:
                value += entry.value
            entry.value = value
            entry.expires = expires
        rm_mutex_unlock(stripe)
        return value

    def value(self, bytes key not None, double now, double default=0.0):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry != NULL and entry.expires > now:
            default = entry.value
        rm_mutex_unlock(stripe)
        return default

    def clear(self, bytes key not None):
        cdef uint64_t hashed[2]
        cdef uint8_t* stripe = self._lock(key, hashed)
        cdef Entry* entry = _find(stripe, self, hashed)
        if entry != NULL:
            entry.expires = 0
            entry.window_start = 0
            entry.value = 0
            entry.current = 0
            entry.previous = 0
            if _total(entry, self.columns) == 0:
                _remove(stripe, self, entry)
        rm_mutex_unlock(stripe)

    def reset_worker(self, int column):
        if not 0 <= column < self.columns:
            raise IndexError(f"no column {column}")
        cdef uint8_t* stripe
        cdef Entry* entry
        cdef uint32_t at, there
        cdef long given_back = 0
        cdef int i
        for i in range(STRIPES):
            stripe = self.base + i * self.stripe_bytes
            if rm_mutex_lock(stripe) != 0:
                raise OSError("the lock of the shared counters is broken")
            at = 0
            while at < self.per_stripe:
                entry = _entry(stripe, self, at)
                if entry.key[1]:
                    given_back += _in_use(entry)[column]
                    _in_use(entry)[column] = 0
                    if entry.expires == 0 and _total(entry, self.columns) == 0:
                        _remove(stripe, self, entry)
                        continue  # another entry may have moved here
                at += 1
            # Who was killed between an entry and its count left the count wrong. Counted apart: a removal may wrap around.
            there = 0
            for at in range(self.per_stripe):
                there += _entry(stripe, self, at).key[1] != 0
            _used(stripe)[0] = there
            rm_mutex_unlock(stripe)
        return given_back

    def used(self):
        cdef long total = 0
        cdef int i
        for i in range(STRIPES):
            total += _used(self.base + i * self.stripe_bytes)[0]
        return total


cdef inline Entry* _entry(uint8_t* stripe, SharedCounters table, uint32_t at) noexcept:
    return <Entry*>(stripe + ENTRIES_AT + at * table.entry_bytes)


cdef Entry* _find(uint8_t* stripe, SharedCounters table, uint64_t* hashed) noexcept:
    cdef uint32_t at = <uint32_t>(hashed[0] % table.per_stripe)
    cdef uint32_t left = table.per_stripe
    cdef Entry* entry
    while left:
        entry = _entry(stripe, table, at)
        if entry.key[1] == 0:
            return NULL
        if entry.key[0] == hashed[0] and entry.key[1] == hashed[1]:
            return entry
        at = at + 1 if at + 1 < table.per_stripe else 0
        left -= 1
    return NULL


cdef Entry* _insert(uint8_t* stripe, SharedCounters table, uint64_t* hashed) noexcept:
    """A new entry for a key that is not there; NULL when every entry of the stripe is in use."""
    if _used(stripe)[0] * 8 >= table.per_stripe * 7 and not _make_room(stripe, table):
        return NULL
    cdef uint32_t at = <uint32_t>(hashed[0] % table.per_stripe)
    cdef Entry* entry = _entry(stripe, table, at)
    while entry.key[1]:
        at = at + 1 if at + 1 < table.per_stripe else 0
        entry = _entry(stripe, table, at)
    memset(entry, 0, table.entry_bytes)
    entry.key[0] = hashed[0]
    entry.key[1] = hashed[1]
    _used(stripe)[0] += 1
    return entry


cdef bint _make_room(uint8_t* stripe, SharedCounters table) noexcept:
    """Remove what has expired; if nothing has, the entry that would expire next. One place always stays empty."""
    cdef uint32_t at = 0
    cdef uint32_t before = _used(stripe)[0]
    cdef double now = _latest(stripe)[0]
    cdef Entry* entry
    cdef Entry* next_to_go = NULL
    while at < table.per_stripe:
        entry = _entry(stripe, table, at)
        if entry.key[1] and _total(entry, table.columns) == 0:
            if entry.expires <= now:
                _remove(stripe, table, entry)
                continue
            if next_to_go == NULL or entry.expires < next_to_go.expires:
                next_to_go = entry
        at += 1
    if _used(stripe)[0] == before and next_to_go != NULL:
        _remove(stripe, table, next_to_go)
    return _used(stripe)[0] + 1 < table.per_stripe


cdef void _remove(uint8_t* stripe, SharedCounters table, Entry* entry) noexcept:
    """Backward-shift deletion: no tombstones, so a table that lived long is as fast as a new one."""
    cdef uint32_t hole = <uint32_t>((<uint8_t*>entry - stripe - ENTRIES_AT) // table.entry_bytes)
    cdef uint32_t at = hole
    cdef uint32_t home, distance
    cdef Entry* other
    while True:
        at = at + 1 if at + 1 < table.per_stripe else 0
        other = _entry(stripe, table, at)
        if other.key[1] == 0:
            break
        home = <uint32_t>(other.key[0] % table.per_stripe)
        # May it move to the hole? Only if the hole is not before its home (cyclically).
        distance = at - home if at >= home else at + table.per_stripe - home
        if distance >= (at - hole if at >= hole else at + table.per_stripe - hole):
            memcpy(_entry(stripe, table, hole), other, table.entry_bytes)
            hole = at
    memset(_entry(stripe, table, hole), 0, table.entry_bytes)
    _used(stripe)[0] -= 1
