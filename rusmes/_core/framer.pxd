# What `Framer.next` reports.
cdef enum:
    E_NEED_DATA = 0
    E_COMMAND = 1        # whole: `text` and `literals`
    E_OFFER = 2          # a literal is announced: `accept` or `refuse`
    E_REFUSED = 3        # a command whose bytes were read and dropped: `reason`

# Why a command was dropped.
cdef enum:
    R_NONE = 0
    R_CALLER = 1         # `refuse`
    R_TOO_LONG = 2       # its text is over `text_limit`
    R_NUL = 3            # NUL outside of a literal
    R_SINK = 4           # the sink failed: `failure`

# Where a framer is within a command.
cdef enum:
    IN_LINE = 0
    OFFERED = 1
    IN_LITERAL = 2       # into `literal`
    IN_SINK = 3
    SKIPPING = 4

# Octets at the end of a line in which "~{" number "+}" fits; what is kept of one that is too long.
cdef enum:
    TAIL = 32


cdef class Framer:
    # What has arrived and is not consumed: data[start:end]. None while nothing waits.
    cdef bytes data
    cdef Py_ssize_t start
    cdef Py_ssize_t end
    # The command so far: a C buffer, freed at its end, so that an idle session holds none.
    cdef char* kept
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef Py_ssize_t line             # where in `kept` the current line begins
    cdef int mode
    cdef bint ended                  # the last event ended a command: the next call begins a new one
    cdef bint overflowed             # the current line is being dropped; its last octets are in `tail`
    cdef char tail[TAIL]
    cdef int tail_size
    # The literal that is being read
    cdef bytes literal
    cdef Py_ssize_t filled
    cdef long long left
    cdef object sink
    # Limits
    cdef public Py_ssize_t text_limit
    cdef public long long discard_limit
    cdef long long discarded
    # Facts of the last event
    cdef readonly bytes text
    cdef readonly list literals
    cdef readonly long long literal_size
    cdef readonly bint is_synchronising
    cdef readonly bint is_binary
    cdef readonly int reason
    cdef readonly object failure

    cdef int keep(self, const char* p, Py_ssize_t n) except -1
    cdef int drop(self, const char* p, Py_ssize_t n) except -1
    cdef void begin(self) noexcept
    cdef int take_literal(self) except -1
    cdef int literal_done(self) except -1
    cdef int sink_failed(self, error) except -1
    cdef int line_done(self, const char* p, Py_ssize_t n) except -1
    cdef void consume(self, Py_ssize_t upto) noexcept
