"""Messages of one mailbox, up to 16 with neighbouring UIDs in one row. `rusmes.storage.lmdb.layout` describes it."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from rusmes._core.batch cimport Batch
from rusmes._core.rows cimport MailboxRow, MessageRow, check_row, seal_row
from rusmes._core.view cimport EXPUNGED, MailboxRows, Uids

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
    CREATED = 0                # marks of the change log: action, and kind
    UPDATED = 1
    MAILBOX = 0
    MESSAGE = 12
    FLAGGED = 16               # a range of messages is other than before, with 1 their emails too
    MESSAGE_UPDATED = 13
    EMAIL_UPDATED = 5
    MESSAGE_MARK_OCTETS = 13
    LONG_MARK_OCTETS = 17      # of an email, a thread, a range
    MARKED_ONE_BY_ONE = 64

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


def add_all_to(MailboxRows into not None, object get, object table, uint64_t mailbox_id, Uids uids not None) -> None:
    cdef const unsigned char* p = NULL
    cdef const unsigned char* end = NULL
    cdef bytes key
    cdef bytes row = None
    cdef int64_t block = -1
    cdef uint32_t uid
    cdef Py_ssize_t i, n
    cdef Py_ssize_t at = 0
    for i in range(uids.n):
        uid = uids.data[i]
        if uid >> BLOCK_BITS != block:
            block = uid >> BLOCK_BITS
            key = block_key(mailbox_id, uid)
            row = get(key, None, table)
            if row is not None:
                n = check_block(key, row)
                p = octets(row)
                end = p + n
        if row is None:
            continue
        p = find(p, end, <unsigned char>(uid & (BLOCK_UIDS - 1)))
        if p == end or p[0] != (uid & (BLOCK_UIDS - 1)):
            continue
        if at < 0 or at >= into.size or into.uids[at] != uid:
            at = into.find(uid)
        if at < 0:
            add_record(into, uid, p)
        else:
            into.update_at(
                at, load64(p + MODSEQ), p[BITS] & FLAGS, <const char*>p + RECORD_OCTETS, length(p) - RECORD_OCTETS
            )
            at += 1


cdef inline uint32_t load32(const unsigned char* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | <uint32_t>p[3]


cdef struct Mark:
    # What is said of some messages of a mailbox: their UIDs, and where the next mark is; NULL is the end.
    int action
    uint32_t first
    uint32_t last
    const unsigned char* rest


cdef Mark next_mark(const unsigned char* p, const unsigned char* end, bytes mailbox_key) noexcept:
    """The first mark of messages of this mailbox from `p` on."""
    cdef Mark found
    cdef unsigned char kind
    cdef Py_ssize_t size
    found.action = found.first = found.last = 0
    found.rest = NULL
    while p < end:
        kind = p[0] & ~<unsigned char>3
        size = 1 + (8 if kind == MAILBOX else 12 if kind == MESSAGE else 16)
        if end - p < size:
            break
        if (kind == MESSAGE or kind == FLAGGED) and memcmp(p + 1, octets(mailbox_key), 8) == 0:
            found.action = p[0] & 3 if kind == MESSAGE else UPDATED
            found.first = load32(p + 9)
            found.last = found.first if kind == MESSAGE else load32(p + 13)
            found.rest = p + size
            break
        p += size
    return found


cdef Uids plain_marks(bytes marks, bytes mailbox_key):
    """The messages of one row, when all of them are new or all of them other than before, ascending; else None."""
    cdef Uids found = Uids.__new__(Uids)
    cdef const unsigned char* end = octets(marks) + PyBytes_GET_SIZE(marks)
    cdef Mark mark = next_mark(octets(marks), end, mailbox_key)
    cdef int action = mark.action
    cdef uint32_t last = 0
    cdef uint64_t uid
    if action > UPDATED:
        return None
    while mark.rest != NULL:
        if mark.action != action or mark.first <= last:
            return None
        last = mark.last
        for uid in range(mark.first, <uint64_t>mark.last + 1):
            found.push(<uint32_t>uid)
        mark = next_mark(mark.rest, end, mailbox_key)
    return found


def changed_messages(list rows not None, bytes mailbox_key not None) -> tuple:
    cdef dict changed = {}
    cdef list of_row
    cdef Uids there
    cdef const unsigned char* end
    cdef Mark mark
    cdef bytes marks
    if PyBytes_GET_SIZE(mailbox_key) != 8:
        raise ValueError("a mailbox's key has 8 octets")
    if len(rows) == 1:
        there = plain_marks(rows[0][1], mailbox_key)
        if there is not None:
            return [], there
    for modseq, marks in rows:
        of_row = []
        end = octets(marks) + PyBytes_GET_SIZE(marks)
        mark = next_mark(octets(marks), end, mailbox_key)
        while mark.rest != NULL:
            of_row += [(mark.action, uid) for uid in range(mark.first, <uint64_t>mark.last + 1)]
            mark = next_mark(mark.rest, end, mailbox_key)
        of_row.reverse()
        for action, uid in of_row:
            later = changed.get(uid)
            if later is None or (action == CREATED and later[0] == UPDATED):
                changed[uid] = (action, modseq)
            elif action == CREATED:
                del changed[uid]
    gone = sorted([(uid, modseq) for uid, (action, modseq) in changed.items() if action > UPDATED])
    return gone, Uids(sorted([uid for uid, (action, _) in changed.items() if action <= UPDATED]))


cdef Uids ascending(object uids):
    """Each of them once; what is no UID is left out."""
    cdef Uids found
    cdef Py_ssize_t i
    cdef int64_t uid
    if type(uids) is Uids:
        found = uids
    else:
        found = Uids.__new__(Uids)
        for uid in uids:
            if 0 < uid <= 0xFFFFFFFF:
                found.push(<uint32_t>uid)
    for i in range(1, found.n):
        if found.data[i] <= found.data[i - 1]:
            return Uids(sorted(set(found)))
    return found


cdef inline bint has_words(const unsigned char* p, bytes words) noexcept:
    cdef Py_ssize_t n = length(p) - RECORD_OCTETS
    return n == PyBytes_GET_SIZE(words) and memcmp(p + RECORD_OCTETS, octets(words), <size_t>n) == 0


@cython.final
cdef class Flagging:
    cdef MailboxRow mailbox
    cdef uint64_t before                   # modseqs of the mailbox
    cdef uint64_t modseq
    cdef str operation
    cdef unsigned char kept                # bits before that stay
    cdef unsigned char added
    cdef tuple keywords
    cdef bint keeps_words
    cdef int64_t unchanged_since
    cdef object change_words
    cdef dict known                        # words before: words after
    cdef readonly Py_ssize_t changed
    cdef readonly bint unseen_changed
    cdef readonly list shared
    cdef readonly Uids passed
    # For the change log: what changed one by one, as long as it is little, and in ranges.
    cdef unsigned char singles[MARKED_ONE_BY_ONE * (MESSAGE_MARK_OCTETS + LONG_MARK_OCTETS)]
    cdef Py_ssize_t singles_size
    cdef unsigned char* ranges
    cdef Py_ssize_t ranges_size
    cdef Py_ssize_t ranges_capacity

    def __init__(
        self, MailboxRow mailbox not None, uint64_t modseq, str operation not None, unsigned char bits,
        tuple keywords not None, int64_t unchanged_since, object change_words,
    ):
        self.mailbox = mailbox
        self.before = mailbox.highest_modseq
        self.modseq = modseq
        self.operation = operation
        self.kept = ~<unsigned char>FLAGS if operation == "set" else 0xFF if operation == "add" else ~bits
        self.added = 0 if operation == "remove" else bits
        self.keywords = keywords
        self.keeps_words = not keywords and operation != "set"
        self.unchanged_since = unchanged_since
        self.change_words = change_words
        self.known = {}
        self.shared = []
        self.passed = Uids.__new__(Uids)

    def __dealloc__(self):
        PyMem_Free(self.ranges)

    @property
    def marks(self) -> bytes:
        if self.changed <= MARKED_ONE_BY_ONE:
            return PyBytes_FromStringAndSize(<const char*>self.singles, self.singles_size)
        return PyBytes_FromStringAndSize(<const char*>self.ranges, self.ranges_size)

    def change(self, Batch batch not None, int table, object uids not None) -> None:
        cdef Uids wanted = ascending(uids)
        cdef Py_ssize_t i = 0
        cdef uint32_t block
        cdef uint32_t places
        cdef bytes key
        cdef bytes new
        while i < wanted.n:
            block = wanted.data[i] >> BLOCK_BITS
            places = 0
            while i < wanted.n and wanted.data[i] >> BLOCK_BITS == block:
                places |= <uint32_t>1 << (wanted.data[i] & (BLOCK_UIDS - 1))
                i += 1
            key = block_key(self.mailbox.id, <uint64_t>block << BLOCK_BITS)
            row = batch.get(table, key)
            if row is not None:
                new = self.changed_row(key, row, places)
                if new is not None:
                    batch.put(table, key, new)

    def apply(self, MailboxRows rows not None) -> bool:
        cdef const unsigned char* p = self.ranges
        cdef const unsigned char* end = p + self.ranges_size
        cdef Py_ssize_t row = -1
        cdef uint64_t uid
        if not self.keeps_words or self.shared or self.changed == 0 or rows.modseq != self.before:
            return False
        while p < end:
            for uid in range(load32(p + 9), <uint64_t>load32(p + 13) + 1):
                row += 1
                if row >= rows.size or rows.uids[row] != uid:
                    row = rows.find(<uint32_t>uid)
                if row >= 0 and not rows.bits[row] & EXPUNGED and rows.modseqs[row] < self.modseq:
                    rows.stamp(row, self.modseq, (rows.bits[row] & self.kept) | self.added)
            p += LONG_MARK_OCTETS
        rows.modseq = self.modseq
        return True

    cdef bytes changed_row(self, bytes key, bytes row, uint32_t places):
        """None when nothing in it is different."""
        cdef const unsigned char* start = octets(row)
        cdef const unsigned char* p = start
        cdef const unsigned char* end = p + check_block(key, row)
        cdef uint32_t first = first_uid_of(key)
        cdef bytes new = None
        cdef list records
        cdef bytes words
        if self.keeps_words:  # every record stays where it is
            while p < end:
                if places >> p[0] & 1 and self.changes(key, p, first + p[0], False):
                    if new is None:
                        new = cut(start, PyBytes_GET_SIZE(row))
                    self.stamp(octets(new) + (p - start))
                p += length(p)
        else:
            records = []
            while p < end:
                words = self.words_after(p)
                if places >> p[0] & 1 and self.changes(key, p, first + p[0], not has_words(p, words)):
                    records.append(self.record_with(p, words))
                    new = row
                else:
                    records.append(cut(p, length(p)))
                p += length(p)
            if new is not None:
                new = b"".join(records) + b"\0\0\0\0"
        if new is not None:
            seal_row(key, new)
        return new

    cdef bint changes(self, bytes key, const unsigned char* p, uint32_t uid, bint is_other) except -1:
        """Whether the record is to be changed; counts and logs it then. `is_other`: its keywords will be others."""
        cdef unsigned char before = p[BITS]
        cdef unsigned char after = (before & self.kept) | self.added
        if self.unchanged_since >= 0 and load64(p + MODSEQ) > <uint64_t>self.unchanged_since:
            return False
        self.passed.push(uid)
        if after == before and not is_other:
            return False
        if before & SHARED:
            self.shared.append(uid)
            return False
        self.count(before, after, load64(p + SIZE))
        self.log(key, p, uid, (before ^ after) & FLAGS & ~DELETED != 0 or is_other)
        self.changed += 1
        return True

    cdef void stamp(self, unsigned char* p) noexcept:
        p[BITS] = (p[BITS] & self.kept) | self.added
        store64(p + MODSEQ, self.modseq)

    cdef bytes record_with(self, const unsigned char* p, bytes words):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(words)
        cdef bytes record
        cdef unsigned char* new
        if n > 0xFFFF:
            raise ValueError("keywords of more than 65,535 octets")
        record = PyBytes_FromStringAndSize(NULL, RECORD_OCTETS + n)
        new = octets(record)
        memcpy(new, p, RECORD_OCTETS)
        memcpy(new + RECORD_OCTETS, octets(words), <size_t>n)
        new[WORDS] = <unsigned char>(n >> 8)
        new[WORDS + 1] = <unsigned char>n
        self.stamp(new)
        return record

    cdef bytes words_after(self, const unsigned char* p):
        cdef bytes words
        if not self.keywords:
            return b""
        words = cut(p + RECORD_OCTETS, length(p) - RECORD_OCTETS)
        found = self.known.get(words)
        if found is None:
            before = tuple(words.decode().split(" ")) if words else ()
            after = self.change_words(self.operation, 0, before, 0, self.keywords)[1]
            found = self.known[words] = " ".join(after).encode()
        return found

    cdef int log(self, bytes key, const unsigned char* p, uint32_t uid, bint is_email_other) except -1:
        cdef unsigned char* mark
        if self.changed < MARKED_ONE_BY_ONE:
            mark = self.singles + self.singles_size
            mark[0] = MESSAGE_UPDATED
            store64(mark + 5, uid)
            memcpy(mark + 1, octets(key), 8)
            self.singles_size += MESSAGE_MARK_OCTETS
            if is_email_other:
                mark += MESSAGE_MARK_OCTETS
                mark[0] = EMAIL_UPDATED
                memcpy(mark + 1, p + EMAIL, ID_OCTETS)
                self.singles_size += LONG_MARK_OCTETS
        if self.ranges_size:
            mark = self.ranges + self.ranges_size - LONG_MARK_OCTETS
            if mark[0] == (FLAGGED | is_email_other) and load32(mark + 13) + 1 == uid:
                store64(mark + 9, <uint64_t>load32(mark + 9) << 32 | uid)
                return 0
        if self.ranges_capacity - self.ranges_size < LONG_MARK_OCTETS:
            self.ranges_capacity = 2 * self.ranges_capacity + LONG_MARK_OCTETS
            mark = <unsigned char*>PyMem_Realloc(self.ranges, <size_t>self.ranges_capacity)
            if mark == NULL:
                raise MemoryError
            self.ranges = mark
        mark = self.ranges + self.ranges_size
        mark[0] = FLAGGED | is_email_other
        memcpy(mark + 1, octets(key), 8)
        store64(mark + 9, <uint64_t>uid << 32 | uid)
        self.ranges_size += LONG_MARK_OCTETS
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
