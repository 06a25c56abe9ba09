"""Layout of the loop that takes the turns of an SMTP dialogue."""

from rusmes._core.counters cimport Metrics
from rusmes._core.session cimport SessionCore
from rusmes._core.smtp cimport BodyEnd


cdef class TurnRules:
    cdef dict handlers       # verb -> what answers it without asking anybody first
    cdef dict commands       # verb -> the counter of it
    cdef tuple classes       # of replies, by their first digit
    cdef object reply_type
    cdef object take_chunk
    cdef object end_of_body
    cdef object settle
    cdef double bytes_per_second
    cdef double grace_seconds


cdef class Turns:
    cdef TurnRules rules
    cdef SessionCore session
    cdef Metrics metrics
    cdef object connection
    cdef object conversation
    cdef object monotonic
    cdef bint is_quiet           # nobody wants every command and reply in the log
    # Answers
    cdef readonly int unsent
    cdef readonly object last_reply
    cdef readonly object rest    # what take_input has left to be done
    cdef bint is_fed             # the loop's callback runs the turns, not the coroutine
    cdef object outcome          # of the message that was waited for
    # Clocks
    cdef readonly bint in_body
    cdef bint line_begun
    cdef double body_seconds     # what is left of the body's budget
    cdef double waiting_since

    cdef object run_turns(self)
    cdef int take_reply(self, reply) except -1
    cdef object take_fed_turns(self)
    cdef object hand_over(self, BodyEnd event)
    cdef int say(self, reply) except -1
    cdef bytes take_replies(self)
    cdef int wait_for_input(self) except -1
