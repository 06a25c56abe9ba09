"""The pipeline's dispatch loop, the matchers worth C, and scans of a header block.

The rules of the loop:

1. A frame is one visit of a processor: its steps, the place in them, the mails still to do at this step (`todo`, taken from
   the end) and those done with it (`done`). Breadth first over splits: no part runs step k+1 before all have run step k.
2. A decision that moves a mail to another processor puts a frame on top, which is finished first: depth first over
   processor switches. Frames are objects, so a cycle costs memory bounded by the hop budget and never the C stack.
3. The loop knows two answers by heart: the `go_on` decision, and no match. Everything else is the settlement's business; it
   answers None (the mail ended), or (mails that go on after this step, mails that go where their `state` says).
4. The loop runs until a mailet answers with an awaitable, which is handed out; `resume` or `fail` takes its result back.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

from rusmes._core.counters cimport Histogram, Metrics

cdef extern from *:
    """
    #include <string.h>
    static inline void rm_mailet_add(int64_t* cell, int64_t n) { __atomic_fetch_add(cell, n, __ATOMIC_RELAXED); }
    /* A sum has one writer, the process whose column it is; a reader must only never see half of it. */
    static inline void rm_mailet_add_double(int64_t* cell, double delta) {
        int64_t raw = __atomic_load_n(cell, __ATOMIC_RELAXED);
        double value;
        memcpy(&value, &raw, sizeof value);
        value += delta;
        memcpy(&raw, &value, sizeof raw);
        __atomic_store_n(cell, raw, __ATOMIC_RELAXED);
    }
    """
    void rm_mailet_add(int64_t* cell, int64_t n) noexcept nogil
    void rm_mailet_add_double(int64_t* cell, double delta) noexcept nogil


cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <long long>now.tv_sec * 1_000_000_000 + now.tv_nsec


@cython.final
cdef class Everyone:
    """The answer "all recipients", without building a collection."""

    def __repr__(self):
        return "EVERYONE"


cdef Everyone EVERYONE = Everyone()
globals()["EVERYONE"] = EVERYONE
NOBODY = ()


# Mails

def fork(mail, recipients):
    """A mail like `mail` for some of its recipients: same content, own edits, only the per-recipient lines that concern them."""
    part = mail.__copy__()
    part.recipients = recipients
    part.attributes = dict(mail.attributes)
    part.prepended = list(mail.prepended)
    if mail.per_recipient:
        lines = mail.per_recipient
        part.per_recipient = {r.address: lines[r.address] for r in recipients if r.address in lines}
    else:
        part.per_recipient = {}
    return part


cdef list chosen(list recipients, answer):
    """The recipients a matcher chose, in the mail's order; whoever is no recipient of the mail is left out."""
    cdef Py_ssize_t at = 0
    picked = answer if isinstance(answer, (list, tuple)) else list(answer)
    cdef Py_ssize_t wanted = len(picked)
    cdef list result = []
    # Matchers mostly give the mail's own objects in its order: then no recipient needs hashing.
    for recipient in recipients:
        if at < wanted and picked[at] is recipient:
            at += 1
            result.append(recipient)
    if at == wanted:
        return result
    kind = type(recipients[0])
    for item in picked:
        if type(item) is not kind:
            raise TypeError(f"a matcher answers with recipients of the mail, not {type(item).__name__}")
    members = set(picked)
    return [recipient for recipient in recipients if recipient in members]


# Steps

@cython.final
cdef class Step:
    """One step of a processor; `matcher` None matches everyone."""

    def __init__(self, str state, int index, str label, matcher, mailet, *, str on_match_exception="error",
                 str on_mailet_exception="error", bint after_accept=False, double timeout=0.0,
                 Metrics metrics=None, Histogram histogram=None):
        self.state = state
        self.index = index
        self.label = label
        self.matcher = matcher
        self.mailet = mailet
        self.fast = matcher if isinstance(matcher, FastMatcher) and type(matcher).match is FastMatcher.match else None
        self.match = None if matcher is None else matcher.match
        self.service = mailet.service
        self.on_match_exception = on_match_exception
        self.on_mailet_exception = on_mailet_exception
        self.after_accept = after_accept
        self.timeout = timeout
        self.metrics = metrics if histogram is not None else None
        self.histogram = histogram

    cdef void took(self, long long ns) noexcept:
        """What `Metrics.observe` does, without its call: matching and the mailet, of this step."""
        if self.metrics is None:
            return
        cdef int bucket = 0
        cdef double seconds = ns / 1e9
        cdef int64_t* cells = self.metrics.own + self.histogram.slot
        while bucket < self.histogram.count and seconds > self.histogram.limits[bucket]:
            bucket += 1
        rm_mailet_add(cells + bucket, 1)
        rm_mailet_add_double(cells + self.histogram.count + 1, seconds)

    def __repr__(self):
        return f"<Step {self.state}[{self.index}] {self.label}>"


@cython.final
@cython.freelist(16)
cdef class _Frame:
    pass


# The loop

@cython.final
cdef class Journey:
    """One mail, and the mails made on the way, through the processors."""

    def __cinit__(self, dict chains, settlement, go_on, decision_type, bint in_session, double seconds_left):
        self.chains = chains
        self.settlement = settlement
        self.go_on = go_on
        self.decision_type = decision_type
        self.in_session = in_session
        self.deadline_ns = monotonic_ns() + <long long>(seconds_left * 1e9) if in_session else 0

    def enter(self, mail):
        """Put the mail on top, at (`mail.state`, `mail.step`)."""
        cdef list steps = self.chains.get(mail.state)
        if steps is None:
            return self.follow(None, self.settlement.unknown_state(mail))
        cdef _Frame frame = _Frame.__new__(_Frame)
        frame.steps = steps
        frame.at = mail.step
        frame.todo = [mail]
        frame.done = []
        frame.below = self.top
        self.top = frame
        if not 0 <= frame.at < len(steps):
            frame.at = len(steps) - 1
            frame.todo, frame.done = frame.done, frame.todo
        return 0

    def advance(self):
        """Run until all is decided (None), or until a mailet waits (its awaitable; `mail` and `step` say for whom)."""
        cdef _Frame frame
        cdef Step step
        cdef long long started = monotonic_ns(), now
        while self.top is not None:
            frame = self.top
            if not frame.todo:
                self.next_step(frame)
                continue
            mail = frame.todo.pop()
            step = frame.steps[frame.at]
            if self.in_session and (step.after_accept or started > self.deadline_ns):
                self.settlement.suspend(mail, step)
                continue
            self.rest = None
            if step.match is not None:
                mail = self.select(frame, step, mail)
            if mail is not None:
                self.before = mail.recipients
                self.before_count = len(self.before)
                try:
                    decision = step.service(mail)
                except Exception as error:
                    self.failed(frame, step, mail, error)
                else:
                    if decision is not self.go_on and not isinstance(decision, self.decision_type) \
                            and hasattr(decision, "__await__"):
                        self.waiting, self.step, self.mail = frame, step, mail
                        return decision
                    self.conclude(frame, step, mail, decision)
            now = monotonic_ns()
            step.took(now - started)
            started = now
        return None

    cdef object select(self, _Frame frame, Step step, mail):
        """The part that matched, or None; who did not match is in `rest`, or already done with this step."""
        cdef list recipients, matched, others
        cdef Py_ssize_t at = 0
        try:
            answer = step.fast.decide(mail) if step.fast is not None else step.match(mail)
            if answer is EVERYONE:
                return mail
            recipients = mail.recipients
            matched = chosen(recipients, answer) if answer else None
            if matched and len(matched) == len(recipients):
                return mail
        except Exception as error:
            outcome = self.settlement.match_failed(mail, step, error)
            if outcome is EVERYONE:
                return mail
            self.follow(frame, outcome)
            return None
        if not matched:
            frame.done.append(mail)
            return None
        part = fork(mail, matched)
        others = []
        for recipient in recipients:
            if at < len(matched) and matched[at] is recipient:
                at += 1
            else:
                others.append(recipient)
        mail.recipients = others
        if mail.per_recipient:
            lines = mail.per_recipient
            mail.per_recipient = {r.address: lines[r.address] for r in others if r.address in lines}
        self.rest = mail
        return part

    cdef int conclude(self, _Frame frame, Step step, mail, decision) except -1:
        """Act on what a mailet, that may have changed the recipients, has answered."""
        if mail.recipients is not self.before or len(mail.recipients) != self.before_count:
            self.settlement.recipients_changed(mail, self.before, self.before_count, step)
        if decision is self.go_on:
            if mail.recipients:
                frame.done.append(mail)
        elif isinstance(decision, self.decision_type):
            self.follow(frame, self.settlement.decide(mail, decision, step))
        else:
            self.failed(frame, step, mail, TypeError(f"{step.label} answered {decision!r}, which is no decision"))
            return 0
        if self.rest is not None:
            frame.done.append(self.rest)
        return 0

    cdef int failed(self, _Frame frame, Step step, mail, error) except -1:
        """A mailet raised: whatever it did to the recipients is undone, so that none is lost."""
        mail.recipients = self.before
        self.before = None
        self.follow(frame, self.settlement.mailet_failed(mail, step, error))
        if self.rest is not None:
            frame.done.append(self.rest)
        return 0

    cdef int follow(self, _Frame frame, outcome) except -1:
        """Put mails where the settlement wants them."""
        if outcome is None:
            return 0
        staying, moving = outcome
        for mail in staying:
            frame.done.append(mail)
        for mail in reversed(moving):
            self.enter(mail)
        return 0

    cdef int next_step(self, _Frame frame) except -1:
        """All parts have run this step: go on with the next, or leave the processor undecided."""
        frame.at += 1
        if not frame.done:
            self.top = frame.below
        elif frame.at == len(frame.steps):
            self.top = frame.below
            for mail in reversed(frame.done):
                self.follow(frame, self.settlement.undecided(mail))
        else:
            frame.todo, frame.done = frame.done, frame.todo
            if len(frame.todo) > 1:
                frame.todo.reverse()
        return 0

    # The result of an awaitable

    def resume(self, decision, double seconds):
        """The mailet that waited has decided, after `seconds`."""
        cdef _Frame frame = self.waiting
        cdef Step step = self.step
        mail = self.mail
        self.waiting = self.step = self.mail = None
        step.took(<long long>(seconds * 1e9))
        self.conclude(frame, step, mail, decision)

    def fail(self, error, mail, double seconds):
        """The mailet that waited has failed; `mail` goes on in its place."""
        cdef _Frame frame = self.waiting
        cdef Step step = self.step
        self.waiting = self.step = self.mail = None
        step.took(<long long>(seconds * 1e9))
        self.failed(frame, step, mail, error)

    def interrupt(self, mail):
        """The session cannot wait longer: `mail` runs this step again later, and so does all that is under way."""
        self.settlement.suspend(mail, self.step)
        if self.rest is not None:
            self.waiting.done.append(self.rest)
        self.waiting = self.step = self.mail = self.rest = None
        self.deadline_ns = 0


# Matchers

cdef class FastMatcher:
    """Root of the matchers in C."""

    def match(self, mail):
        return self.decide(mail)

    cdef object decide(self, mail):
        raise NotImplementedError


cdef class RecipientsWithAccount(FastMatcher):
    """The recipients that deliver to a local account."""

    cdef object decide(self, mail):
        cdef list recipients = mail.recipients
        cdef list local = [r for r in recipients if r.account]
        return EVERYONE if len(local) == len(recipients) else local


cdef class MayRelay(FastMatcher):
    """All recipients of a trusted client; else those that the local configuration chose."""

    cdef object decide(self, mail):
        if mail.origin.trusted:
            return EVERYONE
        return [r for r in mail.recipients if r.forwarded]


cdef class LoggedIn(FastMatcher):
    """Everyone, when the client is authenticated."""

    cdef object decide(self, mail):
        return EVERYONE if mail.origin.account else ()


cdef class NullSender(FastMatcher):
    """Everyone, when the reverse-path is null."""

    cdef object decide(self, mail):
        return EVERYONE if mail.sender is None else ()


cdef class MoreReceivedThan(FastMatcher):
    """Everyone, when the content has more than `limit` Received fields."""

    cdef readonly long limit

    def __init__(self, limit):
        self.limit = limit

    cdef object decide(self, mail):
        return EVERYONE if fields_in(mail.content, b"received", 8) > self.limit else ()


cdef class LargerThan(FastMatcher):
    """Everyone, when the content has more than `limit` bytes."""

    cdef readonly long long limit

    def __init__(self, limit):
        self.limit = limit

    cdef object decide(self, mail):
        return EVERYONE if mail.content.size > self.limit else ()


cdef class MoreRecipientsThan(FastMatcher):
    """Everyone, when there are more than `limit` recipients."""

    cdef readonly Py_ssize_t limit

    def __init__(self, limit):
        self.limit = limit

    cdef object decide(self, mail):
        return EVERYONE if len(mail.recipients) > self.limit else ()


cdef class AttributePresent(FastMatcher):
    """Everyone, when the mail has an attribute; with a `value`, when it has that value."""

    cdef readonly str name
    cdef readonly object value

    def __init__(self, str name, value=None):
        self.name = name
        self.value = value

    cdef object decide(self, mail):
        cdef dict attributes = mail.attributes
        if not attributes:
            return ()
        found = attributes.get(self.name)
        if found is None or (self.value is not None and found != self.value):
            return ()
        return EVERYONE


# Trace

cdef bytes NULL_RETURN_PATH = b"Return-Path: <>\r\n"


def return_path(sender):
    """The trace field of final delivery (RFC 5321 §4.4), for an address or None."""
    if sender is None:
        return NULL_RETURN_PATH
    cdef str local = sender.local, domain = sender.domain
    cdef Py_ssize_t n, m, i
    cdef const char* p = PyUnicode_AsUTF8AndSize(local, &n)
    cdef const char* q = PyUnicode_AsUTF8AndSize(domain, &m)
    cdef bint plain = n > 0 and m > 0
    # Letters, digits and single dots inside need no quotes; whatever else is there, the address writes itself.
    for i in range(n):
        if not (c'a' <= (p[i] | 0x20) <= c'z' or c'0' <= p[i] <= c'9' or p[i] == c'-' or p[i] == c'_' or p[i] == c'+'
                or (p[i] == c'.' and 0 < i < n - 1 and p[i - 1] != c'.')):
            plain = False
            break
    for i in range(m):
        if not (c'a' <= q[i] <= c'z' or c'0' <= q[i] <= c'9' or q[i] == c'-' or q[i] == c'.'):
            plain = False
            break
    if not plain:
        line = f"Return-Path: <{sender}>\r\n".encode()
        if line.count(b"\r") != 1 or line.count(b"\n") != 1 or b"\0" in line:
            raise ValueError("an address has no line ends")
        return line
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 14 + n + 1 + m + 3)
    cdef char* out = PyBytes_AS_STRING(made)
    memcpy(out, b"Return-Path: <", 14)
    memcpy(out + 14, p, n)
    out[14 + n] = c'@'
    memcpy(out + 15 + n, q, m)
    memcpy(out + 15 + n + m, b">\r\n", 3)
    return made


# Header blocks

cdef inline bint names_field(const char* p, Py_ssize_t n, const char* name, Py_ssize_t length) noexcept nogil:
    """Whether the line at `p` is the field `name` (lower case). RFC 5322 §4.5.3 lets old mail have blanks before the colon."""
    cdef Py_ssize_t i
    if n <= length:
        return False
    for i in range(length):
        if (p[i] | 0x20 if c'A' <= p[i] <= c'Z' else p[i]) != name[i]:
            return False
    i = length
    while i < n and (p[i] == c' ' or p[i] == c'\t'):
        i += 1
    return i < n and p[i] == c':'


cdef inline Py_ssize_t line_length(const char* p, Py_ssize_t n) noexcept nogil:
    cdef const char* end = <const char*>memchr(p, c'\n', <size_t>n)
    return n if end == NULL else end - p + 1


cdef inline Py_ssize_t field_length(const char* p, Py_ssize_t n) noexcept nogil:
    """Bytes of the field at `p` with its continuation lines."""
    cdef Py_ssize_t at = line_length(p, n)
    while at < n and (p[at] == c' ' or p[at] == c'\t'):
        at += line_length(p + at, n - at)
    return at


cdef Py_ssize_t scan_fields(const char* p, Py_ssize_t n, const char* name, Py_ssize_t length) noexcept nogil:
    """How many fields of a header block are called `name`."""
    cdef Py_ssize_t at = 0, count = 0
    while at < n and p[at] != c'\r' and p[at] != c'\n':
        if names_field(p + at, n - at, name, length):
            count += 1
        at += line_length(p + at, n - at)
    return count


cdef Py_ssize_t fields_in(content, const char* name, Py_ssize_t length) except -1:
    """As `scan_fields`, of a content's header block; without a copy when the content is in memory."""
    cdef object data = content.data
    cdef Py_ssize_t size
    if data is None:
        data = content.header_block()
        size = PyBytes_GET_SIZE(data)
    else:
        size = min(<Py_ssize_t>content.header_bytes, PyBytes_GET_SIZE(data))
    return scan_fields(PyBytes_AS_STRING(data), size, name, length)


def count_in(content, bytes name):
    """How many fields of the content's header are called `name`, given in lower case."""
    return fields_in(content, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


def count_fields(bytes block, bytes name):
    """How many fields of the block are called `name`, given in lower case."""
    return scan_fields(PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block), PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


def find_fields(bytes block, bytes name):
    """The values of the fields called `name` (lower case), in order, with their folding and without the last line end."""
    cdef const char* p = PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block), at = 0, length, start, end
    cdef list values = []
    while at < n and p[at] != c'\r' and p[at] != c'\n':
        length = field_length(p + at, n - at)
        if names_field(p + at, length, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
            start = at
            while p[start] != c':':
                start += 1
            start += 1
            end = at + length
            while end > start and (p[end - 1] == c'\n' or p[end - 1] == c'\r'):
                end -= 1
            while start < end and (p[start] == c' ' or p[start] == c'\t'):
                start += 1
            values.append(PyBytes_FromStringAndSize(p + start, end - start))
        at += length
    return values


def remove_fields(bytes block, names):
    """The block without the fields called one of `names` (lower case); the same object when there are none."""
    cdef const char* p = PyBytes_AS_STRING(block)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(block), at = 0, length, kept = 0
    cdef list pieces = []
    cdef bytes name
    while at < n and p[at] != c'\r' and p[at] != c'\n':
        length = field_length(p + at, n - at)
        for name in names:
            if names_field(p + at, length, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                if at > kept:
                    pieces.append(PyBytes_FromStringAndSize(p + kept, at - kept))
                kept = at + length
                break
        at += length
    if kept == 0:
        return block
    pieces.append(PyBytes_FromStringAndSize(p + kept, n - kept))
    return b"".join(pieces)
