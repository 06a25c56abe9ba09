"""Both event loops, and TLS contexts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from rusmes.tls.context import make_self_signed
from tests.unit.net.peers import Run


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed pair for localhost: certificate, key."""
    place = tmp_path_factory.mktemp("tls")
    make_self_signed("localhost", place / "cert.pem", place / "key.pem")
    return place / "cert.pem", place / "key.pem"


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async test body: `run(body)`; the same suite on uvloop and asyncio."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(body: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await body()

        with asyncio.Runner(loop_factory=factory) as loop_runner:
            loop_runner.run(limited())

    return runner
