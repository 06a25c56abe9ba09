"""Rows of the store: checksums, and the records that are read and written for every message. `rusmes.storage.lmdb.layout`
describes them; numbers are big-endian there and here."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from rusmes.errors import NotFound, StoreCorrupt

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    /* CRC-32 as zlib and Ethernet have it (polynomial 0xEDB88320), eight bytes a step. */
    static uint32_t rusmes_crc_table[8][256];

    static void rusmes_crc_fill(void)
    {
        uint32_t n, k, c;
        for (n = 0; n < 256; n++) {
            c = n;
            for (k = 0; k < 8; k++)
                c = c & 1 ? (c >> 1) ^ 0xEDB88320u : c >> 1;
            rusmes_crc_table[0][n] = c;
        }
        for (n = 0; n < 256; n++)
            for (k = 1; k < 8; k++)
                rusmes_crc_table[k][n] = (rusmes_crc_table[k - 1][n] >> 8) ^ rusmes_crc_table[0][rusmes_crc_table[k - 1][n] & 255];
    }

    static inline uint32_t rusmes_load_le32(const unsigned char *p)
    {
        return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #define RUSMES_CRC_FOLDS 1
    #include <immintrin.h>

    /* Four lanes of 128 bits are folded by carry-less multiplication, as in Gopal et al., "Fast CRC Computation for Generic
       Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), whose constants these are.  n is at least 64 and a multiple of
       16; crc is the state, not inverted. */
    __attribute__((target("pclmul,sse4.1")))
    static uint32_t rusmes_crc_fold(const unsigned char *p, size_t n, uint32_t crc)
    {
        const __m128i k12 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), k34 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
        const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124), poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
        const __m128i low = _mm_setr_epi32(~0, 0, ~0, 0);
        __m128i x[4], y;
        int i;
        for (i = 0; i < 4; i++)
            x[i] = _mm_loadu_si128((const __m128i *)(p + 16 * i));
        x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)crc));
        for (p += 64, n -= 64; n >= 64; p += 64, n -= 64)
            for (i = 0; i < 4; i++) {
                y = _mm_xor_si128(_mm_clmulepi64_si128(x[i], k12, 0x00), _mm_clmulepi64_si128(x[i], k12, 0x11));
                x[i] = _mm_xor_si128(y, _mm_loadu_si128((const __m128i *)(p + 16 * i)));
            }
        for (i = 1; i < 4; i++) {
            y = _mm_xor_si128(_mm_clmulepi64_si128(x[0], k34, 0x00), _mm_clmulepi64_si128(x[0], k34, 0x11));
            x[0] = _mm_xor_si128(y, x[i]);
        }
        for (; n >= 16; p += 16, n -= 16) {
            y = _mm_xor_si128(_mm_clmulepi64_si128(x[0], k34, 0x00), _mm_clmulepi64_si128(x[0], k34, 0x11));
            x[0] = _mm_xor_si128(y, _mm_loadu_si128((const __m128i *)p));
        }
        y = _mm_xor_si128(_mm_srli_si128(x[0], 8), _mm_clmulepi64_si128(x[0], k34, 0x10));
        y = _mm_xor_si128(_mm_srli_si128(y, 4), _mm_clmulepi64_si128(_mm_and_si128(y, low), k5, 0x00));
        x[0] = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(y, low), poly, 0x10), low);
        y = _mm_xor_si128(y, _mm_clmulepi64_si128(x[0], poly, 0x00));
        return (uint32_t)_mm_extract_epi32(y, 1);
    }
    static int rusmes_crc_can_fold(void) { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
    static int rusmes_crc_folds;
    #endif

    static uint32_t rusmes_crc32(const unsigned char *p, size_t n, uint32_t crc)
    {
        crc = ~crc;
    #ifdef RUSMES_CRC_FOLDS
        if (n >= 64 && rusmes_crc_folds) {
            size_t whole = n & ~(size_t)15;
            crc = rusmes_crc_fold(p, whole, crc);
            p += whole;
            n -= whole;
        }
    #endif
        while (n >= 8) {
            uint32_t a = rusmes_load_le32(p) ^ crc, b = rusmes_load_le32(p + 4);
            crc = rusmes_crc_table[7][a & 255] ^ rusmes_crc_table[6][a >> 8 & 255] ^ rusmes_crc_table[5][a >> 16 & 255]
                ^ rusmes_crc_table[4][a >> 24] ^ rusmes_crc_table[3][b & 255] ^ rusmes_crc_table[2][b >> 8 & 255]
                ^ rusmes_crc_table[1][b >> 16 & 255] ^ rusmes_crc_table[0][b >> 24];
            p += 8;
            n -= 8;
        }
        while (n--)
            crc = (crc >> 8) ^ rusmes_crc_table[0][(crc ^ *p++) & 255];
        return ~crc;
    }

    static void rusmes_crc_init(void)
    {
        rusmes_crc_fill();
    #ifdef RUSMES_CRC_FOLDS
        rusmes_crc_folds = rusmes_crc_can_fold();
    #endif
    }

    static inline void rusmes_store32(unsigned char *p, uint32_t v)
    {
        p[0] = (unsigned char)(v >> 24); p[1] = (unsigned char)(v >> 16); p[2] = (unsigned char)(v >> 8); p[3] = (unsigned char)v;
    }
    static inline void rusmes_store64(unsigned char *p, uint64_t v)
    {
        rusmes_store32(p, (uint32_t)(v >> 32));
        rusmes_store32(p + 4, (uint32_t)v);
    }
    static inline uint32_t rusmes_load32(const unsigned char *p)
    {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
    }
    static inline uint64_t rusmes_load64(const unsigned char *p)
    {
        return (uint64_t)rusmes_load32(p) << 32 | rusmes_load32(p + 4);
    }
    static inline void rusmes_store_double(unsigned char *p, double v)
    {
        uint64_t u;
        memcpy(&u, &v, 8);
        rusmes_store64(p, u);
    }
    static inline double rusmes_load_double(const unsigned char *p)
    {
        uint64_t u = rusmes_load64(p);
        double v;
        memcpy(&v, &u, 8);
        return v;
    }
    """
    void prepare_crc "rusmes_crc_init"() noexcept nogil
    uint32_t crc_of "rusmes_crc32"(const unsigned char* p, size_t n, uint32_t crc) noexcept nogil
    void store32 "rusmes_store32"(unsigned char* p, uint32_t v) noexcept nogil
    void store64 "rusmes_store64"(unsigned char* p, uint64_t v) noexcept nogil
    void store_double "rusmes_store_double"(unsigned char* p, double v) noexcept nogil
    uint32_t load32 "rusmes_load32"(const unsigned char* p) noexcept nogil
    uint64_t load64 "rusmes_load64"(const unsigned char* p) noexcept nogil
    double load_double "rusmes_load_double"(const unsigned char* p) noexcept nogil

prepare_crc()


cdef enum:
    CRC_OCTETS = 4
    ID_OCTETS = 16
    ACCOUNT_OCTETS = 64
    MAILBOX_OCTETS = 68
    EMAIL_OCTETS = 85
    MEMBERSHIP_OCTETS = 12
    BLOB_OCTETS = 21
    BLOB_INLINE = 0
    MESSAGE_SEEN = 1
    MESSAGE_DELETED = 8


cdef inline unsigned char* octets(bytes data) noexcept:
    return <unsigned char*>PyBytes_AS_STRING(data)


cdef inline uint32_t crc_of_key(bytes key) noexcept:
    return crc_of(octets(key), <size_t>PyBytes_GET_SIZE(key), 0)


cdef inline bytes room(Py_ssize_t size):
    """A value of this size with its checksum, to be filled in and closed."""
    return PyBytes_FromStringAndSize(NULL, size + CRC_OCTETS)


cdef inline void close_row(bytes key, bytes row) noexcept:
    cdef Py_ssize_t n = PyBytes_GET_SIZE(row) - CRC_OCTETS
    store32(octets(row) + n, crc_of(octets(row), <size_t>n, crc_of_key(key)))


cdef Py_ssize_t check(str table, bytes key, bytes row, Py_ssize_t least) except -1:
    """The size of the value; it has at least so many octets."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(row) - CRC_OCTETS
    if n < 0 or load32(octets(row) + n) != crc_of(octets(row), <size_t>n, crc_of_key(key)):
        raise StoreCorrupt("the store is damaged", f"{table} {key.hex()}: checksum")
    if n < least:
        raise StoreCorrupt("the store is damaged", f"{table} {key.hex()}: {n} octets")
    return n


cdef inline unsigned char* add(unsigned char* p, bytes data) noexcept:
    memcpy(p, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
    return p + PyBytes_GET_SIZE(data)


cdef inline bytes cut(const unsigned char* p, Py_ssize_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)


cdef inline str text(const unsigned char* p, Py_ssize_t n):
    return PyUnicode_DecodeUTF8(<const char*>p, n, NULL)


cdef inline uint64_t number_of_key(bytes key) except? 0xFFFFFFFFFFFFFFFF:
    if PyBytes_GET_SIZE(key) < 8:
        raise StoreCorrupt("the store is damaged", f"a key of {len(key)} octets")
    return load64(octets(key))


cdef bytes key_of(uint64_t number):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 8)
    store64(octets(key), number)
    return key


cdef Py_ssize_t check_row(str table, bytes key, bytes row, Py_ssize_t least) except -1:
    return check(table, key, row, least)


cdef int seal_row(bytes key, bytes row) except -1:
    close_row(key, row)
    return 0


def crc32(bytes data not None, uint32_t start=0) -> int:
    return crc_of(octets(data), <size_t>PyBytes_GET_SIZE(data), start)


def seal(bytes key not None, bytes value not None) -> bytes:
    cdef bytes row = room(PyBytes_GET_SIZE(value))
    add(octets(row), value)
    close_row(key, row)
    return row


def unseal(str table not None, bytes key not None, bytes row not None) -> bytes:
    return cut(octets(row), check(table, key, row, 0))


cdef class AccountRow:
    def __init__(
        self, uint64_t id, uint64_t modseq, uint64_t used_bytes, uint64_t used_messages, uint64_t quota_bytes,
        uint64_t quota_messages, str name not None, uint64_t last_change=0, uint64_t floor_modseq=0, uint64_t floor_change=0,
    ):
        self.id = id
        self.modseq = modseq
        self.used_bytes = used_bytes
        self.used_messages = used_messages
        self.quota_bytes = quota_bytes
        self.quota_messages = quota_messages
        self.last_change = last_change
        self.floor_modseq = floor_modseq
        self.floor_change = floor_change
        self.name = name

    def pack(self) -> bytes:
        cdef bytes name = self.name.encode()
        cdef bytes row = room(ACCOUNT_OCTETS + PyBytes_GET_SIZE(name))
        cdef unsigned char* p = octets(row)
        store64(p, self.modseq)
        store64(p + 8, self.used_bytes)
        store64(p + 16, self.used_messages)
        store64(p + 24, self.quota_bytes)
        store64(p + 32, self.quota_messages)
        store64(p + 40, self.last_change)
        store64(p + 48, self.floor_modseq)
        store64(p + 56, self.floor_change)
        add(p + ACCOUNT_OCTETS, name)
        close_row(key_of(self.id), row)
        return row

    @classmethod
    def unpack(cls, bytes key not None, bytes row not None):
        cdef Py_ssize_t n = check("accounts", key, row, ACCOUNT_OCTETS)
        cdef const unsigned char* p = octets(row)
        cdef AccountRow self = <AccountRow>cls.__new__(cls)
        self.id = number_of_key(key)
        self.modseq = load64(p)
        self.used_bytes = load64(p + 8)
        self.used_messages = load64(p + 16)
        self.quota_bytes = load64(p + 24)
        self.quota_messages = load64(p + 32)
        self.last_change = load64(p + 40)
        self.floor_modseq = load64(p + 48)
        self.floor_change = load64(p + 56)
        self.name = text(p + ACCOUNT_OCTETS, n - ACCOUNT_OCTETS)
        return self

    def has_room(self, uint64_t size, uint64_t count=1) -> bool:
        return not (self.quota_bytes and self.used_bytes + size > self.quota_bytes) and not (
            self.quota_messages and self.used_messages + count > self.quota_messages
        )


cdef class MailboxRow:
    def __init__(
        self, uint64_t id, uint64_t account_id, uint32_t uid_validity, uint64_t uid_next, uint64_t first_recent,
        uint64_t highest_modseq, uint32_t exists, uint32_t unseen, uint32_t deleted, uint32_t recent, uint64_t size,
        str special_use not None, str name not None, uint64_t deleted_size=0,
    ):
        self.id = id
        self.account_id = account_id
        self.uid_validity = uid_validity
        self.uid_next = uid_next
        self.first_recent = first_recent
        self.highest_modseq = highest_modseq
        self.exists = exists
        self.unseen = unseen
        self.deleted = deleted
        self.recent = recent
        self.size = size
        self.special_use = special_use
        self.name = name
        self.deleted_size = deleted_size

    def pack(self) -> bytes:
        cdef bytes use = self.special_use.encode()
        cdef bytes name = self.name.encode()
        cdef bytes row = room(MAILBOX_OCTETS + PyBytes_GET_SIZE(use) + 1 + PyBytes_GET_SIZE(name))
        cdef unsigned char* p = octets(row)
        store64(p, self.account_id)
        store32(p + 8, self.uid_validity)
        store64(p + 12, self.uid_next)
        store64(p + 20, self.first_recent)
        store64(p + 28, self.highest_modseq)
        store32(p + 36, self.exists)
        store32(p + 40, self.unseen)
        store32(p + 44, self.deleted)
        store32(p + 48, self.recent)
        store64(p + 52, self.size)
        store64(p + 60, self.deleted_size)
        p = add(p + MAILBOX_OCTETS, use)
        p[0] = 0
        add(p + 1, name)
        close_row(key_of(self.id), row)
        return row

    @classmethod
    def unpack(cls, bytes key not None, bytes row not None):
        cdef Py_ssize_t n = check("mailboxes", key, row, MAILBOX_OCTETS + 1)
        cdef const unsigned char* p = octets(row)
        cdef const unsigned char* use = p + MAILBOX_OCTETS
        cdef const unsigned char* end = <const unsigned char*>memchr(use, 0, <size_t>(n - MAILBOX_OCTETS))
        cdef MailboxRow self = <MailboxRow>cls.__new__(cls)
        if end == NULL:
            raise StoreCorrupt("the store is damaged", f"mailboxes {key.hex()}: no name")
        self.id = number_of_key(key)
        self.account_id = load64(p)
        self.uid_validity = load32(p + 8)
        self.uid_next = load64(p + 12)
        self.first_recent = load64(p + 20)
        self.highest_modseq = load64(p + 28)
        self.exists = load32(p + 36)
        self.unseen = load32(p + 40)
        self.deleted = load32(p + 44)
        self.recent = load32(p + 48)
        self.size = load64(p + 52)
        self.deleted_size = load64(p + 60)
        self.special_use = text(use, end - use)
        self.name = text(end + 1, p + n - end - 1)
        return self

    def count(self, MessageRow message not None, uint64_t uid, int by) -> None:
        """`by` is 1 or -1; what would go below nothing is refused (the row rotted, or we did)."""
        if by < 0 and (self.exists == 0 or self.size < message.size):
            raise StoreCorrupt("the store is damaged", f"mailbox {self.id} counts fewer messages than it has")
        self.exists += by
        self.size += <uint64_t>by * message.size
        if not message.bits & MESSAGE_SEEN:
            self.unseen += by
        if message.bits & MESSAGE_DELETED:
            self.deleted += by
            self.deleted_size += <uint64_t>by * message.size
        if uid >= self.first_recent:
            self.recent += by


cdef class MessageRow:
    def __init__(
        self, uint64_t modseq, bytes email_id not None, double internal_date, uint64_t size, unsigned char bits,
        tuple keywords not None, double saved=0.0, bint is_shared=False,
    ):
        if PyBytes_GET_SIZE(email_id) != ID_OCTETS:
            raise ValueError("the id of an email has 16 octets")
        self.modseq = modseq
        self.email_id = email_id
        self.internal_date = internal_date
        self.size = size
        self.bits = bits
        self.keywords = keywords
        self.saved = saved
        self.is_shared = is_shared


cdef class EmailRow:
    def __init__(
        self, uint64_t account_id, bytes blob_id not None, bytes thread_id not None, double received, uint64_t size,
        uint64_t skip, bint is_file, list memberships not None, bytes prefix not None, bytes envelope not None,
        bytes body_structure not None, bytes headers not None, bytes identifiers not None=b"",
    ):
        self.account_id = account_id
        self.blob_id = blob_id
        self.thread_id = thread_id
        self.received = received
        self.size = size
        self.skip = skip
        self.is_file = is_file
        self.memberships = memberships
        self.prefix = prefix
        self.envelope = envelope
        self.body_structure = body_structure
        self.headers = headers
        self.identifiers = identifiers

    def pack(self, bytes key not None) -> bytes:
        cdef Py_ssize_t members = len(self.memberships)
        cdef bytes row
        cdef unsigned char* p
        if PyBytes_GET_SIZE(self.blob_id) != ID_OCTETS or PyBytes_GET_SIZE(self.thread_id) != ID_OCTETS:
            raise ValueError("an identifier has 16 octets")
        row = room(
            EMAIL_OCTETS + members * MEMBERSHIP_OCTETS + PyBytes_GET_SIZE(self.prefix) + PyBytes_GET_SIZE(self.envelope)
            + PyBytes_GET_SIZE(self.body_structure) + PyBytes_GET_SIZE(self.identifiers) + PyBytes_GET_SIZE(self.headers)
        )
        p = octets(row)
        store64(p, self.account_id)
        memcpy(p + 8, octets(self.blob_id), ID_OCTETS)
        memcpy(p + 24, octets(self.thread_id), ID_OCTETS)
        store_double(p + 40, self.received)
        store64(p + 48, self.size)
        store64(p + 56, self.skip)
        p[64] = self.is_file
        store32(p + 65, <uint32_t>members)
        store32(p + 69, <uint32_t>PyBytes_GET_SIZE(self.prefix))
        store32(p + 73, <uint32_t>PyBytes_GET_SIZE(self.envelope))
        store32(p + 77, <uint32_t>PyBytes_GET_SIZE(self.body_structure))
        store32(p + 81, <uint32_t>PyBytes_GET_SIZE(self.identifiers))
        p += EMAIL_OCTETS
        for mailbox_id, uid in self.memberships:
            store64(p, mailbox_id)
            store32(p + 8, uid)
            p += MEMBERSHIP_OCTETS
        p = add(p, self.prefix)
        p = add(p, self.envelope)
        p = add(p, self.body_structure)
        p = add(p, self.identifiers)
        add(p, self.headers)
        close_row(key, row)
        return row

    @classmethod
    def unpack(cls, bytes key not None, bytes row not None):
        cdef Py_ssize_t n = check("emails", key, row, EMAIL_OCTETS)
        cdef const unsigned char* p = octets(row)
        cdef const unsigned char* end = p + n
        cdef EmailRow self = <EmailRow>cls.__new__(cls)
        cdef Py_ssize_t members = load32(p + 65)
        cdef Py_ssize_t prefix = load32(p + 69)
        cdef Py_ssize_t envelope = load32(p + 73)
        cdef Py_ssize_t structure = load32(p + 77)
        cdef Py_ssize_t identifiers = load32(p + 81)
        if members * MEMBERSHIP_OCTETS + prefix + envelope + structure + identifiers > n - EMAIL_OCTETS:
            raise StoreCorrupt("the store is damaged", f"emails {key.hex()}: lengths")
        self.account_id = load64(p)
        self.blob_id = cut(p + 8, ID_OCTETS)
        self.thread_id = cut(p + 24, ID_OCTETS)
        self.received = load_double(p + 40)
        self.size = load64(p + 48)
        self.skip = load64(p + 56)
        self.is_file = p[64] != 0
        p += EMAIL_OCTETS
        self.memberships = [
            (load64(p + at * MEMBERSHIP_OCTETS), load32(p + at * MEMBERSHIP_OCTETS + 8)) for at in range(members)
        ]
        p += members * MEMBERSHIP_OCTETS
        self.prefix = cut(p, prefix)
        p += prefix
        self.envelope = cut(p, envelope)
        p += envelope
        self.body_structure = cut(p, structure)
        p += structure
        self.identifiers = cut(p, identifiers)
        p += identifiers
        self.headers = cut(p, end - p)
        return self


@cython.final
cdef class EmailFacts:
    @staticmethod
    def unpack(bytes key not None, bytes row not None) -> EmailFacts:
        cdef Py_ssize_t n = check("emails", key, row, EMAIL_OCTETS)
        cdef const unsigned char* p = octets(row)
        cdef EmailFacts self = EmailFacts.__new__(EmailFacts)
        cdef uint64_t at = EMAIL_OCTETS + <uint64_t>load32(p + 65) * MEMBERSHIP_OCTETS
        self.row = row
        self.account_id = load64(p)
        self.received = load_double(p + 40)
        self.size = load64(p + 48)
        self.skip = load64(p + 56)
        self.is_file = p[64] != 0
        self.prefix_at = at
        at += load32(p + 69)
        self.envelope_at = at
        at += load32(p + 73)
        self.structure_at = at
        at += load32(p + 77)
        self.identifiers_at = at
        at += load32(p + 81)
        self.headers_at = at
        self.end = <uint64_t>n
        if at > <uint64_t>n:
            raise StoreCorrupt("the store is damaged", f"emails {key.hex()}: lengths")
        return self

    @property
    def blob_id(self) -> bytes:
        return cut(octets(self.row) + 8, ID_OCTETS)

    @property
    def thread_id(self) -> bytes:
        return cut(octets(self.row) + 24, ID_OCTETS)

    @property
    def prefix(self) -> bytes:
        return cut(octets(self.row) + self.prefix_at, <Py_ssize_t>(self.envelope_at - self.prefix_at))

    @property
    def envelope(self) -> bytes:
        return cut(octets(self.row) + self.envelope_at, <Py_ssize_t>(self.structure_at - self.envelope_at))

    @property
    def body_structure(self) -> bytes:
        return cut(octets(self.row) + self.structure_at, <Py_ssize_t>(self.identifiers_at - self.structure_at))

    @property
    def headers(self) -> bytes:
        return cut(octets(self.row) + self.headers_at, <Py_ssize_t>(self.end - self.headers_at))


def facts_of(object get, object table, uint64_t account_id, object ids not None) -> list:
    cdef EmailFacts facts
    cdef list found = []
    cdef bytes id
    for id in ids:
        row = get(id, None, table) if PyBytes_GET_SIZE(id) == ID_OCTETS else None
        facts = None
        if row is not None:
            facts = EmailFacts.unpack(id, row)
            if facts.account_id != account_id:
                facts = None
        found.append(facts)
    return found


def email_to_send(bytes key not None, bytes row not None) -> tuple:
    cdef Py_ssize_t n = check("emails", key, row, EMAIL_OCTETS)
    cdef const unsigned char* p = octets(row)
    cdef Py_ssize_t prefix = load32(p + 69)
    cdef Py_ssize_t at = EMAIL_OCTETS + <Py_ssize_t>load32(p + 65) * MEMBERSHIP_OCTETS
    if at + prefix > n:
        raise StoreCorrupt("the store is damaged", f"emails {key.hex()}: lengths")
    return cut(p + 8, ID_OCTETS), cut(p + at, prefix), load64(p + 56)


def bodies_to_send(
    object get, object emails, object blobs, uint64_t account_id, object ids not None, uint64_t limit_bytes
) -> list:
    cdef list found = []
    cdef const unsigned char* p
    cdef const unsigned char* q
    cdef Py_ssize_t n, at, prefix
    cdef uint64_t total = 0
    cdef bytes id, blob_id, email, blob, data
    for id in ids:
        email = get(id, None, emails) if PyBytes_GET_SIZE(id) == ID_OCTETS else None
        if email is not None:
            n = check("emails", id, email, EMAIL_OCTETS)
            p = octets(email)
        if email is None or load64(p) != account_id:
            found.append(None)
            continue
        if not p[64]:
            total += load64(p + 48)
        if found and total > limit_bytes > 0:
            break
        prefix = load32(p + 69)
        at = EMAIL_OCTETS + <Py_ssize_t>load32(p + 65) * MEMBERSHIP_OCTETS
        if at + prefix > n:
            raise StoreCorrupt("the store is damaged", f"emails {id.hex()}: lengths")
        blob_id = cut(p + 8, ID_OCTETS)
        blob = get(blob_id, None, blobs)
        if blob is None:
            raise NotFound("the body is gone", f"blob {blob_id.hex()}")
        found.append((blob_id, cut(p + at, prefix), load64(p + 56), open_blob(blob_id, blob)))
    return found


def seal_blob(bytes key not None, int kind, uint64_t size, uint64_t header_bytes, uint32_t checksum, bytes body not None) -> bytes:
    cdef bytes row = PyBytes_FromStringAndSize(NULL, BLOB_OCTETS + CRC_OCTETS + PyBytes_GET_SIZE(body))
    cdef unsigned char* p = octets(row)
    p[0] = <unsigned char>kind
    store64(p + 1, size)
    store64(p + 9, header_bytes)
    store32(p + 17, checksum)
    store32(p + BLOB_OCTETS, crc_of(p, BLOB_OCTETS, crc_of_key(key)))
    add(p + BLOB_OCTETS + CRC_OCTETS, body)
    return row


def open_blob(bytes key not None, bytes row not None) -> tuple:
    cdef const unsigned char* p = octets(row)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(row) - BLOB_OCTETS - CRC_OCTETS
    cdef bytes data = None
    if n < 0 or load32(p + BLOB_OCTETS) != crc_of(p, BLOB_OCTETS, crc_of_key(key)):
        raise StoreCorrupt("the store is damaged", f"blobs {key.hex()}: checksum")
    if p[0] == BLOB_INLINE:
        data = cut(p + BLOB_OCTETS + CRC_OCTETS, n)
        if <uint64_t>n != load64(p + 1) or load32(p + 17) != crc_of(octets(data), <size_t>n, 0):
            raise StoreCorrupt("the store is damaged", f"blob {key.hex()}: checksum")
    return load64(p + 1), load64(p + 9), load32(p + 17), data
