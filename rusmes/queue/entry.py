"""One entry of the queue in memory, and how plans become entries and entries become appends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import structs

from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Append, Plan, Queued
from rusmes.queue.fairness import Flow
from rusmes.storage.api import QueueEntry, RecipientState

if TYPE_CHECKING:
    from rusmes.queue.sites import Site

FLAGS: Final = "rusmes.flags"
"""Attribute of a `local` row: the flags of the message in its mailbox."""

DELAY_NOTICED: Final = "rusmes.delay_noticed"
"""Attribute of a mail whose sender has heard, while it waited to go on in the pipeline, that it is late."""

OPEN: Final = frozenset({"queued", "deferred"})
"""Statuses of recipients for whom something is still to be done without an operator."""
UNFINISHED: Final = OPEN | {"held"}


class Active:
    """An entry that was taken out of what waits. Only the runner changes it.

    `states` is None while every recipient is as it was accepted: most mail is delivered before anybody asks. `item` is
    None while its content is not worth the memory; it is read again when its turn comes. `jobs` are those that are not
    finished, `running` what is under way for it now (jobs, look-ups), `outcomes` those that are not committed, `left` the
    recipients without an end.

    When an operator takes the entry into his hands, `round` grows: jobs of an earlier round are void. What is under way ends
    first; `then` are called after that.

    Of an entry with one recipient that waits without its content the states are dropped too (`has_states`): they are read
    again with it.

    `parking` is where its id waits once nothing is under way for it: a site has too much mail in memory, or is not to be sent
    to. `was_parked`: it comes from there. `is_urgent`: an operator wants it tried now.
    """

    __slots__ = (
        "cost",
        "created",
        "has_states",
        "id",
        "is_urgent",
        "item",
        "jobs",
        "left",
        "outcomes",
        "parking",
        "round",
        "running",
        "states",
        "then",
        "was_noticed",
        "was_parked",
    )

    def __init__(self, item: Queued, states: list[RecipientState] | None) -> None:
        self.id = item.id
        self.item: Queued | None = item
        self.created = item.created
        self.states = states
        self.jobs = 0
        self.outcomes = 0
        self.left = len(item.recipients) if states is None else sum(state.status in UNFINISHED for state in states)
        self.cost = cost(item)
        self.running = 0
        self.round = 0
        self.then: list[Callable[[], None]] = []
        self.parking: tuple[Site, Flow] | None = None
        self.was_parked = False
        self.has_states = False
        self.was_noticed = False
        self.is_urgent = False

    def state(self, index: int, recipients: Sequence[Recipient]) -> RecipientState:
        if self.states is None:
            self.states = [RecipientState(recipient) for recipient in recipients]
        return self.states[index]

    @property
    def is_noticed(self) -> bool:
        """Whether its sender has heard that it is late."""
        return self.was_noticed or any(state.delay_noticed for state in self.states or ())

    def forget_states(self) -> None:
        """Nobody needs them until the content is there again; only of an entry that has one recipient and waits."""
        if self.states is not None:
            self.was_noticed = self.is_noticed
            self.has_states = True
            self.states = None

    @property
    def next_due(self) -> float | None:
        """When it is to be looked at again; None = only held recipients are left."""
        if self.states is None:
            return 0.0
        return min((state.due for state in self.states if state.status in OPEN), default=None)


class Job:
    """Recipients of one entry that go the same way, in one transaction."""

    __slots__ = ("active", "destination", "flow", "indexes", "is_ended", "round", "spares")

    def __init__(self, active: Active, indexes: Sequence[int], destination: str) -> None:
        self.active = active
        self.indexes = indexes
        self.destination = destination
        self.is_ended = False
        self.round = active.round
        self.flow: Flow | None = None
        """Among whose mail it waits."""
        self.spares = 0
        """How often it was offered, and nothing was said of it."""

    @property
    def is_void(self) -> bool:
        """Its entry was taken away while it waited: nothing is to be done."""
        return self.round != self.active.round

    def recipients_of(self, item: Queued) -> Sequence[Recipient]:
        indexes = self.indexes
        return item.recipients if len(indexes) == len(item.recipients) else [item.recipients[i] for i in indexes]

    def withdraw(self) -> None:
        """Another job does what it was to do; its place in the queue is void."""
        self.round = -1

    def end(self) -> None:
        """It counts no more for its entry."""
        if not self.is_ended:
            self.is_ended = True
            self.active.jobs -= 1


def cost(item: Queued) -> int:
    """Bytes that an item holds in memory, roughly."""
    rendering = item.rendering
    content = rendering.content
    return 1600 + 300 * len(item.recipients) + len(rendering.prefix) + (0 if content.path else content.size)


def next_due(entry: QueueEntry) -> float | None:
    """When an entry is to be looked at; None = it waits for the operator."""
    if entry.item.action == "hold":
        return None
    return min((state.due for state in entry.states if state.status in OPEN), default=None)


def lacks_warning(entry: QueueEntry) -> bool:
    """Whether it waits to go on in the pipeline, where no attempt fails, and its sender has not heard that it is late."""
    if entry.item.action != "resume" or DELAY_NOTICED in entry.item.attributes:
        return False
    return not any(state.delay_noticed for state in entry.states)


def rows_of(plan: Plan, mail: Mail, ids: IdSource) -> list[Queued]:
    """A whole plan as queue rows: what it queues, and its appends as `local` rows, those that look the same in one."""
    if not plan.appends:
        return plan.queued
    groups: dict[tuple[object, ...], list[Append]] = {}
    for append in plan.appends:
        view = append.rendering
        look = (view.content.id, view.prefix, view.skip, append.mailbox, append.flags, append.received)
        groups.setdefault(look, []).append(append)
    return [*plan.queued, *(_local_row(appends, mail, ids) for appends in groups.values())]


def _local_row(appends: Sequence[Append], mail: Mail, ids: IdSource) -> Queued:
    first = appends[0]
    # The content may be that of another mail of the plan (a notice, a copy); the envelope of `mail` is the best known.
    return Queued(
        ids.next_id(),
        "local",
        mail.sender,
        tuple(
            recipient if recipient.account == append.account else structs.replace(recipient, account=append.account)
            for append in appends
            for recipient in (append.recipient,)
        ),
        first.rendering,
        mail.origin,
        first.received or mail.created,
        mailbox=first.mailbox,
        attributes={FLAGS: tuple(first.flags)} if first.flags else {},
        body_type=mail.body_type,
        smtputf8=mail.smtputf8,
        ret=mail.ret,
        envid=mail.envid,
        size=first.rendering.size,
    )


def appends_of(item: Queued, indexes: Iterable[int]) -> list[Append]:
    """What a `local` row asks of the mail store. The key makes each happen once, however often it is tried."""
    flags = item.attributes.get(FLAGS, ())
    return [
        Append(
            item.recipients[index],
            item.recipients[index].account,
            item.rendering,
            item.mailbox or "INBOX",
            flags if isinstance(flags, tuple) else (),
            item.id + index.to_bytes(4, "big"),
            item.created,
        )
        for index in indexes
    ]


def mail_of(item: Queued) -> Mail:
    """The mail of a `resume` row, as the pipeline goes on with it."""
    mail = Mail(
        item.id,
        item.sender,
        list(item.recipients),
        item.rendering.content,
        item.origin,
        created=item.created,
        body_type=item.body_type,
        smtputf8=item.smtputf8,
        requiretls=item.requiretls,
        ret=item.ret,
        envid=item.envid,
        state=item.state or "root",
        step=item.step,
    )
    mail.attributes = dict(item.attributes)
    return mail
