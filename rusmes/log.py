"""Log lines: one event a line, JSON or text, the same fields in both.

    {"timestamp": "2026-11-24T05:43:38.123Z", "level": "info", "logger": "smtp", "event": "message accepted",
     "session_id": "0192...", "client": "192.0.2.1", "protocol": "smtp", "user": "alice@example.com", "size": 1024}

A session's lines come from a `SessionLog`, which renders straight to bytes (1.5 us; a structlog call costs 9 to 17). All other
components use `get_logger`, a structlog logger that ends in the same renderer. What no line can hold: a secret (fields that are
named like one are masked, whatever the level) and a second line (JSON escapes control characters, and so does the text form).

A `LogSink` has the levels and the place lines go to. Several processes write one place: each line is one `write` of at most
a page to a descriptor in append mode. Files and their rotation are in `rusmes.logfiles`.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from rusmes._core.logline import flat_json, timestamp, whole_line

LEVELS: Final[Mapping[str, int]] = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}
TRACE, DEBUG, INFO, WARN, ERROR = LEVELS.values()
_NAMES: Final = {number: name for name, number in LEVELS.items()}
_ALIASES: Final = {"warning": "warn", "critical": "error", "fatal": "error", "exception": "error"}

MAX_VALUE_CHARACTERS: Final = 1000
"""A value of a field is cut here, so that what a peer sends cannot fill the disk by itself."""

MAX_TRACEBACK_CHARACTERS: Final = 16000

MAX_HEADS: Final = 1000
"""Beginnings of lines that are kept, 200 bytes each."""

PIPE_ATOMIC_BYTES: Final = 4096
"""POSIX PIPE_BUF: what several processes can write to a pipe without mixing (Linux: 4096)."""

WAIT_FOR_READER_SECONDS: Final = 0.05
"""How long a line may wait for a full pipe before it is dropped and counted."""

SECRET_NAMES: Final = frozenset(
    {
        "password", "passwd", "passphrase", "secret", "token", "access_token", "refresh_token", "bearer", "credential",
        "credentials", "authorization", "initial_response", "sasl_response", "private_key", "api_key", "key_data", "cookie",
    }
)
MASK: Final = "***"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\"\\]")
_NEEDS_QUOTES: Final = re.compile(r"[\s=\"\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^$")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_BEYOND_ASCII: Final = re.compile("[\x7f-\x9f\u2028\u2029]")
_RESERVED: Final = frozenset({"timestamp", "level", "logger", "event", "session_id", "client", "protocol", "user"})
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


class LogSink:
    """Where lines go, how they look, and from which level on.

    `write` takes whole lines. Lines collect up to `buffer_bytes` (0 = every line at once) until `flush`; warnings and errors
    are never kept back.
    """

    __slots__ = (
        "_buffer",
        "_buffered",
        "_heads",
        "_levels",
        "buffer_bytes",
        "default_level",
        "dropped",
        "is_json",
        "write_lines",
    )

    def __init__(
        self,
        write_lines: Callable[[bytes], object] | None = None,
        *,
        level: str = "info",
        levels: Mapping[str, str] | None = None,
        json: bool = True,
        buffer_bytes: int = 0,
    ) -> None:
        self.write_lines = write_lines or DescriptorWriter(2)
        self.is_json = json
        self.buffer_bytes = buffer_bytes
        self.dropped = 0
        """Lines that could not be written."""
        self._heads: dict[tuple[int, str, str], bytes] = {}
        self._buffer: list[bytes] = []
        self._buffered = 0
        self.set_levels(level, levels or {})

    def set_levels(self, level: str, levels: Mapping[str, str]) -> None:
        """The lowest level that is written, and those of components that differ (`{"smtp": "debug"}`).

        Raises:
            ValueError: a level has no such name.
        """
        numbers = {component: level_number(name) for component, name in levels.items()}
        self.default_level = level_number(level)
        self._levels = numbers

    def level_of(self, component: str) -> int:
        return self._levels.get(component, self.default_level)

    def emit(self, level: int, component: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line. The caller has checked the level."""
        if self.is_json:
            head = self.head(level, component, event)
            line = head + b"," + _json_fields(fields) if fields else head + b"}\n"
        else:
            line = self.text(level, component, event, fields)
        self.keep(line, level)

    def emit_plain(self, level: int, component: str, event: str, fields: dict[str, Any]) -> None:
        """Like `emit`, for fields none of which is named like a secret."""
        line = whole_line(self._middle(level, component, event), fields) if self.is_json else None
        if line is None:
            self.emit(level, component, event, fields)
        else:
            self.keep(line, level)

    def head(self, level: int, component: str, event: str) -> bytes:
        """The beginning of a JSON line, an open object."""
        return b'{"timestamp":"' + timestamp() + self._middle(level, component, event)

    def _middle(self, level: int, component: str, event: str) -> bytes:
        """What follows the time."""
        middle = self._heads.get((level, component, event))
        if middle is None:
            name = _NAMES.get(level, "info")
            middle = f'","level":"{name}","logger":{_json(component)},"event":{_json(event)}'.encode()
            if len(self._heads) < MAX_HEADS:  # texts of events are constants; should one not be, nothing grows
                self._heads[level, component, event] = middle
        return middle

    def text(self, level: int, component: str, event: str, *groups: Mapping[str, Any]) -> bytes:
        """`2026-11-24T05:43:38.123Z INFO smtp: message accepted session_id=… size=1024`; values are quoted where needed."""
        parts = [f"{timestamp().decode()} {_NAMES.get(level, 'info').upper()} {_plain(component)}: {_plain(_cut(event))}"]
        parts.extend(f"{_plain(key)}={_quoted(value)}" for fields in groups for key, value in _clean(fields).items())
        return (" ".join(parts) + "\n").encode("utf-8")

    def keep(self, line: bytes, level: int) -> None:
        """Write a rendered line, now or with those that follow."""
        if not self.buffer_bytes:
            self._write(line)
            return
        if self._buffered + len(line) > self.buffer_bytes:
            self.flush()
        self._buffer.append(line)
        self._buffered += len(line)
        if level >= WARN:
            self.flush()

    def flush(self) -> None:
        """Write the lines that were kept back."""
        if self._buffer:
            lines = b"".join(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        try:
            self.write_lines(lines)
        except OSError:
            # A log that cannot be written must not stop mail; the count is a metric.
            self.dropped += lines.count(b"\n")


class DescriptorWriter:
    """Writes to a descriptor that others share and somebody else opened: a terminal, a pipe, a redirected file."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __call__(self, lines: bytes) -> None:
        """Write whole lines. Raises OSError when the reader is gone or does not read."""
        while lines:
            end = len(lines) if len(lines) <= PIPE_ATOMIC_BYTES else lines.rfind(b"\n", 0, PIPE_ATOMIC_BYTES) + 1
            piece = lines[: end or len(lines)]
            lines = lines[len(piece) :]
            while piece:
                try:
                    piece = piece[os.write(self.descriptor, piece) :]
                except BlockingIOError:
                    # Another program may have made the shared pipe non-blocking.
                    if not select.select([], [self.descriptor], [], WAIT_FOR_READER_SECONDS)[1]:
                        raise


def level_number(name: str) -> int:
    """Raises ValueError."""
    name = _ALIASES.get(name, name)
    if name not in LEVELS:
        raise ValueError(f"unknown log level {name!r}; the levels are {', '.join(LEVELS)}")
    return LEVELS[name]


def _json(text: str) -> str:
    """A JSON string without anything a terminal or a line reader could take for control."""
    try:
        encoded = _encode(_cut(text)).decode()
    except UnicodeEncodeError:
        encoded = _encode(_SURROGATES.sub("\ufffd", _cut(text))).decode()
    return encoded if encoded.isascii() and "\x7f" not in encoded else _BEYOND_ASCII.sub(_escape, encoded)


def _json_fields(fields: Mapping[str, Any]) -> bytes:
    """The fields as the rest of an object, with the line end."""
    if SECRET_NAMES.isdisjoint(fields):
        line = flat_json(fields) if type(fields) is dict else None
        if line is not None:
            return line
        for value in fields.values():
            kind = type(value)
            if kind is not str and kind is not int and kind is not float:
                break
        else:
            try:
                encoded = _encode(fields)
            except UnicodeEncodeError:
                pass
            else:
                if encoded.isascii() and len(encoded) <= MAX_VALUE_CHARACTERS and b"\x7f" not in encoded:
                    return encoded[1:] + b"\n"
    rendered = _encode(_clean(fields)).decode()[1:]
    return _BEYOND_ASCII.sub(_escape, rendered).encode() + b"\n"


def _clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Secrets masked, long values cut, everything encodable."""
    return {
        _SURROGATES.sub("\ufffd", str(key)): MASK if key in SECRET_NAMES else _clean_value(value)
        for key, value in fields.items()
    }


def _clean_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        value = value[: MAX_TRACEBACK_CHARACTERS].decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return _clean(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean_value(item) for item in list(value)[:100]]
    return _SURROGATES.sub("\ufffd", _cut(str(value)))


def _cut(text: str) -> str:
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    limit = MAX_TRACEBACK_CHARACTERS if text.startswith("Traceback ") else MAX_VALUE_CHARACTERS
    return text if len(text) <= limit else text[:limit] + "…"


def _plain(value: Any) -> str:
    return _CONTROL.sub(_escape, str(value))


def _quoted(value: Any) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    text = str(value)
    return f'"{_CONTROL.sub(_escape, text)}"' if _NEEDS_QUOTES.search(text) else text


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if char in '"\\':
        return "\\" + char
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    return f"\\u{ord(char):04x}"


class SessionLog:
    """The log of one connection. Every line names the session, the client, the protocol and, once set, the user."""

    __slots__ = ("_json", "_sink", "_user", "client_address", "protocol", "session_id")

    def __init__(self, session_id: str, client_address: str, protocol: str, *, sink: LogSink) -> None:
        self.session_id = session_id
        self.client_address = client_address
        self.protocol = protocol
        self._sink = sink
        self._user = ""
        self._json = b""

    @property
    def user(self) -> str:
        """The canonical name of the account, "" before login."""
        return self._user

    @user.setter
    def user(self, value: str) -> None:
        self._user = value
        self._json = b""

    def enabled(self, level: str) -> bool:
        return LEVELS[level] >= self._sink.level_of(self.protocol)

    def trace(self, event: str, **fields: Any) -> None:
        self._log(TRACE, event, fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(INFO, event, fields)

    def warn(self, event: str, **fields: Any) -> None:
        self._log(WARN, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        sink = self._sink
        if level < sink.level_of(self.protocol):
            return
        if not _RESERVED.isdisjoint(fields):  # the session's own fields cannot be overwritten by an event's
            fields = {f"{key}_" if key in _RESERVED else key: value for key, value in fields.items()}
        if not sink.is_json:
            sink.keep(sink.text(level, self.protocol, event, self._session(), fields), level)
            return
        session = self._json
        if not session:
            session = self._json = b"," + _json_fields(self._session())[:-2]
        line = sink.head(level, self.protocol, event) + session
        sink.keep(line + b"," + _json_fields(fields) if fields else line + b"}\n", level)

    def _session(self) -> dict[str, Any]:
        session = {"session_id": self.session_id, "client": self.client_address, "protocol": self.protocol}
        if self._user:
            session["user"] = self._user
        return session


class ComponentLogger(structlog.BoundLoggerBase):
    """The logger of a component that is not a session; `bind`, `unbind` and `new` are structlog's."""

    _logger: _Component

    def enabled(self, level: str) -> bool:
        return LEVELS[level] >= _CURRENT.sink.level_of(self._logger.name)

    def trace(self, event: str, **fields: Any) -> None:
        self._log(TRACE, event, fields)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(INFO, event, fields)

    def warn(self, event: str, **fields: Any) -> None:
        self._log(WARN, event, fields)

    warning = warn

    def error(self, event: str, **fields: Any) -> None:
        self._log(ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._log(ERROR, event, {"exc_info": True, **fields})

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if level >= _CURRENT.sink.level_of(self._logger.name):
            self._proxy_to_logger("emit", event, level_number_=level, **fields)


class _Component:
    """Where structlog's chain ends."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def emit(self, level: int, event: str, fields: Mapping[str, Any]) -> None:
        _CURRENT.sink.emit(level, self.name, event, fields)


class _Current:
    """The one thing a process has one of: where its component loggers write. Sessions are handed their sink."""

    __slots__ = ("sink",)

    def __init__(self, sink: LogSink) -> None:
        self.sink = sink


_CURRENT: Final = _Current(LogSink(json=False))


def _to_sink(_logger: object, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """structlog's last processor: what `_Component.emit` is called with."""
    return (event.pop("level_number_"), str(event.pop("event")), event), {}


def configure(sink: LogSink) -> None:
    """From now on this process's component loggers write to `sink`."""
    _CURRENT.sink = sink


def get_logger(component: str) -> ComponentLogger:
    """The logger of a component ("queue", "storage", "delivery", ...); may be made before `configure`."""
    return ComponentLogger(_Component(component), [structlog.processors.format_exc_info, _to_sink], {})


def session_trace(log: SessionLog, event: str, **fields: Any) -> None:
    log.trace(event, **fields)


def session_debug(log: SessionLog, event: str, **fields: Any) -> None:
    log.debug(event, **fields)


def session_info(log: SessionLog, event: str, **fields: Any) -> None:
    log.info(event, **fields)


def session_warn(log: SessionLog, event: str, **fields: Any) -> None:
    log.warn(event, **fields)


def session_error(log: SessionLog, event: str, **fields: Any) -> None:
    log.error(event, **fields)


def log_message(component: str, event: str, fields: dict[str, Any]) -> None:
    """The one line of a message at info, rendered directly (1 us; `get_logger(...).info` costs six times as much).

    No field may be named like a secret.
    """
    sink = _CURRENT.sink
    if sink.level_of(component) <= INFO:
        sink.emit_plain(INFO, component, event, fields)
