"""A finished installation to operate on, and the program as an operator calls it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rusmes.auth.passwords import Hasher
from rusmes.cli.entry import main
from rusmes.cli.installation import configuration_text, create


class Result(msgspec.Struct):
    """What one run of the program printed, and how it ended."""

    status: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        return json.loads(self.output)


Rusmes = Callable[..., Result]


@pytest.fixture(autouse=True)
def _cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round: the cost of argon2 is not what is tested here."""
    weak = Hasher(time_cost=1, memory_kib=8, parallelism=1, scram_iterations=4096)
    monkeypatch.setattr("rusmes.auth.file.Hasher", lambda **_: weak)


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Rusmes:
    """Call `rusmes` with arguments and, by `stdin`, what is piped into it."""

    def call(*arguments: str, stdin: str | None = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        monkeypatch.setattr(sys, "argv", ["rusmes", *arguments])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capfdbinary.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        assert b"Traceback" not in captured.err
        return Result(status, captured.out.decode(), captured.err.decode())

    return call


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """The configuration file of a server for example.com, with the account alice."""
    path = tmp_path / "rusmes.toml"
    data = str(tmp_path / "data")
    text = configuration_text(
        "example.com", "mail.example.com", "postmaster@example.com", data, runtime_dir=str(tmp_path / "run")
    )
    create(str(path), text, "alice@example.com", "correct horse")
    return path


@pytest.fixture
def rusmes(run: Rusmes, installation: Path) -> Rusmes:
    """`rusmes -c <the installation> ...`."""

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return run("-c", str(installation), *arguments, stdin=stdin)

    return call
