"""Every key of `rusmes.toml` with its type and default: the contract between operators and the rest of the code.

Rules:
1. An attribute is named like its key, a nested Struct like its table; the string below a field is its documentation
   (`docs/configuration.md` is checked against it).
2. Durations are seconds (float), sizes are bytes (int), networks are `ipaddress` networks.
3. A port of 0 is off. An empty string is "not set".
4. A new key needs a default; a field whose type is `Secret` can also be given as `<key>_file`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from rusmes.config.events import Events
from rusmes.config.outbound import Count as Count
from rusmes.config.outbound import Delivery as Delivery
from rusmes.config.outbound import Egress as Egress
from rusmes.config.outbound import EgressPool as EgressPool
from rusmes.config.outbound import Port as Port
from rusmes.config.outbound import Positive as Positive
from rusmes.config.outbound import Provider as Provider
from rusmes.config.outbound import Rate as Rate
from rusmes.config.outbound import Route as Route
from rusmes.config.outbound import Rule as Rule
from rusmes.config.outbound import Shaped as Shaped
from rusmes.config.outbound import Site as Site
from rusmes.config.outbound import Source as Source
from rusmes.config.outbound import Values as Values
from rusmes.config.outbound import WarmUp as WarmUp
from rusmes.config.overload import Overload
from rusmes.config.returns import Returns, Suppression
from rusmes.config.signing import Dkim
from rusmes.config.units import Duration, Networks, Secret, Size, Targets, parse_network

Level = Literal["trace", "debug", "info", "warn", "error"]

PROTOCOLS: Final = ("smtp", "submission", "lmtp", "imap", "pop3", "managesieve", "jmap")


def _loopback() -> Networks:
    return Networks(parse_network(text) for text in ("127.0.0.0/8", "::1/128"))


class Server(Struct, frozen=True, kw_only=True):
    """Processes."""

    workers: Literal["auto"] | Annotated[int, Meta(ge=1, le=256)] = "auto"
    """Worker processes; "auto" is one per core."""
    drain_timeout: Duration = Duration("30s")
    """How long open transactions may go on after SIGTERM."""
    proxy_networks: Networks = Networks()
    """Peers that speak PROXY v1 or v2 first, on every listener, and may use XCLIENT."""
    proxy_protocol: Literal["optional", "required", "off"] = "optional"
    """Whether those peers send a PROXY header: "optional" waits a second for one and serves who sends none; "required" refuses
    who sends none within 5 seconds, for addresses where nothing but the load balancer is; "off" is for XCLIENT alone."""


class RateLimit(Struct, frozen=True, kw_only=True):
    """What one client address may do on the MX port."""

    max_connections_per_ip: Count = 50
    """At the same time; IPv6 counts by /64. 0 = no limit."""
    max_messages_per_hour: Count = 0
    """Per client address and `window_duration`. 0 = no limit."""
    window_duration: Duration = Duration("1h")
    """The window of `max_messages_per_hour`."""


class Smtp(Struct, frozen=True, kw_only=True):
    """MX: mail from other servers."""

    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" and "::" are all of them."""
    port: Port = 2525
    """0 = off."""
    tls_port: Port = 0
    """Implicit TLS."""
    max_message_size: Size = Size("50MB")
    """SIZE of EHLO (RFC 1870), for submission and LMTP too."""
    max_header_size: Size = Size("100KB")
    """Of a message's header block, for submission and LMTP too."""
    max_recipients: Positive = 1000
    """Of one transaction."""
    require_auth: bool = False
    """Refuse MAIL without a login; for a port that only users may reach."""
    enable_starttls: bool = True
    """Offer STARTTLS."""
    command_timeout: Duration = Duration("5m")
    """Wait for a command (RFC 5321 section 4.5.3.2)."""
    data_timeout: Duration = Duration("10m")
    """Wait for a message's next bytes."""
    transaction_timeout: Duration = Duration("30m")
    """From MAIL to the end of the envelope, however often the client says something."""
    max_messages_per_connection: Count = 0
    """Then MAIL is answered with 421, and the client comes back on a new connection. 0 = no limit."""
    greet_delay: Duration = Duration("0s")
    """Wait before the banner for clients outside relay_networks that talk first, and refuse those. 0 = no wait."""
    max_errors: Positive = 20
    """Refused or malformed commands of a session before 421."""
    bare_newline: Literal["reject", "normalize"] = "reject"
    """CR or LF alone in a message: refuse it, or store it as CRLF."""
    dsn_networks: Networks = field(default_factory=_loopback)
    """Who may ask for success notices (RFC 3461), beside authenticated users."""
    rate_limit: RateLimit = field(default_factory=RateLimit)


class Submission(Struct, frozen=True, kw_only=True):
    """Mail from this server's users; a login is required."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 2587
    """STARTTLS (RFC 6409)."""
    tls_port: Port = 2465
    """Implicit TLS (RFC 8314)."""
    require_tls: bool = True
    """Refuse everything in the clear, but for [auth] plaintext_networks."""
    mechanisms: tuple[str, ...] = (
        "PLAIN",
        "LOGIN",
        "SCRAM-SHA-256",
        "SCRAM-SHA-256-PLUS",
        "OAUTHBEARER",
        "XOAUTH2",
        "EXTERNAL",
    )
    """SASL mechanisms that may be offered; those the backend cannot do are left out."""
    sender_check: Literal["own-addresses", "own-domain", "any"] = "own-addresses"
    """Which MAIL FROM an account may use."""
    max_messages_per_hour: Count = 0
    """Per account. 0 = no limit."""


class Lmtp(Struct, frozen=True, kw_only=True):
    """LMTP (RFC 2033): mail from another MTA for local mailboxes."""

    path: str = ""
    """A Unix socket, or host and port."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 0
    """0 = off."""


class Imap(Struct, frozen=True, kw_only=True):
    """IMAP4rev2 and IMAP4rev1 (RFC 9051, RFC 3501)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 2143
    """STARTTLS."""
    tls_port: Port = 2993
    """Implicit TLS."""
    idle_timeout: Duration = Duration("30m")
    """How long a client may be silent after login (RFC 9051 section 5.4: at least 30 minutes)."""
    append_limit: Size = Size("50MB")
    """The largest message APPEND takes, told to clients as APPENDLIMIT."""
    commands_per_minute: Count = 60_000
    """Of one session; the same number at once, then it is slowed down to this rate. 0 = no limit."""
    message_limit: Count = 0
    """The most messages one command works on, told to clients as MESSAGELIMIT (RFC 9738: at least 1000). 0 = no limit."""
    idle_keepalive: Duration = Duration("2m")
    """After this much silence a client in IDLE is told "* OK Still here", which keeps address translators awake. 0 = never."""


class Pop3(Struct, frozen=True, kw_only=True):
    """POP3 (RFC 1939)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 2110
    """STLS."""
    tls_port: Port = 2995
    """Implicit TLS."""
    timeout: Duration = Duration("10m")
    """Autologout timer (RFC 1939 section 3: at least 10 minutes)."""


class ManageSieve(Struct, frozen=True, kw_only=True):
    """ManageSieve (RFC 5804)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 0
    """0 = off."""


class Jmap(Struct, frozen=True, kw_only=True):
    """JMAP (RFC 8620) and what else is served over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """0 = off."""
    tls_port: Port = 0
    """Implicit TLS."""
    base_url: str = ""
    """Public URL; "" = derived from the request."""


class TlsOverride(Struct, frozen=True, kw_only=True):
    """What one protocol does differently; a key that is not there is taken from [tls]."""

    cert_path: str | None = None
    key_path: str | None = None
    min_version: Literal["1.2", "1.3"] | None = None
    client_auth: Literal["disabled", "optional", "required"] | None = None
    client_ca_path: str | None = None


class Tls(Struct, frozen=True, kw_only=True):
    """TLS of every protocol; [tls.smtp], [tls.imap] and so on override single keys."""

    cert_path: str = ""
    """PEM, leaf first, then the chain; "" = a self-signed pair is made in the data directory, with a warning."""
    key_path: str = ""
    """PEM."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version a peer may use."""
    client_auth: Literal["disabled", "optional", "required"] = "disabled"
    """Ask for client certificates."""
    client_ca_path: str = ""
    """PEM with the CAs of client certificates."""
    smtp: TlsOverride | None = None
    submission: TlsOverride | None = None
    lmtp: TlsOverride | None = None
    imap: TlsOverride | None = None
    pop3: TlsOverride | None = None
    managesieve: TlsOverride | None = None
    jmap: TlsOverride | None = None

    def for_protocol(self, protocol: str) -> Tls:
        """The settings of one protocol, its override applied."""
        override: TlsOverride | None = getattr(self, protocol, None) if protocol in PROTOCOLS else None
        keys = TlsOverride.__struct_fields__
        own = {key: getattr(override, key) for key in keys if getattr(override, key, None) is not None}
        return Tls(**{key: own.get(key, getattr(self, key)) for key in keys})


class Storage(Struct, frozen=True, kw_only=True):
    """Where mail lives."""

    backend: Literal["lmdb", "filesystem", "postgres"] = "lmdb"
    """The store's engine."""
    path: str = "/var/lib/rusmes"
    """The data directory; relative paths start at the configuration file."""
    connection_string: Secret = Secret("")
    """postgres only."""
    inline_limit: Size = Size("64KB")
    """Bodies up to this size live in the database, larger ones in files."""
    map_size: Size = Size("1TB")
    """Address space reserved for each database; sparse, and it grows by itself when reached."""


class Auth(Struct, frozen=True, kw_only=True):
    """Who may log in."""

    backend: Literal["file", "ldap", "sql", "oauth2", "pam"] = "file"
    """Where accounts are kept."""
    path: str = "users.toml"
    """file: relative to storage.path."""
    cache_ttl: Duration = Duration("60s")
    """How long a verified password is remembered (as a keyed hash, in memory)."""
    plaintext_networks: Networks = field(default_factory=_loopback)
    """Who may log in without TLS, on any protocol; nobody else ever."""
    argon2_memory: Size = Size("19MB")
    """Memory of one argon2id hash; hashes made with other parameters are renewed at the next login."""
    argon2_passes: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Passes of argon2id over its memory."""
    argon2_lanes: Annotated[int, Meta(ge=1, le=64)] = 1
    """Lanes of argon2id."""
    scram_iterations: Annotated[int, Meta(ge=4096, le=1_000_000)] = 32768
    """PBKDF2 rounds of SCRAM keys (RFC 7677 section 4: at least 4096); the client computes them at each login."""


class Domains(Struct, frozen=True, kw_only=True):
    """Addresses that are local."""

    local_domains: tuple[str, ...] = ()
    """Domains whose mail is kept here; [] = [domain]."""
    aliases: dict[str, Targets] = field(default_factory=dict)
    """"sales@example.com" = ["alice@example.com"]; "@example.net" = "@example.com" maps a whole domain."""
    catch_all: dict[str, str] = field(default_factory=dict)
    """"example.com" = "alice@example.com": mail for addresses that do not exist."""
    recipient_delimiter: str = "+"
    """alice+shop@ is alice@; "" = off."""
    create_mailboxes: tuple[str, ...] = ("Drafts", "Sent", "Trash", "Junk", "Archive")
    """Made for a new account beside INBOX."""


class Relay(Struct, frozen=True, kw_only=True):
    """The smart host for everything that is not local; without a host, mail goes to the MX of its domain."""

    host: str = ""
    """Name or address of the smart host."""
    port: Port = 587
    """465 means implicit TLS."""
    use_tls: bool = True
    """Verified TLS; false = opportunistic."""
    username: str = ""
    """"" = no login."""
    password: Secret = Secret("")
    """Sent over TLS only."""


class Security(Struct, frozen=True, kw_only=True):
    """Who may do what without a login."""

    relay_networks: Networks = field(default_factory=_loopback)
    """Clients that may send to any destination without a login."""
    blocked_ips: Networks = Networks()
    """Clients that are refused at connect, on every protocol."""
    check_recipient_exists: bool = True
    """Look up local recipients at RCPT."""
    reject_unknown_recipients: bool = True
    """Refuse those that do not exist; false = accept, and let the pipeline decide."""


class Queue(Struct, frozen=True, kw_only=True):
    """Mail that waits."""

    session_budget: Duration = Duration("30s")
    """How long the pipeline may take before the client gets its 250 and the rest runs in the queue."""
    retry_schedule: Annotated[tuple[Duration, ...], Meta(min_length=1)] = tuple(
        Duration(text) for text in ("5m", "10m", "20m", "40m", "1h", "2h", "4h")
    )
    """Waits between attempts; the last one repeats. +-10 % jitter."""
    max_age: Duration = Duration("5d")
    """After that the sender gets a failure notice."""
    delay_warning: Duration = Duration("4h")
    """After that the sender gets a delay notice. 0 = none."""
    backscatter: bool = False
    """Send notices about relayed mail of clients neither logged in nor in relay_networks. false = only the log tells."""
    notices_per_hour: Count = 1000
    """Notices to the senders of one domain, over all workers; what is above is only in the log. 0 = no limit."""
    notice_content_limit: Size = Size("64KB")
    """RET=FULL of a larger message gives only its header (RFC 3461)."""
    memory: Size = Size("64MB")
    """Contents of waiting mail kept in memory, per worker; the rest is read again when its turn comes."""
    tenant_weights: dict[str, Annotated[float, Meta(gt=0)]] = field(default_factory=dict)
    """What tenants get of a site that has mail of several: { "name" = 2 } gets twice as much as one that is not named here.
    A tenant is the account that sent it, or what the attribute rusmes.tenant says; its campaigns share its part evenly."""
    max_waiting_commits: Positive = 5000
    """Messages that may wait for their commit, per worker; above, and until half of them are done, new ones get 421."""
    max_commit_latency: Duration = Duration("10s")
    """A commit that takes longer refuses new mail with 421 until they take half as long again."""


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """Limits over all protocols."""

    max_connections_per_ip: Count = 0
    """All protocols together. 0 = only the protocol's own."""
    max_total_connections: Positive = 100_000
    """Of all protocols and clients."""
    idle_timeout: Duration = Duration("5m")
    """Before login, for every protocol."""
    reaper_interval: Duration = Duration("60s")
    """How often connections past their deadlines are looked for."""


class LogFile(Struct, frozen=True, kw_only=True):
    """Where `output = "file"` writes, and how it rotates."""

    path: str = ""
    """The file; relative paths start at the configuration file."""
    max_size: Size = Size("100MB")
    """Then it is rotated. 0 = never."""
    max_backups: Count = 7
    """Rotated files that are kept."""
    compress: bool = True
    """gzip rotated files."""


class Logging(Struct, frozen=True, kw_only=True):
    """What is written where."""

    level: Level = "info"
    """trace | debug | info | warn | error."""
    levels: dict[str, Level] = field(default_factory=dict)
    """By component: smtp = "debug"."""
    format: Literal["json", "text", "auto"] = "auto"
    """auto = text on a terminal, else JSON."""
    output: Literal["stdout", "stderr", "file"] = "stderr"
    """Where to."""
    file: LogFile = field(default_factory=LogFile)


class Metrics(Struct, frozen=True, kw_only=True):
    """Prometheus and health."""

    enabled: bool = True
    """Serve them."""
    bind_address: str = "127.0.0.1:9090"
    """For /metrics /health /ready /live."""
    path: str = "/metrics"
    """Of the metrics."""


class Admin(Struct, frozen=True, kw_only=True):
    """The administration API on the metrics address."""

    token_file: str = ""
    """A file with the bearer token; "" = only the control socket in runtime_dir, which the CLI uses."""


class Tracing(Struct, frozen=True, kw_only=True):
    """OpenTelemetry."""

    enabled: bool = False
    """Export spans."""
    endpoint: str = ""
    """OTLP collector."""
    service_name: str = "rusmes"
    """Of the spans."""
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Share of traces that are kept."""


class Step(Struct, frozen=True, kw_only=True):
    """One step of a processor: the recipients that `matcher` chooses go to `mailet`."""

    mailet: str
    """A built-in name, or one from the entry point group `rusmes.mailets`."""
    matcher: str | dict[str, Any] = "All"
    """"Name", "Name=condition", "!Name", or a table: { all = [...] }, { any = [...] }, { not = ... }, { matcher, params }."""
    notmatch: str = ""
    """In the place of `matcher`: the recipients that this one does not choose."""
    params: dict[str, Any] = field(default_factory=dict)
    """Parameters of both; each key goes to the one that knows it."""
    matcher_params: dict[str, Any] = field(default_factory=dict)
    """Parameters of the matcher alone, where a name is known to both."""
    on_match_exception: str = "error"
    """A state, or nomatch | matchall."""
    on_mailet_exception: str = "error"
    """A state, or ignore."""
    timeout: Duration | None = None
    """Longest run of an asynchronous mailet; none = [queue] session_budget."""
    after_accept: bool | None = None
    """true = run in the queue, after the client got its 250; none = as the mailet says."""


class Processor(Struct, frozen=True, kw_only=True):
    """A named list of steps; a mail's state chooses the processor."""

    name: str
    """For people."""
    state: str
    """The state that leads here; "root" and "error" always exist."""
    mailets: tuple[Step, ...] = ()
    matchers: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    """Named matchers of this processor, written like `matcher`; its steps use them by name."""


def default_processors() -> tuple[Processor, ...]:
    """The pipeline of a configuration without [[processors]]: closed to relaying."""
    too_many_hops = {"limit": 50, "code": 554, "status": "5.4.6", "text": "too many hops"}
    denied = {"code": 550, "status": "5.7.1", "text": "relaying denied"}
    return (
        Processor(
            name="root",
            state="root",
            mailets=(
                Step(matcher="RelayLimit", mailet="Reject", params=too_many_hops),
                Step(matcher="RecipientIsLocal", mailet="LocalDelivery"),
                Step(matcher="RelayAllowed", mailet="RemoteDelivery"),
                Step(matcher="All", mailet="Reject", params=denied),
            ),
        ),
        Processor(name="error", state="error", mailets=(Step(matcher="All", mailet="Hold"),)),
    )


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, checked. `path` and `warnings` are about the file, not in it."""

    domain: str = "localhost"
    """The primary local domain."""
    hostname: str = ""
    """In banner, EHLO, Received and Message-ID; "" = the machine's fully qualified name."""
    postmaster: str = ""
    """Who gets mail to postmaster, and whose name is on notices; "" = postmaster@domain."""
    runtime_dir: str = "/run/rusmes"
    """PID file, control socket, notices; relative paths start at the configuration file."""
    run_as_user: str = ""
    """After binding, when started as root."""
    run_as_group: str = ""
    """"" = the user's group."""
    chroot: bool = False
    """Into the data directory, after binding; runtime_dir has to be inside."""
    server: Server = field(default_factory=Server)
    smtp: Smtp = field(default_factory=Smtp)
    submission: Submission = field(default_factory=Submission)
    lmtp: Lmtp = field(default_factory=Lmtp)
    imap: Imap = field(default_factory=Imap)
    pop3: Pop3 = field(default_factory=Pop3)
    managesieve: ManageSieve = field(default_factory=ManageSieve)
    jmap: Jmap = field(default_factory=Jmap)
    tls: Tls = field(default_factory=Tls)
    storage: Storage = field(default_factory=Storage)
    auth: Auth = field(default_factory=Auth)
    domains: Domains = field(default_factory=Domains)
    relay: Relay = field(default_factory=Relay)
    security: Security = field(default_factory=Security)
    queue: Queue = field(default_factory=Queue)
    delivery: Delivery = field(default_factory=Delivery)
    egress: Egress = field(default_factory=Egress)
    dkim: Dkim = field(default_factory=Dkim)
    events: Events = field(default_factory=Events)
    returns: Returns = field(default_factory=Returns)
    suppression: Suppression = field(default_factory=Suppression)
    overload: Overload = field(default_factory=Overload)
    connection_limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    logging: Logging = field(default_factory=Logging)
    metrics: Metrics = field(default_factory=Metrics)
    admin: Admin = field(default_factory=Admin)
    tracing: Tracing = field(default_factory=Tracing)
    processors: tuple[Processor, ...] = field(default_factory=default_processors)
    path: str = ""
    """The file this was read from, "" for none."""
    warnings: tuple[str, ...] = ()
    """What is legal and probably not meant."""
    shaping: tuple[Shaped, ...] = ()
    """The entries of the bundled and of the operator's shaping files."""
    shaping_problems: tuple[str, ...] = ()
    """What of those files was skipped, and why."""

    @property
    def local_domains(self) -> tuple[str, ...]:
        """[domains] local_domains, or the primary domain alone."""
        return self.domains.local_domains or (self.domain,)

    @property
    def postmaster_address(self) -> str:
        return self.postmaster or f"postmaster@{self.domain}"


NOT_KEYS: Final = frozenset({"path", "warnings", "shaping", "shaping_problems"})
"""Fields of Config that no file can set."""
