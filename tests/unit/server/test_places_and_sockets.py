"""Directories, locks, binding and readiness, without a server."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from rusmes.config.load import parse_config
from rusmes.config.schema import Config
from rusmes.errors import ConfigError
from rusmes.server import places
from rusmes.server.places import AlreadyRunning, Lock, own_runtime_dir, prepare_directories, runtime_dir_of
from rusmes.server.privileges import check_chroot, wanted_person
from rusmes.server.readiness import Readiness
from rusmes.server.reload import changes_of, packed, unpacked, with_old_values
from rusmes.server.sockets import CannotBind, bind_all, bind_tcp, bind_unix, wanted
from tests.ports import free_ports


@pytest.fixture
def config(tmp_path: Path) -> Config:
    text = 'domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n'
    return parse_config(text, environ={}, path=str(tmp_path / "rusmes.toml"))


def test_directories_are_made_private(config: Config, tmp_path: Path) -> None:
    assert prepare_directories(config) == config
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert (tmp_path / "run").is_dir()


def test_a_default_runtime_directory_that_cannot_be_had_moves_into_the_data(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    impossible = str(tmp_path / "file/run")
    monkeypatch.setattr(places, "DEFAULT_RUNTIME_DIR", impossible)
    moved = prepare_directories(replace(config, runtime_dir=impossible))
    assert moved.runtime_dir == own_runtime_dir(config)
    # The command line tool finds it by the socket that is there.
    assert runtime_dir_of(replace(config, runtime_dir=impossible)) == impossible
    Path(moved.runtime_dir, "control.sock").touch()
    assert runtime_dir_of(replace(config, runtime_dir=impossible)) == moved.runtime_dir
    with pytest.raises(ConfigError, match="cannot be made"):
        prepare_directories(replace(config, runtime_dir=str(tmp_path / "file/other")))


def test_a_lock_is_held_by_one_process_and_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    lock = Lock(path)
    assert Path(path).read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} runs already"):
        Lock(path)
    lock.remove()
    again = Lock(path)
    again.remove()
    # A child that outlives the holder keeps it; who comes next waits for it.
    holder = os.fork()
    if holder == 0:
        Lock(path)
        if os.fork() == 0:
            time.sleep(0.3)
        os._exit(0)
    os.waitpid(holder, 0)
    begin = time.monotonic()
    Lock(path).remove()
    assert 0.1 < time.monotonic() - begin < 5.0


def test_every_slot_has_a_socket_of_its_own_on_the_same_port() -> None:
    (port,) = free_ports(1)
    sockets = bind_tcp("127.0.0.1", port, 3)
    assert [sock.getsockname()[1] for sock in sockets] == [port] * 3
    with pytest.raises(CannotBind, match=f"smtp on 127.0.0.1:{port}"):
        bind_tcp("127.0.0.1", port, 3, "smtp on")
    for sock in sockets:
        sock.close()


def test_an_ipv6_wildcard_takes_ipv4_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    (port,) = free_ports(1)
    (sock,) = bind_tcp("::", port)
    socket.create_connection(("127.0.0.1", port), 1).close()
    sock.close()


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(CannotBind):
        bind_tcp("192.0.2.1", 2525)
    with pytest.raises(CannotBind):
        bind_tcp("no such host.invalid", 2525)


def test_a_unix_socket_replaces_a_dead_one_but_not_a_living_one(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = bind_unix(path, 0o600)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(CannotBind, match="somebody answers there"):
        bind_unix(path, 0o600)
    first.close()
    bind_unix(path, 0o660).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    with pytest.raises(CannotBind):
        bind_unix(str(tmp_path / "missing/s"), 0o600)


def test_only_what_is_served_is_bound_and_a_failure_leaves_nothing_open(config: Config, tmp_path: Path) -> None:
    smtp, pop3 = free_ports(2)
    config = replace(
        config,
        smtp=replace(config.smtp, port=smtp),
        submission=replace(config.submission, port=0, tls_port=0),
        pop3=replace(config.pop3, port=pop3, tls_port=0),
        lmtp=replace(config.lmtp, path=str(tmp_path / "lmtp")),
    )
    assert {protocol for protocol, *_ in wanted(config)} == {"smtp", "imap", "pop3", "jmap", "lmtp"}
    bindings = bind_all(config, 2, {"smtp", "pop3", "lmtp"}.__contains__)
    assert [(b.protocol, len(b.sockets)) for b in bindings] == [("smtp", 2), ("pop3", 2), ("lmtp", 1)]
    assert bindings[2].of_slot(1) is bindings[2].of_slot(0)
    for binding in bindings:
        for sock in binding.sockets:
            sock.close()
    with socket.create_server(("127.0.0.1", pop3)), pytest.raises(CannotBind, match="pop3"):
        bind_all(config, 2, {"smtp", "pop3", "lmtp"}.__contains__)
    socket.create_server(("127.0.0.1", smtp)).close()


def test_who_to_become(config: Config) -> None:
    assert wanted_person(config) is None
    with pytest.raises(ConfigError, match="no user"):
        wanted_person(replace(config, run_as_user="no-such-user"))
    with pytest.raises(ConfigError, match="needs run_as_user"):
        wanted_person(replace(config, run_as_group="daemon"))
    if os.geteuid() == 0:
        person = wanted_person(replace(config, run_as_user="nobody", run_as_group="daemon"))
        assert person is not None
        assert person.uid
        with pytest.raises(ConfigError, match="no group"):
            wanted_person(replace(config, run_as_user="nobody", run_as_group="no-such-group"))


def test_a_new_root_needs_everything_inside(config: Config) -> None:
    check_chroot(config)
    with pytest.raises(ConfigError, match=r"only root|lies outside"):
        check_chroot(replace(config, chroot=True))
    if os.geteuid() == 0:
        check_chroot(replace(config, chroot=True, runtime_dir=config.storage.path + "/run"))


def test_readiness_without_an_init_system_does_nothing() -> None:
    quiet = Readiness({})
    quiet.ready("x")
    quiet.stopping()
    assert quiet.watchdog_seconds == 0
    assert quiet.fileno() == -1
    foreign = Readiness({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert foreign.watchdog_seconds == 0
    assert Readiness({"WATCHDOG_USEC": "1000000"}).watchdog_seconds == 0.5


def test_what_a_reload_keeps(config: Config) -> None:
    new = replace(
        config,
        server=replace(config.server, workers=7, drain_timeout=config.queue.session_budget),
        storage=replace(config.storage, path="/elsewhere"),
        smtp=replace(config.smtp, max_errors=3, port=9),
    )
    changes = changes_of(config, new)
    keys = [change.key for change in changes.restart]
    assert set(keys) == {"server.workers", "storage.path", "smtp.port"}
    effective = with_old_values(new, config, keys)
    assert effective.server.workers == config.server.workers
    assert effective.storage == config.storage
    assert effective.smtp.port == config.smtp.port
    assert effective.smtp.max_errors == 3
    assert unpacked(packed(effective)) == effective


