"""A real server in a directory of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.ports import free_ports

PASSWORD = "a long enough password"


class RunningServer:
    """`rusmes-server` with its own configuration, ports and data; `with` starts and ends it."""

    def __init__(self, directory: Path, *, workers: int = 2, extra: str = "", sections: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.smtp, self.submission, self.pop3, self.pop3s, self.imap, self.imaps, self.http = free_ports(7)
        self.config = directory / "rusmes.toml"
        self.extra, self.sections, self.workers_wanted = extra, sections or {}, workers
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "rusmes.log"
        self.write_config()

    def write_config(self) -> None:
        base = {
            "": 'domain = "example.com"\nhostname = "mx.example.com"\nruntime_dir = "run"',
            "server": f'workers = {self.workers_wanted}\ndrain_timeout = "5s"',
            "smtp": f"port = {self.smtp}",
            "submission": f"port = {self.submission}\ntls_port = 0",
            "imap": f"port = {self.imap}\ntls_port = {self.imaps}",
            "pop3": f"port = {self.pop3}\ntls_port = {self.pop3s}",
            "jmap": "port = 0",
            "storage": 'path = "data"\nmap_size = "1GB"',
            "metrics": f'bind_address = "127.0.0.1:{self.http}"',
            "logging": f'level = "debug"\noutput = "file"\nfile = {{ path = "{self.log}" }}',
        }
        text = ""
        for name in [*base, *(name for name in self.sections if name not in base)]:
            body = "\n".join(part for part in (base.get(name, ""), self.sections.get(name, "")) if part)
            text += f"[{name}]\n{body}\n" if name else f"{body}\n{self.extra}\n"
        self.config.write_text(text)

    def rusmes(self, *arguments: str, stdin: str = "") -> str:
        """The command line tool; its output."""
        argv = [sys.executable, "-m", "rusmes.cli.entry", "-c", str(self.config), *arguments]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_user(self, address: str = "alice@example.com") -> None:
        self.rusmes("user", "add", address, "--password-stdin", stdin=PASSWORD)

    def start(self, *, wait: bool = True, environ: dict[str, str] | None = None) -> None:
        if self.process is not None:
            self.output.close()
        self.output = (self.directory / "output").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rusmes.server.entry", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env={**os.environ, **(environ or {})},
        )
        if wait:
            self.wait_until(lambda: self.page("/ready")[0] == 200, "ready")

    def __enter__(self) -> RunningServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        if self.process is not None:
            self.output.close()
        for pid in self.orphans():
            os.kill(pid, signal.SIGKILL)

    def orphans(self) -> list[int]:
        """Processes of this configuration that live on; found by their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.config).encode() in command and b"rusmes.server.entry" in command:
                    found.append(int(entry.name))
        return found

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def wait_until(self, condition: Any, what: str, seconds: float = 15.0) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            assert self.process is None or self.process.poll() is None or what == "ended", self.everything_said()
            assert time.monotonic() < until, f"not {what} in time\n{self.everything_said()}"
            time.sleep(0.02)

    def everything_said(self) -> str:
        output = self.directory / "output"
        return (output.read_text() if output.exists() else "") + (self.log.read_text() if self.log.exists() else "")

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.log.read_text().splitlines()) if self.log.exists() else []
        return [line for line in lines if line["event"] == event]

    # Talking to it

    def page(self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def metric(self, line_start: str) -> float:
        text = self.page("/metrics")[1].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))

    def send(self, recipient: str = "alice@example.com", text: str = "Subject: hi\r\n\r\nhello\r\n") -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=10) as client:
            client.sendmail("bob@example.org", [recipient], text)

    def smtp_socket(self) -> tuple[socket.socket, bytes]:
        """A connection and the first line it says."""
        sock = socket.create_connection(("127.0.0.1", self.smtp), timeout=10)
        return sock, read_line(sock)

    def worker_pids(self) -> list[int]:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in text.split()}
        return [pid for pid, name in names.items() if name != "rusmes-courier"]

    def courier_pid(self) -> int:
        """0: it does not run now."""
        assert self.process is not None
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "rusmes-courier":
                return int(pid)
        return 0


def read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            break
        data += piece
    return data
