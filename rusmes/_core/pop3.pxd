# Verbs; 0 is any other word. `pop3.pyx` keeps their names in the same order.
cdef enum:
    V_UNKNOWN = 0
    V_CAPA
    V_USER
    V_PASS
    V_AUTH
    V_APOP
    V_STLS
    V_STAT
    V_LIST
    V_UIDL
    V_RETR
    V_TOP
    V_DELE
    V_RSET
    V_NOOP
    V_QUIT
    V_UTF8
    V_LANG
    V_COUNT

# Where a DotStuffer is within a message.
cdef enum:
    IN_HEADER = 0
    IN_BODY = 1
    FINISHED = 2


cdef class Command:
    cdef readonly int verb
    cdef readonly bint well_formed
    cdef readonly long number        # -1 = not given
    cdef readonly long lines         # -1 = not given
    cdef readonly bytes argument


cdef class DotStuffer:
    # The two octets before the next one (CR LF before the first: a message begins a line)
    cdef unsigned char before
    cdef unsigned char last
    # TOP
    cdef long lines_left             # of the body; -1 = all
    cdef int place
    cdef bint line_is_empty          # nothing but a CR in the current line
    cdef readonly long octets        # of the message, without stuffing

    cdef Py_ssize_t cut(self, const unsigned char* p, Py_ssize_t n) noexcept
