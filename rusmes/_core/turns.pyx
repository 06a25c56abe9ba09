"""The loop that takes the turns of an SMTP dialogue which need no waiting. What they mean is for the handlers.

`rusmes.smtp.server` has a subclass for everything that takes longer or does not happen in every message.
"""

cimport cython

from rusmes._core.counters cimport Metrics
from rusmes._core.session cimport SessionCore
from rusmes._core.smtp cimport BodyChunk, BodyEnd, Command, Signal

cdef enum:
    MAX_UNSENT_REPLIES = 256
    DATA = 1 << 5        # the verb's place in VERBS of smtp.pyx
    NEED_DATA = 0        # the kind of the signal
    GO_AHEAD = 354

MAX_UNSENT = MAX_UNSENT_REPLIES

cdef object HELD = object()    # the turns go on when the message that ended has an outcome


@cython.final
cdef class TurnRules:
    def __init__(self, dict handlers not None, dict commands not None, tuple classes not None, reply_type, take_chunk,
                 end_of_body, settle, double bytes_per_second, double grace_seconds):
        self.handlers = handlers
        self.commands = commands
        self.classes = classes
        self.reply_type = reply_type
        self.take_chunk = take_chunk
        self.end_of_body = end_of_body
        self.settle = settle
        self.bytes_per_second = bytes_per_second
        self.grace_seconds = grace_seconds


cdef class Turns:
    def set_up(self, TurnRules rules not None, SessionCore session not None, Metrics metrics not None, connection,
               conversation, monotonic, bint is_quiet) -> None:
        self.rules = rules
        self.session = session
        self.metrics = metrics
        self.connection = connection
        self.conversation = conversation
        self.monotonic = monotonic
        self.is_quiet = is_quiet

    # Turns

    def take_turns(self):
        return self.run_turns()

    cdef object run_turns(self):
        cdef TurnRules rules = self.rules
        cdef Command command
        while self.unsent < MAX_UNSENT_REPLIES:
            event = self.session.pull()
            if type(event) is Command:
                command = <Command>event
                handler = rules.handlers.get(command.verb)
                if handler is None or not self.is_quiet or (command.bit == DATA and self.connection.has_input):
                    return event
                self.metrics.inc(rules.commands[command.verb])
                self.line_begun = False
                reply = handler(self.conversation, command)
                if type(reply) is not rules.reply_type:
                    return reply
                self.take_reply(reply)
            elif type(event) is BodyChunk:
                rules.take_chunk(self.conversation, (<BodyChunk>event).data)
            elif type(event) is BodyEnd and self.is_fed:
                rest = self.hand_over(<BodyEnd>event)
                if rest is not None:
                    return rest
            else:
                return event
        return None

    cdef int take_reply(self, reply) except -1:
        """Answer a command, if it is 354 with the body's time beginning."""
        cdef int code = reply.code
        if code == GO_AHEAD:
            self.in_body = True
            self.body_seconds = min(self.rules.grace_seconds, <double>self.conversation.policy.data_timeout)
        elif code >= 300:
            self.answer_command(reply)
            return 0
        return self.say(reply)

    cdef object hand_over(self, BodyEnd event):
        """The end of a body; None when it is answered, else what `run_turns` stops at."""
        self.in_body = self.line_begun = False
        replies = self.rules.end_of_body(self.conversation, event, self.take_outcome)
        if type(replies) is list:
            self.answer_message(replies)
            return None
        return HELD if replies is None else replies

    def take_outcome(self, outcome) -> None:
        self.outcome = outcome
        self.connection.release(self.take_up_again)

    def take_up_again(self):
        """What to send when the message that was waited for has an outcome; as `take_input`."""
        outcome, self.outcome = self.outcome, None
        self.answer_message(self.rules.settle(self.conversation, outcome))
        return self.take_fed_turns()

    def take_input(self, bytes data not None):
        cdef double most
        if not data:
            self.end_of_input()
        if self.in_body:
            most = self.conversation.policy.data_timeout
            self.body_seconds += len(data) / self.rules.bytes_per_second - (<double>self.monotonic() - self.waiting_since)
            if self.body_seconds > most:
                self.body_seconds = most
        self.session.receive(data)
        return self.take_fed_turns()

    cdef object take_fed_turns(self):
        self.is_fed = True
        try:
            rest = self.run_turns()
        finally:
            self.is_fed = False
        if rest is HELD:
            self.rest = None
            self.connection.set_deadline(None)
            self.connection.interruptible = False
            self.connection.hold()
            return self.take_replies()
        if type(rest) is Signal and (<Signal>rest).kind == NEED_DATA:
            self.rest = None
            self.wait_for_input()
            return self.take_replies()
        self.rest = rest
        return None

    # Answers

    def answer(self, reply) -> None:
        self.say(reply)

    cdef int say(self, reply) except -1:
        cdef int code = reply.code
        self.metrics.inc(self.rules.classes[code // 100])
        self.unsent += 1
        self.last_reply = reply
        if not self.is_quiet:
            self.note_reply(reply)
        self.session.give(reply)
        return 0

    def replies(self) -> bytes:
        return self.take_replies()

    cdef bytes take_replies(self):
        self.unsent = 0
        return self.session.data_to_send()

    # Clocks

    def expect_input(self) -> None:
        self.wait_for_input()

    cdef int wait_for_input(self) except -1:
        if self.in_body:
            self.waiting_since = self.monotonic()
            self.connection.set_deadline(self.body_seconds)
        elif not self.line_begun:
            self.line_begun = True
            policy = self.conversation.policy
            seconds = policy.idle_timeout if self.conversation.identity is None else policy.command_timeout
            self.connection.set_deadline(seconds)
        self.connection.interruptible = self.conversation.transaction is None
        return 0

    def begin_line(self) -> None:
        self.line_begun = False

    def begin_body(self, double seconds) -> None:
        self.in_body = True
        self.body_seconds = seconds

    def end_body(self) -> None:
        self.in_body = self.line_begun = False
