"""The rows that one new message makes. `rusmes.storage.lmdb.messages` does the same to messages that exist, in Python."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rusmes._core.batch cimport Batch
from rusmes._core.blocks cimport BLOCK_UIDS, block_key, with_message
from rusmes._core.rows cimport AccountRow, EmailRow, MailboxRow, MessageRow

from hashlib import blake2b

from rusmes._core.rows import seal, unseal
from rusmes.errors import NotAllowed

# The tables by number, as `layout` has them (a test compares).
cdef enum:
    ACCOUNTS = 1
    MAILBOXES = 3
    MESSAGES = 6
    EMAILS = 7
    THREADS = 8
    MESSAGE_IDS = 9
    CHANGES = 10

# Kind and action of a line in the change log.
cdef enum:
    MAILBOX_UPDATED = 1
    EMAIL_CREATED = 4
    THREAD_CREATED = 8
    THREAD_UPDATED = 9
    MESSAGE_CREATED = 12

cdef enum:
    ID_OCTETS = 16
    HASH_OCTETS = 12
    CHANGE_OCTETS = 32
    MARKS_OCTETS = 17 + 17 + 13 + 9

TABLES = (ACCOUNTS, MAILBOXES, MESSAGES, EMAILS, THREADS, MESSAGE_IDS, CHANGES)


cdef inline void store64(unsigned char* p, uint64_t v) noexcept:
    cdef int i
    for i in range(8):
        p[i] = <unsigned char>(v >> (56 - 8 * i))


cdef inline bytes number_key(uint64_t number):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 8)
    store64(<unsigned char*>PyBytes_AS_STRING(key), number)
    return key


cdef int find_thread(Batch batch, AccountRow account, EmailRow email, bytes id, tuple identifiers) except -1:
    """Give the email its thread: that of the first identifier that is known, else a new one named like the email. 1 for a
    new one."""
    cdef bytes prefix = number_key(account.id)
    cdef bytes known = None
    cdef bytes key
    cdef bytes row
    cdef list fresh = []
    for identifier in identifiers:
        key = prefix + <bytes>blake2b(identifier, digest_size=HASH_OCTETS).digest()
        row = batch.get(MESSAGE_IDS, key)
        if row is None:
            fresh.append(key)
        elif known is None:
            known = unseal("message_ids", key, row)
    email.thread_id = id if known is None else known
    for key in fresh:
        batch.put(MESSAGE_IDS, key, seal(key, email.thread_id))
    if len(fresh) == 1:
        email.identifiers = (<bytes>fresh[0])[8:]
    else:
        email.identifiers = b"".join([(<bytes>key)[8:] for key in fresh])
    return known is None


cdef int join_thread(Batch batch, AccountRow account, EmailRow email, bytes id) except -1:
    """A thread has rows from its second email on: most never get one."""
    cdef bytes prefix = number_key(account.id) + email.thread_id
    cdef bytes key
    for member in [id] if batch.scan(THREADS, prefix, limit=1) else [email.thread_id, id]:
        key = prefix + <bytes>member
        batch.put(THREADS, key, seal(key, b""))
    return 0


cdef bytes change_of(
    AccountRow account, MailboxRow mailbox, bytes id, bytes thread_id, bint is_first, bytes message_key, bytes marks, double now
):
    cdef Py_ssize_t n = PyBytes_GET_SIZE(marks)
    cdef bytes value = PyBytes_FromStringAndSize(NULL, CHANGE_OCTETS + n + MARKS_OCTETS)
    cdef unsigned char* p = <unsigned char*>PyBytes_AS_STRING(value)
    cdef uint64_t seconds
    memcpy(&seconds, &now, 8)
    store64(p, account.id)
    store64(p + 8, account.modseq)
    store64(p + 16, account.last_change)
    store64(p + 24, seconds)
    p += CHANGE_OCTETS
    memcpy(p, PyBytes_AS_STRING(marks), <size_t>n)
    p += n
    p[0] = EMAIL_CREATED
    memcpy(p + 1, PyBytes_AS_STRING(id), ID_OCTETS)
    p[17] = THREAD_CREATED if is_first else THREAD_UPDATED
    memcpy(p + 18, PyBytes_AS_STRING(thread_id), ID_OCTETS)
    p[34] = MESSAGE_CREATED
    memcpy(p + 35, PyBytes_AS_STRING(message_key), 12)
    p[47] = MAILBOX_UPDATED
    store64(p + 48, mailbox.id)
    return value


def add_new(
    Batch batch not None, AccountRow account not None, MailboxRow mailbox not None, EmailRow email not None, bytes id not None,
    tuple identifiers not None, unsigned char bits, tuple keywords not None, bytes marks not None=b"", object internal_date=None,
) -> int:
    cdef uint64_t uid = mailbox.uid_next
    cdef uint64_t number
    cdef bint is_first
    cdef bint is_new_block
    cdef bytes key
    cdef bytes mark = PyBytes_FromStringAndSize(NULL, 12)
    cdef MessageRow message
    if PyBytes_GET_SIZE(id) != ID_OCTETS:
        raise ValueError("the id of an email has 16 octets")
    if uid > 0xFFFFFFFF:  # RFC 9051 §2.3.1.1: UIDs have 32 bits
        raise NotAllowed("the mailbox has no UID left", mailbox.name)
    is_first = find_thread(batch, account, email, id, identifiers)
    if not is_first:
        join_thread(batch, account, email, id)
    account.used_bytes += email.size
    account.used_messages += 1

    message = MessageRow(
        account.modseq, id, email.received if internal_date is None else <double>internal_date, email.size, bits, keywords,
        batch.now,
    )
    mailbox.highest_modseq = account.modseq
    mailbox.uid_next += 1
    mailbox.count(message, uid, 1)
    key = block_key(mailbox.id, uid)
    is_new_block = mailbox.exists == 1 or uid % BLOCK_UIDS == 0
    batch.put(MESSAGES, key, with_message(key, None if is_new_block else batch.get(MESSAGES, key), <uint32_t>uid, message))
    store64(<unsigned char*>PyBytes_AS_STRING(mark), mailbox.id)
    store64(<unsigned char*>PyBytes_AS_STRING(mark) + 4, (mailbox.id << 32) | uid)
    email.memberships.append((mailbox.id, uid))
    batch.put(EMAILS, id, email.pack(id))
    batch.put(MAILBOXES, number_key(mailbox.id), mailbox.pack())

    number = batch.next_number(CHANGES)
    value = change_of(account, mailbox, id, email.thread_id, is_first, mark, marks, batch.now)
    key = number_key(number)
    batch.put(CHANGES, key, seal(key, value))
    account.last_change = number
    batch.put(ACCOUNTS, number_key(account.id), account.pack())
    batch.notes.append((account.id, account.modseq))
    return uid
