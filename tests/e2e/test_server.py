"""The program as an operator sees it: start, mail in and out, reload, drain, kill, limits, failures to start."""

from __future__ import annotations

import contextlib
import json
import os
import poplib
import pwd
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rusmes._version import __version__
from rusmes.tls.context import make_self_signed
from tests.e2e.running import PASSWORD, RunningServer, read_line
from tests.ports import free_ports
from tests.sinks.thread import SinkThread

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Two workers; not yet started."""
    made = RunningServer(tmp_path)
    yield made
    made.__exit__()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "rusmes.server.entry", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def is_listening(port: int) -> bool:
    with contextlib.closing(socket.socket()) as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def maildrop(server: RunningServer, user: str = "alice@example.com") -> list[bytes]:
    client = poplib.POP3("127.0.0.1", server.pop3, timeout=10)
    client.user(user)
    client.pass_(PASSWORD)
    count, _ = client.stat()
    messages = [b"\r\n".join(client.retr(number)[1]) for number in range(1, count + 1)]
    client.quit()
    return messages


def test_mail_in_and_out_and_an_orderly_end(server: RunningServer) -> None:
    server.add_user()
    with server:
        server.send()
        (message,) = maildrop(server)
        assert message.endswith(b"\r\nSubject: hi\r\n\r\nhello")
        assert message.startswith(b"Return-Path: <bob@example.org>\r\nReceived: from ")
        context = ssl.create_default_context(cafile=str(server.directory / "data/tls-cert.pem"))
        context.check_hostname = False
        secure = poplib.POP3_SSL("127.0.0.1", server.pop3s, timeout=10, context=context)
        assert b"ready" in secure.getwelcome()
        secure.quit()
        with smtplib.SMTP("127.0.0.1", server.submission, timeout=10) as client:
            client.starttls(context=context)
            client.login("alice@example.com", PASSWORD)
            client.sendmail("alice@example.com", ["alice@example.com"], "Subject: own\r\n\r\nx\r\n")
        assert len(maildrop(server)) == 2
        assert server.metric("rusmes_smtp_messages_received_total") == 2
        assert server.metric("rusmes_connections_total") >= 5
        assert int((server.directory / "run/rusmes.pid").read_text()) == server.process.pid  # type: ignore[union-attr]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.orphans() == []
        assert sorted(path.name for path in (server.directory / "run").iterdir()) == []


def test_status_and_health_tell_the_truth(server: RunningServer) -> None:
    with server:
        status = json.loads(server.rusmes("--json", "status"))
        assert status["running"]
        assert [worker["alive"] for worker in status["workers"]] == [True, True]
        assert {listener["protocol"] for listener in status["listeners"]} == {"smtp", "submission", "imap", "pop3"}
        assert server.page("/health")[0] == 200
        assert server.page("/live")[0] == 200
        assert server.page("/status")[0] == 403
        assert server.page("/nothing")[0] == 403
        victim = server.worker_pids()[0]
        os.kill(victim, signal.SIGSTOP)
        server.wait_until(lambda: server.page("/health")[0] == 503, "unhealthy", 20)
        document = json.loads(server.page("/health")[1])
        assert document["checks"]["workers"].startswith("failed: no sign of life from worker")
        assert server.page("/ready")[0] == 200, "the other worker serves"
        os.kill(victim, signal.SIGCONT)
        server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_ends_idle_sessions_with_421_and_finishes_transactions(server: RunningServer, number: int) -> None:
    server.add_user()
    with server:
        idle, banner = server.smtp_socket()
        assert banner.startswith(b"220 ")
        busy, _ = server.smtp_socket()
        for command in (b"EHLO x", b"MAIL FROM:<bob@example.org>", b"RCPT TO:<alice@example.com>", b"DATA"):
            busy.sendall(command + b"\r\n")
            while read_line(busy)[3:4] == b"-":
                pass
        busy.sendall(b"Subject: half\r\n\r\n")
        time.sleep(0.1)
        server.signal(number)
        assert read_line(idle).startswith(b"421 4.3.2")
        assert read_line(idle) == b""
        server.wait_until(lambda: not is_listening(server.smtp), "closed to everybody, once both workers know")
        busy.sendall(b"the rest\r\n.\r\n")
        assert read_line(busy).startswith(b"250 ")
        assert read_line(busy).startswith(b"421 ")
        assert server.wait() == 0
        idle.close()
        busy.close()
    server.start()
    (message,) = maildrop(server)
    assert message.endswith(b"the rest")


def test_a_drain_is_bounded(tmp_path: Path) -> None:
    with RunningServer(tmp_path, sections={"server": ""}) as server:
        server.config.write_text(server.config.read_text().replace('drain_timeout = "5s"', 'drain_timeout = "1s"'))
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.events("reloaded"), "reloaded")
        sock, _ = server.smtp_socket()
        for command in (b"EHLO x", b"MAIL FROM:<bob@example.org>"):
            sock.sendall(command + b"\r\n")
            while read_line(sock)[3:4] == b"-":
                pass
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 0.8 < time.monotonic() - begin < 4.0
        sock.close()


def test_a_second_signal_stops_at_once(server: RunningServer) -> None:
    with server:
        sock, _ = server.smtp_socket()
        for command in (b"HELO x\r\n", b"MAIL FROM:<bob@example.org>\r\n"):
            sock.sendall(command)
            assert read_line(sock).startswith(b"250")
        server.signal(signal.SIGTERM)
        server.wait_until(lambda: server.events("draining"), "draining")
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert time.monotonic() - begin < 2.0
        assert server.orphans() == []
        sock.close()


def test_a_killed_worker_is_replaced_and_its_places_are_given_back(server: RunningServer) -> None:
    server.add_user()
    with server:
        held = [server.smtp_socket()[0] for _ in range(8)]
        server.wait_until(lambda: json.loads(server.rusmes("--json", "status"))["connections"] == 8, "counted")
        for victim in server.worker_pids():
            os.kill(victim, signal.SIGKILL)
        server.wait_until(
            lambda: json.loads(server.rusmes("--json", "status"))["connections"] == 0 and server.page("/health")[0] == 200,
            "healthy again",
        )
        server.send()
        assert len(maildrop(server)) == 1
        assert server.metric("rusmes_worker_restarts_total") == 2
        assert server.metric('rusmes_active_connections{protocol="smtp"}') == 0
        for sock in held:
            sock.close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_while_a_worker_keeps_dying_the_other_accepts_for_it(server: RunningServer) -> None:
    with server:
        for restarts in range(3):
            victim = next(w["pid"] for w in json.loads(server.rusmes("--json", "status"))["workers"] if w["slot"] == 0)
            os.kill(victim, signal.SIGKILL)
            server.wait_until(lambda n=restarts: len(server.events("worker died")) == n + 1, "dead")
            if restarts < 2:
                server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")
        server.wait_until(lambda: server.events("accepting for a worker that is down"), "covered")
        begin = time.monotonic()
        sockets = [server.smtp_socket() for _ in range(20)]
        assert all(line.startswith(b"220 ") for _, line in sockets)
        assert time.monotonic() - begin < 1.5, "nobody waited for the restart"
        for sock, _ in sockets:
            sock.close()
        server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_worker_that_is_asked_to_end_is_replaced(server: RunningServer) -> None:
    with server:
        os.kill(server.worker_pids()[0], signal.SIGTERM)
        server.wait_until(lambda: server.metric("rusmes_worker_restarts_total") == 1, "restarted")
        server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")


def test_workers_end_when_the_supervisor_is_killed_and_a_new_server_waits_for_them(server: RunningServer) -> None:
    server.add_user()
    with server:
        server.send()
        server.process.kill()  # type: ignore[union-attr]
        server.wait()
        server.output.close()
        server.start()
        assert len(maildrop(server)) == 1


def test_limits_are_exact_over_two_workers(tmp_path: Path) -> None:
    limit = 20
    sections = {"smtp.rate_limit": f"max_connections_per_ip = {limit}"}
    with RunningServer(tmp_path, sections=sections) as server, ThreadPoolExecutor(16) as pool:
        # One after the other, so that both workers have some of them; then all at once.
        opened = [server.smtp_socket() for _ in range(16)]
        opened += pool.map(lambda _: server.smtp_socket(), range(44))
        welcome = [sock for sock, line in opened if line.startswith(b"220 ")]
        refused = [line for _, line in opened if line.startswith(b"421 4.7.0 ") or line.startswith(b"421 4.3.2 ")]
        assert len(welcome) == limit
        assert len(refused) == 40
        assert server.metric('rusmes_connections_refused_total{reason="per_protocol"}') == 40
        active = json.loads(server.rusmes("--json", "status"))["workers"]
        assert sum(worker["connections"] for worker in active) == limit
        assert all(worker["connections"] for worker in active), "both workers accept"
        for sock, _ in opened:
            sock.close()
        server.wait_until(lambda: server.metric('rusmes_active_connections{protocol="smtp"}') == 0, "given back")
        again, line = server.smtp_socket()
        assert line.startswith(b"220 ")
        again.close()


def test_hangup_applies_what_it_can_and_names_the_rest(server: RunningServer) -> None:
    server.add_user()
    with server:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            server.send("sales@example.com")
        certificate = server.directory / "data/tls-cert.pem"
        before = ssl.get_server_certificate(("127.0.0.1", server.pop3s))
        certificate.unlink()
        (server.directory / "data/tls-key.pem").unlink()
        make_self_signed("new.example.com", certificate, server.directory / "data/tls-key.pem")
        server.sections["domains"] = 'aliases = { "sales@example.com" = ["alice@example.com"] }'
        server.sections["smtp.rate_limit"] = "max_connections_per_ip = 1"
        server.workers_wanted = 3
        server.write_config()
        answer = json.loads(server.rusmes("--json", "status"))
        assert answer["restart_needed"] == []
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.events("reloaded"), "reloaded")
        server.send("sales@example.com")
        assert len(maildrop(server)) == 1
        assert ssl.get_server_certificate(("127.0.0.1", server.pop3s)) != before
        server.wait_until(lambda: server.metric('rusmes_active_connections{protocol="smtp"}') == 0, "quiet")
        first, line = server.smtp_socket()
        assert line.startswith(b"220 ")
        second, line = server.smtp_socket()
        assert line.startswith(b"421 ")
        first.close()
        second.close()
        assert [entry["key"] for entry in server.events("needs a restart")] == ["server.workers"]
        assert json.loads(server.rusmes("--json", "status"))["restart_needed"] == ["server.workers"]
        for victim in server.worker_pids():
            os.kill(victim, signal.SIGKILL)
        server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")
        server.send("sales@example.com")
        assert len(maildrop(server)) == 2, "a new worker has the new configuration"


def test_a_wrong_configuration_changes_nothing(server: RunningServer) -> None:
    server.add_user()
    with server:
        good = server.config.read_text()
        server.config.write_text(good.replace("hostname =", "hostnam =") + "[smtp.rate_limit]\nmax_connections_per_ip = 1\n")
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.events("the configuration is wrong, nothing was changed"), "refused")
        assert "hostnam" in server.events("the configuration is wrong, nothing was changed")[0]["problem"]
        sockets = [server.smtp_socket() for _ in range(3)]
        assert all(line.startswith(b"220 ") for _, line in sockets)
        for sock, _ in sockets:
            sock.close()
        server.config.write_text(good.replace('level = "debug"', 'level = "error"'))
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.metric('rusmes_reloads_total{outcome="applied"}') == 1, "applied")
        assert server.metric('rusmes_reloads_total{outcome="refused"}') == 1
        time.sleep(0.3)  # lines from before may still be on their way
        before = len(server.log.read_text())
        server.send()
        time.sleep(0.3)
        assert len(server.log.read_text()) == before, "nothing at error level was to be said"


def test_the_administration_api_needs_its_token(tmp_path: Path) -> None:
    token = "0123456789abcdef0123456789abcdef"
    (tmp_path / "token").write_text(token + "\n")
    with RunningServer(tmp_path, sections={"admin": f'token_file = "{tmp_path / "token"}"'}) as server:
        assert server.page("/status")[0] == 401
        assert server.page("/status", headers={"Authorization": "Bearer wrong"})[0] == 403
        assert server.page("/status", headers={"Authorization": "Basic " + token})[0] == 401
        status, body = server.page("/status", headers={"Authorization": f"Bearer {token}"})
        assert status == 200
        assert json.loads(body)["hostname"] == "mx.example.com"
        assert server.page("/queue/list", method="POST", headers={"Authorization": f"Bearer {token}"})[0] == 200
        assert server.page("/queue/explode", method="POST", headers={"Authorization": f"Bearer {token}"})[0] == 404
        assert server.page("/metrics")[0] == 200


def test_exit_status_when_an_address_is_taken(server: RunningServer) -> None:
    with socket.create_server(("127.0.0.1", server.smtp)):
        result = run(str(server.config))
    assert result.returncode == 1
    assert "smtp" in server.everything_said()
    assert str(server.smtp) in server.everything_said()
    assert result.stderr.startswith("rusmes-server: cannot listen for smtp on"), "the log is a file that nobody looks at yet"
    assert "Traceback" not in result.stderr


def test_a_second_server_on_the_same_data_is_refused(server: RunningServer) -> None:
    with server:
        result = run(str(server.config))
        assert result.returncode == 1
        assert "runs already" in server.everything_said()
        assert "its own storage.path" in result.stderr
        assert server.page("/ready")[0] == 200
        assert (server.directory / "run/control.sock").exists()


def test_a_worker_that_cannot_start_ends_the_server(server: RunningServer) -> None:
    (server.directory / "data").mkdir()
    (server.directory / "data/mail.mdb").mkdir()
    result = run(str(server.config))
    assert result.returncode == 1
    assert server.events("the server cannot start")
    assert result.stderr.startswith("rusmes-server: worker ")
    assert server.orphans() == []


def test_a_worker_that_is_killed_while_it_starts_is_started_again(server: RunningServer) -> None:
    server.start(wait=False)
    server.wait_until(lambda: server.worker_pids(), "forked")
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[smtp]\nprot = 25\n", "prot"),
        ('[smtp]\nport = "x"\n', "port"),
        ("[smtp\n", "TOML"),
        ('[[processors]]\nname = "root"\nstate = "root"\nmailets = [{ mailet = "LocalDelivry" }]\n', "LocalDelivery"),
        ('[tls]\ncert_path = "missing.pem"\nkey_path = "missing.pem"\n', "missing.pem"),
        ('run_as_user = "nobody-of-that-name"\n', "nobody-of-that-name"),
        ('[storage]\nbackend = "postgres"\nconnection_string = "x"\n', "storage.backend"),
        ("[tracing]\nenabled = true\n", "tracing.enabled"),
    ],
)
def test_a_wrong_configuration_is_status_2_with_place_and_way_out(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "rusmes.toml"
    config.write_text(f'domain = "example.com"\n{text}' if not text.startswith("run_as") else text)
    for arguments in (["-c", str(config)], ["--check-config", str(config)]):
        result = run(*arguments)
        assert result.returncode == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_check_config_touches_nothing(server: RunningServer) -> None:
    result = run("--check-config", str(server.config))
    assert result.returncode == 0, result.stderr
    assert "is valid" in result.stderr
    assert [path.name for path in server.directory.iterdir()] == ["rusmes.toml"]


def test_version_and_a_wrong_command_line() -> None:
    assert run("--version").stdout == f"rusmes-server {__version__}\n"
    assert run("--no-such-option").returncode == 2
    assert run("-c", "/nonexistent/rusmes.toml").returncode == 2


def test_without_any_configuration_it_serves_localhost_from_its_own_directory(tmp_path: Path) -> None:
    ports = {"RUSMES_SMTP_PORT": "0", "RUSMES_POP3_PORT": "0", "RUSMES_POP3_TLS_PORT": "0", "RUSMES_SUBMISSION_PORT": "0",
             "RUSMES_SUBMISSION_TLS_PORT": "0", "RUSMES_METRICS_ENABLED": "false", "RUSMES_SERVER_WORKERS": "1"}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RUSMES_")}
    source = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "rusmes.server.entry"],
        cwd=tmp_path,
        env={**environ, **ports, "PYTHONPATH": source},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "server is ready" in line:
            break
    assert (tmp_path / "rusmes-data/run/control.sock").exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 0


def test_queues_of_missing_workers_are_adopted(tmp_path: Path) -> None:
    """Three workers leave mail behind that cannot be delivered; a single one takes it all over, and delivers it."""
    route = '[[delivery.route]]\nname = "sink"\ndomains = ["*"]\nhost = "127.0.0.1"\nport = {}\nuse_tls = false\n'
    (closed,) = free_ports(1)
    server = RunningServer(tmp_path, workers=3, sections={"queue": 'retry_schedule = ["1s"]'})
    server.config.write_text(server.config.read_text() + route.format(closed))
    with server:
        for number in range(12):
            server.send("carol@elsewhere.example", f"Subject: {number}\r\n\r\nx\r\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert len(list((tmp_path / "data").glob("queue-?.mdb"))) == 3
    with SinkThread() as sink:
        server.workers_wanted = 1
        server.write_config()
        server.config.write_text(server.config.read_text() + route.format(sink.port))
        with server:
            server.wait_until(lambda: sink.count == 12, "delivered", 20)
            server.wait_until(lambda: server.events("adopted queues are empty"), "released")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert sink.count == 12


def test_readiness_is_told_to_the_init_system(server: RunningServer) -> None:
    path = str(server.directory / "notify")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notify:
        notify.bind(path)
        notify.settimeout(10)
        server.start(environ={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"})
        said = notify.recv(1000)
        while b"READY=1" not in said:
            said = notify.recv(1000)
        assert f"MAINPID={server.process.pid}".encode() in said  # type: ignore[union-attr]
        while notify.recv(1000) != b"WATCHDOG=1":
            pass
        server.signal(signal.SIGHUP)
        while not (said := notify.recv(1000)).startswith(b"RELOADING=1\nMONOTONIC_USEC="):
            pass
        server.signal(signal.SIGTERM)
        while not (said := notify.recv(1000)).startswith(b"STOPPING=1"):
            pass
        assert server.wait() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("chroot", [False, True])
def test_privileges_are_dropped_after_binding(tmp_path: Path, chroot: bool) -> None:
    """As root: bind port 587's neighbour below 1024, become nobody, and still serve, restart workers and reload."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    extra = f'run_as_user = "nobody"\nchroot = {str(chroot).lower()}\n'
    server = RunningServer(tmp_path, extra=extra)
    server.smtp = next(port for port in range(800, 1000) if _is_free(port))
    server.write_config()
    text = server.config.read_text().replace('runtime_dir = "run"', f'runtime_dir = "{tmp_path}/data/run"')
    server.config.write_text(text.replace(f'"{server.log}"', f'"{tmp_path}/data/rusmes.log", max_size = "4KB"'))
    server.config.chmod(0o644)
    server.log = tmp_path / "data/rusmes.log"
    server.add_user()
    with server:
        nobody = pwd.getpwnam("nobody").pw_uid
        for pid in [server.process.pid, *server.worker_pids()]:  # type: ignore[union-attr]
            status = Path(f"/proc/{pid}/status").read_text()
            assert f"Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}" in status
            assert "Groups:\t \n" in status or "Groups:\t\n" in status
            root = os.readlink(f"/proc/{pid}/root")
            assert root == (str(tmp_path / "data") if chroot else "/")
        server.send()
        assert len(maildrop(server)) == 1
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_until(lambda: server.metric("rusmes_worker_restarts_total") == 1, "restarted")
        server.wait_until(lambda: server.page("/health")[0] == 200, "healthy")
        server.send()
        assert len(maildrop(server)) == 2
        server.wait_until(lambda: (tmp_path / "data/rusmes.log.1").exists(), "rotated")
        if chroot:
            paths = ssl.get_default_verify_paths()
            name = os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile
            seen = tmp_path / "data" / name.lstrip("/")
            for file in (seen, tmp_path / "data/etc/hosts"):
                assert file.stat().st_mode & 0o444 == 0o444
                assert file.parent.stat().st_mode & 0o055 == 0o055
            assert b"BEGIN CERTIFICATE" in seen.read_bytes()
            assert (server.directory / "output").read_bytes() == b"", "nothing is compiled by the way"
        server.signal(signal.SIGHUP)
        if chroot:
            server.wait_until(lambda: server.metric('rusmes_reloads_total{outcome="refused"}') == 1, "refused")
        else:
            server.wait_until(lambda: server.metric('rusmes_reloads_total{outcome="applied"}') == 1, "applied")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert list((tmp_path / "data/run").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_a_reload_will_not_be_able_to_read_is_told_at_the_start(tmp_path: Path) -> None:
    for place in (tmp_path, *(parent for parent in tmp_path.parents if str(parent).startswith("/tmp/"))):
        place.chmod(0o755)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_self_signed("mx.example.com", certificate, key)
    certificate.chmod(0o644)
    sections = {"tls": f'cert_path = "{certificate}"\nkey_path = "{key}"'}
    server = RunningServer(tmp_path, workers=1, extra='run_as_user = "nobody"', sections=sections)
    (tmp_path / "log").mkdir()
    log = f'{tmp_path}/log/rusmes.log", max_size = "1KB'
    server.config.write_text(server.config.read_text().replace(str(server.log), log))
    server.config.chmod(0o644)
    server.log = tmp_path / "log/rusmes.log"
    with server:
        (warning,) = server.events("the log will not be rotated")
        assert (warning["directory"], "max_size = 0" in warning["hint"]) == (str(tmp_path / "log"), True)
        server.wait_until(lambda: server.events("the log cannot be rotated"), "tried")
        time.sleep(2.2)
        assert len(server.events("the log cannot be rotated")) == 1, "not each second"
        (warning,) = server.events("a reload will be refused")
        assert warning["unreadable"] == str(key)
        assert "let nobody read it" in warning["hint"]
        key.chmod(0o640)
        os.chown(key, 0, pwd.getpwnam("nobody").pw_gid)
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.metric('rusmes_reloads_total{outcome="applied"}') == 1, "applied")


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_the_queue_is_steered_through_the_control_socket(server: RunningServer) -> None:
    (closed,) = free_ports(1)
    server.config.write_text(
        server.config.read_text()
        + f'[[delivery.route]]\nname = "sink"\ndomains = ["*"]\nhost = "127.0.0.1"\nport = {closed}\nuse_tls = false\n'
    )
    with server:
        for name in ("carol", "dave", "erin"):
            server.send(f"{name}@elsewhere.example")

        def rows() -> list[dict[str, object]]:
            found: list[dict[str, object]] = json.loads(server.rusmes("--json", "queue", "list"))["entries"]
            return found

        server.wait_until(lambda: len(rows()) == 3, "queued")
        assert json.loads(server.rusmes("--json", "status"))["queue_entries"] == 3
        assert server.metric("rusmes_queue_size") in (0, 3), "brought up to date every ten seconds"
        server.rusmes("queue", "hold", "--recipient", "dave@*")
        held = [row for row in rows() if row["recipients"][0]["status"] == "held"]  # type: ignore[index]
        assert [row["recipients"][0]["address"] for row in held] == ["dave@elsewhere.example"]  # type: ignore[index]
        server.rusmes("queue", "delete", "--yes", "--recipient", "erin@*")
        assert len(rows()) == 2
        with SinkThread() as sink:
            server.config.write_text(server.config.read_text().replace(f"port = {closed}", f"port = {sink.port}"))
            server.signal(signal.SIGHUP)
            server.wait_until(lambda: server.events("reloaded"), "reloaded")
            server.rusmes("queue", "release", "--recipient", "dave@*")
            server.rusmes("queue", "retry", "--all")
            server.wait_until(lambda: sink.count == 2, "delivered by the new route")
        server.wait_until(lambda: not rows(), "empty")


def test_o18_the_scrape_answers_within_a_second_under_load(tmp_path: Path) -> None:
    with RunningServer(tmp_path, sections={"smtp.rate_limit": "max_connections_per_ip = 0"}) as server:
        server.add_user()
        stop = threading.Event()

        def load() -> None:
            with smtplib.SMTP("127.0.0.1", server.smtp, timeout=20) as client:
                while not stop.is_set():
                    client.sendmail("bob@example.org", ["alice@example.com"], "Subject: x\r\n\r\n" + "x" * 1000)

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(load) for _ in range(8)]
            times = []
            for _ in range(10):
                begin = time.monotonic()
                assert server.page("/metrics")[0] == 200
                times.append(time.monotonic() - begin)
            stop.set()
            for future in running:
                future.result()
        assert max(times) < 1.0, times
        assert server.metric("rusmes_smtp_messages_received_total") > 10


def test_log_files_rotate_and_are_opened_anew_on_request(tmp_path: Path) -> None:
    sections = {"logging": ""}
    with RunningServer(tmp_path, sections=sections) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        text = server.config.read_text()
        small = f'path = "{server.log}", max_size = 4000, max_backups = 3'
        server.config.write_text(text.replace(f'path = "{server.log}"', small))
        server.log.unlink()
        server.start()
        for _ in range(60):
            sock, _ = server.smtp_socket()
            sock.close()
        first = Path(f"{server.log}.1")
        server.wait_until(first.exists, "rotated")
        lines = [json.loads(line) for line in (first.read_text() + server.log.read_text()).splitlines()]
        assert sum(line["event"] == "connection closed" for line in lines) >= 1
        server.log.rename(tmp_path / "elsewhere")
        server.signal(signal.SIGUSR1)
        server.wait_until(server.log.exists, "opened anew")
        sock, _ = server.smtp_socket()
        sock.close()
        server.wait_until(lambda: server.events("connection closed"), "written")


def test_lmtp_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with RunningServer(tmp_path, sections={"lmtp": f'path = "{path}"'}) as server:
        server.add_user()
        assert oct(path.stat().st_mode & 0o777) == "0o660"
        with smtplib.LMTP(str(path)) as client:
            refused = client.sendmail("bob@example.org", ["alice@example.com", "nobody@example.com"], "Subject: l\r\n\r\nx\r\n")
        assert set(refused) == {"nobody@example.com"}
        assert len(maildrop(server)) == 1
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not path.exists()


def test_lmtp_over_tcp_has_the_certificate_of_its_own_section(tmp_path: Path) -> None:
    certificate, key = tmp_path / "lmtp.pem", tmp_path / "lmtp-key.pem"
    make_self_signed("lmtp.example.com", certificate, key)
    (port,) = free_ports(1)
    own = f'cert_path = "{certificate}"\nkey_path = "{key}"'
    server = RunningServer(tmp_path, workers=1, sections={"lmtp": f'port = {port}\npath = "lmtp.sock"', "tls.lmtp": own})
    server.add_user()
    with server, smtplib.LMTP("127.0.0.1", port, timeout=10) as client:
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False
        client.starttls(context=context)
        assert client.sock.version() == "TLSv1.3"  # type: ignore[union-attr]
        assert client.sendmail("bob@example.org", ["alice@example.com"], "Subject: x\r\n\r\ny\r\n") == {}
        with smtplib.LMTP(str(tmp_path / "lmtp.sock"), timeout=10) as local:
            local.ehlo()
            assert not local.has_extn("starttls"), "a unix socket needs none"
            assert local.docmd("STARTTLS")[0] == 502


def test_clients_behind_a_proxy_are_seen_as_themselves(tmp_path: Path) -> None:
    with RunningServer(tmp_path, sections={"server": 'proxy_networks = ["127.0.0.0/8"]'}) as server:
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.smtp), timeout=10)) as sock:
            sock.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n")
            assert read_line(sock).startswith(b"220 ")
            sock.sendall(b"QUIT\r\n")
            assert read_line(sock).startswith(b"221 ")
        server.wait_until(lambda: server.events("connection closed"), "closed")
        assert server.events("connection closed")[0]["client"] == "203.0.113.7"
