"""The turns of an SMTP dialogue that every message takes: MAIL, RCPT, DATA, its end, and their replies.

`rusmes.smtp.session` is the theory, and a subclass that knows the rest: it is asked whenever a turn is not one of these.
"""

cimport cython

from rusmes._core.smtp cimport BodyChunk, BodyEnd, Command, CommandReader, Signal


# The places of the verbs, as in VERBS of smtp.pyx
cdef enum:
    MAIL = 1 << 3
    RCPT = 1 << 4
    DATA = 1 << 5
    BDAT = 1 << 6
    NOOP = 1 << 8

# The places of the states in Grammar.states
cdef enum:
    IN_START
    IN_REFUSED
    IN_GREET
    IN_READY
    IN_MAIL
    IN_RCPT
    IN_DATA
    IN_BDAT
    IN_AUTH
    IN_TLS
    IN_CLOSED
    STATE_COUNT

# What a reply is due to when it is no command
cdef enum:
    DUE_NOTHING = 0
    DUE_GREETING = -1
    DUE_MESSAGE = -2
    DUE_CHUNK = -3
    DUE_MALFORMED = -4
    DUE_FATAL = -5
    DUE_LINE = -6

NOTHING = DUE_NOTHING
GREETING = DUE_GREETING
MESSAGE = DUE_MESSAGE
CHUNK = DUE_CHUNK
MALFORMED = DUE_MALFORMED
FATAL = DUE_FATAL
LINE = DUE_LINE


@cython.final
cdef class Grammar:
    def __init__(self, tuple states not None, list allowed not None, address_type, mail_parameters, rcpt_parameters):
        if len(states) != STATE_COUNT or len(allowed) != STATE_COUNT:
            raise ValueError(f"there are {STATE_COUNT} states")
        self.states = states
        self.allowed = allowed
        self.address_type = address_type
        self.mail_parameters = mail_parameters
        self.rcpt_parameters = rcpt_parameters


cdef class SessionCore:
    def __cinit__(self, *arguments, **named):
        self.due = DUE_GREETING
        self.replies_due = 1
        self.out = []

    def set_up(self, Grammar grammar not None, CommandReader reader not None, bint is_lmtp) -> None:
        self.grammar = grammar
        self.reader = reader
        self.is_lmtp = is_lmtp
        self.enter(IN_START)

    # In

    cpdef object receive(self, bytes data):
        if not self.closed:
            self.reader.add(data)

    def next_event(self):
        return self.pull()

    cdef object pull(self):
        if self.due != DUE_NOTHING:
            return self.next_event_while_due()
        event = self.reader.next_event()
        if type(event) is Command:
            return self.take_command(<Command>event)
        if type(event) is BodyEnd:
            return self.take_body_end(<BodyEnd>event)
        if type(event) is BodyChunk or type(event) is Signal:
            return event
        return self.take_other(event)

    cdef object take_command(self, Command command):
        cdef unsigned int bit = command.bit
        if not self.allowed & bit:
            return self.take_slowly(command)
        if bit == MAIL or bit == RCPT:
            if not self.takes_plain_envelope(command):
                return self.take_slowly(command)
        elif bit == DATA:
            # Octets that wait, BODY=BINARYMIME and an argument are for others to refuse.
            if self.reader.start < self.reader.end or self.binary or command.has_argument():
                return self.take_slowly(command)
        elif bit != NOOP:
            return self.take_slowly(command)
        self.due = <int>bit
        self.replies_due = 1
        return command

    cdef bint takes_plain_envelope(self, Command command) except -1:
        """MAIL and RCPT with a plain ASCII address and no parameters."""
        if command.local is None or command.pairs is not None:
            return False
        command.address = self.grammar.address_type(command.local, command.domain)
        if command.bit == MAIL:
            command.parameters = self.grammar.mail_parameters
            self.utf8 = self.binary = False
        else:
            command.parameters = self.grammar.rcpt_parameters
        return True

    cdef object take_body_end(self, BodyEnd end):
        self.due = DUE_MESSAGE if end.last else DUE_CHUNK
        # RFC 2033 §4.2: a reply for each recipient that was accepted.
        self.replies_due = self.recipients if end.last and self.is_lmtp else 1
        return end

    # Out

    def reply(self, reply) -> None:
        self.give(reply)

    cdef int give(self, reply) except -1:
        cdef int due = self.due
        cdef int code
        if self.closed:
            return 0
        code = reply.code
        if due == DUE_NOTHING and code != 421:
            raise RuntimeError(f"no reply is due in state {self.state.value}: {reply!r}")
        self.out.append(reply.wire)
        if code == 421 or due == DUE_FATAL:
            self.close()
            return 0
        if self.replies_due > 1:
            self.replies_due -= 1
            return 0
        self.replies_due = 0
        self.due = DUE_NOTHING
        return self.settle(due, code)

    cdef int settle(self, int due, int code) except -1:
        """Move on by a reply of this code to this."""
        if due == RCPT:
            if code >= 400:
                self.rejected += 1
            else:
                self.recipients += 1
                if self.place == IN_MAIL:
                    self.enter(IN_RCPT)
        elif due == MAIL:
            if code < 400:
                self.recipients = self.rejected = 0
                self.enter(IN_MAIL)
            else:
                self.clear()
        elif due == DUE_MESSAGE:
            self.clear()
            self.enter(IN_READY)
        elif due == DATA:
            if code == 354:
                self.reader.begin_data(self.max_message_bytes, self.max_header_bytes, self.normalizes)
                self.enter(IN_DATA)
        elif due != NOOP:
            self.settle_other(due, code)
        return 0

    cpdef bytes data_to_send(self):
        cdef list out = self.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    cdef int enter(self, int place) except -1:
        self.place = place
        self.allowed = self.grammar.allowed[place]
        return 0

    cdef void clear(self) noexcept:
        self.recipients = self.rejected = 0
        self.utf8 = self.binary = False

    # For the subclass

    def limit_bodies(self, Py_ssize_t max_message_bytes, Py_ssize_t max_header_bytes, bint normalizes) -> None:
        self.max_message_bytes = max_message_bytes
        self.max_header_bytes = max_header_bytes
        self.normalizes = normalizes

    @property
    def state(self):
        return self.grammar.states[self.place]

    def set_state(self, state) -> None:
        self.enter(self.grammar.states.index(state))

    def allows(self, unsigned int bit) -> bool:
        return self.allowed & bit != 0

    def expect_reply(self, int due, int replies=1) -> None:
        self.due = due
        self.replies_due = replies

    def shut(self) -> None:
        self.reader.forget()
        self.due = DUE_FATAL
        self.replies_due = 0
        self.closed = True
        self.enter(IN_CLOSED)

    def count_rejected(self) -> None:
        self.rejected += 1

    def declare(self, bint utf8, bint binary) -> None:
        self.utf8 = utf8
        self.binary = binary

    def forget_transaction(self) -> None:
        self.clear()
