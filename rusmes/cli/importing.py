"""`rusmes import`: the settings of other servers as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec
import tomlkit

from rusmes.cli.context import Context, JsonGroup, OperatorError, pass_context
from rusmes.cli.edit import edit_config, inner_table, section
from rusmes.cli.postfix_maps import MAX_FILE_BYTES, Converter, FoundRoute, Import

FILE = click.Path(exists=True, dir_okay=False)


@click.group("import", cls=JsonGroup)
def import_group() -> None:
    """Take over the settings of another server."""


@import_group.command("postfix")
@click.option("--transport", type=FILE, help="The transport map: routes.")
@click.option("--virtual", type=FILE, help="The virtual alias map: aliases, catch-alls, domains.")
@click.option("--aliases", type=FILE, help="The aliases of local users.")
@click.option("--write", is_flag=True, help="Change the configuration file; its comments stay.")
@pass_context
def postfix(context: Context, transport: str | None, virtual: str | None, aliases: str | None, write: bool) -> None:
    """Turn Postfix's maps (the text, not the .db) into routes and aliases, and tell what has no equivalent."""
    if not (transport or virtual or aliases):
        raise click.UsageError("name at least one of --transport, --virtual and --aliases")
    converter = Converter(context.config)
    for path, add in ((transport, converter.add_transport), (virtual, converter.add_virtual), (aliases, converter.add_aliases)):
        if path is not None:
            add(path, _text_of(path))
    found = converter.result
    sentence = _write(context, found) if write and not found.is_empty else ""
    data = msgspec.to_builtins(found) | {"written": bool(sentence)}
    context.output.show(data, lambda: _tell(context, found, sentence))


def _text_of(path: str) -> str:
    """Raises OperatorError."""
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OperatorError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise OperatorError(f"{path} is no text in UTF-8", "name the text from which the .db was made") from None


def _write(context: Context, found: Import) -> str:
    edit_config(context.config_file, _changes(found))
    return context.reload()


def _changes(found: Import) -> Callable[[tomlkit.TOMLDocument], None]:
    def change(document: tomlkit.TOMLDocument) -> None:
        if found.aliases or found.catch_all or found.local_domains:
            domains = section(document, "domains")
            if found.local_domains:
                if not domains.get("local_domains"):
                    domains["local_domains"] = [document["domain"]]
                for name in found.local_domains:
                    domains["local_domains"].append(name)
            for key, entries in (("aliases", found.aliases), ("catch_all", found.catch_all)):
                if entries:
                    table = inner_table(domains, key)
                    for name, target in entries.items():
                        table[name] = target[0] if isinstance(target, list) and len(target) == 1 else target
        if found.routes:
            delivery = section(document, "delivery")
            if "route" not in delivery:
                delivery["route"] = tomlkit.aot()
            for route in found.routes:
                delivery["route"].append(_table_of(route))

    return change


def _table_of(route: FoundRoute) -> Any:
    table = tomlkit.table()
    table["name"] = route.name
    table["host"] = route.host
    table["port"] = route.port
    table["use_tls"] = False  # TLS where it is offered, as Postfix's `may`
    table["domains"] = route.domains
    return table


def _tell(context: Context, found: Import, sentence: str) -> None:
    if found.is_empty:
        context.output.say("Nothing is new in these maps.")
    elif sentence:
        routes, aliases = len(found.routes), len(found.aliases) + len(found.catch_all)
        context.output.say(f"{routes} routes, {aliases} aliases and {len(found.local_domains)} domains are written. {sentence}")
    else:
        document = tomlkit.document()
        document["domain"] = context.config.domain
        _changes(found)(document)
        del document["domain"]
        context.output.say(tomlkit.dumps(document).strip())
        context.output.say("\n--write puts this into the configuration file.")
    if found.remarks:
        context.output.say("")
        context.output.table(
            ["WHERE", "WHAT", "", "WHY"],
            [(one.place, one.entry, one.kind, one.reason) for one in found.remarks],
            empty="",
        )
