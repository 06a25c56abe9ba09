"""The program as a whole: exit statuses, errors with their place, JSON, the control socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest

from rusmes._version import __version__
from rusmes.cli.output import printable
from rusmes.tls.context import make_self_signed


class Server(UnixStreamServer):
    """A control socket that answers from a table and remembers what it was asked."""

    def __init__(self, path: str) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.path.startswith("/"):
            return
        self.server.asked.append((f"{self.command} {self.path}", json.loads(body) if body else None))
        status, answer = self.server.answers.get(self.path, (404, {"error": "no such call"}))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def address_string(self) -> str:
        return "control"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(installation: Path) -> Iterator[Server]:
    directory = installation.parent / "run"
    directory.mkdir()
    with Server(str(directory / "control.sock")) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_help_and_version(run: Any) -> None:
    assert __version__ in run("--version").output
    output = run("--help").output
    for command in ("init", "check-config", "user", "domain", "alias", "mailbox", "queue", "store", "status", "completions"):
        assert command in output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_name_the_program(run: Any, shell: str) -> None:
    result = run("completions", shell)
    assert "_RUSMES_COMPLETE" in result.output
    assert result.status == 0


@pytest.mark.parametrize(
    "arguments",
    [("frobnicate",), ("user",), ("user", "add"), ("queue", "lst"), ("--colour", "never", "status"), ("user", "list", "extra")],
)
def test_usage_errors_have_status_2(run: Any, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.errors or "Usage" in result.output


def test_a_bad_configuration_is_reported_whole(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "rusmes.toml"
    path.write_text('domain = "example.com"\n[smtp]\nprot = 25\nbare_newline = "rejct"\n')
    for command in (["check-config"], ["user", "list"], ["status"]):
        result = run("-c", str(path), *command)
        assert (result.status, result.output) == (2, "")
        assert f"{path}:3: smtp.prot: unknown key" in result.errors
        assert f"{path}:4: smtp.bare_newline" in result.errors
        assert 'did you mean "reject"?' in result.errors
        assert "2 problems" in result.errors
    document = json.loads(run("-c", str(path), "check-config", "--json").errors)
    assert [(problem["line"], problem["key"]) for problem in document["problems"]] == [
        (3, "smtp.prot"),
        (4, "smtp.bare_newline"),
    ]


def test_a_missing_file_says_how_to_make_one(run: Any, tmp_path: Path) -> None:
    result = run("-c", str(tmp_path / "absent.toml"), "user", "list")
    assert (result.status, "rusmes init" in result.errors) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "reason"),
    [
        ('mailet = "LocalDelivery"', 'mailet = "LocalDelivry"', 47, "processors[0].mailets[1].mailet", 'mean "LocalDelivery"?'),
        ("limit = 50", "limt = 50", 46, "processors[0].mailets[0].params.limt", "limt"),
        ("limit = 50", 'limit = "many"', 46, "processors[0].mailets[0].matcher.limit", "limit"),
        ('matcher = "All", mailet = "Hold"', 'matcher = "Al", mailet = "Hold"', 55, "processors[1].mailets[0].matcher", "Al"),
    ],
)
def test_check_config_builds_every_step(
    run: Any, installation: Path, old: str, new: str, line: int, key: str, reason: str
) -> None:
    text = installation.read_text()
    assert old in text
    installation.write_text(text.replace(old, new))
    result = run("-c", str(installation), "--json", "check-config")
    assert result.status == 2
    problem = json.loads(result.errors)["problems"][0]
    assert (problem["path"], problem["key"]) == (str(installation), key)
    assert problem["line"] == next(n for n, text in enumerate(installation.read_text().splitlines(), 1) if new in text)
    assert reason in problem["text"]


def test_check_config_tells_of_every_bad_step(run: Any, installation: Path) -> None:
    text = installation.read_text()
    for good, bad in (("LocalDelivery", "LocalDelivry"), ("limit = 50", "limt = 50"), ('mailet = "Hold"', 'mailet = "Hld"')):
        assert good in text
        text = text.replace(good, bad)
    installation.write_text(text)
    result = run("-c", str(installation), "--json", "check-config")
    assert result.status == 2
    assert [problem["key"] for problem in json.loads(result.errors)["problems"]] == [
        "processors[0].mailets[0].params.limt",
        "processors[0].mailets[1].mailet",
        "processors[1].mailets[0].mailet",
    ]


def test_check_config_loads_certificates_and_accounts(run: Any, installation: Path) -> None:
    (installation.parent / "cert.pem").write_text("no certificate")
    (installation.parent / "key.pem").write_text("no key")
    text = (
        installation.read_text()
        .replace('cert_path = ""', 'cert_path = "cert.pem"')
        .replace('key_path = ""', 'key_path = "key.pem"')
    )
    installation.write_text(text)
    (installation.parent / "data" / "users.toml").write_text('[[user]]\naddress = "nobody"\n')
    errors = run("-c", str(installation), "check-config").errors
    assert "users.toml:1" in errors
    assert errors.count("cert.pem cannot be used") == 1


def test_check_config_tells_of_certificates_that_end(run: Any, installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for days, said in ((-30, "has expired on"), (5, "expires on"), (60, "")):
        monkeypatch.setattr("rusmes.tls.context.SELF_SIGNED_DAYS", days)
        data = installation.parent / "data"
        monkeypatch.setattr("rusmes.tls.context.BACKDATED_DAYS", 40)
        make_self_signed("mail.example.com", data / "tls-cert.pem", data / "tls-key.pem")
        result = run("-c", str(installation), "check-config")
        assert result.status == 0
        assert said in result.output
        assert bool(said) == ("renew it and reload" in result.output)


def test_check_config_touches_nothing(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "rusmes.toml"
    path.write_text('domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n')
    result = run("check-config", str(path), "--json")
    assert (result.status, result.document["valid"]) == (0, True)
    assert any("self-signed" in warning for warning in result.document["warnings"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["rusmes.toml"]


def test_commands_that_read_make_nothing(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "rusmes.toml"
    path.write_text('domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n')
    for command in (("user", "list"), ("queue", "list"), ("store", "stats"), ("store", "verify"), ("domain", "list")):
        assert run("-c", str(path), *command).status == 0
    assert run("-c", str(path), "mailbox", "list", "alice").status == 2
    assert run("-c", str(path), "status").status == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["rusmes.toml"]


# A running server


def test_status_of_a_running_server(rusmes: Any, server: Server) -> None:
    server.answers["/status"] = (
        200,
        {"version": "9", "uptime_seconds": 3700, "workers": [{"slot": 0, "pid": 7, "ready": True}]},
    )
    assert rusmes("status", "--json").document["running"] is True
    output = rusmes("status").output
    assert "1h1m40s" in output
    assert "SLOT" in output


def test_status_without_a_server_is_3(rusmes: Any) -> None:
    result = rusmes("status", "--json")
    assert (result.status, result.document["running"]) == (3, False)


def test_a_changed_file_is_reloaded(rusmes: Any, server: Server) -> None:
    server.answers["/reload"] = (200, {"applied": ["domains.local_domains"], "restart": []})
    assert "uses it now" in rusmes("domain", "add", "other.example").output
    assert server.asked == [("POST /reload", {})]


def test_a_reload_that_is_refused_is_reported(rusmes: Any, server: Server) -> None:
    server.answers["/reload"] = (422, {"error": "invalid", "problems": ["rusmes.toml:3: smtp.prot: unknown key"]})
    result = rusmes("domain", "add", "other.example")
    assert (result.status, "smtp.prot" in result.errors) == (2, True)


def test_queues_of_a_running_server_are_changed_by_it(rusmes: Any, server: Server) -> None:
    server.answers["/queue/retry"] = (200, {"count": 3})
    assert rusmes("queue", "retry", "--domain", "*.example", "--json").document == {"count": 3}
    path, body = server.asked[0]
    assert path == "POST /queue/retry"
    assert body["filter"]["domain"] == "*.example"
    assert body["filter"]["ids"] == []


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ((500, {"error": "no worker answers"}), 1, "no worker answers"),
        ((400, {"error": "no such filter"}), 2, "no such filter"),
        ((200, b"<html>"), 1, "no JSON"),
        ((503, b""), 1, "503"),
    ],
)
def test_what_the_server_cannot_do(rusmes: Any, server: Server, answer: tuple[int, Any], status: int, reason: str) -> None:
    server.answers["/status"] = answer
    result = rusmes("status")
    assert result.status == status
    assert reason in result.errors


@pytest.mark.parametrize("command", ["compact", "restored"])
def test_a_running_store_is_left_alone(rusmes: Any, server: Server, command: str) -> None:
    result = rusmes("store", command)
    assert (result.status, "stop it first" in result.errors) == (2, True)


def test_a_socket_nobody_listens_on_is_a_stopped_server(rusmes: Any, installation: Path) -> None:
    directory = installation.parent / "run"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(directory / "control.sock"))
    assert rusmes("status").status == 3


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert (
        printable("a\x1b[31mb\x07\x9b\n")
        == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n"
    )
    assert printable("\N{RIGHT-TO-LEFT OVERRIDE}\udcff\r") == "\N{REPLACEMENT CHARACTER}" * 3
    assert printable("d=x;\n\tb=y") == "d=x;\n\tb=y"


def test_a_command_that_is_none_names_the_nearest(rusmes: Any) -> None:
    result = rusmes("user", "lst")
    assert result.status == 2
    assert 'No such command \'lst\' (did you mean "list"?)' in result.errors
    assert "known: add, catch-all, delete, list" in rusmes("domain", "remove", "x.example").errors


def test_what_another_user_may_not_read_names_the_way_out(rusmes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.listdir", refuse)
    result = rusmes("queue", "list")
    assert result.status == 2
    assert "Permission denied" in result.errors
    assert "run this as the server's user, or as root" in result.errors
