cdef class Batch:
    cdef readonly object now
    # The transaction, its tables, and the rows of small tables that are kept between batches.
    cdef object txn
    cdef list handles
    cdef dict cache
    cdef dict numbers
    # What is durable and not in the transaction's tables yet, and the last keys of those; None when there is nothing.
    cdef list ahead
    cdef list newest
    # What is held back, by table; of some tables also by prefix.
    cdef readonly list held
    cdef dict by_prefix
    cdef dict inserted
    cdef readonly Py_ssize_t spilled_rows
    cdef bint is_careful
    # The operation that runs.
    cdef list undo
    cdef bint is_spilled
    # What happens after the commit.
    cdef readonly list after_commit
    cdef readonly list notes

    cdef bint is_newer(self, int table, bytes key) except -1
    cdef int write(self, object cursor, list puts, set inserted) except -1
    cpdef object get(self, int table, bytes key)
    cpdef put(self, int table, bytes key, bytes value)
