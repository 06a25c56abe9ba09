"""What is not sent for now, because an operator or a rule says so.

A suspension has a *scope* and a name in it: a domain of recipients, a site, a tenant, a campaign, an egress source, or
everything. What it means waits where it is: nothing is attempted, nothing is counted, and when the time has come, or somebody
resumes it, the mail goes on. The records are in the ledger, so they survive a restart and hold in every worker.

Asked for every job, so the answer comes from memory, and costs a comparison when nothing is suspended. The ledger is looked at
again when its generation has grown, at most every `LOOK_SECONDS` and at once by `look`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from rusmes.clock import Clock
from rusmes.errors import LimitReached, NotAllowed
from rusmes.log import get_logger
from rusmes.queue.api import FOREVER, SCOPES
from rusmes.storage.api import Ledger

TABLE: Final = "suspension"
LOOK_SECONDS: Final = 0.25
"""What another process has changed is known after this and the ledger's own delay."""
MAX_SUSPENSIONS: Final = 10_000
"""Reading them all again, as is done when anything in the ledger has changed, takes some milliseconds then."""
MAX_NAME_BYTES: Final = 200
"""A key of LMDB has at most 511 bytes."""
MAX_REASON_CHARS: Final = 500

_log = get_logger("queue")


class Suspension(Struct, frozen=True):
    """One record. `until` and `since` are seconds since the epoch; `until` is FOREVER where only `resume` ends it."""

    scope: str
    name: str
    until: float
    reason: str
    since: float
    by: str = ""
    """Who did it: an operator, or the name of a rule."""


class _Record(Struct, array_like=True):
    until: float
    reason: str
    since: float
    by: str


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)


class Suspensions:
    """Implements `queue.api.Suspender` on a ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._generation = -1
        self._next_look = 0.0
        self._rows: list[tuple[bytes, bytes]] = []
        self._known: dict[str, dict[str, Suspension]] = {}
        """By scope and name; scopes without any are left out."""
        self._listeners: list[Callable[[], None]] = []

    # Asked for every job

    @property
    def is_any(self) -> bool:
        """Whether anything is suspended."""
        if self._clock.monotonic() >= self._next_look:
            self.look()
        return bool(self._known)

    def until(
        self, *, site: str = "", domain: str = "", tenant: str = "", campaign: str = "", source: str = ""
    ) -> tuple[float, str] | None:
        """Until when this is not to be sent (FOREVER: until somebody resumes it), and why; None: send it.

        Where several suspensions mean it, the one that ends last answers.
        """
        if self._clock.monotonic() >= self._next_look:
            self.look()
        known = self._known
        if not known:
            return None
        found = []
        for scope, names in known.items():
            if scope == "domain":
                found += _of_domain(names, domain)
            elif scope == "campaign":
                if campaign:
                    found += [names.get(campaign), names.get(f"{tenant}/{campaign}")]
            elif scope == "everything":
                found.append(names.get(""))
            else:
                found.append(names.get(site if scope == "site" else tenant if scope == "tenant" else source))
        now = self._clock.now()
        last = max((one for one in found if one is not None and one.until > now), key=lambda one: one.until, default=None)
        return (last.until, last.reason) if last is not None else None

    def look(self) -> bool:
        """Read the ledger again if it has changed; whether something is different now. The listeners are told."""
        self._next_look = self._clock.monotonic() + LOOK_SECONDS
        generation = self._ledger.generation
        if generation == self._generation:
            return False
        self._generation = generation
        rows = list(self._ledger.items(TABLE))
        if rows == self._rows:
            return False
        self._rows = rows
        self._known = {}
        for key, value in rows:
            one = _read(key, value)
            if one is not None:
                self._known.setdefault(one.scope, {})[one.name] = one
        for listener in self._listeners:
            listener()
        return True

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever something was suspended or resumed, in the thread that noticed it."""
        self._listeners.append(listener)

    # Changes

    def suspend(self, scope: str, name: str, until: float, reason: str, *, by: str = "") -> None:
        """Send no more of this from now on, until a time (FOREVER: until it is resumed). Replaces what was said of it before.

        A domain may be "*.example.org": every domain below it. A campaign is "campaign", or "tenant/campaign" where others have
        one of that name. Durable after the ledger's `flush`, or a second or so.

        Raises:
            NotAllowed: no such scope, a name that is none, or a time that has passed.
            LimitReached
        """
        name = checked_name(scope, name)
        now = self._clock.now()
        if not until > now:
            raise NotAllowed(f"{scope} {name} cannot be suspended until a time that has passed".replace("  ", " "))
        self.look()
        known = self._known.get(scope, {})
        if name not in known and sum(map(len, self._known.values())) >= MAX_SUSPENSIONS:
            raise LimitReached("there are too many suspensions", f"at most {MAX_SUSPENSIONS}")
        since = known[name].since if name in known and known[name].until > now else now
        record = _Record(until, _one_line(reason)[:MAX_REASON_CHARS], since, _one_line(by)[:MAX_REASON_CHARS])
        expires = 0.0 if until == FOREVER else until
        self._ledger.put(TABLE, _key(scope, name), _encoder.encode(record), expires=expires)
        self.look()

    def resume(self, scope: str, name: str) -> bool:
        """Send it again; False: it was not suspended.

        Raises:
            NotAllowed: no such scope, or a name that is none.
        """
        name = checked_name(scope, name)
        self.look()
        one = self._known.get(scope, {}).get(name)
        self._ledger.delete(TABLE, _key(scope, name))
        self.look()
        return one is not None and one.until > self._clock.now()

    def list(self) -> list[Suspension]:
        """What is suspended now, by scope and name."""
        self.look()
        now = self._clock.now()
        found = [one for names in self._known.values() for one in names.values() if one.until > now]
        return sorted(found, key=lambda one: (SCOPES.index(one.scope), one.name))

    async def flush(self) -> None:
        """Raises StoreError, StoreFull: what was changed may not survive a power loss."""
        await self._ledger.flush()


def checked_name(scope: str, name: str) -> str:
    """A name as it is compared.

    Raises:
        NotAllowed
    """
    if scope not in SCOPES:
        raise NotAllowed(f'"{scope}" cannot be suspended', f"one of {', '.join(SCOPES)} can")
    if scope == "everything":
        if name:
            raise NotAllowed("everything has no name", f'not "{name}"')
        return ""
    name = name.strip()
    if scope in ("domain", "site"):
        name = name.lower().rstrip(".")
        if scope == "domain" and not name.isascii():
            try:
                name = name.encode("idna").decode()
            except UnicodeError:
                raise NotAllowed(f'"{name}" is no domain') from None
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES or not name.isprintable():
        raise NotAllowed(f"this is no name of a {scope}", f"1 to {MAX_NAME_BYTES} printable characters are needed")
    return name


def _of_domain(names: dict[str, Suspension], domain: str) -> list[Suspension | None]:
    """What is said of a domain, and of all domains below one above it."""
    found = [names.get(domain)]
    at = domain.find(".")
    while at >= 0:
        found.append(names.get(f"*{domain[at:]}"))
        at = domain.find(".", at + 1)
    return found


def _key(scope: str, name: str) -> bytes:
    return f"{scope}\0{name}".encode("utf-8", "surrogatepass")


def _read(key: bytes, value: bytes) -> Suspension | None:
    """A record; None for one that a newer version or a damage made, which stops no mail."""
    try:
        scope, _, name = key.decode("utf-8", "surrogatepass").partition("\0")
        record = _decoder.decode(value)
    except (UnicodeError, msgspec.MsgspecError) as error:
        _log.error("a suspension cannot be read", key=key.hex(), error=str(error))
        return None
    if scope not in SCOPES:
        _log.warn("a suspension of an unknown kind is ignored", scope=scope, name=name)
        return None
    return Suspension(scope, name, record.until, record.reason, record.since, record.by)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
