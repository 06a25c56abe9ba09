"""Messages of one mailbox, up to 16 with neighbouring UIDs in one row. `rusmes.storage.lmdb.layout` describes it."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rusmes._core.rows cimport MailboxRow, MessageRow, check_row, seal_row
from rusmes._core.view cimport MailboxRows

from rusmes.errors import StoreCorrupt

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t rusmes_block_load64(const unsigned char *p)
    {
        uint64_t v;
        memcpy(&v, p, 8);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        return v;
    }
    static inline void rusmes_block_store64(unsigned char *p, uint64_t v)
    {
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        memcpy(p, &v, 8);
    }
    static inline double rusmes_block_load_double(const unsigned char *p)
    {
        uint64_t u = rusmes_block_load64(p);
        double v;
        memcpy(&v, &u, 8);
        return v;
    }
    static inline void rusmes_block_store_double(unsigned char *p, double v)
    {
        uint64_t u;
        memcpy(&u, &v, 8);
        rusmes_block_store64(p, u);
    }
    """
    uint64_t load64 "rusmes_block_load64"(const unsigned char* p) noexcept nogil
    void store64 "rusmes_block_store64"(unsigned char* p, uint64_t v) noexcept nogil
    double load_double "rusmes_block_load_double"(const unsigned char* p) noexcept nogil
    void store_double "rusmes_block_store_double"(unsigned char* p, double v) noexcept nogil

# A record: place in the block 1, flags 1, modseq 8, email 16, date 8, size 8, saved 8, length of what follows 2, keywords.
cdef enum:
    BITS = 1
    MODSEQ = 2
    EMAIL = 10
    DATE = 26
    SIZE = 34
    SAVED = 42
    WORDS = 50
    ID_OCTETS = 16
    KEY_OCTETS = 12
    SEEN = 1
    DELETED = 8
    FLAGS = 31
    SHARED = 128               # the email is in other places too
    MESSAGE_UPDATED = 13
    EMAIL_UPDATED = 5

UID_BITS = BLOCK_BITS


cdef inline unsigned char* octets(bytes data) noexcept:
    return <unsigned char*>PyBytes_AS_STRING(data)


cdef inline Py_ssize_t length(const unsigned char* p) noexcept nogil:
    return RECORD_OCTETS + (<Py_ssize_t>p[WORDS] << 8 | p[WORDS + 1])


cdef inline bytes cut(const unsigned char* p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)


cpdef bytes block_key(uint64_t mailbox_id, uint64_t uid):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, KEY_OCTETS)
    cdef uint64_t block = uid >> BLOCK_BITS
    cdef unsigned char* p = octets(key)
    if uid > 0xFFFFFFFF:
        raise ValueError(f"{uid} is no UID")
    store64(p + 4, block)
    store64(p, mailbox_id)
    return key


def block_of_key(bytes key not None) -> tuple:
    if PyBytes_GET_SIZE(key) != KEY_OCTETS:
        raise StoreCorrupt("the store is damaged", f"messages {key.hex()}: a key of {len(key)} octets")
    return load64(octets(key)), first_uid_of(key)


cdef inline uint32_t first_uid_of(bytes key) noexcept:
    return <uint32_t>(load64(octets(key) + 4) & 0xFFFFFFFF) << BLOCK_BITS


cdef Py_ssize_t check_block(bytes key, bytes row) except -1:
    """The size of the records; their lengths add up to it, and their places ascend."""
    cdef Py_ssize_t n = check_row("messages", key, row, RECORD_OCTETS)
    cdef const unsigned char* p = octets(row)
    cdef const unsigned char* end = p + n
    cdef int last = -1
    if PyBytes_GET_SIZE(key) != KEY_OCTETS:
        raise StoreCorrupt("the store is damaged", f"messages {key.hex()}: a key of {len(key)} octets")
    while p < end:
        if end - p < RECORD_OCTETS or length(p) > end - p or p[0] >= BLOCK_UIDS or p[0] <= last:
            raise StoreCorrupt("the store is damaged", f"messages {key.hex()}: lengths")
        last = p[0]
        p += length(p)
    return n


cdef inline const unsigned char* find(const unsigned char* p, const unsigned char* end, unsigned char place) noexcept nogil:
    """The first record that is not before the place; `end` when there is none."""
    while p < end and p[0] < place:
        p += length(p)
    return p


cdef tuple words_of(const unsigned char* p):
    cdef Py_ssize_t n = length(p) - RECORD_OCTETS
    return () if n == 0 else tuple(PyUnicode_DecodeUTF8(<const char*>p + RECORD_OCTETS, n, NULL).split(" "))


cdef MessageRow message_at(const unsigned char* p):
    cdef MessageRow message = MessageRow.__new__(MessageRow)
    message.modseq = load64(p + MODSEQ)
    message.email_id = cut(p + EMAIL, ID_OCTETS)
    message.internal_date = load_double(p + DATE)
    message.size = load64(p + SIZE)
    message.saved = load_double(p + SAVED)
    message.bits = p[BITS] & ~<unsigned char>SHARED
    message.is_shared = p[BITS] & SHARED != 0
    message.keywords = words_of(p)
    return message


cdef void put_message(unsigned char* p, unsigned char place, MessageRow message, bytes words) noexcept:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(words)
    p[0] = place
    p[BITS] = message.bits | (SHARED if message.is_shared else 0)
    store64(p + MODSEQ, message.modseq)
    memcpy(p + EMAIL, octets(message.email_id), ID_OCTETS)
    store_double(p + DATE, message.internal_date)
    store64(p + SIZE, message.size)
    store_double(p + SAVED, message.saved)
    p[WORDS] = <unsigned char>(n >> 8)
    p[WORDS + 1] = <unsigned char>n
    memcpy(p + RECORD_OCTETS, octets(words), <size_t>n)


cpdef bytes with_message(bytes key, bytes row, uint32_t uid, MessageRow message):
    cdef bytes words = " ".join(message.keywords).encode() if message.keywords else b""
    cdef unsigned char place = uid & (BLOCK_UIDS - 1)
    cdef Py_ssize_t n = check_block(key, row) if row is not None else 0
    cdef Py_ssize_t own = RECORD_OCTETS + PyBytes_GET_SIZE(words)
    cdef Py_ssize_t before = 0
    cdef Py_ssize_t replaced = 0
    cdef const unsigned char* p
    cdef const unsigned char* at
    cdef bytes new
    if PyBytes_GET_SIZE(words) > 0xFFFF:
        raise ValueError("keywords of more than 65,535 octets")
    if row is not None:
        p = octets(row)
        at = find(p, p + n, place)
        before = at - p
        replaced = length(at) if at < p + n and at[0] == place else 0
    new = PyBytes_FromStringAndSize(NULL, n - replaced + own + 4)
    if row is not None:
        memcpy(octets(new), p, <size_t>before)
        memcpy(octets(new) + before + own, p + before + replaced, <size_t>(n - before - replaced))
    put_message(octets(new) + before, place, message, words)
    seal_row(key, new)
    return new


def without_message(bytes key not None, bytes row not None, uint32_t uid):
    cdef Py_ssize_t n = check_block(key, row)
    cdef const unsigned char* p = octets(row)
    cdef const unsigned char* at = find(p, p + n, uid & (BLOCK_UIDS - 1))
    cdef Py_ssize_t before = at - p
    cdef Py_ssize_t gone
    cdef bytes new
    if at == p + n or at[0] != (uid & (BLOCK_UIDS - 1)):
        return row
    gone = length(at)
    if gone == n:
        return None
    new = PyBytes_FromStringAndSize(NULL, n - gone + 4)
    memcpy(octets(new), p, <size_t>before)
    memcpy(octets(new) + before, at + gone, <size_t>(n - before - gone))
    seal_row(key, new)
    return new


def message_in(bytes key not None, bytes row not None, uint32_t uid):
    cdef Py_ssize_t n = check_block(key, row)
    cdef const unsigned char* end = octets(row) + n
    cdef const unsigned char* at = find(octets(row), end, uid & (BLOCK_UIDS - 1))
    return message_at(at) if at < end and at[0] == (uid & (BLOCK_UIDS - 1)) else None


def messages_in(bytes key not None, bytes row not None) -> list:
    cdef const unsigned char* p = octets(row)
    cdef const unsigned char* end = p + check_block(key, row)
    cdef uint32_t first = first_uid_of(key)
    cdef list found = []
    while p < end:
        found.append((first + p[0], message_at(p)))
        p += length(p)
    return found


def email_in(bytes key not None, bytes row not None, uint32_t uid):
    cdef Py_ssize_t n = check_block(key, row)
    cdef const unsigned char* end = octets(row) + n
    cdef const unsigned char* at = find(octets(row), end, uid & (BLOCK_UIDS - 1))
    if at == end or at[0] != (uid & (BLOCK_UIDS - 1)):
        return None
    return cut(at + EMAIL, ID_OCTETS), load64(at + SIZE)


cdef inline int add_record(MailboxRows into, uint32_t uid, const unsigned char* p) except -1:
    return into.append_row(
        uid, load64(p + MODSEQ), p + EMAIL, load_double(p + DATE), load64(p + SIZE), p[BITS] & FLAGS,
        <const char*>p + RECORD_OCTETS, length(p) - RECORD_OCTETS,
    )


def load_blocks(object cursor, uint64_t mailbox_id, uint64_t first_uid, MailboxRows into not None) -> None:
    cdef const unsigned char* p
    cdef const unsigned char* end
    cdef uint32_t first
    cdef bytes key, row
    cdef bytes start
    if first_uid > 0xFFFFFFFF:
        return
    start = block_key(mailbox_id, first_uid)
    if not cursor.set_range(start):
        return
    for key, row in cursor:
        if PyBytes_GET_SIZE(key) < 8 or memcmp(octets(key), octets(start), 8) != 0:
            break
        p = octets(row)
        end = p + check_block(key, row)
        first = first_uid_of(key)
        while p < end:
            if first + p[0] >= first_uid:
                add_record(into, first + p[0], p)
            p += length(p)


def saved_dates(object get, object table, uint64_t mailbox_id, object uids not None) -> list:
    cdef const unsigned char* p
    cdef const unsigned char* end = NULL
    cdef list found = []
    cdef bytes key
    cdef bytes row = None
    cdef int64_t block = -1
    cdef int64_t uid
    for uid in uids:
        if not 0 < uid <= 0xFFFFFFFF:
            found.append(None)
            continue
        if uid >> BLOCK_BITS != block:
            block = uid >> BLOCK_BITS
            key = block_key(mailbox_id, <uint64_t>uid)
            row = get(key, None, table)
            end = NULL if row is None else octets(row) + check_block(key, row)
        if row is None:
            found.append(None)
            continue
        p = find(octets(row), end, <unsigned char>(uid & (BLOCK_UIDS - 1)))
        found.append(load_double(p + SAVED) if p < end and p[0] == (uid & (BLOCK_UIDS - 1)) else None)
    return found


def add_to(MailboxRows into not None, bytes key not None, bytes row not None, uint32_t uid) -> bool:
    cdef Py_ssize_t n = check_block(key, row)
    cdef const unsigned char* end = octets(row) + n
    cdef const unsigned char* at = find(octets(row), end, uid & (BLOCK_UIDS - 1))
    if at == end or at[0] != (uid & (BLOCK_UIDS - 1)):
        return False
    add_record(into, uid, at)
    return True


def add_all_to(MailboxRows into not None, object get, object table, uint64_t mailbox_id, list uids not None) -> None:
    cdef const unsigned char* p
    cdef const unsigned char* end = NULL
    cdef bytes key
    cdef bytes row = None
    cdef int64_t block = -1
    cdef int64_t uid
    for uid in uids:
        if uid >> BLOCK_BITS != block:
            block = uid >> BLOCK_BITS
            key = block_key(mailbox_id, <uint64_t>uid)
            row = get(key, None, table)
            end = NULL if row is None else octets(row) + check_block(key, row)
        if row is None:
            continue
        p = find(octets(row), end, <unsigned char>(uid & (BLOCK_UIDS - 1)))
        if p < end and p[0] == (uid & (BLOCK_UIDS - 1)):
            add_record(into, <uint32_t>uid, p)


def message_marks(bytes marks not None, bytes mailbox_key not None) -> list:
    cdef const unsigned char* p = octets(marks)
    cdef const unsigned char* end = p + PyBytes_GET_SIZE(marks)
    cdef list found = []
    cdef unsigned char kind
    cdef Py_ssize_t size
    if PyBytes_GET_SIZE(mailbox_key) != 8:
        raise ValueError("a mailbox's key has 8 octets")
    while p < end:
        kind = p[0] & 0xFC
        size = 1 + (8 if kind == 0 else 12 if kind == (MESSAGE_UPDATED & 0xFC) else 16)
        if end - p < size:
            break
        if kind == (MESSAGE_UPDATED & 0xFC) and memcmp(p + 1, octets(mailbox_key), 8) == 0:
            found.append((p[0] & 3, <uint32_t>p[9] << 24 | <uint32_t>p[10] << 16 | <uint32_t>p[11] << 8 | <uint32_t>p[12]))
        p += size
    found.reverse()
    return found


@cython.final
cdef class Flagging:
    cdef MailboxRow mailbox
    cdef uint64_t modseq
    cdef str operation
    cdef unsigned char bits
    cdef tuple keywords
    cdef int64_t unchanged_since
    cdef object change_words
    cdef dict known                        # words before: words after
    cdef readonly Py_ssize_t changed
    cdef readonly bint unseen_changed
    cdef readonly list shared
    cdef readonly list passed
    cdef readonly list marks

    def __init__(
        self, MailboxRow mailbox not None, uint64_t modseq, str operation not None, unsigned char bits,
        tuple keywords not None, int64_t unchanged_since, object change_words,
    ):
        self.mailbox = mailbox
        self.modseq = modseq
        self.operation = operation
        self.bits = bits
        self.keywords = keywords
        self.unchanged_since = unchanged_since
        self.change_words = change_words
        self.known = {}
        self.shared = []
        self.passed = []
        self.marks = []

    cdef bytes words_after(self, bytes words):
        if not self.keywords:
            return b"" if self.operation == "set" else words
        found = self.known.get(words)
        if found is None:
            before = tuple(words.decode().split(" ")) if words else ()
            after = self.change_words(self.operation, 0, before, 0, self.keywords)[1]
            found = self.known[words] = " ".join(after).encode()
        return found

    cdef unsigned char bits_after(self, unsigned char bits) noexcept:
        cdef unsigned char kept = bits & ~<unsigned char>FLAGS
        if self.operation == "set":
            return kept | self.bits
        if self.operation == "add":
            return bits | self.bits
        return bits & ~self.bits

    cdef int log(self, bytes key, const unsigned char* p, uint32_t uid, bint is_email_other) except -1:
        cdef bytes mark = PyBytes_FromStringAndSize(NULL, 1 + KEY_OCTETS)
        octets(mark)[0] = MESSAGE_UPDATED
        store64(octets(mark) + 5, uid)
        memcpy(octets(mark) + 1, octets(key), 8)
        self.marks.append(mark)
        if is_email_other:
            mark = PyBytes_FromStringAndSize(NULL, 1 + ID_OCTETS)
            octets(mark)[0] = EMAIL_UPDATED
            memcpy(octets(mark) + 1, p + EMAIL, ID_OCTETS)
            self.marks.append(mark)
        return 0

    cdef int count(self, unsigned char before, unsigned char after, uint64_t size) except -1:
        if (before ^ after) & SEEN:
            self.unseen_changed = True
            if after & SEEN and self.mailbox.unseen == 0:
                raise StoreCorrupt("the store is damaged", f"mailbox {self.mailbox.id} counts fewer messages than it has")
            self.mailbox.unseen += -1 if after & SEEN else 1
        if (before ^ after) & DELETED:
            if before & DELETED and (self.mailbox.deleted == 0 or self.mailbox.deleted_size < size):
                raise StoreCorrupt("the store is damaged", f"mailbox {self.mailbox.id} counts fewer messages than it has")
            if after & DELETED:
                self.mailbox.deleted += 1
                self.mailbox.deleted_size += size
            else:
                self.mailbox.deleted -= 1
                self.mailbox.deleted_size -= size
        return 0

    def change(self, bytes key not None, bytes row not None, list uids not None):
        cdef const unsigned char* p = octets(row)
        cdef const unsigned char* end = p + check_block(key, row)
        cdef uint32_t first = first_uid_of(key)
        cdef uint32_t wanted = 0
        cdef uint32_t uid
        cdef list records = []
        cdef bint is_other = False
        cdef Py_ssize_t n
        cdef bytes record
        cdef bytes new
        for uid in uids:
            wanted |= <uint32_t>1 << (uid - first)
        while p < end:
            n = length(p)
            record = cut(p, n)
            if wanted >> p[0] & 1:
                record = self.changed_record(key, record, first + p[0])
                is_other = is_other or record is not None
            records.append(cut(p, n) if record is None else record)
            p += n
        if not is_other:
            return None
        new = b"".join(records) + b"\0\0\0\0"
        seal_row(key, new)
        return new

    cdef bytes changed_record(self, bytes key, bytes record, uint32_t uid):
        """None when it stays as it is."""
        cdef unsigned char* p = octets(record)
        cdef uint64_t modseq = load64(p + MODSEQ)
        cdef unsigned char before = p[BITS]
        cdef unsigned char after = self.bits_after(before)
        cdef bytes words = cut(p + RECORD_OCTETS, PyBytes_GET_SIZE(record) - RECORD_OCTETS)
        cdef bytes new_words
        cdef bytes new = None
        if self.unchanged_since >= 0 and modseq > <uint64_t>self.unchanged_since:
            return None
        new_words = self.words_after(words)
        if after != before or new_words != words:
            if before & SHARED:
                self.shared.append(uid)
                self.passed.append(uid)
                return None
            if PyBytes_GET_SIZE(new_words) > 0xFFFF:
                raise ValueError("keywords of more than 65,535 octets")
            new = record[:RECORD_OCTETS] + new_words
            p = octets(new)
            p[BITS] = after
            store64(p + MODSEQ, self.modseq)
            p[WORDS] = <unsigned char>(PyBytes_GET_SIZE(new_words) >> 8)
            p[WORDS + 1] = <unsigned char>PyBytes_GET_SIZE(new_words)
            self.count(before, after, load64(p + SIZE))
            self.log(key, p, uid, (before ^ after) & FLAGS & ~DELETED != 0 or new_words != words)
            self.changed += 1
        self.passed.append(uid)
        return new
