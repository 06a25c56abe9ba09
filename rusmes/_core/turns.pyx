"""The loop that takes the turns of an SMTP dialogue which need no waiting. What they mean is for the handlers.

`rusmes.smtp.server` has a subclass for everything that takes longer or does not happen in every message.
"""

cimport cython

from rusmes._core.counters cimport Metrics
from rusmes._core.session cimport SessionCore
from rusmes._core.smtp cimport BodyChunk, Command, Signal

cdef enum:
    MAX_UNSENT_REPLIES = 256
    DATA = 1 << 5        # the verb's place in VERBS of smtp.pyx
    NEED_DATA = 0        # the kind of the signal

MAX_UNSENT = MAX_UNSENT_REPLIES


@cython.final
cdef class TurnRules:
    def __init__(self, dict handlers not None, dict commands not None, tuple classes not None, reply_type, take_chunk,
                 double bytes_per_second):
        self.handlers = handlers
        self.commands = commands
        self.classes = classes
        self.reply_type = reply_type
        self.take_chunk = take_chunk
        self.bytes_per_second = bytes_per_second


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
                self.answer_command(reply) if reply.code >= 300 else self.say(reply)
            elif type(event) is BodyChunk:
                rules.take_chunk(self.conversation, (<BodyChunk>event).data)
            else:
                return event
        return None

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
        rest = self.run_turns()
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
