from libc.stdint cimport uint32_t, uint64_t
# For rows that other modules lay out: the size of the value, which has at least so many octets; and closing a row whose last
# four octets are free.
cdef Py_ssize_t check_row(str table, bytes key, bytes row, Py_ssize_t least) except -1
cdef int seal_row(bytes key, bytes row) except -1


# The records, in the order in which a message meets them.
cdef class AccountRow:
    cdef public uint64_t id
    cdef public uint64_t modseq
    cdef public uint64_t used_bytes
    cdef public uint64_t used_messages
    cdef public uint64_t quota_bytes
    cdef public uint64_t quota_messages
    cdef public uint64_t last_change
    cdef public uint64_t floor_modseq
    cdef public uint64_t floor_change
    cdef public str name


cdef class MailboxRow:
    cdef public uint64_t id
    cdef public uint64_t account_id
    cdef public uint32_t uid_validity
    cdef public uint64_t uid_next           # 2^32 when no UID is left
    cdef public uint64_t first_recent
    cdef public uint64_t highest_modseq
    cdef public uint32_t exists
    cdef public uint32_t unseen
    cdef public uint32_t deleted
    cdef public uint32_t recent
    cdef public uint64_t size
    cdef public str special_use
    cdef public str name
    cdef public uint64_t deleted_size


cdef class MessageRow:
    cdef public uint64_t modseq
    cdef public bytes email_id
    cdef public double internal_date
    cdef public uint64_t size
    cdef public unsigned char bits
    cdef public tuple keywords
    cdef public double saved
    cdef public bint is_shared              # the email is in other places too


cdef class EmailRow:
    cdef public uint64_t account_id
    cdef public bytes blob_id
    cdef public bytes thread_id
    cdef public double received
    cdef public uint64_t size
    cdef public uint64_t skip
    cdef public bint is_file
    cdef public list memberships
    cdef public bytes prefix
    cdef public bytes envelope
    cdef public bytes body_structure
    cdef public bytes headers
    cdef public bytes identifiers


# A row of an email kept as it was read; its parts are cut out of it when they are asked for.
cdef class EmailFacts:
    cdef bytes row
    cdef readonly uint64_t account_id
    cdef readonly double received
    cdef readonly uint64_t size
    cdef readonly uint64_t skip
    cdef readonly bint is_file
    # Offsets in the row, in the order in which the parts lie there.
    cdef uint64_t prefix_at
    cdef uint64_t envelope_at
    cdef uint64_t structure_at
    cdef uint64_t identifiers_at
    cdef uint64_t headers_at
    cdef uint64_t end
