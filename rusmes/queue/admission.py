"""Whether new mail may come in: what is measured, when it is too much, and when it is well again.

While load is shed (STRESSED), there is a cap on connections that may bring mail: it sinks by a tenth at each look as long as a
measure is above its mark, and rises slowly while none is, until nobody was refused for five seconds. So what is served stays
about what the machine can do, and the rest is refused at once. Strangers are refused from half of the cap on; a client is known
when it is of our networks, or brought mail within the last hour. OVERLOADED means that new transactions are refused too.
Deliveries, reading, health and administration are never refused for load. What was admitted at MAIL is carried through.

Each gate has two marks. One that is reached counts at once; a level ends when its measure was below four fifths of its mark for
five seconds, so nothing flickers.

| gate    | measures                                                              | stressed         | overloaded |
| ------- | --------------------------------------------------------------------- | ---------------- | ---------- |
| commits | messages that wait for their commit, and how long the last ones took |                  | `Commits`  |
| delay   | the shortest wait for a commit within half a second                   | max_commit_delay |            |
| loop    | the shortest delay of the event loop within half a second             | max_loop_delay   |            |
| memory  | of the machine or its cgroup, what cannot be taken back               | max_memory       | half of the rest |
| mail    | deliveries that wait while the loop is late and it is crowded         |                  | 1000       |

The shortest of an interval says whether there is a standing queue, where an average would count bursts (RFC 8289 §3.2, CoDel).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rusmes.clock import Clock
from rusmes.config.overload import Overload as Settings
from rusmes.log import get_logger
from rusmes.metrics import OVERLOAD_LEVEL, Metrics

FINE: Final = 0
STRESSED: Final = 1
OVERLOADED: Final = 2

INTERVAL_SECONDS: Final = 0.5
SAMPLE_SECONDS: Final = 0.1
"""How often `Admission.sample` is to be called."""
LEAVE_SHARE: Final = 0.8
LEAVE_SECONDS: Final = 5.0
MIN_CAP: Final = 200
"""So many sessions alone make no loop late, and are enough to keep it busy: a machine that others keep busy refuses nobody."""
CAP_START: Final = 0.5
"""Of the sessions there are when it begins."""
CAP_FALL: Final = 0.9
CAP_RISE: Final = 1.01
STRANGERS_SHARE: Final = 0.5
"""Of the cap, for clients that are not known."""
WAITING_DELIVERIES: Final = 1000
MEMORY_SECONDS: Final = 1.0
KNOWN_SECONDS: Final = 1800.0
"""A client that brought mail is known for one to two of these."""
MAX_KNOWN: Final = 100_000

_log = get_logger("queue")


class Commits:
    """Whether commits keep up. It ends when half of what began it is gone."""

    __slots__ = ("_latency", "_max_latency", "_max_waiting", "is_on", "waiting")

    def __init__(self, max_waiting: int, max_latency_seconds: float) -> None:
        self._max_waiting = max_waiting
        self._max_latency = max_latency_seconds
        self._latency = 0.0
        self.waiting = 0
        self.is_on = False

    def apply(self, max_waiting: int, max_latency_seconds: float) -> None:
        self._max_waiting = max_waiting
        self._max_latency = max_latency_seconds

    def begin(self) -> None:
        self.waiting += 1
        if self.waiting > self._max_waiting and not self.is_on:
            self._switch(True)

    def end(self, seconds: float) -> None:
        """A commit took so long; the latency follows bad news at once and good news slowly."""
        self.waiting -= 1
        self._latency = seconds if seconds > self._latency else self._latency + 0.1 * (seconds - self._latency)
        if not self.is_on:
            if self._latency > self._max_latency:
                self._switch(True)
        elif self.waiting <= self._max_waiting // 2 and (self._latency <= self._max_latency / 2 or not self.waiting):
            # With nothing waiting nobody is left whose commit could show that things are better.
            self._latency = min(self._latency, self._max_latency / 2)
            self._switch(False)

    def _switch(self, is_on: bool) -> None:
        self.is_on = is_on
        _log.warn("overload begins" if is_on else "overload ends", waiting=self.waiting, commit_seconds=round(self._latency, 3))


class Gate:
    """One measure with its marks."""

    __slots__ = ("_calm_since", "is_above", "level", "marks", "name")

    def __init__(self, name: str, marks: tuple[float, float]) -> None:
        self.name = name
        self.is_above = False
        self.marks = marks
        self.level = FINE
        self._calm_since = 0.0

    def look(self, value: float, now: float) -> int:
        """The level, with a new value of its measure."""
        reached = FINE
        for level, mark in enumerate(self.marks, 1):
            if value >= mark:
                reached = level
        self.is_above = reached > FINE
        if reached > self.level:
            self.level = reached
            self._calm_since = 0.0
        elif self.level:
            if value >= LEAVE_SHARE * self.marks[self.level - 1]:
                self._calm_since = 0.0
            elif not self._calm_since:
                self._calm_since = now
            elif now - self._calm_since >= LEAVE_SECONDS:
                self.level -= 1
                self._calm_since = 0.0
        return self.level


class Standing:
    """The shortest of what was measured in the last interval; 0 when nothing was."""

    __slots__ = ("_lowest", "_until", "value")

    def __init__(self) -> None:
        self._lowest = float("inf")
        self._until = 0.0
        self.value = 0.0

    def add(self, seconds: float) -> None:
        if seconds < self._lowest:
            self._lowest = seconds

    def look(self, now: float) -> float:
        if now >= self._until:
            is_whole = self._until > 0.0  # the first interval begins now
            self.value = self._lowest if is_whole and self._lowest != float("inf") else 0.0
            self._lowest = float("inf")
            self._until = now + INTERVAL_SECONDS
        return self.value


class Admission:
    """The gates of one worker. `level` is the highest of them; `listeners` hear when it gets crowded, and when no longer.

    Args:
        memory: the share of memory that is in use, 0 to 1.
        deliveries: how many deliveries wait for their turn.
        sessions: connections that may bring mail; set by who knows.
        is_trusted: whether an address is of a network that may relay.
    """

    def __init__(
        self,
        settings: Settings,
        commits: Commits,
        clock: Clock,
        metrics: Metrics,
        *,
        memory: Callable[[], float],
        deliveries: Callable[[], int],
        is_trusted: Callable[[str], bool],
    ) -> None:
        self.commits = commits
        self.level = FINE
        self.reason = ""
        """The gate that decides."""
        self.is_crowded = False
        """Whether half of the cap is reached: then those who wait or err make room."""
        self.listeners: list[Callable[[bool], None]] = []
        self._clock = clock
        self._metrics = metrics
        self._memory = memory
        self._deliveries = deliveries
        self.sessions: Callable[[], int] = lambda: 0
        self.cap = float("inf")
        self._reached_at = float("-inf")
        self._delay = Standing()
        self._lag = Standing()
        self._known: set[str] = set()
        self._known_before: set[str] = set()
        self._known_until = 0.0
        self._memory_until = 0.0
        never = (float("inf"), float("inf"))
        self._gates = {name: Gate(name, never) for name in ("delay", "loop", "memory")}
        self.apply(settings, is_trusted)

    def apply(self, settings: Settings, is_trusted: Callable[[str], bool]) -> None:
        """A reload."""
        self._is_trusted = is_trusted
        delay, lag, memory = float(settings.max_commit_delay), float(settings.max_loop_delay), settings.max_memory / 100
        self._gates["delay"].marks = (delay, float("inf"))
        self._gates["loop"].marks = (lag, float("inf"))
        self._gates["memory"].marks = (memory, (1 + memory) / 2)

    # What is measured

    def committed(self, seconds: float) -> None:
        """A message waited so long for its commit."""
        self._delay.add(seconds)

    def sample(self, late_seconds: float) -> int:
        """Call it every SAMPLE_SECONDS with how late that was; the level."""
        now = self._clock.monotonic()
        gates = self._gates
        self._lag.add(late_seconds)
        if now >= self._memory_until:
            self._memory_until = now + MEMORY_SECONDS
            gates["memory"].look(self._memory(), now)
        if now >= self._known_until or len(self._known) >= MAX_KNOWN:
            self._known_before, self._known = self._known, set()
            self._known_until = now + KNOWN_SECONDS
        levels = {
            "commits": OVERLOADED if self.commits.is_on else FINE,
            "delay": gates["delay"].look(self._delay.look(now), now),
            "loop": gates["loop"].look(self._lag.look(now), now),
            "memory": gates["memory"].level,
        }
        self._move_cap(any(levels.values()), now)
        is_crowded = self.sessions() >= STRANGERS_SHARE * self.cap
        # The loop does not keep up, and there is mail to send: what is here goes out before more comes in.
        is_behind = levels["loop"] and is_crowded and self._deliveries() >= WAITING_DELIVERIES
        levels["mail"] = OVERLOADED if is_behind else FINE
        reason = max(levels, key=lambda name: levels[name])
        level = levels[reason]
        for name, value in levels.items():
            self._metrics.set(OVERLOAD_LEVEL[name], value)
        if level != self.level:
            reason = reason if level else ""
            _log.warn("load is shed" if level > self.level else "less load is shed", level=level, was=self.level, gate=reason)
            self.level, self.reason = level, reason
        if is_crowded != self.is_crowded:
            self.is_crowded = is_crowded
            for listener in self.listeners:
                listener(is_crowded)
        return level

    def _move_cap(self, is_shed: bool, now: float) -> None:
        sessions = self.sessions()
        is_reached = sessions >= CAP_FALL * self.cap
        if any(gate.is_above for gate in self._gates.values()):
            self.cap = max(MIN_CAP, CAP_FALL * self.cap if self.cap < sessions / CAP_START else CAP_START * sessions)
            self._reached_at = now
        elif is_reached:
            self.cap = 1 + CAP_RISE * self.cap
            self._reached_at = now
        elif not is_shed and now - self._reached_at >= LEAVE_SECONDS:
            self.cap = float("inf")  # nobody was refused lately

    # Who may come in

    def brought_mail(self, address: str) -> None:
        """A client's mail was accepted."""
        self._known.add(address)

    def turns_away(self, protocol: str, address: str) -> bool:
        """Whether a new connection that could bring mail is refused for load."""
        sessions = self.sessions()
        if sessions >= self.cap or self.refuses_mail:
            return True
        if protocol != "smtp" or sessions < STRANGERS_SHARE * self.cap:
            return False  # submission and LMTP have clients of our own
        return not (address in self._known or address in self._known_before or self._is_trusted(address))

    @property
    def refuses_mail(self) -> bool:
        """Whether new transactions are refused for load."""
        return self.commits.is_on or self.level >= OVERLOADED
