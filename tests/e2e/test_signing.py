"""Signatures as they arrive: signed here, relayed over real sockets, verified by dkimpy on the octets that the sink got."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dkim
import pytest
from msgspec.structs import replace

from rusmes.config.schema import Processor, Step, Storage
from rusmes.dkim.keys import new_key, pem_of, public_record
from rusmes.mailet.notary import Notary
from rusmes.model.content import Content
from tests.loops import run_on_uvloop
from tests.sinks.engine import config_for, running
from tests.sinks.smtp_sink import DEFAULT_EXTENSIONS, Sink

KEYS = {"rsa": new_key("rsa", bits=1024), "ed25519": new_key("ed25519")}
STEPS = tuple(Step(matcher="RelayAllowed", mailet=name) for name in ("DKIMSign", "ARCSeal", "RemoteDelivery"))
PROCESSORS = (
    Processor(name="root", state="root", mailets=STEPS),
    Processor(name="error", state="error", mailets=(Step(mailet="Hold"),)),
)


@pytest.fixture(autouse=True)
def _on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "run", run_on_uvloop)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "dkim").mkdir()
    for selector, key in KEYS.items():
        (tmp_path / "dkim" / f"example.com.{selector}.pem").write_bytes(pem_of(key))
    return tmp_path


def records(name: Any, timeout: float = 5) -> bytes | None:
    selector, _, domain = name.decode().rstrip(".").partition("._domainkey.")
    return public_record(KEYS[selector]).encode() if domain == "example.com" else None


HEAD = (
    b"From: A <a@example.com>\r\nTo: b@example.org\r\nSubject: =?utf-8?q?=C3=A4?=\r\n"
    b"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\n"
)
BODIES = {
    "plain": b"Hello\r\n",
    "none": b"",
    "dots": b".\r\n..\r\n.a\r\n",
    "blanks": b"a \t b  \r\n\r\n\t \r\n\r\n\r\n",
    "no end": b"a\r\nlast line",
    "8 bit": "äöü\r\n".encode() * 100,
    "long lines": b"x" * 2500 + b"\r\n" + b"y" * 999,
    "large": b"line of a large message, with \t blanks \r\n" * 20_000,
}


@pytest.mark.parametrize("chunking", [False, True])
def test_what_arrives_verifies(keys: Path, chunking: bool) -> None:
    async def main() -> None:
        extensions = (*DEFAULT_EXTENSIONS, "CHUNKING") if chunking else DEFAULT_EXTENSIONS
        async with Sink(extensions=extensions) as sink:
            config = replace(config_for(sink.port), processors=PROCESSORS, storage=Storage(path=str(keys)))
            notary = Notary(config)
            async with running(config, notary=notary) as engine:
                for name, body in BODIES.items():
                    data = HEAD + b"X-Long: " + b"z" * 1200 + b"\r\n\r\n" + body
                    mail = engine.mail("b@example.org", sender="a@example.com", data=data)
                    if len(data) > 65536:
                        path = keys / "body"
                        path.write_bytes(data)
                        mail.content = Content(mail.content.id, len(data), data.index(b"\r\n\r\n") + 4, path=str(path))
                    await engine.intake.accept(mail)
                    await _until(lambda: engine.runner.size == 0)
                    arrived = sink.messages[-1].data
                    assert arrived.count(b"DKIM-Signature: ") == 2, name
                    for index in range(2):
                        assert dkim.DKIM(arrived).verify(index, dnsfunc=records), name
                stranger = engine.mail("b@example.org", sender="a@example.com", data=HEAD + b"\r\nfake\r\n", trusted=False)
                stranger.recipients = [replace(stranger.recipients[0], forwarded=True)]
                await engine.intake.accept(stranger)
                await _until(lambda: engine.runner.size == 0)
                arrived = sink.messages[-1].data
                assert b"DKIM-Signature" not in arrived
                assert dkim.ARC(arrived).verify(dnsfunc=records)[0] == b"pass"
            notary.close()
            assert len(sink.messages) == len(BODIES) + 1

    asyncio.run(main())


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)
