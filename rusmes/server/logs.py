"""Where this server's log lines go."""

from __future__ import annotations

import os
import stat
from typing import Final

from rusmes.config.schema import Config
from rusmes.errors import ConfigError
from rusmes.log import PIPE_ATOMIC_BYTES, DescriptorWriter, LogSink
from rusmes.logfiles import LogFile

FLUSH_SECONDS: Final = 0.1
"""How long an info line of a worker may wait for others to be written with."""

FILE_BUFFER_BYTES: Final = 16 * 1024


def open_sink(config: Config) -> LogSink:
    """The sink of [logging].

    Raises:
        ConfigError: the file cannot be opened.
    """
    logging = config.logging
    writer: LogFile | DescriptorWriter
    if logging.output == "file":
        file = logging.file
        try:
            os.makedirs(os.path.dirname(file.path) or ".", exist_ok=True)
            writer = LogFile(file.path, max_size=file.max_size, max_backups=file.max_backups, compress=file.compress)
        except OSError as error:
            raise ConfigError(f"{file.path} cannot be written: {error.strerror}", key="logging.file.path") from None
        is_terminal = False
    else:
        descriptor = 1 if logging.output == "stdout" else 2
        writer = DescriptorWriter(descriptor)
        is_terminal = os.isatty(descriptor)
    json = logging.format == "json" or (logging.format == "auto" and not is_terminal)
    return LogSink(writer, level=logging.level, levels=logging.levels, json=json)


def file_of(sink: LogSink) -> LogFile | None:
    """The file a sink writes, None when it writes elsewhere."""
    return sink.write_lines if isinstance(sink.write_lines, LogFile) else None


def collect_lines(sink: LogSink) -> None:
    """Let lines wait for each other, in a process that calls `flush` every FLUSH_SECONDS."""
    if isinstance(sink.write_lines, LogFile):
        sink.buffer_bytes = FILE_BUFFER_BYTES
    elif isinstance(sink.write_lines, DescriptorWriter):
        mode = os.fstat(sink.write_lines.descriptor).st_mode
        sink.buffer_bytes = FILE_BUFFER_BYTES if stat.S_ISREG(mode) else PIPE_ATOMIC_BYTES
