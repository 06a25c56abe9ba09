"""Making an installation: the configuration file, the data directory, keys, the first account.

It writes a closed server: no relaying but for loopback and logged-in users, no passwords in the clear beyond loopback. What was
made is removed again when a later part fails; what was there before is never touched.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rusmes.cli.accounts import add_account
from rusmes.cli.context import give_to_server_user
from rusmes.cli.keys import DkimKey, make_dkim_keys
from rusmes.config.load import load_config
from rusmes.config.schema import Config
from rusmes.tls.context import ensure_self_signed

PUBLIC_PORTS: Final = {
    "smtp": 25, "submission": 587, "submissions": 465, "imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "metrics": 9090,
}  # fmt: skip
LOCAL_PORTS: Final = {
    "smtp": 2525, "submission": 2587, "submissions": 2465, "imap": 2143, "imaps": 2993, "pop3": 2110, "pop3s": 2995,
    "metrics": 9090,
}  # fmt: skip


def configuration_text(
    domain: str,
    hostname: str,
    postmaster: str,
    data: str,
    *,
    runtime_dir: str,
    public: bool = False,
    run_as_user: str = "",
) -> str:
    """The file `init` writes: what differs from the defaults, and the pipeline in full to start from."""
    numbers = PUBLIC_PORTS if public else LOCAL_PORTS
    host = every_address() if public else "127.0.0.1"
    hops = (
        '{ matcher = "RelayLimit", mailet = "Reject", params = '
        '{ limit = 50, code = 554, status = "5.4.6", text = "too many hops" } }'
    )
    return f"""\
# RusMES. Every key: docs/configuration.md. Check a change with `rusmes -c FILE check-config`, apply it with SIGHUP.
domain = {_quoted(domain)}
hostname = {_quoted(hostname)}
postmaster = {_quoted(postmaster)}
runtime_dir = {_quoted(runtime_dir)}
run_as_user = {_quoted(run_as_user)}

[smtp]                      # mail from other servers
host = "{host}"
port = {numbers["smtp"]}

[submission]                # mail from this server's users; they log in
host = "{host}"
port = {numbers["submission"]}                  # STARTTLS
tls_port = {numbers["submissions"]}              # TLS from the first byte

[imap]
host = "{host}"
port = {numbers["imap"]}                  # STARTTLS
tls_port = {numbers["imaps"]}

[pop3]
host = "{host}"
port = {numbers["pop3"]}                  # STLS
tls_port = {numbers["pop3s"]}

[jmap]                      # not part of this version
port = 0

[tls]
cert_path = ""              # "" = the self-signed pair in the data directory; name a public certificate here
key_path = ""

[storage]
path = {_quoted(data)}

[domains]
local_domains = []          # [] = the domain above
aliases = {{}}

[security]
relay_networks = ["127.0.0.0/8", "::1/128"]   # may send anywhere without a login

[metrics]
bind_address = "127.0.0.1:{numbers["metrics"]}"       # /metrics /health /ready /live

# The pipeline: each step's matcher chooses recipients, its mailet decides about them. docs/pipeline.md
[[processors]]
name = "root"
state = "root"
mailets = [
  {hops},
  {{ matcher = "RecipientIsLocal", mailet = "LocalDelivery" }},
  {{ matcher = "RelayAllowed", mailet = "DKIMSign" }},       # mail of our own; with keys (`rusmes dkim show`)
  {{ matcher = "RelayAllowed", mailet = "ARCSeal" }},        # mail of others that is forwarded
  {{ matcher = "RelayAllowed", mailet = "RemoteDelivery" }},
  {{ matcher = "All", mailet = "Reject", params = {{ code = 550, status = "5.7.1", text = "relaying denied" }} }},
]

[[processors]]
name = "error"
state = "error"
mailets = [{{ matcher = "All", mailet = "Hold" }}]
"""


def every_address() -> str:
    """What to listen on to be reached by everybody: "::" takes IPv4 too, where the machine has IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return "0.0.0.0"
    return "::"


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char >= " " and char != "\x7f" else f"\\u{ord(char):04x}" for char in escaped) + '"'


def create(path: str, text: str, account: str, password: str) -> tuple[Config, list[DkimKey]]:
    """Write the file, check it, make the keys and the account.

    Raises:
        ConfigError, RusmesError: nothing of what was made is left.
    """
    with _undo_on_failure() as made:
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            os.makedirs(parent, mode=0o755)
            made.append(parent)
        made.append(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        config = load_config(path, environ={})
        data = config.storage.path
        if not os.path.isdir(data):
            os.makedirs(data, mode=0o700)
            made.append(data)
        before = set(os.listdir(data))
        try:
            _fill(config, account, password)
        finally:
            made += [os.path.join(data, name) for name in os.listdir(data) if name not in before]
    return config, make_dkim_keys(os.path.join(data, "dkim"), config.domain)


def _fill(config: Config, account: str, password: str) -> None:
    """A data directory with keys and the first account."""
    data = config.storage.path
    ensure_self_signed(config.hostname or socket.getfqdn(), data)
    make_dkim_keys(os.path.join(data, "dkim"), config.domain)
    asyncio.run(add_account(config, account, password))
    give_to_server_user(config, data, *_files_below(data))


def _files_below(directory: str) -> list[str]:
    """A fresh data directory holds a handful of files."""
    return [os.path.join(folder, name) for folder, folders, files in os.walk(directory) for name in (*folders, *files)]


@contextmanager
def _undo_on_failure() -> Iterator[list[str]]:
    """Collects what is made, in order; all of it goes again when the block fails."""
    made: list[str] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            elif os.path.exists(path):
                os.unlink(path)
        raise
