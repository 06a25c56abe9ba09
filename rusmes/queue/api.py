"""How mail enters the engine, how it leaves it, and how the queue is looked at and steered.

Towards other servers the work is divided like this: the queue decides *when* and *how many at once*, a `Deliverer` decides
*where to* and *how*. They share only the values below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct, field

from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.storage.api import ContentWriter, QueueEntry


class Outcome(Struct):
    """What became of an accepted or refused mail; `refusals` has one place for each recipient, in the envelope's order.

    SMTP replies with the refusal when every recipient has one; LMTP replies for each recipient. An accepted recipient's
    bytes are durable when this value exists.
    """

    refusals: list[Refusal | None]
    queue_ids: list[str]


class Intake(Protocol):
    """The only entrance for mail: SMTP, submission, LMTP, HTTP and the server itself."""

    def admit(self, size: int = 0) -> Refusal | None:
        """Whether a new transaction may start now; a refusal is temporary (452 4.3.1 no space, 421 4.3.2 overload)."""

    def room_for(self, account: str, size: int) -> bool | Awaitable[bool]:
        """Whether one more message of `size` bytes (0 = not announced) fits the quota of a local account; asked at RCPT.

        An awaitable when the store has to be asked. True for an account without a quota or without a mailbox yet.
        """

    def writer(self) -> ContentWriter:
        """Where a body goes as it arrives; starts with the Received line its caller writes."""

    async def accept(self, mail: Mail) -> Outcome:
        """Run the pipeline, commit the plan, return what became of each recipient, and write the mail's one line to the log.

        The content is the intake's from here on: it is discarded when nothing that was committed refers to it.

        Raises:
            StoreFull: 452 4.3.1; nothing was stored.
            StoreError: 451 4.3.0; nothing was stored.
        """

    def hand_over(self, mail: Mail, answer: Callable[[Outcome | Exception], None]) -> Awaitable[Outcome] | None:
        """Like `accept`, for whoever has no task: None when `answer` will be called, later, with the outcome or the error; else
        what has to be awaited. Raises like `accept`."""


class QueueFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries an operation means: what is set must match, all of it; an empty field matches everything.

    Patterns are shell globs on folded addresses; tenants, campaigns and sources are compared as they are written. The fields
    from `recipient` on are about recipients: one and the same must match them all, and only those that do are meant.
    """

    ids: tuple[str, ...] = ()
    sender: str = ""
    account: str = ""
    tenant: str = ""
    campaign: str = ""
    client: str = ""
    """Address or network of the client that brought it."""
    message_id: str = ""
    header: str = ""
    """"Name: glob", on the unfolded value."""
    older_than_seconds: float = 0.0
    younger_than_seconds: float = 0.0
    larger_than_bytes: int = 0
    smaller_than_bytes: int = 0
    recipient: str = ""
    domain: str = ""
    status: str = ""
    site: str = ""
    """Its name, or one of its hosts. Known to a running server only, as is `source`."""
    source: str = ""
    """The egress source it leaves by."""
    attempts_at_least: int = 0
    attempts_at_most: int = -1
    """-1 = any number."""
    reply: str = ""
    """A regular expression that is found in the last reply, whatever its case."""

    @property
    def needs_places(self) -> bool:
        return bool(self.site or self.source)

    @property
    def is_about_recipients(self) -> bool:
        return bool(
            self.recipient or self.domain or self.status or self.reply or self.attempts_at_least or self.attempts_at_most >= 0
        ) or self.needs_places


class QueueOrder(Struct, frozen=True):
    """An operation on the queue. `operation`: retry | hold | release | delete | bounce | expire | reroute."""

    operation: str
    which: QueueFilter
    reason: str = ""
    """For the log, and with `bounce` for the sender."""
    route: str = ""
    """Of `reroute`: a route's name, a host with or without a port, "" = as the configuration says."""
    by: str = ""
    """Who asked for it."""
    dry_run: bool = False
    sample: int = 0
    """How many of the entries that are meant come back with the answer."""


class QueueResult(Struct):
    """What an operation did, or with `dry_run` would do."""

    entries: int = 0
    recipients: int = 0
    size_bytes: int = 0
    later: int = 0
    """Of `entries`: those that are being delivered now, for which it is done when that has ended, if they still wait."""
    notices: int = 0
    sample: list[QueueEntry] = field(default_factory=list)


class QueueControl(Protocol):
    """The operator's hands on a queue; the CLI uses it through the control socket, or directly on a stopped server.

    All raise NotAllowed for a filter that cannot be understood.
    """

    async def list(self, which: QueueFilter, *, limit: int = 0, after: str = "") -> Sequence[QueueEntry]:
        """In the order of ids, which is that of acceptance; those behind the id `after`; at most `limit` (0 = all)."""

    async def carry_out(self, order: QueueOrder) -> QueueResult: ...


# Tenants

TENANT: Final = "rusmes.tenant"
CAMPAIGN: Final = "rusmes.campaign"
"""Attributes of a mail: for whom it is sent, and as part of what; set by the pipeline."""
VERP: Final = "rusmes.verp"
"""Attribute of a mail that has a return path of its own for each recipient."""


def tenant_of(item: Queued | Mail) -> str:
    """For whom a mail is sent: what the pipeline says, else the account that sent it; "" = nobody in particular."""
    tenant = item.attributes.get(TENANT) if item.attributes else None
    return tenant if isinstance(tenant, str) else item.origin.account


def campaign_of(item: Queued | Mail) -> str:
    """Which of the tenant's campaigns a mail belongs to; "" = none."""
    campaign = item.attributes.get(CAMPAIGN) if item.attributes else None
    return campaign if isinstance(campaign, str) else ""


# What is not sent for now

FOREVER: Final = float("inf")
"""The end of a suspension that only `resume` ends."""

SCOPES: Final = ("everything", "domain", "site", "tenant", "campaign", "source")
"""What can be suspended; "everything" has the name ""."""


class Suspender(Protocol):
    """Knows what an operator or a rule has stopped; `queue.suspensions` implements it. Mail of it keeps its place, and nothing
    counts as an attempt."""

    @property
    def is_any(self) -> bool:
        """Whether anything is suspended. Quick: for every job."""

    def until(
        self, *, site: str = "", domain: str = "", tenant: str = "", campaign: str = "", source: str = ""
    ) -> tuple[float, str] | None:
        """Until when this is not to be sent (seconds since the epoch, FOREVER: until it is resumed), and why; None: send it.
        Quick: for every job."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever something was suspended or resumed. An end by time calls nobody: `until` told it."""

    def suspend(self, scope: str, name: str, until: float, reason: str, *, by: str = "") -> None:
        """Send no more of it, in all workers and over restarts. Raises NotAllowed, LimitReached."""

    def resume(self, scope: str, name: str) -> bool:
        """Send it again; False: it was not suspended. Raises NotAllowed."""


# Towards other servers


class SharedLimits(Struct, frozen=True):
    """Limits that several sites have together, counted under one name over all workers: those of a provider, of an egress
    source, of a tenant, of a day of a warm-up plan. 0 = no limit."""

    key: str
    """What is counted; two limits of the same name are one."""
    connections: int = 0
    messages_per_second: float = 0.0
    messages_per_minute: float = 0.0
    messages_per_hour: float = 0.0
    messages_per_day: float = 0.0
    connections_per_second: float = 0.0


class SiteLimits(Struct, frozen=True):
    """What may be done at once, and in a time, towards one site. Rates are over all workers; 0 = no limit."""

    connections: int = 20
    """Over all workers."""
    messages_per_second: float = 0.0
    recipients_per_transaction: int = 100
    """RFC 5321 §4.5.3.1.8: a server must take at least 100."""
    workers: int = 1
    """Between how many workers the connections are divided."""
    initial_connections: int = 5
    """With so many the feedback window of a site starts of which nothing is known (Postfix initial_destination_concurrency);
    0 = with all of them, and there is no window."""
    messages_per_minute: float = 0.0
    messages_per_hour: float = 0.0
    messages_per_day: float = 0.0
    connections_per_second: float = 0.0
    shared: tuple[SharedLimits, ...] = ()
    """What holds besides, together with other sites."""

    @property
    def share(self) -> int:
        """What each worker may have whatever the others do; 0 = more workers than connections: they take turns."""
        return self.connections // self.workers


class Target(Struct, frozen=True):
    """Where a destination leads: a site, the set of hosts that take its mail. Destinations with the same hosts share a site."""

    site: str
    limits: SiteLimits
    expires: float = float("inf")
    """On the monotonic clock: then the destination is looked up again."""
    source: str = ""
    """Name of the egress source its mail leaves by; "" = no named one. Each source has a queue, a window and a memory of
    its own for a site."""


class Attempt(Struct, frozen=True, gc=False):
    """How a delivery went, for the event log and for `rusmes why`; one for all reports of a transaction."""

    site: str = ""
    host: str = ""
    address: str = ""
    port: int = 0
    source: str = ""
    """Name of the egress source; "" = the system's choice."""
    source_address: str = ""
    tls: str = ""
    """"TLSv1.3 TLS_AES_256_GCM_SHA384"; "" in the clear."""
    tls_policy: str = ""
    """What decided about TLS and its verification: "dane", "mta-sts enforce", "opportunistic: handshake failed" ..."""
    is_reused: bool = False
    """The connection had carried mail before."""
    phases: tuple[tuple[str, float], ...] = ()
    """(name, seconds) in their order: dns, connect, greeting, tls, envelope, data, reply."""
    reply_class: str = ""
    """accepted | recipient | content | rate | reputation | auth | policy | host | network | unknown (`delivery.replies`)."""


class Report(Struct, frozen=True):
    """What became of one recipient, for the queue's row, the log and the notice to the sender.

    `action` is that of RFC 3464 §2.3.3: delivered | relayed | delayed | failed. `relayed` means delivered to a server
    that knows nothing of delivery notices, so it is we who tell the sender. `code` 0: no server has said it, we found
    out ourselves. `text` has at most 1000 characters, none of them a control character.
    """

    recipient: Recipient
    action: str
    code: int = 0
    status: str = ""
    text: str = ""
    host: str = ""
    """The server that said it: a name, or a name and an address."""
    last_reply: str = ""
    """What a server said before `text`, which is ours, ended it; "" where there is no such reply."""
    attempt: Attempt | None = None

    @property
    def reply(self) -> str:
        """As it is shown: "550 5.1.1 no such user"."""
        if self.code and self.status and self.text:
            return f"{self.code} {self.status} {self.text}"
        return " ".join(part for part in (str(self.code) if self.code else "", self.status, self.text) if part)


class Busy(Exception):
    """Nothing can be sent to the site now: its connections are all in use, its rate is used up, it does not answer, or it has
    told us to slow down. The mail keeps its place, and counts no attempt.

    `retry_after` is in seconds; 0 = as soon as one of the connections is free. `reason` is what the site has done, in the form
    of a reply (`code` 0: nobody said it, we found out); "" = a limit of our own. `reports` are there when this very mail was
    offered: what can be told of it, should it count as an attempt after all.
    """

    def __init__(
        self,
        retry_after: float = 0.0,
        reason: str = "",
        *,
        code: int = 0,
        status: str = "",
        host: str = "",
        reports: Sequence[Report] = (),
    ) -> None:
        super().__init__(retry_after, reason)
        self.retry_after = retry_after
        self.reason = reason
        self.code = code
        self.status = status
        self.host = host
        self.reports = reports


class Paced(Busy):
    """A rate of the site is used up for `retry_after` seconds; as many connections as now can be used then."""


class Postponed(Busy):
    """This one mail cannot go now, for it may leave by no source that can be used: it waits `retry_after` seconds, and counts
    no attempt. Other mail of the site is not held up."""


class Following(Struct, frozen=True):
    """The mail that a worker delivers next, with the arguments of `Deliverer.deliver`."""

    item: Queued
    recipients: Sequence[Recipient]
    destination: str


class Begun(Protocol):
    """What a deliverer has sent of a mail whose turn has not come."""

    def abandon(self) -> None:
        """Its turn will not come; it was not attempted."""


class SiteWorker(Protocol):
    """Delivers one mail after the other to a site; a site has so many of them at once.

    `begun` is the deliverer's. As long as it is set, what `following` gave is what this worker delivers next.
    """

    begun: Begun | None

    def following(self) -> Following | None:
        """Take the mail that is next, to begin it before the present one has ended; None: there is none, or not in memory."""

    def return_following(self) -> None:
        """It need not wait here: whoever of the site is free first may have it."""

    def step_aside(self) -> None:
        """The present delivery only waits, and has for long: it holds up no others of the site any more, and is our last."""


class Deliverer(Protocol):
    """Sends mail to other servers."""

    def destination(self, item: Queued, recipient: Recipient) -> str:
        """The key under which mail waits: recipients with the same destination go the same way. Quick: no I/O."""

    def known_target(self, destination: str) -> Target | None:
        """The target when it is known without asking anyone."""

    async def find_target(self, destination: str) -> Target | Refusal:
        """Where a destination leads; a refusal is for all its recipients: permanent (556 5.1.10, 550 5.1.2) or not."""

    def not_before(self, key: str) -> Busy | None:
        """Why nothing is to be sent to a site now, and for how long; None: send. `key` is its name, with "@" and that of the
        egress source where there is one. Quick."""

    def try_now(self, key: str) -> None:
        """Forget why: an operator wants it tried."""

    async def deliver(
        self, item: Queued, recipients: Sequence[Recipient], destination: str, worker: SiteWorker | None = None
    ) -> Sequence[Report]:
        """Send one mail to recipients of one site; a report for each, in their order. Never raises for what a peer does.

        Raises:
            Busy: nothing was sent; Postponed: nor will be, for this mail alone.
        """


class NoticeWriter(Protocol):
    """Writes the notices to senders (RFC 3461, RFC 3464)."""

    def report(self, item: Queued, reports: Sequence[Report], *, will_retry_until: float = 0.0) -> Mail | None:
        """One notice about those recipients whose sender wants to know of it; None when nobody does or nobody may be told."""
