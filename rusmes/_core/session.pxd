"""Layout of the SMTP session's hot half."""

from rusmes._core.smtp cimport BodyEnd, Command, CommandReader


cdef class Grammar:
    cdef tuple states
    cdef list allowed            # for each state, the bits of the commands that may come
    cdef object address_type
    cdef object mail_parameters  # what MAIL and RCPT without parameters have
    cdef object rcpt_parameters


cdef class SessionCore:
    cdef Grammar grammar
    cdef CommandReader reader
    cdef bint is_lmtp
    # Of a body
    cdef Py_ssize_t max_message_bytes
    cdef Py_ssize_t max_header_bytes
    cdef bint normalizes
    # Where the dialogue is
    cdef int place               # in Grammar.states
    cdef unsigned int allowed
    cdef readonly int due        # the bit of a command, or one of the negative numbers of session.pyx; 0 nothing
    cdef readonly int replies_due
    cdef readonly bint closed
    # The transaction
    cdef readonly int recipients
    cdef readonly int rejected
    cdef readonly bint utf8      # SMTPUTF8 was asked for
    cdef readonly bint binary    # BODY=BINARYMIME
    # What was said and is not sent
    cdef list out

    cpdef object receive(self, bytes data)
    cdef object pull(self)
    cdef int give(self, reply) except -1
    cpdef bytes data_to_send(self)
    cdef void clear(self) noexcept
    cdef int enter(self, int place) except -1
    cdef object take_command(self, Command command)
    cdef object take_body_end(self, BodyEnd end)
    cdef bint takes_plain_envelope(self, Command command) except -1
    cdef int settle(self, int due, int code) except -1
