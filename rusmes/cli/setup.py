"""`rusmes init`: from nothing to a checked configuration, keys, a first account, and the DNS records to publish."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from rusmes.cli.accounts import generate_password
from rusmes.cli.context import Context, JsonCommand, OperatorError, pass_context, read_password
from rusmes.cli.dns_records import mta_sts_policy, public_addresses, records_for
from rusmes.cli.installation import configuration_text, create
from rusmes.cli.keys import DkimKey
from rusmes.cli.quickstart import run_quickstart
from rusmes.config import names
from rusmes.config.schema import Config


@click.command("init", cls=JsonCommand)
@click.option("--domain", metavar="NAME", help="The domain whose mail this server keeps.")
@click.option("--hostname", metavar="NAME", help="This machine's name in the DNS [default: mail.DOMAIN].")
@click.option("--postmaster", metavar="ADDRESS", help="[default: postmaster@DOMAIN]")
@click.option("--account", metavar="ADDRESS", help="The first account [default: postmaster].")
@click.option("--password-stdin", is_flag=True, help="Read its password from standard input.")
@click.option("--generate", is_flag=True, help="Make its password and print it.")
@click.option("--data", metavar="DIR", help="The data directory [default: beside the file, /var/lib/rusmes for /etc].")
@click.option(
    "--public/--local",
    default=False,
    show_default="--local",
    help="Listen on all addresses and the well-known ports (started as root), or on loopback and ports above 1024.",
)
@click.option("--user", "run_as_user", metavar="NAME", help="With --public: the user the server runs as [default: rusmes].")
@click.option(
    "--quickstart", metavar="DIR", help="A demonstration server in DIR, made on the first call; what `make run` uses."
)
@pass_context
def init(
    context: Context,
    domain: str | None,
    hostname: str | None,
    postmaster: str | None,
    account: str | None,
    password_stdin: bool,
    generate: bool,
    data: str | None,
    public: bool,
    run_as_user: str | None,
    quickstart: str | None,
) -> None:
    """Write a configuration with keys and a first account; the file is the one of -c [default: ./rusmes.toml]."""
    if quickstart is not None:
        run_quickstart(context.output, quickstart)
        return
    path = os.path.abspath(context.config_path or "rusmes.toml")
    if os.path.exists(path):
        raise OperatorError(f"{path} exists already", "name another file with -c, or remove it")
    values = _answers(domain, hostname, postmaster, account)
    password = generate_password() if generate else read_password(password_stdin, f"Password of {values['account']}")
    directory = os.path.abspath(data) if data else _data_directory(path)
    text = configuration_text(
        values["domain"],
        values["hostname"],
        values["postmaster"],
        directory,
        runtime_dir="/run/rusmes" if public else os.path.join(directory, "run"),
        public=public,
        run_as_user=(run_as_user or "rusmes") if public else "",
    )
    config, keys = create(path, text, values["account"], password)
    _report(context, config, keys, values["account"], password if generate else "")


def _answers(domain: str | None, hostname: str | None, postmaster: str | None, account: str | None) -> dict[str, str]:
    """What was not given as an option is asked for; without a terminal the defaults are taken.

    Raises:
        OperatorError: a name is none, or the domain is missing and nobody can be asked.
    """
    can_ask = sys.stdin.isatty() and domain is None
    if domain is None and not can_ask:
        raise OperatorError("the domain is missing", "give --domain NAME; the other options have defaults")

    def ask(given: str | None, question: str, default: str) -> str:
        if given is None and can_ask:
            return str(click.prompt(question, default=default or None))
        return given if given is not None else default

    try:
        name = names.domain_name(ask(domain, "Domain whose mail this server keeps", ""))
        host = names.domain_name(ask(hostname, "Name of this machine in the DNS", f"mail.{name}"))
        master = str(names.address(ask(postmaster, "Address of the postmaster", f"postmaster@{name}")))
        first = ask(account, "First account", master)
        address = names.address(first if "@" in first else f"{first}@{name}")
    except ValueError as error:
        raise OperatorError(str(error)) from None
    if address.domain != name:
        raise OperatorError(f"the first account must be in {name}", "other domains come later, with `rusmes domain add`")
    return {"domain": name, "hostname": host, "postmaster": master, "account": address.folded}


def _data_directory(path: str) -> str:
    directory = os.path.dirname(path)
    return "/var/lib/rusmes" if directory == "/etc/rusmes" else os.path.join(directory, "rusmes-data")


def _report(context: Context, config: Config, keys: list[DkimKey], account: str, password: str) -> None:
    records = records_for(
        config.domain,
        config.hostname,
        config.postmaster_address,
        keys,
        addresses=public_addresses(),
        ports=[
            ("submissions", config.submission.tls_port),
            ("imaps", config.imap.tls_port),
            ("pop3s", config.pop3.tls_port),
        ],
    )
    data: dict[str, Any] = {
        "config": config.path,
        "data": config.storage.path,
        "account": account,
        "dns": [{"name": r.name, "type": r.type, "value": r.value, "comment": r.comment} for r in records],
        "mta_sts_policy": mta_sts_policy(config.hostname),
        "warnings": list(config.warnings),
    }
    if password:
        data["password"] = password

    def for_people() -> None:
        say = context.output.say
        say(f"Wrote {config.path}, its keys and data in {config.storage.path}, and the account {account}.", "bold")
        if password:
            say(f"The password of {account} is {password}")
        say(f"\nDNS records to publish for {config.domain}:\n", "bold")
        for record in records:
            say(f"; {record.comment}", "dim")
            say(record.line())
        say(f"\nMTA-STS policy, to be served at https://mta-sts.{config.domain}/.well-known/mta-sts.txt:\n", "bold")
        say(mta_sts_policy(config.hostname))
        say("Mail to other servers is signed with the DKIM keys; it verifies once their records are published.")
        say("TLS uses a self-signed certificate until [tls] names another.")
        say(f"\nNext: rusmes-server {config.path}", "bold")

    context.output.show(data, for_people)
