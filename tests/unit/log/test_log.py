"""Log lines: one schema in both formats, no secrets, no second line, whoever chose the bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes import log as log_module
from rusmes.log import (
    LEVELS,
    LogSink,
    SessionLog,
    get_logger,
    session_debug,
    session_error,
    session_info,
    session_trace,
    session_warn,
)


class Place:
    """Collects what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def __call__(self, lines: bytes) -> None:
        self.writes.append(lines)

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in b"".join(self.writes).splitlines()]


def session(sink: LogSink) -> SessionLog:
    return SessionLog("0192-a", "192.0.2.1", "smtp", sink=sink)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture(autouse=True)
def component_sink() -> Iterator[None]:
    before = log_module._CURRENT.sink
    yield
    log_module.configure(before)


def test_every_line_of_a_session_names_it(place: Place) -> None:
    log = session(LogSink(place))
    log.info("connected")
    log.user = "alice@example.com"
    log.info("message accepted", queue_id="q1", size=1024)
    first, second = place.records
    assert list(first) == ["timestamp", "level", "logger", "event", "session_id", "client", "protocol"]
    assert "user" not in first
    assert second | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "logger": "smtp",
        "event": "message accepted",
        "session_id": "0192-a",
        "client": "192.0.2.1",
        "protocol": "smtp",
        "user": "alice@example.com",
        "queue_id": "q1",
        "size": 1024,
    }
    assert str(first["timestamp"]).endswith("Z")


def test_text_holds_the_same_fields(place: Place) -> None:
    log = session(LogSink(place, json=False))
    log.user = "alice"
    log.warn("slow peer", seconds=1.5, tls=True, host="a b", empty="", quote='x"y')
    line = place.writes[0].decode()
    assert line.split(" ", 1)[1] == (
        "WARN smtp: slow peer session_id=0192-a client=192.0.2.1 protocol=smtp user=alice"
        ' seconds=1.5 tls=true host="a b" empty="" quote="x\\"y"\n'
    )


def test_levels_by_component_and_their_change(place: Place) -> None:
    sink = LogSink(place, level="warn", levels={"smtp": "debug"})
    log = session(sink)
    pop3 = SessionLog("s", "192.0.2.1", "pop3", sink=sink)
    log.debug("seen")
    log.trace("not seen")
    pop3.info("not seen")
    pop3.warn("seen")
    assert log.enabled("debug")
    assert not pop3.enabled("info")
    assert [record["event"] for record in place.records] == ["seen", "seen"]
    sink.set_levels("error", {})
    log.warn("not seen")
    assert len(place.writes) == 2
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        sink.set_levels("loud", {})
    assert sink.level_of("smtp") == LEVELS["error"]


def test_the_helper_functions_write_at_their_level(place: Place) -> None:
    log = session(LogSink(place, level="trace"))
    for write in (session_trace, session_debug, session_info, session_warn, session_error):
        write(log, "event", n=1)
    assert [record["level"] for record in place.records] == ["trace", "debug", "info", "warn", "error"]


@pytest.mark.parametrize("json_format", [True, False])
@pytest.mark.parametrize("name", sorted(log_module.SECRET_NAMES))
def test_secrets_are_masked_at_every_level(name: str, json_format: bool) -> None:
    place = Place()
    sink = LogSink(place, level="trace", json=json_format)
    log_module.configure(sink)
    for write in (session(sink).trace, session(sink).error, get_logger("auth").trace, get_logger("auth").bind(x=1).error):
        write("login", **{name: "hunter2", "nested": {name: "hunter2"}})
    assert len(place.writes) == 4
    assert all(b"hunter2" not in line and b"***" in line for line in place.writes)


@pytest.mark.parametrize("json_format", [True, False])
@given(text=st.text(), raw=st.binary(), key=st.text(min_size=1))
def test_no_value_can_make_a_second_line_or_steer_a_terminal(json_format: bool, text: str, raw: bytes, key: str) -> None:
    place = Place()
    sink = LogSink(place, json=json_format)
    log_module.configure(sink)
    fields = {key.replace("self", "x").replace("event", "y"): text}
    SessionLog(text, text, "smtp", sink=sink).info(text, helo=text, raw=raw, **fields)
    log = session(sink)
    log.user = text
    log.info("x", items=(text, raw))
    get_logger("queue").info("x", value=text)
    for line in place.writes:
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        decoded = line[:-1].decode()
        assert decoded.splitlines() == [decoded]
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in decoded)
        if json_format:
            assert isinstance(json.loads(decoded), dict)


def test_an_event_cannot_forge_the_sessions_fields(place: Place) -> None:
    session(LogSink(place)).info("x", session_id="forged", level="error", user="root", timestamp="never")
    (record,) = place.records
    assert record["session_id"] == "0192-a"
    assert record["level"] == "info"
    assert "user" not in record
    assert record["user_"] == "root"


def test_long_values_are_cut(place: Place) -> None:
    sink = LogSink(place)
    session(sink).info("x" * 5000, helo="y" * 100_000)
    assert len(place.writes[0]) < 2500


def test_components_log_exceptions_with_their_traceback(place: Place) -> None:
    log_module.configure(LogSink(place))
    log = get_logger("storage").bind(slot=1)
    try:
        raise ValueError("disk on fire")
    except ValueError:
        log.exception("commit failed", batch=3)
    (record,) = place.records
    assert record["logger"] == "storage"
    assert record["slot"] == 1
    assert record["batch"] == 3
    assert "ValueError: disk on fire" in str(record["exception"])
    assert "Traceback" in str(record["exception"])


def test_component_levels_follow_the_sink(place: Place) -> None:
    log = get_logger("queue")
    log_module.configure(LogSink(place, level="error", levels={"queue": "trace"}))
    log.trace("seen")
    get_logger("delivery").info("not seen")
    assert log.enabled("trace")
    assert [record["event"] for record in place.records] == ["seen"]


def test_lines_wait_in_the_buffer_but_not_warnings(place: Place) -> None:
    sink = LogSink(place, buffer_bytes=10_000)
    log = session(sink)
    log.info("one")
    log.info("two")
    assert place.writes == []
    log.warn("three")
    assert len(place.writes) == 1
    assert [record["event"] for record in place.records] == ["one", "two", "three"]
    for _ in range(200):
        log.info("many")
    assert len(place.writes) > 2
    assert max(len(lines) for lines in place.writes) <= 10_000
    sink.flush()
    assert len(place.records) == 203


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    def full(_lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    sink = LogSink(full)
    session(sink).error("x")
    session(sink).error("y")
    assert sink.dropped == 2
