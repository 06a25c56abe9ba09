"""`rusmes-server`: the program.

    rusmes-server [-c FILE | FILE] [--check-config] [--version]

Exit status: 0 ended as asked; 1 it failed (an address is taken, a worker cannot start, another server has the data);
2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from rusmes import log as log_module
from rusmes._core.counters import Metrics, SharedCounters
from rusmes._version import __version__
from rusmes.config.load import load_config
from rusmes.config.problems import all_problems, problem_line
from rusmes.config.schema import PROTOCOLS, Config
from rusmes.errors import ConfigError, RusmesError
from rusmes.log import get_logger
from rusmes.net.listener import raise_descriptor_limit
from rusmes.net.notices import make_pairs
from rusmes.server.build import Ground, contexts_of, is_served
from rusmes.server.check import check_all, read_token
from rusmes.server.logs import file_of, open_sink
from rusmes.server.places import CONTROL_NAME, LOCK_NAME, PID_NAME, Lock, prepare_directories
from rusmes.server.privileges import Person, become, change_root, check_chroot, give, give_tree, wanted_person
from rusmes.server.readiness import Readiness
from rusmes.server.sockets import CONTROL_MODE, Binding, bind_all, bind_tcp, bind_unix, wanted
from rusmes.server.supervisor import Supervisor
from rusmes.tls.context import ensure_self_signed, self_signed_paths

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_WRONG: Final = 2

_log = get_logger("server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server in the foreground until it is told to end; the exit status."""
    options = _parser().parse_args(arguments)
    if options.config and options.file:
        print("rusmes-server: name the configuration once, with -c or as the argument", file=sys.stderr)
        return EXIT_WRONG
    try:
        config = load_config(options.config or options.file)
        warnings = check_all(config)
    except ConfigError as error:
        for problem in all_problems(error):
            print(f"rusmes-server: {problem_line(problem)}", file=sys.stderr)
        return EXIT_WRONG
    if options.check_config:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(f"{config.path or 'the default configuration'} is valid", file=sys.stderr)
        return EXIT_DONE
    try:
        return _start(config, warnings)
    except ConfigError as error:
        return _failed(config, str(error), EXIT_WRONG)
    except RusmesError as error:
        return _failed(config, str(error), EXIT_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rusmes-server", description="The RusMES mail server.")
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration")
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same, as an argument")
    parser.add_argument("--check-config", action="store_true", help="check the configuration and end; touches nothing")
    parser.add_argument("--version", action="version", version=f"rusmes-server {__version__}")
    return parser


def _failed(config: Config, reason: str, status: int) -> int:
    _log.error("the server cannot start", reason=reason)
    _tell_terminal(config, reason)
    return status


def _tell_terminal(config: Config, reason: str) -> None:
    """Whoever started the server sees why it ended, also when the log goes elsewhere."""
    if config.logging.output != "stderr":
        print(f"rusmes-server: {reason}", file=sys.stderr)


def _start(loaded: Config, warnings: Sequence[str]) -> int:
    """From a checked configuration to a running supervisor; see the package's docstring for the order."""
    sink = open_sink(loaded)
    log_module.configure(sink)
    readiness = Readiness(os.environ)
    person = wanted_person(loaded)
    check_chroot(loaded)
    raise_descriptor_limit()
    os.umask(0o027)
    config = prepare_directories(replace(loaded, hostname=loaded.hostname or socket.getfqdn()))
    if config.runtime_dir != loaded.runtime_dir:
        _log.info("runtime directory", path=config.runtime_dir, instead_of=loaded.runtime_dir)
    for warning in warnings:
        _log.warn("configuration", warning=warning)
    lock = Lock(os.path.join(config.storage.path, LOCK_NAME))
    pid_file = None
    bindings: list[Binding] = []
    try:
        pid_file = Lock(os.path.join(config.runtime_dir, PID_NAME))
        slots = _worker_count(config)
        bindings = bind_all(config, slots, is_served)
        _tell_what_is_not_served(config)
        metrics_socket = _bind_metrics(config)
        control_path = os.path.join(config.runtime_dir, CONTROL_NAME)
        control = bind_unix(control_path, CONTROL_MODE)
        if _needs_self_signed(config, bindings) and ensure_self_signed(config.hostname, config.storage.path):
            _log.warn("made a self-signed certificate", path=self_signed_paths(config.storage.path)[0])
        contexts = contexts_of(config, [binding.protocol for binding in bindings])
        token = read_token(config)
        _hand_over(config, person, control_path)
        config = change_root(config)
        pid_file.path = os.path.join(config.runtime_dir, PID_NAME)
        log_file = file_of(sink)
        if log_file is not None:
            log_file.path = config.logging.file.path
        become(person)
        if person is not None:
            _tell_what_is_out_of_reach(loaded, config, person)
        ground = Ground(
            config=config,
            metrics=Metrics(slots + 1),
            limits=SharedCounters(slots + 1),
            sink=sink,
            bindings=bindings,
            notices=make_pairs(slots),
            contexts=contexts,
        )
        for binding in bindings:
            _log.info("listening", protocol=binding.protocol, address=binding.address, tls=binding.implicit_tls)
        supervisor = Supervisor(
            ground,
            loaded,
            slots=slots,
            adopted=[slot for slot in _queue_slots(config) if slot >= slots],
            control=control,
            metrics_socket=metrics_socket,
            token=token,
            readiness=readiness,
            keep_open=[lock.fileno(), pid_file.fileno()],
        )
        status = supervisor.run()
        if supervisor.failure:
            _tell_terminal(config, supervisor.failure)
        return status
    finally:
        sink.flush()
        for path in (os.path.join(config.runtime_dir, CONTROL_NAME) if pid_file else "", config.lmtp.path if bindings else ""):
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        if pid_file is not None:
            pid_file.remove()
        os.close(lock.fileno())


def _worker_count(config: Config) -> int:
    workers = config.server.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else int(workers)


def _tell_what_is_not_served(config: Config) -> None:
    missing = sorted({protocol for protocol, *_ in wanted(config) if not is_served(protocol)})
    if missing:
        _log.info("not in this version", protocols=missing)


def _bind_metrics(config: Config) -> socket.socket | None:
    if not config.metrics.enabled:
        return None
    host, _, port = config.metrics.bind_address.rpartition(":")
    return bind_tcp(host.strip("[]"), int(port), 1, "metrics on")[0]


def _needs_self_signed(config: Config, bindings: Sequence[Binding]) -> bool:
    return any(not config.tls.for_protocol(binding.protocol).cert_path for binding in bindings)


def _hand_over(config: Config, person: Person | None, control_path: str) -> None:
    """What root has made so far belongs to the user the server becomes."""
    if person is None:
        return
    give_tree(person, config.storage.path)
    if config.events.enabled and config.events.path:
        give_tree(person, config.events.path)
    give(person, config.runtime_dir, control_path, config.lmtp.path, os.path.join(config.runtime_dir, PID_NAME))
    if config.logging.output == "file":
        give(person, config.logging.file.path)


def _tell_what_is_out_of_reach(loaded: Config, config: Config, person: Person) -> None:
    """Files that root could read at the start and a reload cannot: it would be refused, whatever was changed. And a log file
    that can be written and not be renamed."""
    directory = os.path.dirname(config.logging.file.path) or "."
    if config.logging.output == "file" and config.logging.file.max_size and not os.access(directory, os.W_OK):
        hint = f"give {directory} to {person.name}, or leave rotation to logrotate with [logging] file max_size = 0"
        _log.warn("the log will not be rotated", directory=directory, hint=hint)
    if config.chroot:
        return
    tables = [loaded.tls.for_protocol(protocol) for protocol in PROTOCOLS]
    files = {loaded.path, *(path for tls in tables for path in (tls.cert_path, tls.key_path, tls.client_ca_path))}
    for path in sorted(files - {""}):
        if not os.access(path, os.R_OK):
            hint = f"let {person.name} read it (chgrp, chmod 0640, and the directories above)"
            _log.warn("a reload will be refused", unreadable=path, hint=hint)


def _queue_slots(config: Config) -> list[int]:
    """Slots that have a queue on the disk; those beyond our workers are adopted."""
    found = (re.fullmatch(r"queue-(\d+)\.mdb", name) for name in os.listdir(config.storage.path))
    return sorted(int(match[1]) for match in found if match)


if __name__ == "__main__":
    sys.exit(main())
