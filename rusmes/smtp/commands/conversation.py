"""What a session's commands know and change: who the client is, what it may do, and the mail it is handing over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rusmes.auth.api import Authenticator, Directory
from rusmes.clock import Clock
from rusmes.model.address import Address
from rusmes.model.identity import Identity
from rusmes.model.ids import id_text
from rusmes.model.mail import Origin, Recipient
from rusmes.queue.api import Intake
from rusmes.smtp.received import received_head, with_protocol
from rusmes.storage.api import ContentWriter

if TYPE_CHECKING:
    from rusmes._core.counters import Metrics, SharedCounters
    from rusmes.auth.negotiation import Encryption
    from rusmes.log import SessionLog
    from rusmes.model.ids import IdSource
    from rusmes.smtp.parameters import MailParameters
    from rusmes.smtp.policy import Policy, Trust
    from rusmes.smtp.reply import Reply
    from rusmes.smtp.session import Session


class Ports:
    """The contracts a session calls, as `server.build` hands them over, and the rules as they are now."""

    __slots__ = ("authenticator", "clock", "directory", "ids", "intake", "limits", "metrics", "policy", "sleep")

    def __init__(
        self,
        intake: Intake,
        directory: Directory,
        authenticator: Authenticator,
        limits: SharedCounters,
        metrics: Metrics,
        clock: Clock,
        ids: IdSource,
        sleep: Callable[[float], Awaitable[None]],
        policy: Policy,
    ) -> None:
        self.intake = intake
        self.directory = directory
        self.authenticator = authenticator
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.ids = ids
        self.sleep = sleep
        self.policy = policy


class Transaction:
    """One mail from MAIL to the reply to its last byte (RFC 5321 §3.3)."""

    __slots__ = (
        "handed_over",
        "id",
        "order",
        "parameters",
        "places",
        "queue_id",
        "recipients",
        "refusal",
        "sender",
        "size",
        "started",
        "writer",
    )

    def __init__(self, id: bytes, sender: Address | None, parameters: MailParameters, started: float) -> None:
        self.id = id
        self.queue_id = id_text(id)
        self.sender = sender
        self.parameters = parameters
        self.started = started
        """Monotonic seconds."""
        self.recipients: list[Recipient] = []
        self.places: dict[Address, int] = {}
        """Where in `recipients` an address is."""
        self.order: list[int] = []
        """For each accepted RCPT its recipient's place."""
        self.handed_over = 0.0
        """When the intake got the mail; monotonic seconds."""
        self.size = 0
        """Octets that it got."""
        self.writer: ContentWriter | None = None
        """From the first byte of the body on."""
        self.refusal: Reply | None = None
        """Decided while the body came in; given at its end."""

    def add(self, recipient: Recipient) -> None:
        place = self.places[recipient.address] = len(self.recipients)
        self.order.append(place)
        self.recipients.append(recipient)

    def abandon(self) -> None:
        """Forget what was received."""
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.abort()


class Conversation:
    """One client, from banner to close. Commands read and change it; the server's loop drives it."""

    __slots__ = (
        "_origin",
        "_received_head",
        "ask",
        "client_address",
        "client_name",
        "client_port",
        "encryption",
        "errors",
        "failed_logins",
        "forwarded_helo",
        "identity",
        "is_draining",
        "junk",
        "log",
        "messages",
        "policy",
        "ports",
        "session",
        "starttls_works",
        "tls",
        "transaction",
        "trust",
        "unknown_recipients",
    )

    def __init__(
        self,
        ports: Ports,
        session: Session,
        log: SessionLog,
        client_address: str,
        client_port: int,
        is_draining: Callable[[], bool],
        ask: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        self.ports = ports
        self.policy: Policy = ports.policy
        self.session = session
        self.log = log
        self.is_draining = is_draining
        self.ask = ask
        """Sends a challenge of AUTH and returns the client's line."""
        self.client_address = client_address
        self.client_port = client_port
        self.client_name = ""
        """Verified host name, given by XCLIENT."""
        self.forwarded_helo = ""
        """HELO of the real client, given by XCLIENT."""
        self.trust: Trust = ports.policy.trust_of(client_address)
        self.identity: Identity | None = None
        self.encryption: Encryption | None = None
        self.tls = ""
        """Version and cipher; "" in the clear."""
        self.starttls_works = False
        self.transaction: Transaction | None = None
        self.errors = 0
        self.junk = 0
        self.unknown_recipients = 0
        self.failed_logins = 0
        self.messages = 0
        self._origin: Origin | None = None
        self._received_head = ""

    @property
    def is_trusted(self) -> bool:
        """Whether this client may send to any destination."""
        return self.identity is not None or (self.trust.relay and self.policy.listener != "lmtp")

    @property
    def origin(self) -> Origin:
        """What mails of this session say about it; made once, until HELO, TLS or login change it."""
        origin = self._origin
        if origin is None:
            origin = self._origin = self._make_origin()
        return origin

    def _make_origin(self) -> Origin:
        session = self.session
        return Origin(
            client_address=self.client_address,
            client_port=self.client_port,
            client_name=self.client_name,
            helo=self.forwarded_helo or session.helo,
            protocol=self.protocol_name(utf8=False),
            listener=self.policy.listener,
            tls=self.tls,
            account=self.identity.account if self.identity else "",
            session_id=self.log.session_id,
            trusted=self.is_trusted,
        )

    @property
    def received_head(self) -> str:
        """The beginning of the Received field of mails without SMTPUTF8; made once, as `origin`."""
        head = self._received_head
        if not head:
            head = self._received_head = received_head(self.origin, self.policy.hostname)
        return head

    def protocol_name(self, *, utf8: bool) -> str:
        """The "with" of Received: RFC 3848, and RFC 6531 §4.3 for a mail with SMTPUTF8."""
        return with_protocol(
            esmtp=self.session.esmtp,
            tls=bool(self.tls),
            authenticated=self.identity is not None,
            utf8=utf8,
            lmtp=self.policy.protocol == "lmtp",
        )

    def take_policy(self, policy: Policy) -> None:
        """Follow a reload."""
        self.policy = policy
        self.session.limits = policy.limits
        self.trust = policy.trust_of(self.client_address)
        self.forget_origin()

    def log_in(self, identity: Identity) -> None:
        self.identity = identity
        self.log.user = identity.account
        self.forget_origin()

    def forget_origin(self) -> None:
        """After HELO, TLS, AUTH or XCLIENT."""
        self._origin = None
        self._received_head = ""

    def end_transaction(self) -> None:
        """RSET, a new greeting, the end of a mail, or the end of the connection."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            transaction.abandon()

    def forget_client(self) -> None:
        """Back to the state before the greeting: after STARTTLS (RFC 3207 §4.2) and XCLIENT nothing learned before counts."""
        self.end_transaction()
        self.identity = None
        self.log.user = ""
        self.forget_origin()
