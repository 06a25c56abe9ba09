"""The demonstration server of `make run`: a directory with everything, on loopback and unprivileged ports.

The first call makes it; later calls only say again how to use it. The demo account's password is kept beside the
configuration, readable by its owner only: this server answers on loopback alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import Final

from rusmes.cli.accounts import generate_password
from rusmes.cli.installation import configuration_text, create
from rusmes.cli.output import Output
from rusmes.config.load import load_config
from rusmes.config.schema import Config

DOMAIN: Final = "rusmes.test"  # RFC 6761 §6.2: never in the public DNS
ACCOUNT: Final = f"demo@{DOMAIN}"
CONFIG_NAME: Final = "rusmes.toml"
PASSWORD_NAME: Final = "demo-password"


def run_quickstart(output: Output, directory: str) -> None:
    """Make the server on the first call, then say how to use it; RUSMES_* variables count as they do for the server.

    Raises:
        ConfigError, RusmesError
    """
    path = os.path.join(os.path.abspath(directory), CONFIG_NAME)
    is_new = not os.path.exists(path)
    if is_new:
        _create(path)
    config = load_config(path)
    password = _stored_password(path)
    commands = _commands(config, password)
    data = {
        "config": path,
        "created": is_new,
        "account": ACCOUNT,
        "password": password,
        "ports": _ports(config),
        "send": commands[0],
        "read": commands[1],
    }
    output.show(data, lambda: _tell(output, config, password, commands, is_new))


def _create(path: str) -> None:
    directory = os.path.dirname(path)
    data = os.path.join(directory, "data")
    text = configuration_text(DOMAIN, "localhost", ACCOUNT, data, runtime_dir=os.path.join(directory, "run"))
    password = generate_password()
    create(path, text, ACCOUNT, password)
    descriptor = os.open(os.path.join(directory, PASSWORD_NAME), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{password}\n")


def _stored_password(path: str) -> str:
    """ "" when the operator has removed the file."""
    try:
        with open(os.path.join(os.path.dirname(path), PASSWORD_NAME), encoding="ascii") as file:
            return file.readline().strip()
    except FileNotFoundError:
        return ""


def _ports(config: Config) -> dict[str, str]:
    """Every port that answers, by what it is for."""
    return {
        name: f"{host}:{port}"
        for name, host, port in (
            ("SMTP", config.smtp.host, config.smtp.port),
            ("submission (STARTTLS)", config.submission.host, config.submission.port),
            ("submission (TLS)", config.submission.host, config.submission.tls_port),
            ("IMAP (STARTTLS)", config.imap.host, config.imap.port),
            ("IMAP (TLS)", config.imap.host, config.imap.tls_port),
            ("POP3 (STLS)", config.pop3.host, config.pop3.port),
            ("POP3 (TLS)", config.pop3.host, config.pop3.tls_port),
        )
        if port
    } | ({"metrics and health": config.metrics.bind_address} if config.metrics.enabled else {})


def _commands(config: Config, password: str) -> tuple[str, str]:
    """Send a message, and read it; the first with swaks where it is installed, else with Python."""
    host, port = config.smtp.host, config.smtp.port
    if shutil.which("swaks"):
        send = (
            f"swaks --server {host}:{port} --from you@example.org --to {ACCOUNT} --header 'Subject: hello' --body 'It works.'"
        )
    else:
        message = "Subject: hello\\r\\n\\r\\nIt works.\\r\\n"
        code = f"import smtplib; smtplib.SMTP('{host}', {port}).sendmail('you@example.org', ['{ACCOUNT}'], '{message}')"
        send = f'python3 -c "{code}"'
    read = (
        f"curl -sS -u {shlex.quote(f'{ACCOUNT}:{password}')} 'imap://{config.imap.host}:{config.imap.port}/INBOX;MAILINDEX=1'"
    )
    return send, read


def _tell(output: Output, config: Config, password: str, commands: tuple[str, str], is_new: bool) -> None:
    if is_new:
        output.say(f"Made a server for {DOMAIN} in {os.path.dirname(config.path)}.", "bold")
    output.say("")
    output.facts([("Account", ACCOUNT), ("Password", password or "(removed)"), *_ports(config).items()])
    output.say("\nIn another terminal, send a message:", "bold")
    output.say(f"  {commands[0]}")
    output.say("and read it:", "bold")
    output.say(f"  {commands[1]}")
    output.say(f"\nOperate it with: {_program()} -c {shlex.quote(os.path.relpath(config.path))} status\n")


def _program() -> str:
    """How this program was called, as it can be typed again."""
    name = sys.argv[0]
    return (
        os.path.relpath(name)
        if os.path.isabs(name) and not shutil.which("rusmes")
        else "rusmes"
        if shutil.which("rusmes")
        else name
    )
