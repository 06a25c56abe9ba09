"""Throttling, lock-out, the credential cache and the constant-time answer, seen through the authenticator."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from rusmes._core.counters import SharedCounters
from rusmes.auth.api import Attempt, Denied, ScramCredentials
from rusmes.auth.authenticator import CACHE_ENTRIES, CredentialCache, FullAuthenticator
from rusmes.auth.throttle import BLOCK_SECONDS, network_key
from rusmes.clock import FakeClock
from rusmes.config.schema import Auth, Config
from rusmes.errors import AuthUnavailable
from rusmes.metrics import AUTH_ATTEMPTS, AUTH_MECHANISMS, Metrics
from rusmes.model.identity import Identity

CONFIG = Config(domain="example.com", auth=Auth())


class MemoryBackend:
    """Passwords in the clear; counts what it is asked."""

    mechanisms = frozenset({"PLAIN", "LOGIN", "SCRAM-SHA-256", "EXTERNAL"})
    decoy_secret = b"d" * 32
    scram_iterations = 4096

    def __init__(self) -> None:
        self.passwords = {"alice@example.com": "s3cret", "boss@example.com": "admin"}
        self.number = 1
        self.verified: list[str] = []
        self.error: Exception | None = None

    def _identity(self, name: str) -> Identity:
        return Identity(name, frozenset({name}), admin=name.startswith("boss"))

    async def generation(self) -> int:
        return self.number

    async def verify(self, name: str, password: str) -> Identity | None:
        self.verified.append(name)
        if self.error is not None:
            raise self.error
        return self._identity(name) if self.passwords.get(name) == password else None

    async def scram(self, name: str) -> ScramCredentials | None:
        return ScramCredentials("SCRAM-SHA-256", b"salt", 4096, b"k" * 32, b"s" * 32) if name in self.passwords else None

    async def find(self, name: str) -> Identity | None:
        return self._identity(name) if name in self.passwords else None

    async def deliverable(self, name: str) -> str:
        return name if name in self.passwords else ""

    def known(self, name: str) -> bool:
        return name in self.passwords

    async def verify_token(self, name: str, token: str) -> Identity | None:
        return self._identity("alice@example.com") if token == "token" else None


class House:
    """An authenticator (or several workers') with everything around it in the test's hands."""

    def __init__(self, workers: int = 1) -> None:
        self.backend = MemoryBackend()
        self.clock = FakeClock()
        self.limits = SharedCounters()
        self.metrics = Metrics()
        self.slept: list[float] = []
        self.workers = [
            FullAuthenticator(self.backend, self.limits, self.clock, self.metrics, CONFIG, sleep=self._sleep)
            for _ in range(workers)
        ]
        self.one = self.workers[0]

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def guess(
        self, address: str, name: str = "alice@example.com", password: str = "wrong", worker: int = 0, **more: Any
    ) -> Identity | Denied:
        return await self.workers[worker].login(name, password, Attempt(address, "pop3"), **more)


@pytest.fixture
def house() -> House:
    return House(workers=2)


@pytest.mark.parametrize("name", ["alice@example.com", "Alice@EXAMPLE.com", "alice"])
def test_login(house: House, name: str) -> None:
    identity = asyncio.run(house.guess("192.0.2.1", name, "s3cret"))
    assert isinstance(identity, Identity)
    assert identity.account == "alice@example.com"
    assert house.slept == []


def test_unknown_account_and_wrong_password_look_alike(house: House) -> None:
    async def scenario() -> None:
        wrong = await house.guess("192.0.2.1")
        unknown = await house.guess("192.0.2.2", "nobody@example.com")
        impossible = await house.guess("192.0.2.3", "\r\n")
        assert isinstance(wrong, Denied)
        assert wrong == unknown == impossible

    asyncio.run(scenario())
    # All of them pay for a verification (A3).
    assert house.backend.verified == ["alice@example.com", "nobody@example.com", ""]


def test_the_answer_to_a_failure_comes_later_each_time(house: House) -> None:
    async def scenario() -> None:
        for _ in range(9):
            await house.guess("192.0.2.1", "nobody@example.com")

    asyncio.run(scenario())
    assert house.slept == [1, 2, 4, 8, 8, 8, 8, 8, 8]


def test_ten_failures_block_the_address_for_a_quarter_of_an_hour_on_every_worker(house: House) -> None:
    """A2."""

    async def scenario() -> None:
        for n in range(10):
            assert not house.one.is_blocked("192.0.2.1")
            await house.guess("192.0.2.1", f"user{n}@example.com", worker=n % 2)
        for worker in house.workers:
            assert worker.is_blocked("192.0.2.1") == BLOCK_SECONDS
            assert not worker.is_blocked("192.0.2.2")
        before = len(house.backend.verified)
        denied = await house.guess("192.0.2.1", password="s3cret")
        assert isinstance(denied, Denied)
        assert denied.locked_seconds == BLOCK_SECONDS
        assert len(house.backend.verified) == before
        house.clock.advance(899)
        assert house.one.is_blocked("192.0.2.1") == 1
        house.clock.advance(2)
        assert not house.one.is_blocked("192.0.2.1")
        assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_many_guesses_at_the_same_moment_are_ten_guesses_too(house: House) -> None:
    async def scenario() -> None:
        busy = 0
        most = 0

        async def slow(name: str, password: str) -> Identity | None:
            nonlocal busy, most
            house.backend.verified.append(name)
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.001)
            busy -= 1
            return house.backend._identity(name) if password == "s3cret" else None

        house.backend.verify = slow  # type: ignore[method-assign]
        guesses = (house.guess("192.0.2.1", f"user{n}@example.com", worker=n % 2) for n in range(40))
        answers = await asyncio.gather(*guesses)
        assert len(house.backend.verified) == most == 10
        assert sum(isinstance(answer, Denied) and not answer.locked_seconds for answer in answers) == 10
        assert house.limits.count(b"auth-busy:192.0.2.1") == 0
        # Others wait for their turn, and get it.
        most = 0
        friends = await asyncio.gather(*(house.guess("192.0.2.2", f"user{n}@example.com", "s3cret") for n in range(25)))
        assert all(isinstance(friend, Identity) for friend in friends)
        assert most == 10

    asyncio.run(scenario())


def test_a_turn_that_never_comes_is_nobodys_failure(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.auth.authenticator.PATIENCE_SECONDS", 0.0)

    async def scenario() -> None:
        for _ in range(10):
            assert house.one.throttle.enter("192.0.2.1", 0.0)
        with pytest.raises(AuthUnavailable):
            await house.guess("192.0.2.1", password="s3cret")
        for _ in range(10):
            house.one.throttle.leave("192.0.2.1")
        assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_failures_are_forgotten_after_ten_minutes(house: House) -> None:
    async def scenario() -> None:
        for _ in range(4):
            for n in range(9):
                await house.guess("192.0.2.1", f"user{n}@example.com")
            house.clock.advance(1201)
        assert not house.one.is_blocked("192.0.2.1")

    asyncio.run(scenario())


def test_a_steady_trickle_over_the_window_is_blocked_too(house: House) -> None:
    async def scenario() -> None:
        for n in range(30):
            await house.guess("192.0.2.1", f"user{n}@example.com")
            house.clock.advance(50)
            if house.one.is_blocked("192.0.2.1"):
                return
        raise AssertionError("30 guesses in 25 minutes")

    asyncio.run(scenario())


def test_an_ipv6_network_is_one_client(house: House) -> None:
    async def scenario() -> None:
        for n in range(10):
            await house.guess(f"2001:db8:0:1::{n:x}", f"user{n}@example.com")
        assert house.one.is_blocked("2001:db8:0:1:ffff::1")
        assert not house.one.is_blocked("2001:db8:0:2::1")

    asyncio.run(scenario())


def test_network_keys() -> None:
    assert network_key("192.0.2.1") == network_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_key("fe80::1%eth0") == network_key("fe80::2")
    assert network_key("not:an:address") == "not:an:address"


def test_an_account_under_attack_stays_open_for_its_owner(house: House) -> None:
    async def scenario() -> None:
        assert isinstance(await house.guess("198.51.100.7", password="s3cret"), Identity)
        for n in range(10):
            await house.guess(f"192.0.2.{n}")
        elsewhere = await house.guess("203.0.113.9", password="s3cret", worker=1)
        assert isinstance(elsewhere, Denied)
        assert elsewhere.locked_seconds
        assert house.metrics.count(AUTH_ATTEMPTS["throttled"]) == 1
        assert isinstance(await house.guess("198.51.100.7", password="s3cret", worker=1), Identity)
        house.clock.advance(BLOCK_SECONDS + 1)
        assert isinstance(await house.guess("203.0.113.9", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_the_owners_own_typos_close_no_account(house: House) -> None:
    async def scenario() -> None:
        await house.guess("198.51.100.7", password="s3cret")
        for _ in range(9):
            await house.guess("198.51.100.7")
        assert isinstance(await house.guess("203.0.113.9"), Denied)
        assert isinstance(await house.guess("203.0.113.9", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_a_success_does_not_wash_an_attacker_clean(house: House) -> None:
    async def scenario() -> None:
        for n in range(10):
            await house.guess("192.0.2.1", f"user{n}@example.com")
            if n < 9:
                assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Identity)
        assert house.one.is_blocked("192.0.2.1")

    asyncio.run(scenario())


def test_the_operator_can_forgive(house: House) -> None:
    async def scenario() -> None:
        for _ in range(10):
            await house.guess("192.0.2.1")
        house.one.throttle.forgive("192.0.2.1", "alice@example.com")
        assert not house.one.is_blocked("192.0.2.1")
        assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_a_unix_socket_is_never_blocked(house: House) -> None:
    async def scenario() -> None:
        for n in range(20):
            await house.guess("", f"user{n}@example.com")
        assert not house.one.is_blocked("")

    asyncio.run(scenario())


def test_a_right_password_is_verified_once_and_remembered_for_a_minute(house: House) -> None:
    async def scenario() -> None:
        for _ in range(3):
            await house.guess("192.0.2.1", password="s3cret")
        assert len(house.backend.verified) == 1
        assert isinstance(await house.guess("192.0.2.1", password="s3creT"), Denied)
        house.clock.advance(61)
        await house.guess("192.0.2.1", password="s3cret")
        assert len(house.backend.verified) == 3

    asyncio.run(scenario())


def test_a_change_of_accounts_voids_what_was_remembered(house: House) -> None:
    async def scenario() -> None:
        await house.guess("192.0.2.1", password="s3cret")
        house.backend.passwords["alice@example.com"] = "new"
        house.backend.number += 1
        assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Denied)
        assert isinstance(await house.guess("192.0.2.1", password="new"), Identity)

    asyncio.run(scenario())


def test_the_cache_holds_no_password_and_is_bounded() -> None:
    cache = CredentialCache(60.0)
    cache.get("a", "b", 1, 0.0)
    for n in range(CACHE_ENTRIES + 5):
        cache.put(f"user{n}", "hunter2", Identity("x"), 1, 0.0)
    assert len(cache._entries) == CACHE_ENTRIES
    assert not any(b"hunter2" in key for key in cache._entries)
    assert cache.get("user0", "hunter2", 1, 0.0) is None
    assert cache.get(f"user{CACHE_ENTRIES}", "hunter2", 1, 0.0) is not None
    # Name and password do not run into each other.
    cache.put("ab", "c", Identity("x"), 1, 0.0)
    assert cache.get("a", "bc", 1, 0.0) is None


def test_no_ttl_no_cache() -> None:
    cache = CredentialCache(0.0)
    cache.get("a", "b", 1, 0.0)
    cache.put("a", "b", Identity("x"), 1, 0.0)
    assert cache.get("a", "b", 1, 0.0) is None


def test_an_unavailable_backend_is_nobodys_failure(house: House) -> None:
    async def scenario() -> None:
        house.backend.error = AuthUnavailable("later")
        for _ in range(20):
            with pytest.raises(AuthUnavailable):
                await house.guess("192.0.2.1", password="s3cret")
        assert not house.one.is_blocked("192.0.2.1")
        house.backend.error = None
        assert isinstance(await house.guess("192.0.2.1", password="s3cret"), Identity)

    asyncio.run(scenario())


def test_acting_for_others_is_for_administrators(house: House) -> None:
    async def scenario() -> None:
        async def act(name: str, password: str, other: str) -> Identity | Denied:
            return await house.guess("192.0.2.1", name, password, authorize_as=other)

        assert isinstance(await act("alice", "s3cret", "alice@example.com"), Identity)
        assert isinstance(await act("alice", "s3cret", "boss@example.com"), Denied)
        acting = await act("boss", "admin", "alice")
        assert isinstance(acting, Identity)
        assert acting.account == "alice@example.com"
        assert isinstance(await act("boss", "admin", "nobody"), Denied)

    asyncio.run(scenario())


def test_scram_counts_like_passwords_do(house: House) -> None:
    async def scenario() -> None:
        attempt = Attempt("192.0.2.1", "pop3", mechanism="SCRAM-SHA-256")
        known = await house.one.scram_credentials("alice", attempt)
        decoy = await house.one.scram_credentials("nobody", attempt)
        again = await house.workers[1].scram_credentials("nobody", attempt)
        assert isinstance(known, ScramCredentials)
        assert isinstance(decoy, ScramCredentials)
        assert decoy == again
        assert decoy.iterations == 4096
        assert isinstance(await house.one.scram_finished("alice", True, attempt), Identity)
        assert isinstance(await house.one.scram_finished("nobody", True, attempt), Denied)
        for _ in range(9):
            assert isinstance(await house.one.scram_finished("alice", False, attempt), Denied)
        assert isinstance(await house.one.scram_credentials("alice", attempt), Denied)
        assert isinstance(await house.one.scram_finished("alice", True, attempt), Denied)

    asyncio.run(scenario())


def test_tokens_and_certificates(house: House) -> None:
    async def scenario() -> None:
        attempt = Attempt("192.0.2.1", "imap", mechanism="OAUTHBEARER")
        assert isinstance(await house.one.login_token("", "token", attempt), Identity)
        assert isinstance(await house.one.login_token("", "forged", attempt), Denied)
        assert isinstance(await house.one.login_certified("alice@example.com", attempt), Identity)
        assert isinstance(await house.one.login_certified("nobody@example.com", attempt), Denied)

    asyncio.run(scenario())


def test_every_attempt_is_counted(house: House) -> None:
    async def scenario() -> None:
        await house.guess("192.0.2.1", password="s3cret")
        for _ in range(11):
            await house.guess("192.0.2.1")

    asyncio.run(scenario())
    counts = {name: house.metrics.count(AUTH_ATTEMPTS[name]) for name in ("success", "failure", "locked")}
    assert counts == {"success": 1, "failure": 10, "locked": 1}
    assert house.metrics.count(AUTH_MECHANISMS["USER"]) == 12


def test_failures_are_logged_without_what_was_typed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def info(self, event: str, **fields: Any) -> None:
            lines.append((event, fields))

    monkeypatch.setattr("rusmes.auth.authenticator._log", Log())

    async def scenario() -> None:
        await house.guess("192.0.2.1", password="hunter2")
        await house.guess("192.0.2.1", "hunter2", "alice@example.com")

    asyncio.run(scenario())
    assert [(event, fields["client"], fields["account"]) for event, fields in lines] == [
        ("login failed", "192.0.2.1", "alice@example.com"),
        ("login failed", "192.0.2.1", ""),
    ]
    assert "hunter2" not in repr(lines)


def test_a_reload_changes_the_default_domain(house: House) -> None:
    house.one.apply(msgspec.structs.replace(CONFIG, domain="example.org"))
    assert isinstance(asyncio.run(house.guess("192.0.2.1", "alice", "s3cret")), Denied)
