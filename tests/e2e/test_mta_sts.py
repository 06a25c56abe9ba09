"""MTA-STS over real sockets (RFC 8461): policies over HTTPS, hostile policy hosts (N7), and what they mean for mail."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from rusmes.clock import FakeClock, SystemClock
from rusmes.delivery.mtasts import BadPolicy, HttpsFetch, StsPolicies
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.delivery.tlsrpt import TABLE, Tally, TlsCounts
from rusmes.dns import Resolver
from rusmes.metrics import Metrics
from rusmes.queue.api import Report
from rusmes.server.tlscare import TlsCare
from rusmes.tls.context import client_context
from tests.e2e.test_dane import Authority
from tests.e2e.test_delivery_rules import item
from tests.e2e.test_relay import mx_config
from tests.sinks.engine import HOSTNAME, config_for, running
from tests.sinks.name_server import NameServer
from tests.sinks.smtp_sink import DEFAULT_EXTENSIONS, Sink

HOST = "mx.x.org"
POLICY = f"version: STSv1\nmode: enforce\nmx: {HOST}\nmax_age: 604800\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("mx"), HOST)


@pytest.fixture(scope="module")
def web_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("web"), "mta-sts.x.org")


def trusting(*authorities: Authority) -> Any:
    context = client_context(verify=True)
    for one in authorities:
        context.load_verify_locations(cadata=one.root.public_bytes(Encoding.PEM).decode())
    return context


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(text: str, **more: Any) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, **more)

    return handler


@contextlib.asynccontextmanager
async def policy_host(context: ssl.SSLContext, handler: Handler) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_get("/.well-known/mta-sts.txt", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await runner.cleanup()


def fetched(serving: Authority, handler: Handler, *, trust: Sequence[Authority], private: bool = True) -> str:
    async def main() -> str:
        async with NameServer() as names, policy_host(serving.context, handler) as port:
            names.records = {("mta-sts.x.org.", "A"): ["127.0.0.1"]}
            resolver = Resolver(SystemClock(), [names.address])
            fetch = HttpsFetch(resolver, private_hosts=private, context=trusting(*trust), port=port)
            async with asyncio.timeout(20):
                return (await fetch("x.org")).decode()

    return asyncio.run(main())


def test_a_policy(web_authority: Authority) -> None:
    assert fetched(web_authority, answering(POLICY), trust=[web_authority]) == POLICY


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            await response.write(b"mx: a.x.org\n" * 1000)
    return response


async def elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("https://mta-sts.x.org/other")


@pytest.mark.parametrize(
    ("handler", "reason", "kind"),
    [
        (endless, "larger than 64 KiB", "sts-policy-invalid"),
        (elsewhere, "answers 302", "sts-policy-fetch-error"),
        (answering("gone", status=404), "answers 404", "sts-policy-fetch-error"),
        (answering(POLICY, content_type="text/html"), "text/html", "sts-policy-invalid"),
    ],
)
def test_n7_hostile_policy_hosts(web_authority: Authority, handler: Handler, reason: str, kind: str) -> None:
    with pytest.raises(BadPolicy, match=reason) as error:
        fetched(web_authority, handler, trust=[web_authority])
    assert error.value.kind == kind


def test_the_certificate_must_be_good(web_authority: Authority, authority: Authority) -> None:
    for serving, trust in ((web_authority, [authority]), (authority, [authority])):
        with pytest.raises(BadPolicy) as error:
            fetched(serving, answering(POLICY), trust=trust)
        assert error.value.kind == "sts-webpki-invalid"


def test_private_addresses_are_not_asked(web_authority: Authority) -> None:
    with pytest.raises(BadPolicy, match="no public address"):
        fetched(web_authority, answering(POLICY), trust=[web_authority], private=False)


# What a policy means for mail


def send(
    sink: Sink,
    policy: str | None,
    *,
    trust: Authority | None = None,
    tlsa: Sequence[str] = (),
    mails: Sequence[dict[str, Any]] = ({},),
    ledger: Any = None,
) -> list[Report]:
    async def main() -> list[Report]:
        async with NameServer() as names, sink:
            names.insecure = set() if tlsa else None
            names.records = {("x.org.", "MX"): [f"10 {HOST}."], (f"{HOST}.", "A"): ["127.0.0.1"]}
            if tlsa:
                names.records[f"_{sink.port}._tcp.{HOST}.", "TLSA"] = list(tlsa)
            if policy is not None:
                names.records["_mta-sts.x.org.", "TXT"] = ['"v=STSv1; id=1;"']

            async def fetch(_: str) -> bytes:
                assert policy is not None
                return policy.encode()

            clock, metrics = SystemClock(), Metrics()
            resolver = Resolver(clock, [names.address])
            tls = TlsPolicy(clock, verified=trusting(*([trust] if trust else [])))
            config = mx_config(sink.port, names, tls_report_from="tls@example.com" if ledger is not None else "")
            out = RemoteDeliverer(config, resolver, metrics, clock, None, HOSTNAME, tls=tls, ledger=ledger)
            out.sts = StsPolicies(resolver, clock, None, fetch)
            out._routes._sts = out.sts
            reports = []
            for mail in mails:
                queued = item("a@x.org", **mail)
                (report,) = await out.deliver(queued, queued.recipients, "mx:x.org")
                reports.append(report)
            await out.stop()
            return reports

    return asyncio.run(main())


def policy_of(report: Report) -> str:
    assert report.attempt is not None
    return report.attempt.tls_policy


@pytest.mark.rfc("8461", "5")
def test_enforced_and_good(authority: Authority) -> None:
    sink = Sink(tls=authority.context)
    (report,) = send(sink, POLICY, trust=authority)
    assert report.action == "delivered"
    assert sink.messages[0].tls
    assert policy_of(report) == "mta-sts enforce"


@pytest.mark.rfc("8461", "4")
@pytest.mark.parametrize("case", ["untrusted", "another name", "no TLS"])
def test_enforced_and_bad(authority: Authority, tmp_path: Path, case: str) -> None:
    serving = Authority(tmp_path, "other.x.org") if case == "another name" else authority
    sink = Sink(tls=None if case == "no TLS" else serving.context)
    (report,) = send(sink, POLICY, trust=serving if case == "another name" else None)
    assert report.action == "delayed"
    assert "mta-sts enforce" in report.text
    assert not sink.messages


@pytest.mark.rfc("8461", "4.1")
def test_a_server_that_the_policy_does_not_name(authority: Authority) -> None:
    sink = Sink(tls=authority.context)
    (report,) = send(sink, POLICY.replace(HOST, "*.elsewhere.org"), trust=authority)
    assert (report.action, report.status) == ("delayed", "4.7.5")
    assert f"{HOST} is not in the MTA-STS policy of x.org" in report.text
    assert not sink.messages


@pytest.mark.rfc("8461", "5")
@pytest.mark.parametrize("case", ["untrusted", "no TLS", "another name"])
def test_testing_delivers_all_the_same(authority: Authority, case: str) -> None:
    sink = Sink(tls=None if case == "no TLS" else authority.context)
    policy = POLICY.replace("enforce", "testing")
    (report,) = send(sink, policy.replace(HOST, "mx.elsewhere.org") if case == "another name" else policy)
    assert report.action == "delivered"
    assert sink.messages[0].tls == (case != "no TLS")
    assert policy_of(report) == "opportunistic"


def test_testing_and_good(authority: Authority) -> None:
    sink = Sink(tls=authority.context)
    (report,) = send(sink, POLICY.replace("enforce", "testing"), trust=authority)
    assert policy_of(report) == "mta-sts testing"


@pytest.mark.parametrize("policy", [None, "version: STSv1\nmode: none\nmax_age: 1\n"])
def test_without_a_policy_any_certificate_will_do(authority: Authority, policy: str | None) -> None:
    sink = Sink(tls=authority.context)
    (report,) = send(sink, policy)
    assert report.action == "delivered"
    assert policy_of(report) == "opportunistic"


@pytest.mark.rfc("8461", "2")
def test_dane_comes_first(authority: Authority, tmp_path: Path) -> None:
    """TLSA records decide, though the policy would be content, or not."""
    right = authority.record(3, 1, 1)
    (report,) = send(Sink(tls=authority.context), POLICY, tlsa=[f"3 1 1 {right.data.hex()}"])
    assert (report.action, policy_of(report)) == ("delivered", "dane")
    wrong = Authority(tmp_path).record(3, 1, 1)
    (report,) = send(Sink(tls=authority.context), POLICY, trust=authority, tlsa=[f"3 1 1 {wrong.data.hex()}"])
    assert report.action == "delayed"
    assert "TLSA" in report.text


def test_dane_is_used_by_default_where_the_resolver_validates(authority: Authority, tmp_path: Path) -> None:
    wrong = Authority(tmp_path).record(3, 1, 1)
    (report,) = send(Sink(tls=authority.context), None, tlsa=[f"3 1 1 {wrong.data.hex()}"])
    assert report.action == "delayed"


@pytest.mark.rfc("8689", "4.2.1")
@pytest.mark.parametrize(
    ("policy", "trusted", "cause"),
    [
        (POLICY, True, "mta-sts enforce"),
        (POLICY, False, ""),
        (POLICY.replace("enforce", "testing"), True, "verify"),
        (POLICY.replace("enforce", "testing"), False, ""),
        (None, True, "verify"),
        (None, False, ""),
    ],
)
def test_requiretls(authority: Authority, policy: str | None, trusted: bool, cause: str) -> None:
    """A policy that is only tested is not enough for it."""
    sink = Sink(tls=authority.context, extensions=(*DEFAULT_EXTENSIONS, "REQUIRETLS"))
    (report,) = send(sink, policy, trust=authority if trusted else None, mails=[{"requiretls": True}])
    assert (report.action == "delivered") is bool(cause)
    assert len(sink.messages) == bool(cause)
    if cause:
        assert policy_of(report) == cause
        assert "REQUIRETLS" in sink.messages[0].mail


@pytest.mark.rfc("8689", "4.2.2")
def test_mail_that_asks_for_no_tls_goes_without(authority: Authority) -> None:
    sink = Sink()
    (report,) = send(sink, POLICY, mails=[{"data": b"TLS-Required: No\r\nSubject: a\r\n\r\nb\r\n"}])
    assert report.action == "delivered"


# Resumption


def test_the_second_connection_resumes_the_session(authority: Authority) -> None:
    sink = Sink(tls=authority.context)

    async def main() -> list[bool]:
        from rusmes.delivery.pool import Pool

        resumed: list[bool] = []
        keep = Pool.give_back

        def give_back(self: Pool, lane: Any, session: Any, plan: Any) -> None:
            resumed.append(session.connection.tls.is_resumed)
            keep(self, lane, session, plan)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pool, "give_back", give_back)
            async with NameServer() as names, sink:
                names.records = {("x.org.", "MX"): [f"10 {HOST}."], (f"{HOST}.", "A"): ["127.0.0.1"]}
                clock = SystemClock()
                config = mx_config(sink.port, names, messages_per_connection=1)
                tls = TlsPolicy(clock, verified=trusting(authority))
                out = RemoteDeliverer(config, Resolver(clock, [names.address]), Metrics(), clock, None, HOSTNAME, tls=tls)
                for _ in range(3):
                    queued = item("a@x.org")
                    (report,) = await out.deliver(queued, queued.recipients, "mx:x.org")
                    assert report.action == "delivered"
                await out.stop()
        return resumed

    assert asyncio.run(main()) == [False, True, True]


# Reports


@pytest.mark.rfc("8460", "4.3")
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("good", ("sts", 1, [])),
        ("untrusted", ("sts", 0, ["certificate-not-trusted"])),
        ("untrusted, testing", ("sts", 0, ["certificate-not-trusted"])),
        ("no TLS", ("sts", 0, ["starttls-not-supported"])),
        ("not named", ("sts", 0, ["validation-failure"])),
        ("no policy", ("no-policy-found", 1, [])),
        ("no policy, no TLS", ("no-policy-found", 0, ["starttls-not-supported"])),
        ("TLSA", ("tlsa", 1, [])),
        ("another TLSA", ("tlsa", 0, ["validation-failure"])),
    ],
)
def test_what_is_counted(authority: Authority, tmp_path: Path, case: str, expected: tuple[str, int, list[str]]) -> None:
    from rusmes.storage.ledger import MemoryLedger

    ledger = MemoryLedger()
    sink = Sink(tls=None if "no TLS" in case else authority.context)
    policy = None if "no policy" in case else POLICY
    if "testing" in case:
        policy = POLICY.replace("enforce", "testing")
    if case == "not named":
        policy = POLICY.replace(HOST, "mx.elsewhere.org")
    tlsa: list[str] = []
    if "TLSA" in case:
        serving = Authority(tmp_path) if "another" in case else authority
        tlsa = [f"3 1 1 {serving.record(3, 1, 1).data.hex()}"]
    send(sink, policy, trust=authority if case == "good" else None, tlsa=tlsa, ledger=ledger)
    (tally,) = [msgspec.msgpack.decode(value, type=Tally) for _, value in ledger.items(TABLE)]
    assert (tally.policy_type, tally.good, [failure.kind for failure, _ in tally.failures.values()]) == expected
    assert tally.domain == "x.org"


def test_the_report_goes_out_through_the_pipeline() -> None:
    """From the ledger's counts of yesterday to the wire."""
    from rusmes.storage.ledger import MemoryLedger

    async def main() -> bytes:
        async with NameServer() as names, Sink() as sink:
            names.records = {("_smtp._tls.x.org.", "TXT"): ['"v=TLSRPTv1; rua=mailto:tls@reports.org"']}
            config = config_for(sink.port, tls_report_from="tls@example.com", mta_sts=False)
            async with running(config) as engine:
                ledger = MemoryLedger()
                yesterday = FakeClock(engine.clock.now() - 86_400 - 3_600)
                counts = TlsCounts(ledger, yesterday, "w")
                counts.no_policy("x.org", "sts-policy-fetch-error", "404")
                counts.flush()
                house = SimpleNamespace(
                    config=config, deliverer=engine.deliverer, ledger=ledger, resolver=Resolver(engine.clock, [names.address]),
                    clock=engine.clock, ids=engine.ids, intake=engine.intake,
                )  # fmt: skip
                care = TlsCare(house, is_first=True)  # type: ignore[arg-type]
                care.flush()
                await care.care()
                (message,) = await sink.wait_for(1)
                assert message.rcpts == ["<tls@reports.org>"]
                assert message.mail.startswith("<tls@example.com>")
                assert not list(ledger.items(TABLE))
                return message.data

    assert b"TLS-Report-Domain: x.org\r\n" in asyncio.run(main())


def test_the_operator_sees_what_decides(authority: Authority) -> None:
    async def main() -> None:
        async with NameServer() as names, Sink(tls=authority.context) as sink:
            names.records = {
                ("x.org.", "MX"): [f"10 {HOST}."],
                (f"{HOST}.", "A"): ["127.0.0.1"],
                ("_mta-sts.x.org.", "TXT"): ['"v=STSv1; id=1;"'],
            }

            async def fetch(_: str) -> bytes:
                return POLICY.encode()

            clock = SystemClock()
            resolver = Resolver(clock, [names.address])
            out = RemoteDeliverer(mx_config(sink.port, names), resolver, Metrics(), clock, None, HOSTNAME)
            out._routes._sts = StsPolicies(resolver, clock, None, fetch)
            plain = item("a@x.org")
            assert out.tls_of(plain, plain.recipients[0]) == ""
            await out.find_target("mx:x.org")
            assert out.tls_of(plain, plain.recipients[0]) == "mta-sts enforce"
            demanding = item("a@x.org", requiretls=True)
            assert out.tls_of(demanding, demanding.recipients[0]) == "mta-sts enforce, REQUIRETLS"
            optional = item("a@x.org", data=b"TLS-Required: No\r\n\r\n")
            assert out.tls_of(optional, optional.recipients[0]) == "opportunistic"
            await out.stop()

    asyncio.run(main())


def test_a_server_that_chokes_on_a_session_is_tried_without_it(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to speak in the clear (T13)."""
    from rusmes.net.connection import Connection, TlsFailed

    calls = 0
    start = Connection.start_tls

    async def start_tls(self: Connection, *arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TlsFailed("TLS handshake failed", "DECRYPT_ERROR")
        await start(self, *arguments, **named)

    monkeypatch.setattr(Connection, "start_tls", start_tls)
    sink = Sink(tls=authority.context)

    async def main() -> None:
        async with NameServer() as names, sink:
            names.records = {("x.org.", "MX"): [f"10 {HOST}."], (f"{HOST}.", "A"): ["127.0.0.1"]}
            clock = SystemClock()
            config = mx_config(sink.port, names, messages_per_connection=1)
            out = RemoteDeliverer(config, Resolver(clock, [names.address]), Metrics(), clock, None, HOSTNAME)
            for _ in range(2):
                queued = item("a@x.org")
                (report,) = await out.deliver(queued, queued.recipients, "mx:x.org")
                assert report.action == "delivered"
            await out.stop()

    asyncio.run(main())
    assert calls == 3
    assert [message.tls for message in sink.messages] == [True, True]
