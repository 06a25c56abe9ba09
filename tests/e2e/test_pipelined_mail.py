"""One mail begun behind the message of another on the same connection (RFC 2920 §3.1), and every way in which that can end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from rusmes._core.counters import Metrics
from rusmes.clock import SystemClock
from rusmes.config.schema import Site
from rusmes.config.units import Duration
from rusmes.delivery import transaction
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.dns import Resolver
from rusmes.metrics import DELIVERIES
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Begun, Following, QueueFilter, QueueOrder, Report
from rusmes.queue.control import StoreControl
from tests.loops import run_on_uvloop
from tests.sinks.engine import HOSTNAME, address, config_for, running
from tests.sinks.smtp_sink import DEFAULT_EXTENSIONS, Sink


@pytest.fixture(autouse=True, params=["uvloop", "asyncio"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", run_on_uvloop)


_ids = IdSource()


def item(recipient: str, *, text: str = "Hello", **more: Any) -> Queued:
    data = f"Subject: {recipient}\r\n\r\n{text}\r\n".encode()
    content = Content(_ids.next_id(), len(data), data.find(b"\r\n\r\n") + 4, data=data)
    made = tuple(Recipient(address(r)) for r in recipient.split(","))
    return Queued(
        _ids.next_id(), "relay", address("s@x.example"), made, Rendering(content), Origin(trusted=True), 1.7e9, **more
    )


class Row:
    """The mail that waits for one worker, and the worker: `queue.api.SiteWorker`."""

    def __init__(self, port: int, items: Sequence[Queued], **options: Any) -> None:
        clock = SystemClock()
        resolver = Resolver(clock, ["127.0.0.1:9"])
        self.deliverer = RemoteDeliverer(config_for(port, **options), resolver, Metrics(), clock, None, HOSTNAME)
        self.waiting = deque(items)
        self.next: Queued | None = None
        self.begun: Begun | None = None
        self.reports: dict[str, list[Report]] = {}
        self.returned: list[str] = []

    def following(self) -> Following | None:
        if not self.waiting:
            return None
        self.next = self.waiting.popleft()
        return Following(self.next, self.next.recipients, self.deliverer.destination(self.next, self.next.recipients[0]))

    def return_following(self) -> None:
        assert self.next is not None
        self.waiting.appendleft(self.next)
        self.returned.append(str(self.next.recipients[0].address))
        self.next = self.begun = None

    def step_aside(self) -> None:
        raise AssertionError("nothing here takes that long")

    async def deliver_all(self) -> None:
        while self.next is not None or self.waiting:
            mail, self.next = self.next or self.waiting.popleft(), None
            destination = self.deliverer.destination(mail, mail.recipients[0])
            reports = await self.deliverer.deliver(mail, mail.recipients, destination, self)
            self.reports[",".join(str(r.address) for r in mail.recipients)] = list(reports)
        assert self.begun is None

    @property
    def actions(self) -> list[str]:
        return [",".join(report.action for report in reports) for reports in self.reports.values()]


Check = Callable[[Sink, Row], Awaitable[None]]


def deliver(sink: Sink, check: Check, *recipients: str, prepare: Callable[[Sink], None] | None = None, **options: Any) -> None:
    """The first mail shows that the server is quick; from the second on each is begun behind the one before."""

    async def main() -> None:
        async with sink:
            row = Row(sink.port, [item(r) for r in ("first@x.example", *recipients)], **options)
            if prepare is not None:
                prepare(sink)
            try:
                async with asyncio.timeout(20):
                    await row.deliver_all()
                    await check(sink, row)
            finally:
                await row.deliverer.stop()

    asyncio.run(main())


def recipients_of(sink: Sink) -> list[str]:
    return [message.rcpts[0] for message in sink.messages]


ABC = ("a@x.example", "b@x.example", "c@x.example")
ALL = ["<first@x.example>", "<a@x.example>", "<b@x.example>", "<c@x.example>"]


@pytest.mark.parametrize("fragment_bytes", [0, 1, 7])
def test_one_write_for_each_mail_of_a_row(fragment_bytes: int) -> None:
    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered"] * 4
        assert recipients_of(sink) == ALL
        assert [m.data for m in sink.messages[1:]] == [f"Subject: {r}\r\n\r\nHello\r\n".encode() for r in ABC]
        (peer,) = sink.peers
        assert len(peer.reads) == 1 + 2 + 1 + 3
        assert peer.reads[4] == (
            b"Subject: a@x.example\r\n\r\nHello\r\n.\r\n"
            b"MAIL FROM:<s@x.example> SIZE=31\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
        )  # fmt: skip

    sink = Sink()
    sink.fragment_bytes = fragment_bytes
    deliver(sink, check, *ABC)


@pytest.mark.parametrize("extensions", [("8BITMIME",), (*DEFAULT_EXTENSIONS, "CHUNKING")])
def test_without_pipelining_and_with_chunking_each_mail_by_itself(extensions: tuple[str, ...]) -> None:
    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered"] * 4
        assert not any(b"MAIL" in read and not read.startswith(b"MAIL") for peer in sink.peers for read in peer.reads)

    deliver(Sink(extensions=extensions), check, *ABC)


@pytest.mark.parametrize(
    ("phase", "reply", "action"),
    [
        ("mail", "550 5.7.1 no", "failed"),
        ("mail", "451 4.7.1 later", "delayed"),
        ("rcpt:b@x.example", "550 5.1.1 no such user", "failed"),
        ("rcpt:b@x.example", "450 4.2.1 later", "delayed"),
        ("data", "554 5.5.1 no", "failed"),
        ("data", "451 4.3.0 later", "delayed"),
        ("final", "554 5.6.0 no", "failed"),
        ("final", "452 4.3.1 full", "delayed"),
    ],
)
def test_a_refusal_is_that_of_the_mail_it_answers(phase: str, reply: str, action: str) -> None:
    def prepare(sink: Sink) -> None:
        good = {"mail": "250 ok", "data": "354 go on", "final": "250 2.0.0 ok"}.get(phase)
        sink.replies[phase] = [good, good, reply] if good else reply

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered", "delivered", action, "delivered"]
        assert row.reports["b@x.example"][0].reply == reply
        assert recipients_of(sink) == [r for r in ALL if r != "<b@x.example>"]
        assert len(sink.peers) == 1

    deliver(Sink(), check, *ABC, prepare=prepare)


def test_after_a_refused_message_the_next_needs_no_rset() -> None:
    def prepare(sink: Sink) -> None:
        sink.replies["final"] = ["250 ok", "554 5.6.0 no"]

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered", "failed", "delivered", "delivered"]
        assert "RSET" not in sink.peers[0].commands

    deliver(Sink(), check, *ABC, prepare=prepare)


def test_some_recipients_of_a_begun_mail() -> None:
    def prepare(sink: Sink) -> None:
        sink.replies["rcpt:q@x.example"] = "550 5.1.1 no such user"

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered", "delivered", "delivered,failed,delivered", "delivered"]
        assert sink.messages[2].rcpts == ["<p@x.example>", "<r@x.example>"]

    deliver(Sink(), check, "a@x.example", "p@x.example,q@x.example,r@x.example", "c@x.example", prepare=prepare)


def test_recipients_that_come_again_are_before_the_next_mail() -> None:
    def prepare(sink: Sink) -> None:
        sink.replies["rcpt:q@x.example"] = ["452 4.5.3 too many"]

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered", "delivered,delivered", "delivered"]
        assert recipients_of(sink) == ["<first@x.example>", "<p@x.example>", "<q@x.example>", "<c@x.example>"]

    deliver(Sink(), check, "p@x.example,q@x.example", "c@x.example", prepare=prepare)


def _when(sink: Sink, phase: str, count: int, act: Callable[[], object]) -> None:
    """Do something before the reply of a phase that comes for the time number `count`, or wait for it."""
    answer = sink._answer
    seen = Counter[str]()

    async def watching(writer: Any, name: str, default: str) -> str:
        seen[name.partition(":")[0]] += 1
        if name.partition(":")[0] == phase and seen[phase] == count:
            done = act()
            if asyncio.iscoroutine(done):
                await done
        return await answer(writer, name, default)

    sink._answer = watching  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("phase", "actions", "delivered"),
    [
        # Before its end the message of `a` was there and its fate is unknown; `b` was begun, and goes over another connection.
        ("final", ["delivered", "delayed", "delivered", "delivered"], ALL[:1] + ALL[2:]),
        # `b` is untouched as long as its MAIL is not answered.
        ("mail", ["delivered"] * 4, ALL),
        # From then on a broken connection is an attempt that failed.
        ("rcpt", ["delivered", "delivered", "delayed", "delivered"], ALL[:2] + ALL[3:]),
        ("data", ["delivered", "delivered", "delayed", "delivered"], ALL[:2] + ALL[3:]),
    ],
)
def test_a_connection_that_breaks(phase: str, actions: list[str], delivered: list[str]) -> None:
    def prepare(sink: Sink) -> None:
        _when(sink, phase, 2 if phase == "final" else 3, lambda: sink.drops.__setitem__(phase, 1))

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == actions
        assert recipients_of(sink) == delivered
        assert len(sink.peers) == 2

    deliver(Sink(), check, *ABC, prepare=prepare)


@pytest.mark.parametrize(("phase", "actions"), [("final", ["delivered", "delayed"]), ("mail", ["delivered", "delivered"])])
def test_421_ends_the_session_and_the_begun_mail_goes_over_another(phase: str, actions: list[str]) -> None:
    def prepare(sink: Sink) -> None:
        count = 2 if phase == "final" else 3
        _when(sink, phase, count, lambda: sink.replies.__setitem__(phase, ["421 4.3.2 closing"]))

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == [*actions, "delivered", "delivered"]
        assert len(sink.peers) == 2

    deliver(Sink(), check, *ABC, prepare=prepare)


def test_a_server_that_forgets_what_was_pipelined_gets_no_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "BEGUN_SECONDS", 0.1)
    recipients = [f"r{number}@x.example" for number in range(12)]

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered"] * 13
        assert recipients_of(sink) == [f"<{r}>" for r in ("first@x.example", *recipients)]
        assert len(sink.peers) == 4  # three lessons

    sink = Sink()
    sink.forgets_pipelined = True
    deliver(sink, check, *recipients)


def test_a_server_that_has_not_seen_the_end_of_a_refused_message_gets_the_next_anew() -> None:
    def prepare(sink: Sink) -> None:
        sink.keeps_refused = True
        sink.replies["final"] = ["250 ok", "554 5.6.0 no"]

    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered", "failed", "delivered", "delivered"]
        assert recipients_of(sink) == [r for r in ALL if r != "<a@x.example>"]
        assert len(sink.peers) == 2

    deliver(Sink(), check, *ABC, prepare=prepare)


def test_replies_out_of_step_lose_no_mail() -> None:
    """SO10: one reply too many must not be taken for that to the message which is yet to come."""

    def prepare(sink: Sink) -> None:
        _when(sink, "final", 2, lambda: sink.surplus.__setitem__("final", b"250 2.0.0 once more\r\n"))
        _when(sink, "mail", 4, sink.surplus.clear)

    async def check(sink: Sink, row: Row) -> None:
        delivered = {r for r, reports in row.reports.items() if reports[0].action == "delivered"}
        assert delivered == {message.rcpts[0].strip("<>") for message in sink.messages}
        assert "b@x.example" not in delivered

    deliver(Sink(), check, *ABC, prepare=prepare)


@pytest.mark.parametrize(("limit", "options"), [("LIMITS MAILMAX=2", {}), ("", {"messages_per_connection": 2})])
def test_a_connection_carries_no_more_than_it_may(limit: str, options: dict[str, Any]) -> None:
    async def check(sink: Sink, row: Row) -> None:
        assert row.actions == ["delivered"] * 4
        assert [sum(c.startswith("MAIL") for c in peer.commands) for peer in sink.peers] == [2, 2]

    deliver(Sink(extensions=(*DEFAULT_EXTENSIONS, *([limit] if limit else []))), check, *ABC, **options)


def test_mail_that_goes_another_way_is_not_begun() -> None:
    """Another port is another site, and REQUIRETLS another lane; here the server has no TLS."""

    async def main() -> None:
        async with Sink() as sink:
            row = Row(sink.port, [item("first@x.example"), item("a@x.example"), item("b@x.example", requiretls=True)])
            await row.deliver_all()
            assert row.actions == ["delivered", "delivered", "failed"]
            assert row.reports["b@x.example"][0].status == "5.7.30"
            assert sum(c.startswith("MAIL") for peer in sink.peers for c in peer.commands) == 2
            await row.deliverer.stop()

    asyncio.run(main())


def test_a_slow_message_gives_back_what_was_begun_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "RELEASE_SECONDS", 0.05)

    def prepare(sink: Sink) -> None:
        _when(sink, "final", 2, lambda: asyncio.sleep(0.3))

    async def check(sink: Sink, row: Row) -> None:
        assert row.returned == ["b@x.example"]
        assert row.actions == ["delivered"] * 4
        assert recipients_of(sink) == ALL
        assert len(sink.peers) == 2  # after DATA the first one could only be cut

    deliver(Sink(), check, *ABC, prepare=prepare)


def test_a_slow_message_holds_up_no_other_of_its_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "RELEASE_SECONDS", 0.05)

    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, site=(Site(match=("*",), connections_per_site=2),))) as engine:
            await engine.send("first@x.example")
            await sink.wait_for(1)
            _when(sink, "final", 1, lambda: asyncio.sleep(60))
            await asyncio.gather(*(engine.send(r) for r in ABC))
            await sink.wait_for(3)

    asyncio.run(main())


def test_an_operators_hold_takes_back_what_is_begun() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, site=(Site(match=("*",), connections_per_site=1),))) as engine:
            control = StoreControl(engine.queue_store, engine.clock, engine.runner)
            await engine.send("first@x.example")
            await sink.wait_for(1)
            sink.delays["final"] = 0.3
            await asyncio.gather(*(engine.send(r) for r in ABC))
            async with asyncio.timeout(10):
                while not any(b"RCPT TO:<b@x.example>" in read for peer in sink.peers for read in peer.reads):
                    await asyncio.sleep(0.01)
            for recipient in ("b@x.example", "c@x.example"):
                await control.carry_out(QueueOrder("hold", QueueFilter(recipient=recipient)))
            await sink.wait_for(2)
            async with asyncio.timeout(10):
                while engine.runner._active:
                    await asyncio.sleep(0.01)
            assert recipients_of(sink) == ALL[:2]
            held = await control.list(QueueFilter(status="held"))
            assert [str(entry.states[0].recipient.address) for entry in held] == ["b@x.example", "c@x.example"]

    asyncio.run(main())


def test_stopping_carries_out_what_is_begun_and_begins_no_more() -> None:
    async def main() -> None:
        async with Sink() as sink:
            async with running(config_for(sink.port, site=(Site(match=("*",), connections_per_site=1),))) as engine:
                await engine.send("first@x.example")
                await sink.wait_for(1)
                sink.delays["final"] = 0.2
                await asyncio.gather(*(engine.send(r) for r in ABC))
                async with asyncio.timeout(10):
                    while not any(b"RCPT TO:<b@x.example>" in read for peer in sink.peers for read in peer.reads):
                        await asyncio.sleep(0.01)
            assert recipients_of(sink) == ALL[:3]
            (entry,) = engine.queue_store.entries()
            assert (entry.states[0].status, entry.states[0].attempts) == ("queued", 0)

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_server_does_every_mail_arrives_and_only_unknown_outcomes_twice(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        queue = {"retry_schedule": (Duration("20ms"),)}
        async with Sink() as sink, running(config_for(sink.port, queue=queue, messages_per_connection=7)) as engine:
            answer = sink._answer

            async def moody(writer: Any, phase: str, default: str) -> str:
                base = phase.partition(":")[0]
                mood = chance.random()
                if base in ("mail", "rcpt", "data", "final") and mood < 0.03:
                    sink.drops[base] = 1
                elif base in ("mail", "rcpt", "data", "final") and mood < 0.06:
                    sink.replies[base] = ["451 4.3.0 not in the mood"]
                elif base in ("mail", "final") and mood < 0.08:
                    sink.replies[base] = ["421 4.3.2 closing"]
                return await answer(writer, phase, default)

            sink._answer = moody  # type: ignore[method-assign]
            names = [f"r{number}@x.example" for number in range(150)]
            await asyncio.gather(*(engine.send(name) for name in names))
            async with asyncio.timeout(30):
                while engine.runner.size:
                    engine.deliverer._pool._dead._dead.clear()
                    await asyncio.sleep(0.02)
            counts = Counter(recipients_of(sink))
            assert set(counts) == {f"<{name}>" for name in names}
            assert set(counts.values()) == {1}  # the sink counts a message whose reply it did not give as refused
            assert engine.metrics.count(DELIVERIES["delivered"]) == 150
            assert engine.metrics.count(DELIVERIES["failed"]) == 0

    asyncio.run(main())
