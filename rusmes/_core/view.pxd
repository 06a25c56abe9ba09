from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef enum:
    SYSTEM_BITS = 31           # \Seen \Answered \Flagged \Deleted \Draft, by place in storage.flags.SYSTEM_FLAGS
    EXPUNGED = 32              # a tombstone
    ODD = 64                   # date or size do not fit their columns and are in `odd`
    ODD_WORDS = 65535          # the keyword set is in `odd_words`
    ROW_OCTETS = 39            # what a message costs in all columns
    RING = 512                 # updates that are remembered one by one


# What commands hold across an `await`: UIDs. Indexes of rows are good until then only, for compaction moves rows.
cdef class Uids:
    cdef uint32_t* data
    cdef Py_ssize_t n
    cdef Py_ssize_t capacity
    cdef int push(self, uint32_t uid) except -1
    cdef bint holds(self, uint32_t uid) noexcept nogil


# One octet a row, 0 or 1: the answer to a question about all rows.
cdef class Mask:
    cdef unsigned char* data
    cdef readonly Py_ssize_t size
    cdef readonly MailboxRows rows
    cdef Mask paired(self, Mask other)


# Who looks at the columns, as far as compaction has to know.
cdef class Watcher:
    cdef Py_ssize_t known          # rows the client was told of, in `rows`; those behind are news
    cdef uint64_t told             # expunges up to this serial the client knows


# The columns of one mailbox.
cdef class MailboxRows:
    cdef uint32_t* uids
    cdef uint64_t* modseqs
    cdef uint32_t* dates
    cdef uint32_t* sizes
    cdef uint16_t* words       # index into `sets`
    cdef unsigned char* bits
    cdef unsigned char* ids
    cdef readonly Py_ssize_t size          # rows, tombstones included
    cdef Py_ssize_t capacity
    # Keyword sets: joined by blanks, as they are stored and sent; 0 is the empty one, 65535 says "in odd_words".
    cdef list sets
    cdef dict places
    cdef dict odd_words
    cdef uint64_t sweep_at                 # version before which no number is looked for again
    cdef dict odd                          # UID: (date, size)
    cdef dict names                        # keyword in lower case: its first spelling, in order of appearance
    # Tombstones by row, with the serial of their expunge.
    cdef uint32_t* dead_rows
    cdef uint64_t* dead_serials
    cdef readonly Py_ssize_t dead
    cdef Py_ssize_t dead_capacity
    # What happened, for cursors.
    cdef readonly uint64_t expunges
    cdef readonly uint64_t updates
    cdef readonly uint64_t version
    cdef uint32_t ring[RING]
    cdef list cursors
    # Facts of the mailbox
    cdef readonly uint64_t mailbox_id
    cdef public uint64_t account_id
    cdef public uint64_t modseq
    cdef public uint64_t uid_next
    cdef public uint32_t uid_validity

    cdef int grow(self, Py_ssize_t capacity) except -1
    cdef int append_row(
        self, uint32_t uid, uint64_t modseq, const unsigned char* email_id, double internal_date, uint64_t size,
        unsigned char bits, const char* words, Py_ssize_t words_size,
    ) except -1
    cdef int update_row(
        self, uint32_t uid, uint64_t modseq, unsigned char bits, const char* words, Py_ssize_t words_size
    ) except -1
    cdef int update_at(
        self, Py_ssize_t row, uint64_t modseq, unsigned char bits, const char* words, Py_ssize_t words_size
    ) except -1
    cdef void stamp(self, Py_ssize_t row, uint64_t modseq, unsigned char bits) noexcept nogil
    cdef int place_of(self, bytes joined) except -1
    cdef int set_words(self, Py_ssize_t row, bytes joined) except -1
    cdef bytes words_at(self, Py_ssize_t row)
    cdef Py_ssize_t find(self, uint32_t uid) noexcept nogil
    cdef Py_ssize_t find_not_below(self, uint64_t uid) noexcept nogil
    cdef int bury(self, Py_ssize_t row) except -1
    cdef int compact_if_due(self) except -1
    cdef int compact(self, uint64_t told) except -1
    cdef void move_rows(self, Py_ssize_t to, Py_ssize_t start, Py_ssize_t count) noexcept
    cdef int sweep_sets(self) except -1
    cdef int check_row(self, Py_ssize_t row) except -1
