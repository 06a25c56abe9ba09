"""What a signature costs beside the RSA operation itself, and whether the threads of a worker reach the raw rate of a core.

`python -m benchmarks.peers signed` asks the same of a whole server that relays.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from benchmarks.test_pipeline import Here, Silent
from rusmes._core.dkim import field_names, select_fields
from rusmes.clock import SystemClock
from rusmes.config.schema import Config, Processor, Step, Storage
from rusmes.config.signing import Dkim
from rusmes.dkim.keys import SigningKey, new_key, pem_of, sign_all
from rusmes.dkim.signature import FieldChoice, Form, body_hashes, signed_data, unsigned_field
from rusmes.mailet.api import Toolbox
from rusmes.mailet.notary import Notary
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Origin, Recipient

HEADER = (
    b"Received: by mx.here.org; now\r\nFrom: a@here.org\r\nTo: b@elsewhere.org\r\nSubject: x\r\n"
    b"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@here.org>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain\r\n\r\n"
)
BODY = b"0123456789 abcdefghij klmnopqrst uvwxyz 0123456789 abcdefghij klmnopq\r\n" * 145
KEY = new_key("rsa")
SIGNER = SigningKey("here.org", "s", KEY)
MESSAGES = 1000
STEPS = (Step(mailet="DKIMSign"), Step(mailet="RemoteDelivery"))


@pytest.mark.parametrize("form", ["relaxed", "simple"])
def test_body_of_10_kib(benchmark: Any, form: str) -> None:
    benchmark(body_hashes, [BODY], [form == "relaxed"])


def test_header(benchmark: Any) -> None:
    choice, form = FieldChoice(), Form()

    def header() -> bytes:
        chosen = choice.of(field_names(HEADER))
        fields = select_fields(HEADER, chosen.names, relaxed=True)
        return signed_data(fields, unsigned_field(SIGNER, form, b"x" * 32, chosen, now=1.0), relaxed=True)

    assert benchmark(header).startswith(b"from:a@here.org")


def test_raw_rsa_2048(benchmark: Any) -> None:
    benchmark(sign_all, [(SIGNER, b"x" * 900)] * 16)


@pytest.mark.parametrize("threads", [1, 2])
def test_pipeline_with_a_signature(benchmark: Any, tmp_path: Path, threads: int) -> None:
    """1,000 messages of 10 KiB, 100 at once. With one thread the rate to compare with is the raw one of a core."""
    (tmp_path / "dkim").mkdir()
    (tmp_path / "dkim" / "here.org.s.pem").write_bytes(pem_of(KEY))
    config = replace(Config(domain="here.org"), storage=Storage(path=str(tmp_path)), dkim=Dkim(threads=threads))
    notary, ids, clock = Notary(config), IdSource(), SystemClock()
    toolbox = Toolbox(
        directory=Here(), clock=clock, notices=Silent(), new_id=ids.next_id, hostname="mx.here.org", postmaster="p@here.org",
        relay_networks=(), count=lambda _: None, notary=notary,
    )  # fmt: skip
    pipeline = Pipeline.build((Processor(name="root", state="root", mailets=STEPS),), toolbox, Registry.load())
    origin, to = Origin(listener="mx", trusted=True), Recipient(Address("b", "elsewhere.org"))

    async def send(count: int) -> None:
        for _ in range(count):
            content = Content(ids.next_id(), len(HEADER) + len(BODY), len(HEADER), data=HEADER + BODY)
            mail = Mail(ids.next_id(), Address("a", "here.org"), [to], content, origin, created=clock.now())
            plan = await pipeline.run(mail, deadline=clock.monotonic() + 30)
            assert plan.queued[0].rendering.prefix.startswith(b"DKIM-Signature")

    async def all_of_them() -> None:
        await asyncio.gather(*(send(MESSAGES // 100) for _ in range(100)))

    loop = uvloop.new_event_loop()
    loop.run_until_complete(send(1))
    try:
        cpu = time.process_time()
        benchmark.pedantic(lambda: loop.run_until_complete(all_of_them()), rounds=5, warmup_rounds=1)
        benchmark.extra_info["cpu_us_per_message"] = round((time.process_time() - cpu) / (6 * MESSAGES) * 1e6)
    finally:
        loop.close()
        notary.close()
