"""What is counted, by name. The numbers live in shared memory (`_core.counters.Metrics`); this module says what they mean.

A definition is made once, when its module is imported: `counter` and `gauge` give the number of a slot, `histogram` gives where
its buckets lie, and the `*_family` forms give a mapping from label values to those. Label values are named here, so
no peer can make a new time series; a value that is not named counts as "other".

    metrics.inc(SMTP_CONNECTIONS)
    metrics.inc(SMTP_REPLIES["2xx"])
    metrics.observe(COMMIT_SECONDS, 0.004)
    metrics.set(QUEUE_DEPTH["deferred"], 12)

The order of definitions is the order of slots: it is the same in every process, because all of them were forked from one.
Names of the predecessor are kept where they mean the same. `rusmes.http.metrics` writes them in the Prometheus format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NewType, TypeVar

from rusmes._core.counters import SLOT_COUNT, Histogram
from rusmes._core.counters import Metrics as Metrics

Counter = NewType("Counter", int)
Gauge = NewType("Gauge", int)

Aggregate = Literal["sum", "max", "min"]
"""How a gauge becomes one number over all workers."""

OTHER: Final = "other"

_T = TypeVar("_T", Counter, Gauge, Histogram)


class Definition:
    """One metric with all its label values. `slots` has one entry for each; a metric without a label has the value ""."""

    __slots__ = ("aggregate", "help", "kind", "label", "name", "slots")

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        help: str,
        label: str,
        slots: Mapping[str, int | Histogram],
        aggregate: Aggregate = "sum",
    ) -> None:
        self.kind = kind
        self.name = name
        self.help = help
        self.label = label
        self.slots = slots
        self.aggregate = aggregate


class _Slots:
    """Hands out slots, and keeps the list of definitions."""

    def __init__(self) -> None:
        self.next = 0
        self.by_name: dict[str, Definition] = {}

    def take(self, count: int) -> int:
        first = self.next
        if first + count > SLOT_COUNT:
            raise ValueError("no metric slots are left")
        self.next += count
        return first

    def add(self, definition: Definition) -> None:
        if definition.name in self.by_name:
            raise ValueError(f"{definition.name} is defined twice")
        self.by_name[definition.name] = definition


_SLOTS: Final = _Slots()


class Family(dict[str, _T]):
    """Slots by label value; what is not named is "other"."""

    def __missing__(self, value: str) -> _T:
        return self[OTHER]


def counter(name: str, help: str) -> Counter:
    """A number that only grows; the name ends in _total."""
    slot = _SLOTS.take(1)
    _SLOTS.add(Definition("counter", name, help, "", {"": slot}))
    return Counter(slot)


def counter_family(name: str, help: str, label: str, values: Sequence[str]) -> Family[Counter]:
    """A counter for each value of a label; give the values as a tuple. "other" joins by itself."""
    family = Family({value: Counter(_SLOTS.take(1)) for value in _with_other(values)})
    _SLOTS.add(Definition("counter", name, help, label, family))
    return family


def gauge(name: str, help: str, *, aggregate: Aggregate = "sum") -> Gauge:
    """A number that goes up and down; each worker has its own, and `aggregate` makes one of them."""
    slot = _SLOTS.take(1)
    _SLOTS.add(Definition("gauge", name, help, "", {"": slot}, aggregate))
    return Gauge(slot)


def gauge_family(
    name: str, help: str, label: str, values: Sequence[str], *, aggregate: Aggregate = "sum"
) -> Family[Gauge]:
    family = Family({value: Gauge(_SLOTS.take(1)) for value in _with_other(values)})
    _SLOTS.add(Definition("gauge", name, help, label, family, aggregate))
    return family


def histogram(name: str, help: str, bounds: Sequence[float]) -> Histogram:
    """How often a value fell between bounds (upper bounds, ascending, at most 32)."""
    made = Histogram(_SLOTS.take(len(bounds) + 2), tuple(bounds))
    _SLOTS.add(Definition("histogram", name, help, "", {"": made}))
    return made


def histogram_family(
    name: str, help: str, label: str, values: Sequence[str], bounds: Sequence[float]
) -> Family[Histogram]:
    family = Family(
        {value: Histogram(_SLOTS.take(len(bounds) + 2), tuple(bounds)) for value in _with_other(values)}
    )
    _SLOTS.add(Definition("histogram", name, help, label, family))
    return family


def definitions() -> Iterator[Definition]:
    """Everything that is defined, in the order of definition."""
    return iter(_SLOTS.by_name.values())


def _with_other(values: Sequence[str]) -> list[str]:
    return [*values] if OTHER in values else [*values, OTHER]


# Bounds in seconds. Commits and lookups begin at 100 us, because a group commit on a good disk takes less than 1 ms.
FAST_SECONDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
LONG_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
AGE_SECONDS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 86400.0, 5 * 86400.0)
COUNTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SIZES: Final = (1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0)

PROTOCOLS: Final = ("smtp", "submission", "lmtp", "imap", "pop3", "managesieve", "jmap")

# Connections (net.listener)

CONNECTIONS = counter_family("rusmes_connections_total", "Connections accepted.", "protocol", PROTOCOLS)
ACTIVE_CONNECTIONS = gauge_family("rusmes_active_connections", "Connections open now.", "protocol", PROTOCOLS)
CONNECTIONS_REFUSED = counter_family(
    "rusmes_connections_refused_total",
    "Connections refused before any work.",
    "reason",
    ("blocked", "per_ip", "per_protocol", "total", "rate", "overload", "descriptors", "draining", "proxy"),
)
CONNECTIONS_REAPED = counter("rusmes_connections_reaped_total", "Connections closed by the reaper.")
TLS_SESSIONS = counter_family(
    "rusmes_tls_sessions_total", "TLS handshakes that succeeded, by how they began.", "tls", ("implicit", "starttls")
)
TLS_FAILURES = counter_family("rusmes_tls_failures_total", "TLS handshakes that failed.", "protocol", PROTOCOLS)
TLS_HANDSHAKE_SECONDS = histogram("rusmes_tls_handshake_seconds", "Time of a TLS handshake.", FAST_SECONDS)
BYTES_IN = counter_family("rusmes_received_bytes_total", "Bytes received from peers.", "protocol", PROTOCOLS)
BYTES_OUT = counter_family("rusmes_sent_bytes_total", "Bytes sent to peers.", "protocol", PROTOCOLS)

# SMTP, submission, LMTP (smtp.server)

SMTP_CONNECTIONS = counter("rusmes_smtp_connections_total", "SMTP, submission and LMTP sessions begun.")
SMTP_COMMANDS = counter_family(
    "rusmes_smtp_commands_total",
    "Commands received.",
    "command",
    ("HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "STARTTLS",
     "AUTH", "XCLIENT"),
)
SMTP_REPLIES = counter_family("rusmes_smtp_replies_total", "Replies sent.", "class", ("2xx", "3xx", "4xx", "5xx"))
SMTP_ERRORS = counter("rusmes_smtp_errors_total", "Malformed or refused commands.")
SMTP_MESSAGES = counter_family(
    "rusmes_smtp_messages_total", "Messages received, by what became of them.", "outcome", ("accepted", "rejected", "deferred")
)
SMTP_MESSAGES_RECEIVED = counter("rusmes_smtp_messages_received_total", "Messages accepted (250 was sent).")
SMTP_MESSAGES_REJECTED = counter("rusmes_smtp_messages_rejected_total", "Messages refused for good.")
SMTP_RECIPIENTS = counter_family("rusmes_smtp_recipients_total", "Recipients named.", "outcome", ("accepted", "rejected"))
SMTP_MESSAGE_BYTES = histogram("rusmes_smtp_message_bytes", "Size of accepted messages.", SIZES)
SMTP_SESSION_SECONDS = histogram("rusmes_smtp_session_duration_seconds", "Time from banner to close.", LONG_SECONDS)
MESSAGE_SECONDS = histogram(
    "rusmes_message_processing_latency_seconds", "From the last byte of a message to its reply.", FAST_SECONDS
)

# POP3 (pop3.server)

POP3_CONNECTIONS = counter("rusmes_pop3_connections_total", "POP3 sessions begun.")
POP3_COMMANDS = counter_family(
    "rusmes_pop3_commands_total",
    "Commands received.",
    "command",
    ("CAPA", "USER", "PASS", "AUTH", "APOP", "STLS", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP", "QUIT",
     "UTF8", "LANG"),
)
POP3_ERRORS = counter("rusmes_pop3_errors_total", "Negative replies.")
POP3_MESSAGES = counter_family("rusmes_pop3_messages_total", "Messages served.", "action", ("retrieved", "deleted"))

# IMAP (imap.server, imap.hub)

IMAP_CONNECTIONS = counter("rusmes_imap_connections_total", "IMAP sessions begun.")
IMAP_COMMANDS = counter_family(
    "rusmes_imap_commands_total",
    "Commands carried out.",
    "command",
    ("CAPABILITY", "NOOP", "LOGOUT", "ID", "STARTTLS", "AUTHENTICATE", "LOGIN", "ENABLE", "NAMESPACE", "COMPRESS",
     "UNAUTHENTICATE", "SELECT", "CREATE", "DELETE", "RENAME", "SUBSCRIBE", "LIST", "STATUS", "APPEND", "REPLACE", "IDLE",
     "NOTIFY", "QUOTA", "ACL", "METADATA", "CHECK", "CLOSE", "EXPUNGE", "FETCH", "STORE", "COPY", "SEARCH", "SORT", "THREAD"),
)
IMAP_REPLIES = counter_family("rusmes_imap_replies_total", "Tagged replies.", "status", ("ok", "no", "bad"))
IMAP_COMMAND_SECONDS = histogram("rusmes_imap_command_seconds", "From a command to its tagged reply, IDLE apart.", FAST_SECONDS)
IMAP_APPENDED = counter("rusmes_imap_appended_messages_total", "Messages stored by APPEND and REPLACE.")
IMAP_IDLING = gauge("rusmes_imap_idling", "Sessions in IDLE.")
IMAP_NEWS = counter("rusmes_imap_news_total", "Changes told to sessions that waited for them.")
IMAP_MAILBOXES = gauge("rusmes_imap_mailboxes", "Mailboxes whose rows are in memory.")

# Authentication (auth)

AUTH_ATTEMPTS = counter_family(
    "rusmes_auth_attempts_total", "Logins tried.", "outcome", ("success", "failure", "throttled", "locked", "unavailable")
)
AUTH_MECHANISMS = counter_family(
    "rusmes_auth_mechanisms_total",
    "Logins tried, by mechanism.",
    "mechanism",
    ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL", "USER"),
)
AUTH_SECONDS = histogram("rusmes_auth_seconds", "Time to check a login.", FAST_SECONDS)
AUTH_CACHE = counter_family("rusmes_auth_cache_total", "Look-ups in the credential cache.", "result", ("hit", "miss"))

# Pipeline (mailet)

MAIL_PROCESSED = counter("rusmes_mail_processed_total", "Mails that went through the pipeline.")
MAIL_OUTCOMES = counter_family(
    "rusmes_mail_outcomes_total",
    "Recipients leaving the pipeline, by decision.",
    "outcome",
    ("local", "relay", "rejected", "deferred", "held", "bounced", "dropped", "resumed"),
)
PIPELINE_SECONDS = histogram(
    "rusmes_pipeline_seconds",
    "Time of the pipeline for one mail.",
    (0.000003, 0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 30.0),
)
STEP_SECONDS = histogram_family(
    "rusmes_pipeline_step_seconds",
    "Time of one step of the pipeline, by mailet.",
    "mailet",
    ("LocalDelivery", "RemoteDelivery", "ToProcessor", "Reject", "Null", "Bounce", "DSNBounce", "Hold", "Defer", "AddHeader",
     "RemoveHeader", "SetAttribute", "RecipientRewrite", "Forward", "Copy", "LogMessage", "Metrics", "PostmasterAlias"),
    (0.000001, 0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0),
)
PIPELINE_ERRORS = counter_family(
    "rusmes_pipeline_errors_total", "Exceptions and timeouts.", "kind", ("matcher", "mailet", "timeout")
)
MAX_EVENTS: Final = 64
"""Different events that Metrics mailets may name; further ones count as other."""
MAILET_EVENTS = counter_family("rusmes_mailet_events_total", "Events counted by mailets.", "event", ())
_EVENT_SLOTS: Final = iter(range(_SLOTS.take(MAX_EVENTS), _SLOTS.next))


def name_events(events: Sequence[str]) -> None:
    """Give the events of a pipeline their counters. Every process calls it with the same pipelines in the same order."""
    for event in events:
        if event not in MAILET_EVENTS and (slot := next(_EVENT_SLOTS, None)) is not None:
            MAILET_EVENTS[event] = Counter(slot)



# Store (storage)

COMMITS = counter_family("rusmes_store_commits_total", "Transactions committed.", "store", ("mail", "queue"))
COMMIT_BATCH = histogram("rusmes_store_commit_batch_size", "Waiting plans that shared one commit.", COUNTS)
COMMIT_SECONDS = histogram("rusmes_store_commit_seconds", "Time of a commit with its sync.", FAST_SECONDS)
COMMIT_WAIT_SECONDS = histogram("rusmes_store_commit_wait_seconds", "From asking for a commit to its end.", FAST_SECONDS)
STORE_ERRORS = counter_family(
    "rusmes_store_errors_total", "Operations that failed.", "kind", ("full", "io", "corrupt", "quota")
)
STORE_BYTES = gauge_family("rusmes_storage_bytes", "Bytes used on disk.", "store", ("mail", "queue"), aggregate="max")
STORE_WRITABLE = gauge("rusmes_store_writable", "1 when every worker's store takes writes.", aggregate="min")
MESSAGES_APPENDED = counter("rusmes_mail_delivered_total", "Messages put into mailboxes.")

# Queue and delivery (queue, delivery)

QUEUE_SIZE = gauge("rusmes_queue_size", "Entries in the queues.")
QUEUE_DEPTH = gauge_family("rusmes_queue_recipients", "Recipients in the queues.", "status", ("queued", "deferred", "held"))
QUEUE_OLDEST = gauge("rusmes_queue_oldest_seconds", "Age of the oldest entry.", aggregate="max")
QUEUE_RETRIES = counter("rusmes_queue_retries_total", "Attempts after the first.")
DELIVERIES = counter_family(
    "rusmes_deliveries_total",
    "Attempts to deliver a recipient, by outcome.",
    "outcome",
    ("delivered", "deferred", "failed", "expired"),
)
DELIVERY_SECONDS = histogram("rusmes_delivery_seconds", "Time of one delivery transaction.", FAST_SECONDS)
DELIVERY_AGE_SECONDS = histogram("rusmes_delivery_age_seconds", "From acceptance to delivery.", AGE_SECONDS)
DELIVERY_CONNECTIONS = counter_family(
    "rusmes_delivery_connections_total", "Connections to other servers.", "outcome", ("opened", "reused", "failed")
)
DELIVERY_ACTIVE = gauge("rusmes_delivery_active_connections", "Connections to other servers open now.")
DELIVERY_TLS = counter_family(
    "rusmes_delivery_tls_total", "TLS to other servers.", "outcome", ("verified", "unverified", "none", "failed")
)
DELIVERY_SITE_EVENTS = counter_family(
    "rusmes_delivery_site_events_total",
    "What sites have taught the scheduler: unreachable, reached again, told us to slow down, refused one more connection.",
    "event",
    ("down", "up", "slowed", "crowded"),
)
DELIVERY_REFUSALS = counter_family(
    "rusmes_delivery_refusals_total",
    "Replies of other servers that refused something, by what they are about.",
    "class",
    ("recipient", "content", "rate", "reputation", "auth", "policy", "host", "network", "unknown"),
)
DNS_LOOKUPS = counter_family(
    "rusmes_dns_lookups_total", "Questions to the resolver.", "result", ("hit", "found", "missing", "failed")
)
EGRESS_FAILURES = counter_family(
    "rusmes_egress_failures_total", "Egress sources that did not work: the address, or the proxy.", "kind", ("bind", "proxy")
)
EGRESS_DOWN = gauge("rusmes_egress_sources_down", "Egress sources that do not work now.", aggregate="max")
EGRESS_CHOICES = counter_family(
    "rusmes_egress_choices_total",
    "Mails to servers by named sources: by the source they were for, by another one of its pool, or by none yet.",
    "outcome",
    ("chosen", "overflow", "postponed"),
)
SHAPING_ACTIONS = counter_family(
    "rusmes_shaping_actions_total", "What rules on replies of servers have done.", "action", ("suspend", "set")
)
SHAPING_SKIPPED = gauge("rusmes_shaping_skipped_entries", "Entries of shaping files that are wrong.", aggregate="max")
BOUNCES = counter("rusmes_mail_bounced_total", "Failure notices made.")
DELAY_NOTICES = counter("rusmes_mail_delay_notices_total", "Delay warnings made.")

# Event log (events)

EVENTS = counter_family(
    "rusmes_events_total", "Events, by what became of them in the event log.", "outcome", ("written", "dropped")
)
EVENTS_WAITING = gauge("rusmes_events_waiting_bytes", "Events in memory that the disk has not taken yet.")
EVENTS_FAILING = gauge("rusmes_events_failing", "1 while the event log cannot be written.", aggregate="max")
EVENTS_SHIPPED = counter_family("rusmes_events_shipped_total", "Events taken by a consumer.", "shipper", ("webhook", "file"))
EVENTS_SHIP_FAILURES = counter_family(
    "rusmes_events_ship_failures_total", "Tries to hand events to a consumer that failed.", "shipper", ("webhook", "file")
)
EVENTS_LAG_SECONDS = gauge_family(
    "rusmes_events_lag_seconds", "Age of the oldest event that a consumer has not taken.", "shipper", ("webhook", "file"),
    aggregate="max",
)
EVENTS_LAG_BYTES = gauge_family(
    "rusmes_events_lag_bytes", "Events that a consumer has not taken, the slowest one's.", "shipper", ("webhook", "file"),
    aggregate="max",
)
EVENTS_LOST = counter(
    "rusmes_events_unshipped_bytes_total", "Events removed by [events] max_age or max_size before a consumer took them."
)

OVERLOAD_LEVEL = gauge_family(
    "rusmes_overload_level",
    "By what load is shed: 1 strangers are refused, 2 all new mail.",
    "gate",
    ("commits", "delay", "loop", "memory", "mail"),
    aggregate="max",
)

# Returns

SUPPRESSED = counter_family(
    "rusmes_suppressed_total", "Addresses suppressed, by why.", "cause", ("bounce", "report", "complaint")
)

# Signatures (mailet)

DKIM_SIGNATURES = counter_family(
    "rusmes_dkim_signatures_total", "Signatures made, by algorithm; failed: messages.", "kind", ("rsa", "ed25519", "failed")
)
ARC_SEALS = counter_family(
    "rusmes_arc_seals_total",
    "Seals made, by what they say of the chain before.",
    "validation",
    ("none", "pass", "fail", "skipped"),
)

# Process (server)

WORKER_UP = gauge("rusmes_workers", "Workers that serve.")
WORKER_HEARTBEAT = gauge("rusmes_worker_heartbeat", "Monotonic time of the last sign of life of a worker.", aggregate="max")
WORKER_RESTARTS = counter("rusmes_worker_restarts_total", "Workers started again after they died.")
LOOP_LAG_SECONDS = histogram("rusmes_loop_lag_seconds", "How late the event loop's timer came.", FAST_SECONDS)
LOG_LINES_DROPPED = counter("rusmes_log_lines_dropped_total", "Log lines that could not be written.")
RELOADS = counter_family("rusmes_reloads_total", "Reloads of the configuration.", "outcome", ("applied", "refused"))
