"""What a listener allows to whom, worked out once from the configuration so that a session only looks it up.

A `Policy` is immutable but for its cache; a reload makes a new one. Sessions take the current one at each transaction.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal

from msgspec import Struct

from rusmes.config.schema import Config
from rusmes.smtp.limits import Limits
from rusmes.smtp.reply import Reply

Listener = Literal["mx", "submission", "lmtp"]

MAX_TRUST_CACHE: Final = 4096
"""Addresses whose networks are remembered; when full, the cache starts again. A lookup costs 2 us for each network."""

SLOW_UNKNOWN_RECIPIENTS: Final = 10
"""Unknown recipients of a session that are answered at once; each further one waits. Postfix smtpd_soft_error_limit: 10."""
MAX_UNKNOWN_RECIPIENTS: Final = 20
"""Then 421: nobody mistypes that often. Postfix smtpd_hard_error_limit: 20."""
UNKNOWN_RECIPIENT_DELAY_SECONDS: Final = 1.0
"""Postfix smtpd_error_sleep_time: 1 s."""
MAX_FAILED_LOGINS: Final = 3
"""Of one session. RFC 4954 §4 recommends at least 3; Dovecot closes after 3 minutes, Postfix after 20 errors."""
MAX_JUNK_COMMANDS: Final = 100
"""Commands in a row that bring no mail forward (NOOP, RSET, HELO, VRFY). Postfix smtpd_junk_command_limit: 100."""
MAX_RECEIVED_FIELDS: Final = 100
"""Then the mail loops, whatever the pipeline says (RFC 5321 §6.3 asks for at least 100)."""
GRACE_SECONDS: Final = 60.0
MIN_BYTES_PER_SECOND: Final = 500
"""A message's bytes may trickle for the grace; each byte beyond buys time. Postfix smtpd_min_data_rate: 500."""
HANDSHAKE_SECONDS: Final = 30.0
"""How long a TLS handshake may take."""

XCLIENT_ATTRIBUTES: Final = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN")


class Trust(Struct, frozen=True, gc=False):
    """What a client's address alone entitles it to."""

    relay: bool
    """May send to any destination."""
    dsn: bool
    """May ask for delivery status notices."""
    plaintext_login: bool
    """May log in without TLS."""
    xclient: bool
    """May say who its own client is."""
    rate_key: bytes
    """Under which its messages are counted: the address, or the /64 of an IPv6 address."""


class Policy:
    """The rules of one listener."""

    __slots__ = (
        "_config",
        "_trust",
        "bare_newline",
        "check_recipients",
        "command_timeout",
        "counts_messages",
        "data_timeout",
        "greet_delay",
        "greetings",
        "hostname",
        "idle_timeout",
        "limits",
        "listener",
        "max_account_messages",
        "max_client_messages",
        "max_errors",
        "max_message_bytes",
        "max_messages_per_connection",
        "max_recipients",
        "mechanisms",
        "offers_starttls",
        "own_names",
        "protocol",
        "rate_window",
        "recipient_delimiter",
        "refuse_unknown",
        "require_login",
        "require_tls",
        "sender_check",
        "transaction_timeout",
    )

    def __init__(
        self, config: Config, listener: Listener, *, hostname: str, implicit_tls: bool = False, is_stressed: bool = False
    ) -> None:
        """`is_stressed`: load is shed, so whoever waits or errs makes room."""
        smtp, submission = config.smtp, config.submission
        is_submission = listener == "submission"
        self._config = config
        self._trust: dict[str, Trust] = {}
        self.greetings: dict[object, Reply] = {}
        """Banner and replies to EHLO that were made so far; what they depend on beside the policy is the key."""
        self.listener: Listener = listener
        self.protocol = "lmtp" if listener == "lmtp" else "smtp"
        self.hostname = hostname
        self.own_names = frozenset({hostname.lower(), config.domain.lower()})
        """The authserv-ids that only we may use."""
        self.max_message_bytes = int(smtp.max_message_size)
        self.limits = Limits(
            max_message_bytes=self.max_message_bytes,
            max_header_bytes=int(smtp.max_header_size),
            bare_newline=smtp.bare_newline,
        )
        self.bare_newline = smtp.bare_newline
        self.max_recipients = smtp.max_recipients
        self.max_errors = 0 if is_stressed else smtp.max_errors
        self.max_messages_per_connection = smtp.max_messages_per_connection
        stress = config.overload
        self.command_timeout = float(min(smtp.command_timeout, stress.command_timeout) if is_stressed else smtp.command_timeout)
        self.idle_timeout = min(self.command_timeout, float(config.connection_limits.idle_timeout) or self.command_timeout)
        self.data_timeout = float(min(smtp.data_timeout, stress.data_timeout) if is_stressed else smtp.data_timeout)
        self.transaction_timeout = float(smtp.transaction_timeout)
        self.greet_delay = float(smtp.greet_delay) if listener == "mx" else 0.0
        self.require_login = is_submission or (listener == "mx" and smtp.require_auth)
        self.require_tls = is_submission and submission.require_tls
        self.offers_starttls = not implicit_tls and (smtp.enable_starttls or listener != "mx")
        self.mechanisms = submission.mechanisms if self.require_login else ()
        self.sender_check = submission.sender_check
        self.max_account_messages = submission.max_messages_per_hour if is_submission else 0
        self.max_client_messages = smtp.rate_limit.max_messages_per_hour if listener == "mx" else 0
        self.counts_messages = bool(self.max_account_messages or self.max_client_messages)
        self.rate_window = float(smtp.rate_limit.window_duration)
        self.check_recipients = config.security.check_recipient_exists
        self.refuse_unknown = config.security.reject_unknown_recipients
        self.recipient_delimiter = config.domains.recipient_delimiter

    def trust_of(self, address: str) -> Trust:
        """What the client at `address` ("" = a unix socket, whose file permissions have decided already) is trusted with."""
        trust = self._trust.get(address)
        if trust is None:
            if len(self._trust) >= MAX_TRUST_CACHE:
                self._trust.clear()
            trust = self._trust[address] = self._look_up(address)
        return trust

    def _look_up(self, address: str) -> Trust:
        config, local = self._config, not address
        return Trust(
            relay=local or config.security.relay_networks.contains(address),
            dsn=local or config.smtp.dsn_networks.contains(address),
            plaintext_login=local or config.auth.plaintext_networks.contains(address),
            xclient=config.server.proxy_networks.contains(address),
            rate_key=b"smtp:messages:" + network_of(address).encode(),
        )

    def may_login(self, trust: Trust, *, tls: bool) -> bool:
        """Whether AUTH works now: never in the clear but from [auth] plaintext_networks."""
        return bool(self.mechanisms) and (tls or trust.plaintext_login)

    def needs_tls(self, trust: Trust, *, tls: bool) -> bool:
        """Whether the client has to start TLS before anything else (RFC 3207 §4)."""
        return self.require_tls and not tls and not trust.plaintext_login


def network_of(address: str) -> str:
    """The part of an address that one customer has to itself: all of IPv4, a /64 of IPv6; other texts as they are."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
