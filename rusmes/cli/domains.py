"""`rusmes domain` and `rusmes alias`: changes to [domains] of the configuration file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import tomlkit

from rusmes.cli.context import Context, JsonGroup, OperatorError, confirm, pass_context
from rusmes.cli.edit import edit_config, inner_table, section
from rusmes.cli.stores import accounts_of
from rusmes.config import names
from rusmes.config.checks import alias_source, domain_target
from rusmes.config.problems import nearest
from rusmes.config.schema import Config
from rusmes.errors import AlreadyExists, NotFound


@click.group(cls=JsonGroup)
def domain() -> None:
    """Domains whose mail is kept here."""


@domain.command("list")
@pass_context
def list_domains(context: Context) -> None:
    """Every local domain."""
    config = context.config
    accounts = context.run(_account_names(config))
    rows = [
        {
            "domain": name,
            "primary": name == config.domain,
            "accounts": sum(account.rpartition("@")[2] == name for account in accounts),
            "aliases": sum(source.rpartition("@")[2] == name for source in config.domains.aliases),
            "catch_all": config.domains.catch_all.get(name, ""),
        }
        for name in config.local_domains
    ]
    context.output.show(
        rows,
        lambda: context.output.table(
            ["DOMAIN", "#ACCOUNTS", "#ALIASES", "CATCH-ALL", ""],
            [(r["domain"], r["accounts"], r["aliases"], r["catch_all"], "primary" if r["primary"] else "") for r in rows],
            empty="There is no local domain.",
        ),
    )


@domain.command("add")
@click.argument("name")
@pass_context
def add_domain(context: Context, name: str) -> None:
    """Keep mail for a further domain."""
    added = _checked(names.domain_name, name)
    if added in context.config.local_domains:
        raise AlreadyExists(f"{added} is local already")

    def change(document: tomlkit.TOMLDocument) -> None:
        table = section(document, "domains")
        if not table.get("local_domains"):
            table["local_domains"] = [context.config.domain]
        table["local_domains"].append(added)

    sentence = _apply(context, change)
    context.output.done(f"{added} is a local domain. {sentence}", domain=added)


@domain.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask, though the domain has accounts.")
@pass_context
def delete_domain(context: Context, name: str, yes: bool) -> None:
    """Stop keeping mail for a domain; its accounts and their mail stay."""
    removed, config = _checked(names.domain_name, name), context.config
    if removed not in config.local_domains:
        raise NotFound(f"{removed} is not a local domain", nearest(removed, config.local_domains))
    if removed == config.domain or len(config.local_domains) == 1:
        raise OperatorError(f"{removed} is the primary domain", "change `domain` in the file first")
    aliases = [source for source in config.domains.aliases if source.rpartition("@")[2] == removed]
    targets = [source for source, to in config.domains.aliases.items() if f"@{removed}" in to]
    if aliases or targets or removed in config.domains.catch_all:
        raise OperatorError(f"{removed} still has aliases or a catch-all", "`rusmes alias list` shows them; delete them first")
    accounts = [account for account in context.run(_account_names(config)) if account.endswith(f"@{removed}")]
    if accounts:
        confirm(f"{removed} has {len(accounts)} accounts, which will get no more mail. Go on?", yes)

    def change(document: tomlkit.TOMLDocument) -> None:
        domains = section(document, "domains")["local_domains"]
        for index, text in enumerate(list(domains)):
            if names.domain_name(str(text)) == removed:
                del domains[index]
                return

    sentence = _apply(context, change)
    context.output.done(f"{removed} is no longer local. {sentence}", domain=removed)


@domain.command("catch-all")
@click.argument("name")
@click.argument("address", required=False)
@click.option("--none", "remove", is_flag=True, help="Refuse unknown addresses again.")
@pass_context
def catch_all(context: Context, name: str, address: str | None, remove: bool) -> None:
    """Send mail for addresses that do not exist to ADDRESS."""
    of = _checked(names.domain_name, name)
    if bool(address) == remove:
        raise click.UsageError("give an address, or --none")
    target = "" if address is None else str(_checked(names.address, address))
    if remove and of not in context.config.domains.catch_all:
        raise NotFound(f"{of} has no catch-all")

    def change(document: tomlkit.TOMLDocument) -> None:
        table = inner_table(section(document, "domains"), "catch_all")
        for key in [key for key in table if names.domain_name(key) == of]:
            del table[key]
        if target:
            table[of] = target

    sentence = _apply(context, change)
    told = f"goes to {target}" if target else "is refused"
    context.output.done(f"Mail for unknown addresses of {of} {told}. {sentence}", domain=of, catch_all=target)


@click.group(cls=JsonGroup)
def alias() -> None:
    """Addresses that lead to other addresses."""


@alias.command("list")
@pass_context
def list_aliases(context: Context) -> None:
    """Every alias and catch-all."""
    domains = context.config.domains
    rows = [{"alias": source, "targets": list(targets)} for source, targets in sorted(domains.aliases.items())]
    rows += [{"alias": f"*@{name}", "targets": [target]} for name, target in sorted(domains.catch_all.items())]
    context.output.show(
        rows,
        lambda: context.output.table(
            ["ALIAS", "LEADS TO"],
            [(row["alias"], ", ".join(row["targets"])) for row in rows],
            empty="There is no alias.",
        ),
    )


@alias.command("add")
@click.argument("source")
@click.argument("targets", nargs=-1, required=True)
@pass_context
def add_alias(context: Context, source: str, targets: tuple[str, ...]) -> None:
    """Lead SOURCE to TARGETS, beside those it has; "@old.example" "@new.example" maps a whole domain."""
    name = _checked(alias_source, source)
    check = domain_target if name.startswith("@") else _address_text
    new = [_checked(check, target) for target in targets]
    known = list(context.config.domains.aliases.get(name, ()))
    added = [target for target in dict.fromkeys(new) if target not in known]
    if not added:
        raise AlreadyExists(f"{name} leads there already")
    _write_alias(context, name, [*known, *added])


@alias.command("delete")
@click.argument("source")
@click.argument("targets", nargs=-1)
@pass_context
def delete_alias(context: Context, source: str, targets: tuple[str, ...]) -> None:
    """Remove TARGETS of an alias, or the whole alias."""
    name = _checked(alias_source, source)
    known = context.config.domains.aliases
    if name not in known:
        raise NotFound(f"there is no alias {name}", nearest(name, known))
    check = domain_target if name.startswith("@") else _address_text
    gone = [_checked(check, target) for target in targets]
    for target in gone:
        if target not in known[name]:
            raise NotFound(f"{name} does not lead to {target}", nearest(target, known[name]))
    _write_alias(context, name, [target for target in known[name] if gone and target not in gone])


def _write_alias(context: Context, name: str, targets: list[str]) -> None:
    def change(document: tomlkit.TOMLDocument) -> None:
        table = inner_table(section(document, "domains"), "aliases")
        written = [key for key in table if alias_source(key) == name]
        if not targets:
            for key in written:
                del table[key]
        else:
            table[written[0] if written else name] = targets[0] if len(targets) == 1 else targets

    sentence = _apply(context, change)
    told = f"leads to {', '.join(targets)}" if targets else "is deleted"
    context.output.done(f"{name} {told}. {sentence}", alias=name, targets=targets)


def _apply(context: Context, change: Callable[[tomlkit.TOMLDocument], None]) -> str:
    edit_config(context.config_file, change)
    return context.reload()


def _checked(check: Callable[[str], Any], text: str) -> Any:
    try:
        return check(text)
    except ValueError as error:
        raise OperatorError(str(error)) from None


def _address_text(text: str) -> str:
    return str(names.address(text))


async def _account_names(config: Config) -> list[str]:
    async with accounts_of(config) as backend:
        return [identity.account for identity in await backend.list()]
