from libc.stdint cimport uint32_t, uint64_t

from rusmes._core.rows cimport MailboxRow, MessageRow


cdef enum:
    BLOCK_UIDS = 16            # UIDs of one row; BLOCK_BITS are their bits
    BLOCK_BITS = 4
    RECORD_OCTETS = 52         # of a message, before its keywords


cpdef bytes block_key(uint64_t mailbox_id, uint64_t uid)
cpdef bytes with_message(bytes key, bytes row, uint32_t uid, MessageRow message)
