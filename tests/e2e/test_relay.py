"""From the intake to another server, over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sinks.engine import config_for, running
from tests.sinks.smtp_sink import Sink


def test_one_message() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port)) as engine:
            outcome = await engine.send("bob@example.org", data=b"Subject: a\r\n\r\n.dot\r\nb\r\n")
            assert outcome.refusals == [None]
            (message,) = await sink.wait_for(1)
            assert message.mail == "<sam@elsewhere.org> SIZE=23"
            assert message.rcpts == ["<bob@example.org>"]
            assert message.data == b"Subject: a\r\n\r\n.dot\r\nb\r\n"
            await asyncio.sleep(0.1)
            assert not list(engine.queue_store.entries())
            assert engine.runner.size == 0

    asyncio.run(main())


@pytest.fixture
def smtp_sink(tmp_path: Path, unused_port: int) -> Iterator[int]:
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("Postfix's smtp-sink is not installed")
    command = [program, "-u", "nobody", "-R", str(tmp_path), f"127.0.0.1:{unused_port}", "100"]
    tmp_path.chmod(0o755)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.2)
        yield unused_port
    finally:
        process.terminate()
        process.wait()
