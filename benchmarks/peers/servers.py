"""Servers under measurement, each with a configuration of its own in a scratch directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

USERS = 100
PASSWORD = "correct horse battery"


class Server:
    """One server: `start`, `stop`, its port and its process tree."""

    name = ""

    def __init__(self, scratch: Path, port: int) -> None:
        self.directory = scratch / self.name
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def root_pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def delivered(self) -> int:
        """Messages in mailboxes, for servers that deliver after their 250."""
        raise NotImplementedError

    def spawn(self, argv: list[str]) -> None:
        log = (self.directory / "output.log").open("ab")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_port(self.port)


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Raises TimeoutError when nothing listens in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


MASTER_CF = """127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
MAIN_CF = """compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
multi_instance_name =
myhostname = bench.example.com
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_relay_restrictions = permit_mynetworks, reject
disable_dns_lookups = yes
smtp_host_lookup = native
maillog_file = {directory}/mail.log
maillog_file_prefixes = /
notify_classes =
alias_maps =
local_recipient_maps =
default_process_limit = 250
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
smtpd_peername_lookup = no
message_size_limit = 104857600
smtpd_error_sleep_time = 0
max_use = 100000
qmgr_message_active_limit = 100000
{extra}
"""


class Postfix(Server):
    """Postfix with a private instance; `extra` says what it does with the mail."""

    extra = ""

    def start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for sub in ("etc", "spool", "data"):
            (self.directory / sub).mkdir(parents=True)
        shutil.chown(self.directory / "data", "postfix")
        etc = self.directory / "etc"
        (etc / "main.cf").write_text(MAIN_CF.format(directory=self.directory, extra=self.extra))
        (etc / "master.cf").write_text(MASTER_CF.format(port=self.port))
        self.postfix("start")
        wait_for_port(self.port)

    def stop(self) -> None:
        self.postfix("stop")

    def postfix(self, command: str) -> None:
        subprocess.run(["postfix", "-c", str(self.directory / "etc"), command], check=command == "start", capture_output=True)

    def root_pid(self) -> int:
        return int((self.directory / "spool/pid/master.pid").read_text())


class PostfixHold(Postfix):
    """Accepts and keeps: what an MX does before delivery."""

    name = "postfix"
    extra = "smtpd_client_restrictions = static:HOLD"


class PostfixRelay(Postfix):
    """Accepts and sends on to the sink."""

    name = "postfix-relay"

    def __init__(self, scratch: Path, port: int, sink_port: int) -> None:
        super().__init__(scratch, port)
        self.extra = (
            f"relayhost = [127.0.0.1]:{sink_port}\nsmtp_connection_cache_on_demand = yes\n"
            "default_destination_concurrency_limit = 100\ninitial_destination_concurrency = 50\nminimal_backoff_time = 1s"
        )


DOVECOT_CONF = """base_dir = {directory}/run
state_dir = {directory}/state
listen = 127.0.0.1
protocols = lmtp pop3
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
auth_username_format = %n
log_path = {directory}/dovecot.log
info_log_path = {directory}/info.log
first_valid_uid = 1
mail_location = maildir:{directory}/mail/%u
mail_fsync = optimized
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={directory}/home/%u allow_all_users=yes
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  process_min_avail = 10
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
  service_count = 0
}}
"""


class Dovecot(Server):
    """Dovecot's LMTP and POP3 over Maildir."""

    name = "dovecot"

    def start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for sub in ("run", "state", "mail", "home"):
            (self.directory / sub).mkdir(parents=True)
        for sub in ("mail", "home"):
            shutil.chown(self.directory / sub, "mail", "mail")
        conf = self.directory / "dovecot.conf"
        conf.write_text(DOVECOT_CONF.format(directory=self.directory, pop3_port=self.port, password=PASSWORD.replace(" ", "_")))
        self.spawn(["dovecot", "-F", "-c", str(conf)])


DOVECOT_IMAP_CONF = """base_dir = {directory}/run
state_dir = {directory}/state
listen = 127.0.0.1
protocols = imap
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
auth_username_format = %n
auth_cache_size = 10M
log_path = {directory}/dovecot.log
info_log_path = {directory}/info.log
first_valid_uid = 1
mail_location = {format}:{directory}/mail/%u
mail_fsync = optimized
mail_max_userip_connections = 100000
mailbox_list_index = yes
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={directory}/home/%u allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
  service_count = 0
  process_min_avail = 2
  client_limit = 20000
}}
service imap {{
  process_limit = 20000
}}
service anvil {{
  client_limit = 60000
}}
service auth {{
  client_limit = 60000
}}
"""
"""The shipped settings, but that its login processes serve many connections and that it caches credentials."""


class DovecotImap(Server):
    """Dovecot's IMAP over "maildir" or "mdbox"."""

    def __init__(self, scratch: Path, port: int, format: str) -> None:
        self.name = f"dovecot-{format}"
        self.format = format
        super().__init__(scratch, port)

    def start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for sub in ("run", "state", "mail", "home"):
            (self.directory / sub).mkdir(parents=True)
        for sub in ("mail", "home"):
            shutil.chown(self.directory / sub, "mail", "mail")
        conf = self.directory / "dovecot.conf"
        password = PASSWORD.replace(" ", "_")
        conf.write_text(
            DOVECOT_IMAP_CONF.format(directory=self.directory, port=self.port, password=password, format=self.format)
        )
        self.spawn(["dovecot", "-F", "-c", str(conf)])


class PostfixDovecot(Postfix):
    """Postfix that hands local mail to Dovecot's LMTP, which writes Maildirs."""

    name = "postfix+dovecot"

    def __init__(self, scratch: Path, port: int, dovecot: Dovecot) -> None:
        super().__init__(scratch, port)
        self.dovecot = dovecot
        self.extra = (
            "virtual_mailbox_domains = example.com\nvirtual_mailbox_maps = static:ok\n"
            f"virtual_transport = lmtp:unix:{dovecot.directory}/run/lmtp\nlmtp_destination_concurrency_limit = 10"
        )

    def start(self) -> None:
        self.dovecot.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self.dovecot.stop()

    def delivered(self) -> int:
        return sum(len(os.listdir(new)) for new in (self.dovecot.directory / "mail").glob("*/new"))


class SmtpSink(Server):
    """Postfix's smtp-sink, which stores nothing."""

    name = "smtp-sink"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.spawn(["smtp-sink", "-u", "postfix", f"127.0.0.1:{self.port}", "1000"])


class Rusmes(Server):
    """This project, installed beside this file, with the shipped defaults but for what `extra` changes.

    `processors` replaces the default pipeline; `users` local accounts user0@example.com ... are made first.
    """

    name = "rusmes"

    def __init__(
        self,
        scratch: Path,
        port: int,
        *,
        name: str = "rusmes",
        extra: str = "",
        processors: str = "",
        users: int = 0,
        imap: bool = False,
    ) -> None:
        self.name = name
        super().__init__(scratch, port)
        self.extra = extra
        self.processors = processors
        self.users = users
        self.pop3_port = port + 1
        self.metrics_port = port + 2
        self.imap_port = port + 3 if imap else 0
        self.imaps_port = port + 4 if imap else 0

    def start(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "data").mkdir(parents=True)
        config = self.directory / "rusmes.toml"
        config.write_text(self.configuration())
        self._make_accounts()
        self.spawn([sys.executable, "-m", "rusmes.server.entry", str(config)])
        if self.imap_port:
            wait_for_port(self.imap_port)

    def configuration(self) -> str:
        return f"""domain = "example.com"
hostname = "bench.example.com"
postmaster = "postmaster@example.com"
runtime_dir = "{self.directory}/run"
[smtp]
port = {self.port}
rate_limit = {{ max_connections_per_ip = 20000 }}
max_message_size = "100MB"
[submission]
port = 0
tls_port = 0
[imap]
port = {self.imap_port}
tls_port = {self.imaps_port}
commands_per_minute = 0
[pop3]
port = {self.pop3_port}
tls_port = 0
[jmap]
port = 0
[storage]
path = "{self.directory}/data"
[logging]
output = "file"
file = {{ path = "{self.directory}/rusmes.log" }}
[metrics]
bind_address = "127.0.0.1:{self.metrics_port}"
{self.extra}
{self.processors}
"""

    def _make_accounts(self) -> None:
        if not self.users:
            return
        import asyncio

        from rusmes.auth.file import FileBackend

        async def fill() -> None:
            backend = FileBackend(str(self.directory / "data/users.toml"))
            for number in range(self.users):
                await backend.add(f"user{number}@example.com", PASSWORD)

        asyncio.run(fill())

    def delivered(self) -> int:
        return -1
