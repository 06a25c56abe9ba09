"""users.toml: what is in it after each change, who notices, and what a bad file does."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from rusmes.auth.file import RECIPIENT_SECONDS, FileBackend
from rusmes.auth.passwords import Hasher, HashingPool, parse_scram
from rusmes.config.schema import Auth, Config, Storage
from rusmes.config.units import Size
from rusmes.errors import AlreadyExists, AuthUnavailable, ConfigError, NotFound, RusmesError

CHEAP = {"time_cost": 1, "memory_kib": 8, "scram_iterations": 10}


async def settled(found: str | Awaitable[str]) -> str:
    return found if isinstance(found, str) else await found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.toml"


@pytest.fixture
def open_backend(path: Path):
    opened: list[FileBackend] = []

    def make(**options: object) -> FileBackend:
        settings = {"hasher": Hasher(**CHEAP), "pool": HashingPool(1), **options}
        backend = FileBackend(path, **settings)  # type: ignore[arg-type]
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


def test_accounts_survive_a_restart(open_backend, path: Path) -> None:
    async def scenario() -> None:
        first = open_backend()
        await first.add("Alice@Example.COM", "s3cret", quota_bytes=5, quota_messages=6)
        again = open_backend()
        identity = await again.verify("alice@example.com", "s3cret")
        assert identity is not None
        assert (identity.account, identity.quota_bytes, identity.quota_messages) == ("alice@example.com", 5, 6)
        assert await again.verify("alice@example.com", "S3cret") is None
        assert await again.verify("nobody@example.com", "s3cret") is None

    asyncio.run(scenario())
    assert "s3cret" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        hasher = Hasher(time_cost=1, memory_kib=8, parallelism=1, scram_iterations=4096)
        backend = FileBackend(tmp_path / "data/users.toml", hasher=hasher)
        await backend.add("alice@example.com", "s3cret")
        backend.close()

    asyncio.run(scenario())
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_another_process_sees_every_change(open_backend) -> None:
    async def scenario() -> None:
        cli, worker = open_backend(), open_backend()
        generation = await worker.generation()
        await cli.add("a@example.com", "one")
        assert await worker.verify("a@example.com", "one") is not None
        assert await worker.generation() != generation
        await cli.set_password("a@example.com", "two")
        assert await worker.verify("a@example.com", "one") is None
        assert await worker.verify("a@example.com", "two") is not None
        await cli.set_disabled("a@example.com", True)
        assert await worker.verify("a@example.com", "two") is None
        assert await worker.find("a@example.com") is None
        assert await worker.scram("a@example.com") is None
        assert await settled(worker.deliverable("a@example.com")) == "a@example.com"
        await cli.set_disabled("a@example.com", False)
        await cli.set_quota("a@example.com", quota_bytes=10, quota_messages=0)
        assert [identity.quota_bytes for identity in await worker.list()] == [10]
        await cli.delete("a@example.com")
        assert await worker.list() == []
        assert await settled(worker.deliverable("a@example.com")) == ""

    asyncio.run(scenario())


def test_a_new_password_changes_the_scram_keys_in_the_same_write(open_backend) -> None:
    async def scenario() -> None:
        backend = open_backend()
        await backend.add("a@example.com", "one")
        before = await backend.scram("a@example.com")
        await backend.set_password("a@example.com", "two")
        after = await backend.scram("a@example.com")
        assert before is not None
        assert after is not None
        assert after.stored_key != before.stored_key
        assert after == Hasher(**CHEAP).scram_keys("two", salt=after.salt)

    asyncio.run(scenario())


def test_further_addresses_belong_to_one_account(open_backend) -> None:
    async def scenario() -> None:
        backend = open_backend()
        await backend.add("a@example.com", "one")
        await backend.add("b@example.com", "two")
        await backend.set_addresses("a@example.com", ["Info@example.com", "info@example.com"])
        assert await settled(backend.deliverable("info@example.com")) == "a@example.com"
        assert backend.known("info@example.com")
        identity = await backend.find("info@example.com")
        assert identity is not None
        assert identity.addresses == {"a@example.com", "info@example.com"}
        with pytest.raises(AlreadyExists):
            await backend.set_addresses("b@example.com", ["info@example.com"])
        with pytest.raises(AlreadyExists):
            await backend.add("info@example.com", "three")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["nobody", "@example.com", "a@", "a b\r\n@example.com", "a@-x.com", "a" * 400 + "@example.com"]
)
def test_names_that_are_no_addresses_are_refused(open_backend, name: str) -> None:
    with pytest.raises(RusmesError, match="not an address"):
        asyncio.run(open_backend().add(name, "password"))


@pytest.mark.parametrize("password", ["", "x" * 1025, "bell\x07", "line\nfeed"])
def test_passwords_that_cannot_be_typed_are_refused(open_backend, password: str) -> None:
    with pytest.raises(RusmesError):
        asyncio.run(open_backend().add("a@example.com", password))


def test_missing_accounts_are_named(open_backend) -> None:
    async def scenario() -> None:
        backend = open_backend()
        with pytest.raises(NotFound, match="a@example"):
            await backend.delete("a@example.com")
        with pytest.raises(NotFound):
            await backend.set_password("a@example.com", "x")
        with pytest.raises(NotFound):
            await backend.set_quota("a@example.com", quota_bytes=1, quota_messages=1)

    asyncio.run(scenario())


def test_a_hash_with_old_parameters_is_renewed_at_login(open_backend, path: Path) -> None:
    async def scenario() -> None:
        await open_backend().add("a@example.com", "one")
        before = path.read_text()
        newer = open_backend(hasher=Hasher(**CHEAP | {"memory_kib": 16}))
        assert await newer.verify("a@example.com", "wrong") is None
        assert path.read_text() == before
        assert await newer.verify("a@example.com", "one") is not None
        assert "m=16," in path.read_text()
        assert await newer.verify("a@example.com", "one") is not None

    asyncio.run(scenario())


def test_a_renewal_that_fails_is_tried_once(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[str] = []

    async def scenario() -> None:
        await open_backend().add("a@example.com", "one")
        newer = open_backend(hasher=Hasher(**CHEAP | {"memory_kib": 16}), on_problem=problems.append)

        def fail(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("rusmes.auth.users_toml.tempfile.mkstemp", fail)
        for _ in range(3):
            assert await newer.verify("a@example.com", "one") is not None

    asyncio.run(scenario())
    assert len(problems) == 1
    assert "Read-only" in problems[0]


def test_a_long_reading_is_followed_by_a_rest(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.auth.file.LONG_READING_SECONDS", 0.0)

    async def scenario() -> None:
        cli, worker = open_backend(), open_backend()
        await cli.add("a@example.com", "one")
        monkeypatch.setattr("rusmes.auth.file.REST_FACTOR", 1e9)
        assert len(await worker.list()) == 1
        await cli.add("b@example.com", "two")
        assert len(await worker.list()) == 1
        worker._not_before = 0.0
        assert len(await worker.list()) == 2

    asyncio.run(scenario())


def test_an_account_without_scram_keys_gets_them_at_login(open_backend, path: Path) -> None:
    phc = Hasher(**CHEAP).hash("one")
    path.write_text(f'[[user]]\naddress = "a@example.com"\npassword = "{phc}"\n')

    async def scenario() -> None:
        backend = open_backend()
        assert await backend.scram("a@example.com") is None
        assert await backend.verify("a@example.com", "one") is not None
        assert await backend.scram("a@example.com") is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[[user]]\naddress = "a@example.com\n', 2, ""),
        ('[[user]]\naddress = "a@example.com"\n\n[[user]]\naddress = 7\n', 5, "Expected"),
        ('[[user]]\naddress = "a@example.com"\npasword = "x"\n', 1, "pasword"),
        ('# accounts\n[[user]]\naddress = "nobody"\n', 2, "not an address"),
        ('[[user]]\naddress = "a@example.com"\npassword = "plain"\n', 1, "argon2id"),
        ('[[user]]\naddress = "a@example.com"\nscram = "SCRAM-SHA-1$1:a$b:c"\n', 1, "SCRAM"),
        ('[[user]]\naddress = "a@example.com"\nquota_bytes = -1\n', 1, "negative"),
        (
            '[[user]]\naddress = "a@example.com"\n[[user]]\naddress = "b@example.com"\naddresses = ["A@example.com"]\n',
            3,
            "two accounts",
        ),
        ('[[users]]\naddress = "a@example.com"\n', 0, "users"),
    ],
)
def test_a_bad_file_is_an_error_with_its_place(open_backend, path: Path, text: str, line: int, reason: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_backend()
    assert caught.value.path == str(path)
    assert caught.value.line == line
    assert reason in str(caught.value)


def test_mail_for_a_known_account_looks_at_the_file_twice_a_second(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("rusmes.auth.file.time.monotonic", lambda: now)

    async def scenario() -> None:
        nonlocal now
        cli, worker = open_backend(), open_backend()
        await cli.add("a@example.com", "one")
        assert await settled(worker.deliverable("a@example.com")) == "a@example.com"
        await cli.add("b@example.com", "two")
        assert await settled(worker.deliverable("b@example.com")) == "b@example.com"
        await cli.delete("a@example.com")
        now += RECIPIENT_SECONDS + 0.01
        assert await settled(worker.deliverable("a@example.com")) == ""

    asyncio.run(scenario())


def test_a_file_that_becomes_bad_changes_no_account(open_backend, path: Path) -> None:
    problems: list[str] = []

    async def scenario() -> None:
        backend = open_backend(on_problem=problems.append)
        await backend.add("a@example.com", "one")
        good = path.read_text()
        path.write_text("[[user]\n")
        assert await backend.verify("a@example.com", "one") is not None
        assert await backend.verify("a@example.com", "one") is not None
        assert len(problems) == 1
        with pytest.raises(ConfigError):
            await backend.add("b@example.com", "two")
        assert path.read_text() == "[[user]\n"
        path.write_text(good)
        await backend.add("b@example.com", "two")
        assert len(await backend.list()) == 2

    asyncio.run(scenario())


def test_what_an_operator_wrote_by_hand_is_kept(open_backend, path: Path) -> None:
    path.write_text(
        '[[user]]\naddress = "A@example.com"\nname = "Å \\"quoted\\" \\u007f"\nadmin = true\ndisabled_capabilities = ["pop3"]\n'
    )

    async def scenario() -> None:
        await open_backend().add("b@example.com", "two")
        [first, _] = await open_backend().list()
        assert first.display_name == 'Å "quoted" \x7f'
        assert first.admin
        assert first.disabled_capabilities == {"pop3"}

    asyncio.run(scenario())


def test_a_failed_write_leaves_the_old_file(open_backend, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        backend = open_backend()
        await backend.add("a@example.com", "one")
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(AuthUnavailable, match="No space"):
                await backend.add("b@example.com", "two")
        assert path.read_bytes() == before
        assert sorted(item.name for item in path.parent.iterdir()) == ["users.toml", "users.toml.lock"]
        assert len(await backend.list()) == 1

    asyncio.run(scenario())


def test_decoy_credentials_are_the_same_in_every_process(open_backend) -> None:
    async def scenario() -> None:
        first = open_backend()
        await first.add("a@example.com", "one")
        secret = open_backend().decoy_secret
        assert secret == first.decoy_secret
        await first.set_password("a@example.com", "two")
        assert open_backend().decoy_secret == secret

    asyncio.run(scenario())


@pytest.mark.slow
def test_writers_of_several_processes_lose_nothing(open_backend, path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from rusmes.auth.file import FileBackend\n"
        "from rusmes.auth.passwords import Hasher\n"
        "async def main():\n"
        "    b = FileBackend(sys.argv[1], hasher=Hasher(time_cost=1, memory_kib=8, scram_iterations=10))\n"
        "    for n in range(10): await b.add(f'u{sys.argv[2]}-{n}@example.com', 'pw')\n"
        "    b.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(asyncio.run(open_backend().list())) == 30


def test_an_unknown_account_costs_as_much_as_a_wrong_password(open_backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A3: the same argon2 with the same cost, whoever exists. (Compared by what is computed: clocks are noisy.)"""
    checked: list[str] = []
    real = PasswordHasher.verify

    def verify(self: PasswordHasher, phc: str, password: str) -> bool:
        checked.append(phc.rsplit("$", 2)[0])
        return real(self, phc, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)

    async def scenario() -> None:
        backend = open_backend()
        await backend.add("a@example.com", "one")
        await backend.set_disabled("a@example.com", True)
        await backend.add("b@example.com", "one")
        for name in ("nobody@example.com", "", "a@example.com", "b@example.com"):
            assert await backend.verify(name, "wrong") is None
        assert await backend.verify("nobody@example.com", "\x07") is None

    asyncio.run(scenario())
    assert len(checked) == 5
    assert len(set(checked)) == 1


def test_the_configuration_says_how_to_hash(tmp_path: Path) -> None:
    def config(**auth: Any) -> Config:
        return Config(storage=Storage(path=str(tmp_path)), auth=Auth(path="accounts.toml", **auth))

    async def scenario() -> None:
        backend = FileBackend.of(config(argon2_memory=Size("64KB"), argon2_passes=1, argon2_lanes=2, scram_iterations=4096))
        await backend.add("a@example.com", "one")
        backend.close()

    asyncio.run(scenario())
    text = (tmp_path / "accounts.toml").read_text()
    assert "$m=64,t=1,p=2$" in text
    assert "SCRAM-SHA-256$4096:" in text
    with pytest.raises(ConfigError, match="argon2_memory"):
        FileBackend.of(config(argon2_memory=Size("15KB"), argon2_lanes=2))


def test_scram_text_round_trip() -> None:
    for text in ("", "SCRAM-SHA-256$x:a$b:c", "SCRAM-SHA-256$1:!!$b:c", "SCRAM-SHA-256$0:YQ==$YQ==:YQ=="):
        with pytest.raises(ValueError, match=r"."):
            parse_scram(text)
