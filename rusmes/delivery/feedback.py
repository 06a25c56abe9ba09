"""What a site has taught us: how many connections it takes, that it wants us slower, that it does not answer.

Three things are known of a site (of each egress source to it), and all of them by what it did:

* the *window*: how many connections it may have, over all workers, inside the hard limit. It begins at
  `initial_connections`, grows by one for each window's worth of successes, shrinks by one at the first failure and then for
  each window's worth of them (Postfix's feedback of 1/window with hysteresis 1: the half steps do the rounding). It never grows
  far beyond what is in use. A connection that is refused while others work teaches a *limit*: so many, and no more, until
  after a minute one more is tried, and if that fails too, after two, and so on up to an hour.
* a *pause*: it said that we send too fast. Nothing is begun for a second, then two, up to five minutes; twenty successes halve
  it.
* that it is *down*: no server of it was reached, or a window's worth of connections broke in a row. Then nothing is tried for
  5 seconds, then 10, and so on up to half an hour; after each, one connection decides for everybody.

The window and "down until" are in the shared table too, so the workers agree; the reasons and the rest are each worker's own.
All of it is written to the ledger, at most once a second, and is there again after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import random as _random
from typing import Final

import msgspec
from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.delivery.session import Gone
from rusmes.log import get_logger
from rusmes.metrics import DELIVERY_SITE_EVENTS, Metrics
from rusmes.queue.api import Busy, SharedLimits, SiteLimits
from rusmes.storage.api import Ledger

DOWN_SECONDS: Final = 5.0
MAX_DOWN_SECONDS: Final = 1800.0
JITTER: Final = 0.1
"""Added to what we wait, at most: sites that failed together are not tried together."""
LEARN_SECONDS: Final = 60.0
MAX_LEARN_SECONDS: Final = 3600.0
PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 300.0
RELIEF_AFTER: Final = 20
"""Successes after which a pause that would come next is half as long."""
SHARED_SECONDS: Final = 3600.0
"""How long the other workers take over a window that nobody has changed."""
MAX_SITES: Final = 50_000
"""Remembered, about 400 bytes each."""
KEEP_SECONDS: Final = 86400.0
"""A window and a learned limit are forgotten after a day."""
SAVE_SECONDS: Final = 1.0
MAX_KEY_BYTES: Final = 300
BURST: Final = 0.05
"""Of a rate that may go at once: a twentieth of a second's or a minute's worth, at least one message."""

WINDOWS: Final = "window"
DOWN: Final = "dead-site"
"""Tables of the ledger."""

_log = get_logger("delivery")

Rate = tuple[bytes, float, float]
"""Key in the shared table, seconds between two events, burst."""


class _Window(Struct, array_like=True):
    """A row of the table "window"."""

    window: float
    learned: int
    learn_seconds: float
    probe_at: float
    """Seconds since the epoch, as all times in the ledger."""
    pause_seconds: float
    pause_until: float
    pause_reason: str = ""


class _Down(Struct, array_like=True):
    """A row of the table "dead-site"."""

    since: float
    until: float
    seconds: float
    text: str
    code: int = 0
    status: str = ""
    host: str = ""


class Words(Struct, frozen=True):
    """What a site said, or what we found out (`code` 0)."""

    text: str
    code: int = 0
    status: str = ""
    host: str = ""


class Trouble(Struct):
    """A site that does not answer; times are on the monotonic clock."""

    since: float
    until: float
    seconds: float
    words: Words
    error: Gone | None = None
    """A refusal for ever (521), which all of its mail shares meanwhile."""


class SiteMemory:
    """What is known of one site. Only `Feedback` changes it."""

    __slots__ = (
        "cohorts",
        "down",
        "failure",
        "first",
        "is_dirty",
        "is_proven",
        "key",
        "learn_seconds",
        "learned",
        "limits",
        "message_rates",
        "opening",
        "pause_seconds",
        "pause_until",
        "place_key",
        "probe_at",
        "slowed_at",
        "start_rates",
        "streak",
        "success",
        "window",
        "words",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        self.place_key = b"out:" + key.encode()
        self.limits: SiteLimits | None = None
        self.message_rates: tuple[Rate, ...] = ()
        self.start_rates: tuple[Rate, ...] = ()
        """Of connections."""
        self.window = 0.0
        """0 = not known."""
        self.success = 0.0
        self.failure = 0.0
        self.cohorts = 0.0
        """Sum of 1/window over site failures in a row; at 1 it is down."""
        self.learned = 0
        """Connections beyond which it refuses; 0 = not known."""
        self.learn_seconds = LEARN_SECONDS
        self.probe_at = 0.0
        self.pause_seconds = 0.0
        self.pause_until = 0.0
        self.slowed_at = 0.0
        self.streak = 0
        self.words = Words("")
        """Why it pauses."""
        self.down: Trouble | None = None
        self.opening = 0
        """Connections of ours that have no greeting yet."""
        self.is_proven = False
        """It has greeted us, and nothing has failed since."""
        self.first: asyncio.Future[None] | None = None
        """The connection that finds out whether it does; others wait for it."""
        self.is_dirty = False

    @property
    def is_open(self) -> bool:
        return self.down is None and not self.pause_until


class Feedback:
    """The memories of all sites, in one worker."""

    def __init__(
        self,
        clock: Clock,
        limits: SharedCounters,
        metrics: Metrics,
        ledger: Ledger | None = None,
        *,
        random: Callable[[], float] = _random,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._ledger = ledger
        self._random = random
        self._sites: dict[str, SiteMemory] = {}
        self._dirty: list[SiteMemory] = []
        self._timer: asyncio.TimerHandle | None = None

    def site(self, key: str, limits: SiteLimits) -> SiteMemory:
        """What is known of a site, under the limits it has now."""
        memory = self._sites.get(key)
        if memory is None:
            memory = self._add(key)
        if memory.limits is not limits:
            if memory.limits == limits:
                memory.limits = limits  # of another domain of the site
            else:
                _take_over(memory, limits)
        return memory

    def _add(self, key: str) -> SiteMemory:
        while len(self._sites) >= MAX_SITES:
            self._sites.pop(next(iter(self._sites)))
        memory = self._sites[key] = SiteMemory(key)
        return memory

    # Questions

    def not_before(self, key: str) -> Busy | None:
        """Why nothing of a site is to be tried now, and for how long; None: try."""
        memory = self._sites.get(key)
        return None if memory is None or memory.is_open else self.objection(memory)

    def objection(self, memory: SiteMemory) -> Busy | None:
        now = self._clock.monotonic()
        trouble = memory.down
        if trouble is not None and trouble.error is None:
            if now < trouble.until:
                if now > trouble.since + 1 and not self._limits.value(_down_key(memory), now):
                    self._up(memory)  # another worker has reached it
                    return None
                return _busy(trouble.until - now, trouble.words)
            return None
        if memory.pause_until:
            if now < memory.pause_until:
                return _busy(memory.pause_until - now, memory.words)
            memory.pause_until = 0.0
        return None

    def may_open(self, memory: SiteMemory) -> int:
        """How many connections the site may have now, over all workers, the one included that is asked for.

        Raises:
            Busy: none, for some time.
            Gone: it takes no mail.
        """
        now = self._clock.monotonic()
        until = self._limits.value(_down_key(memory), now)
        trouble = memory.down
        if until > now and trouble is None:
            trouble = memory.down = Trouble(now, until, DOWN_SECONDS, Words("the site does not answer", 0, "4.4.1"))
        elif trouble is not None and until > trouble.until:
            trouble.until = until  # another worker was the last to try
        if trouble is not None:
            if trouble.error is not None and now < trouble.until:
                raise trouble.error
            busy = self.objection(memory)
            if busy is not None:
                raise busy
            return 1 if memory.down is not None else self._room(memory, now)
        return self._room(memory, now)

    def _room(self, memory: SiteMemory, now: float) -> int:
        limits = memory.limits
        assert limits is not None
        most = limits.connections
        if limits.initial_connections:
            window = self._limits.value(_window_key(memory), now)
            if window:
                memory.window = window
            elif not memory.window:
                memory.window = float(limits.initial_connections)
            most = min(most, max(1, int(memory.window)))
        if memory.learned and most > memory.learned:
            most = memory.learned + (now >= memory.probe_at)
        return min(most, limits.connections)

    def share(self, memory: SiteMemory) -> int:
        """What each worker may have of it whatever the others do."""
        limits = memory.limits
        if limits is None:
            return 0
        room = min(limits.connections, int(memory.window) or limits.connections, memory.learned or limits.connections)
        return room // limits.workers

    # Rates

    def take(self, rates: tuple[Rate, ...]) -> float:
        """One event more under each of the rates, or none: 0.0, or after how many seconds it may be."""
        now = self._clock.monotonic()
        take = self._limits.take_paced
        for index, (key, interval, burst) in enumerate(rates):
            wait = take(key, interval, burst, now)
            if wait:
                for taken in rates[:index]:
                    take(taken[0], taken[1], taken[2], now, -1)
                return wait
        return 0.0

    def give_back(self, rates: tuple[Rate, ...]) -> None:
        """What was taken was not used."""
        now = self._clock.monotonic()
        for key, interval, burst in rates:
            self._limits.take_paced(key, interval, burst, now, -1)

    # News

    def accepted(self, memory: SiteMemory) -> None:
        """A transaction ended, and nothing in it spoke of the site: also when it refused the mail or its recipients."""
        memory.cohorts = 0.0
        if memory.pause_seconds:
            self._relieve(memory)
        window = memory.window
        limits = memory.limits
        if not window or limits is None or window >= limits.connections:
            return
        step = 1.0 / window
        memory.success += step
        if memory.success + step / 2 >= 1.0:
            self._grow(memory)

    def _relieve(self, memory: SiteMemory) -> None:
        memory.streak += 1
        if memory.streak >= RELIEF_AFTER:
            memory.streak = 0
            memory.pause_seconds = memory.pause_seconds / 2 if memory.pause_seconds >= 2 * PAUSE_SECONDS else 0.0

    def _grow(self, memory: SiteMemory) -> None:
        limits = memory.limits
        assert limits is not None
        memory.success = max(memory.success - 1.0, 0.0)
        memory.failure = 0.0
        now = self._clock.monotonic()
        if memory.learned and memory.window >= memory.learned and now < memory.probe_at:
            return
        if memory.window < self._limits.count(memory.place_key) + (limits.initial_connections or 1):
            self._set_window(memory, memory.window + 1.0, now)

    def _set_window(self, memory: SiteMemory, window: float, now: float) -> None:
        memory.window = max(1.0, min(window, float(memory.limits.connections if memory.limits is not None else 1)))
        self._limits.set_value(_window_key(memory), memory.window, now + SHARED_SECONDS, now)
        self._changed(memory)

    def _shrink(self, memory: SiteMemory, now: float) -> None:
        if not memory.window:
            memory.window = float(memory.limits.initial_connections or memory.limits.connections) if memory.limits else 1.0
        step = 1.0 / memory.window
        memory.failure -= step
        window = memory.window
        while memory.failure - step / 2 < 0:
            window -= 1.0
            memory.success = 0.0
            memory.failure += 1.0
        if window != memory.window:
            self._set_window(memory, window, now)

    def greeted(self, memory: SiteMemory) -> None:
        """A connection is ready for mail."""
        memory.is_proven = True
        if memory.down is not None:
            self._up(memory)
        if memory.learned and self._limits.count(memory.place_key) > memory.learned:
            memory.learned += 1
            memory.learn_seconds = LEARN_SECONDS
            memory.probe_at = self._clock.monotonic() + memory.learn_seconds
            self._changed(memory)

    def crowded(self, memory: SiteMemory) -> None:
        """A connection was refused while others to the site work."""
        now = self._clock.monotonic()
        working = max(1, self._limits.count(memory.place_key) - memory.opening)
        if memory.learned and working >= memory.learned:
            memory.learn_seconds = min(memory.learn_seconds * 2, MAX_LEARN_SECONDS)
        else:
            memory.learned = working
            memory.learn_seconds = LEARN_SECONDS
            _log.info("a site takes no more connections", site=memory.key, connections=working)
        memory.probe_at = now + self._spread(memory.learn_seconds)
        memory.success = memory.failure = 0.0
        self._metrics.inc(DELIVERY_SITE_EVENTS["crowded"])
        self._set_window(memory, float(memory.learned), now)

    def slow_down(self, memory: SiteMemory, started: float, words: Words) -> float:
        """It says that we send too fast; what was `started` before the last time tells nothing new. The seconds for which
        nothing is begun."""
        now = self._clock.monotonic()
        if started >= memory.slowed_at:
            memory.pause_seconds = min(max(memory.pause_seconds * 2, PAUSE_SECONDS), MAX_PAUSE_SECONDS)
            memory.pause_until = now + self._spread(memory.pause_seconds)
            memory.slowed_at = now
            memory.words = words
            memory.streak = 0
            self._metrics.inc(DELIVERY_SITE_EVENTS["slowed"])
            _log.info("a site is slowed down", site=memory.key, seconds=memory.pause_seconds, reply=words.text)
            self._shrink(memory, now)
            self._changed(memory)
        return max(memory.pause_until - now, 0.0)

    def failed(self, memory: SiteMemory, started: float, words: Words) -> None:
        """A connection broke, or the server ended it, in the middle."""
        if memory.down is not None:
            return
        memory.cohorts += 1.0 / (memory.window or 1.0)
        if memory.cohorts >= 1.0:
            self.unreachable(memory, started, words)
        else:
            self._shrink(memory, self._clock.monotonic())

    def unreachable(self, memory: SiteMemory, started: float, words: Words, error: Gone | None = None) -> None:
        """No server of it can be used. Of several tries at once only the first counts."""
        trouble = memory.down
        if trouble is not None and trouble.since > started:
            return
        now = self._clock.monotonic()
        seconds = min(trouble.seconds * 2, MAX_DOWN_SECONDS) if trouble is not None else DOWN_SECONDS
        until = now + self._spread(seconds)
        memory.down = Trouble(now, until, seconds, words, error)
        memory.is_proven = False
        memory.cohorts = 0.0
        self._limits.set_value(_down_key(memory), until, until, now)
        if trouble is None:
            self._metrics.inc(DELIVERY_SITE_EVENTS["down"])
            _log.info("a site is down", site=memory.key, reason=words.text)
        self._changed(memory)

    def _up(self, memory: SiteMemory) -> None:
        """It works again: it begins with few connections, so that what has waited does not come all at once."""
        memory.down = None
        memory.cohorts = memory.success = memory.failure = 0.0
        now = self._clock.monotonic()
        self._limits.clear(_down_key(memory))
        if memory.limits is not None and memory.limits.initial_connections:
            busy = self._limits.count(memory.place_key)
            self._set_window(memory, float(min(busy, memory.limits.initial_connections) or 1), now)
        self._metrics.inc(DELIVERY_SITE_EVENTS["up"])
        _log.info("a site is up again", site=memory.key)
        self._changed(memory)

    def forget_trouble(self, key: str) -> None:
        """An operator wants it tried now."""
        memory = self._sites.get(key)
        if memory is not None and not memory.is_open:
            now = self._clock.monotonic()
            if memory.down is not None:
                memory.down.until = now
                self._limits.clear(_down_key(memory))
            memory.pause_until = 0.0

    def _spread(self, seconds: float) -> float:
        return seconds * (1.0 + JITTER * self._random())

    # The ledger

    def _changed(self, memory: SiteMemory) -> None:
        if self._ledger is None or memory.is_dirty:
            return
        memory.is_dirty = True
        self._dirty.append(memory)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_SECONDS, self.save)

    def save(self) -> None:
        """Write what has changed; the ledger makes it durable in a moment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ledger = self._ledger
        dirty, self._dirty = self._dirty, []
        if ledger is None:
            return
        now = self._clock.now()
        ahead = now - self._clock.monotonic()
        for memory in dirty:
            memory.is_dirty = False
            key = memory.key.encode()[:MAX_KEY_BYTES]
            row = _Window(
                memory.window,
                memory.learned,
                memory.learn_seconds,
                memory.probe_at + ahead if memory.learned else 0.0,
                memory.pause_seconds,
                memory.pause_until + ahead if memory.pause_until else 0.0,
                memory.words.text,
            )
            ledger.put(WINDOWS, key, msgspec.msgpack.encode(row), expires=now + KEEP_SECONDS)
            trouble = memory.down
            if trouble is None or trouble.error is not None:
                ledger.delete(DOWN, key)
                continue
            words = trouble.words
            down = _Down(
                trouble.since + ahead, trouble.until + ahead, trouble.seconds, words.text, words.code, words.status, words.host
            )
            # Who has not been tried again long after its time begins with 5 seconds.
            expires = trouble.until + ahead + MAX_DOWN_SECONDS
            ledger.put(DOWN, key, msgspec.msgpack.encode(down), expires=expires)

    def restore(self) -> None:
        """Read what was known before the start."""
        ledger = self._ledger
        if ledger is None:
            return
        now = self._clock.monotonic()
        ahead = self._clock.now() - now
        windows = msgspec.msgpack.Decoder(_Window)
        for key, value in ledger.items(WINDOWS):
            try:
                row = windows.decode(value)
            except msgspec.MsgspecError:
                continue  # of another version: it is learned again
            memory = self._add(key.decode("utf-8", "replace"))
            memory.window = row.window
            memory.learned, memory.learn_seconds = row.learned, row.learn_seconds
            memory.probe_at = min(row.probe_at - ahead, now + MAX_LEARN_SECONDS * (1 + JITTER))
            memory.pause_seconds = row.pause_seconds
            if row.pause_until - ahead > now:
                memory.pause_until = min(row.pause_until - ahead, now + MAX_PAUSE_SECONDS * (1 + JITTER))
                memory.words = Words(row.pause_reason)
        troubles = msgspec.msgpack.Decoder(_Down)
        for key, value in ledger.items(DOWN):
            try:
                down = troubles.decode(value)
            except msgspec.MsgspecError:
                continue
            name = key.decode("utf-8", "replace")
            memory = self._sites.get(name) or self._add(name)
            until = min(down.until - ahead, now + MAX_DOWN_SECONDS * (1 + JITTER))
            words = Words(down.text, down.code, down.status, down.host)
            memory.down = Trouble(min(down.since - ahead, now), until, down.seconds, words)
            if until > now:
                self._limits.set_value(_down_key(memory), until, until, now)

    def memories(self) -> list[SiteMemory]:
        """All that is known, for the operator."""
        return list(self._sites.values())


def _busy(seconds: float, words: Words) -> Busy:
    return Busy(seconds, words.text or "the site wants less mail", code=words.code, status=words.status, host=words.host)


def _down_key(memory: SiteMemory) -> bytes:
    return b"down:" + memory.place_key


def _window_key(memory: SiteMemory) -> bytes:
    return b"window:" + memory.place_key


def _take_over(memory: SiteMemory, limits: SiteLimits) -> None:
    """Make the limits those of the site, and work out what its rates mean."""
    memory.limits = limits
    if memory.window > limits.connections:
        memory.window = float(limits.connections)
    messages, starts = _rates(memory.place_key, limits), []
    if limits.connections_per_second:
        starts.append(_rate(b"starts:" + memory.place_key, limits.connections_per_second, 1.0))
    for shared in limits.shared:
        key = b"shared:" + shared.key.encode()
        messages += _rates(key, shared)
        if shared.connections_per_second:
            starts.append(_rate(b"starts:" + key, shared.connections_per_second, 1.0))
    # The slowest is asked first: it refuses most often, and then nothing has to be given back.
    memory.message_rates = tuple(sorted(messages, key=lambda rate: -rate[1]))
    memory.start_rates = tuple(sorted(starts, key=lambda rate: -rate[1]))


def _rates(key: bytes, limits: SiteLimits | SharedLimits) -> list[Rate]:
    periods = (
        (b"s:", limits.messages_per_second, 1.0),
        (b"m:", limits.messages_per_minute, 60.0),
        (b"h:", limits.messages_per_hour, 3600.0),
        (b"d:", limits.messages_per_day, 86400.0),
    )
    return [_rate(name + key, number, seconds) for name, number, seconds in periods if number]


def _rate(key: bytes, number: float, seconds: float) -> Rate:
    """So many in any period of `seconds`, exactly: what a burst adds to a period is taken from its pace."""
    burst = max(1.0, float(int(number * BURST)))
    return key, seconds / max(number - burst + 1.0, 1e-9) if number >= 1 else seconds / number, burst
