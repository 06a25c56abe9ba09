"""Guessing made slow and then impossible: failures by client address and by account, exact over all workers.

By address (IPv6 by /64): each failure within ten minutes is answered later than the one before, 1 to 8 seconds; the tenth one
blocks the address for fifteen minutes, at connect and at login.

By account: ten failures within ten minutes close the account for fifteen minutes, but only for addresses that it has not
been used from lately. So an attacker with many addresses gets ten guesses per account and quarter of an hour, and the owner,
who comes from where he came before, notices nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final, Protocol

FAILURES: Final = 10
"""Failed logins before a block. Dovecot only delays (auth_penalty, up to 15 s); fail2ban's default is 5."""

WINDOW_SECONDS: Final = 600.0
BLOCK_SECONDS: Final = 900.0
FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 8.0

KNOWN_SECONDS: Final = 7 * 86400.0
"""How long a successful login makes an address known to its account."""


class Limits(Protocol):
    """The part of `_core.counters.SharedCounters` that throttling needs; `now` is the monotonic clock's time."""

    def acquire(self, key: bytes, limit: int) -> bool: ...

    def release(self, key: bytes) -> None: ...

    def take_rate(self, key: bytes, limit: int, window_seconds: float, now: float) -> bool: ...

    def peek_rate(self, key: bytes, window_seconds: float, now: float) -> float: ...

    def set_value(self, key: bytes, value: float, expires: float, now: float) -> None: ...

    def value(self, key: bytes, now: float, default: float = 0.0) -> float: ...

    def clear(self, key: bytes) -> None: ...


def network_key(client_address: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64 (the smallest network a customer gets; RFC 6177)."""
    if ":" not in client_address:
        return client_address
    try:
        address = ipaddress.IPv6Address(client_address.partition("%")[0])
    except ValueError:
        return client_address
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> 64:016x}/64"


class Throttle:
    """Counts failures and says who has to wait. Keeps nothing itself; `limits` is the shared table."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def address_blocked(self, client_address: str, now: float) -> float:
        """Seconds for which the address is refused; 0 = welcome."""
        if not client_address:  # a Unix socket: only local users
            return 0.0
        until = self._limits.value(b"auth-block:" + network_key(client_address).encode(), now)
        return max(0.0, until - now)

    def account_blocked(self, account: str, client_address: str, now: float) -> float:
        """Seconds for which this account is closed to this address."""
        until = self._limits.value(_key(b"auth-closed:", account), now)
        return until - now if until > now and not self._is_known(account, client_address, now) else 0.0

    def enter(self, client_address: str, now: float) -> bool:
        """Whether the address may have one more password checked now: those being checked count as failures until they are
        known, so that many guesses at the same moment are not more than ten either. Each True wants a `leave`."""
        if not client_address:
            return True
        network = network_key(client_address).encode()
        failures = int(self._limits.peek_rate(b"auth-fail:" + network, WINDOW_SECONDS, now))
        return self._limits.acquire(b"auth-busy:" + network, max(1, FAILURES - failures))

    def leave(self, client_address: str) -> None:
        """The password was checked, and its failure, if any, was counted."""
        if client_address:
            self._limits.release(b"auth-busy:" + network_key(client_address).encode())

    def failed(self, account: str, client_address: str, now: float) -> tuple[float, bool]:
        """Count a failure of an address and of an account ("" = the name can be none).

        Returns:
            Seconds to wait before the answer, and whether this failure blocked the address or closed the account.
        """
        blocked = False
        count = 1.0
        if client_address:
            network = network_key(client_address).encode()
            if self._is_last(b"auth-fail:" + network, now):
                self._block(b"auth-block:" + network, now)
                blocked = True
            count = self._limits.peek_rate(b"auth-fail:" + network, WINDOW_SECONDS, now)
        if account and not self._is_known(account, client_address, now) and self._is_last(_key(b"auth-account:", account), now):
            self._block(_key(b"auth-closed:", account), now)
            blocked = True
        return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** max(0.0, count - 1)), blocked

    def succeeded(self, account: str, client_address: str, now: float) -> None:
        """Remember that the account's owner comes from this address. It clears no failures: else an attacker with one account
        of his own could guess at others for ever."""
        self._limits.set_value(_known_key(account, client_address), 1.0, now + KNOWN_SECONDS, now)

    def forgive(self, client_address: str, account: str = "") -> None:
        """Lift what was counted, for the operator."""
        network = network_key(client_address).encode()
        for prefix in (b"auth-fail:", b"auth-block:"):
            self._limits.clear(prefix + network)
        if account:
            for prefix in (b"auth-account:", b"auth-closed:"):
                self._limits.clear(_key(prefix, account))

    def _is_known(self, account: str, client_address: str, now: float) -> bool:
        return self._limits.value(_known_key(account, client_address), now) > 0

    def _is_last(self, key: bytes, now: float) -> bool:
        """Count a failure; whether the allowed ones are used up by it."""
        return not self._limits.take_rate(key, FAILURES - 1, WINDOW_SECONDS, now)

    def _block(self, key: bytes, now: float) -> None:
        self._limits.set_value(key, now + BLOCK_SECONDS, now + BLOCK_SECONDS, now)


def _key(prefix: bytes, text: str) -> bytes:
    """A key of bounded length; names come from the peer."""
    return prefix + hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _known_key(account: str, client_address: str) -> bytes:
    return _key(b"auth-known:", f"{account} {network_key(client_address)}")
