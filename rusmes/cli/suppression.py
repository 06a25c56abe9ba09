"""`rusmes suppression`: the addresses to which nothing is sent any more. It works beside a running server and without one."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from rusmes.cli.context import Context, JsonGroup, OperatorError, confirm, give_to_server_user, pass_context
from rusmes.clock import SystemClock
from rusmes.config import names
from rusmes.config.units import Duration
from rusmes.errors import NotFound
from rusmes.model.address import Address
from rusmes.returns.suppression import Suppressed, Suppressions
from rusmes.storage.ledger import LmdbLedger

_tenant = click.option("--tenant", default="", metavar="NAME", help="Of this tenant alone [default: for everybody].")


@click.group(cls=JsonGroup)
def suppression() -> None:
    """Addresses to which nothing is sent any more."""


@suppression.command("list")
@click.option("--tenant", default=None, metavar="NAME", help="Only those of this tenant.")
@click.option("--category", default="", metavar="NAME", help="Only those of this category.")
@click.option("--domain", default="", metavar="DOMAIN", help="Only those of this domain.")
@pass_context
def list_suppressed(context: Context, tenant: str | None, category: str, domain: str) -> None:
    """Every address, and why."""
    with _opened(context, read_only=True) as suppressions:
        rows = [
            entry
            for entry in suppressions.entries()
            if (tenant is None or entry.tenant == tenant)
            and (not category or entry.category.lower() == category.lower())
            and (not domain or entry.address.endswith("@" + domain.lower()))
        ]
    context.output.show(
        [_document(entry) for entry in rows],
        lambda: context.output.table(
            ["ADDRESS", "TENANT", "CATEGORY", "SINCE", "UNTIL", "#COUNT", "REASON"],
            [
                (e.address, e.tenant or "-", e.category, _day(e.added), _day(e.expires) or "-", e.count, e.reason[:60])
                for e in rows
            ],
            empty="Nobody is suppressed.",
        ),
    )


@suppression.command("check")
@click.argument("address")
@_tenant
@pass_context
def check_address(context: Context, address: str, tenant: str) -> None:
    """Whether mail to an address would be sent; status 1 when not."""
    asked = _address(address)
    with _opened(context, read_only=True) as suppressions:
        category = suppressions.find(tenant, asked)
    is_off = "" if context.config.suppression.enabled else " ([suppression] is not enabled, so it is sent all the same)"
    sentence = f"{asked} is suppressed: {category}{is_off}" if category else f"{asked} is not suppressed."
    context.output.done(sentence, address=str(asked), suppressed=bool(category), category=category)
    if category:
        raise SystemExit(1)


@suppression.command("add")
@click.argument("addresses", nargs=-1, required=True)
@_tenant
@click.option("--reason", default="", metavar="TEXT", help="What `list` shows.")
@click.option("--for", "duration", default="", metavar="DURATION", help="Such as 30d [default: for ever].")
@pass_context
def add(context: Context, addresses: tuple[str, ...], tenant: str, reason: str, duration: str) -> None:
    """Send nothing to these addresses any more."""
    added = [_address(text) for text in addresses]
    seconds = _seconds(duration)
    with _opened(context) as suppressions:
        for one in added:
            suppressions.add(tenant, one, reason, seconds=seconds)
    context.output.done(f"{len(added)} suppressed.", added=len(added))


@suppression.command("remove")
@click.argument("addresses", nargs=-1, required=True)
@_tenant
@pass_context
def remove(context: Context, addresses: tuple[str, ...], tenant: str) -> None:
    """Send to these addresses again."""
    with _opened(context) as suppressions:
        missing = [text for text in addresses if not suppressions.remove(tenant, _address(text))]
    if missing:
        whose = f"of the tenant {tenant}" if tenant else "for everybody"
        raise NotFound(f"not suppressed {whose}: {', '.join(missing)}", "`rusmes suppression list` shows all")
    context.output.done(f"{len(addresses)} may be sent to again.", removed=len(addresses))


@suppression.command("clear")
@click.option("--category", default="", metavar="NAME", help="Only those of this category.")
@click.option("--tenant", default=None, metavar="NAME", help="Only those of this tenant.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def clear(context: Context, category: str, tenant: str | None, yes: bool) -> None:
    """Send to everybody again."""
    with _opened(context) as suppressions:
        found = [
            entry
            for entry in suppressions.entries()
            if (not category or entry.category.lower() == category.lower()) and (tenant is None or entry.tenant == tenant)
        ]
        if found:
            confirm(f"Remove {len(found)} addresses from the list?", yes)
        for entry in found:
            suppressions.remove(entry.tenant, _address(entry.address))
    context.output.done(f"{len(found)} may be sent to again.", removed=len(found))


@suppression.command("export")
@pass_context
def export(context: Context) -> None:
    """Every entry as a line of JSON, on standard output."""
    with _opened(context, read_only=True) as suppressions:
        for entry in suppressions.entries():
            sys.stdout.buffer.write(msgspec.json.encode(_document(entry)) + b"\n")
    sys.stdout.buffer.flush()


@suppression.command("import")
@click.argument("file", type=click.File("rb"))
@_tenant
@click.option("--reason", default="imported", show_default=True, metavar="TEXT", help="What `list` shows.")
@pass_context
def import_list(context: Context, file: Any, tenant: str, reason: str) -> None:
    """Addresses of a file ("-" = standard input), one a line, or lines of `export`. A bad line, and nothing is added."""
    entries: list[Suppressed] = []
    now = SystemClock().now()
    for number, line in enumerate(file, 1):
        text = line.decode("utf-8", "replace").strip()
        if not text or text.startswith("#"):
            continue
        try:
            entry = _imported(text, tenant, reason, now)
        except (ValueError, msgspec.MsgspecError) as error:
            raise OperatorError(f"line {number}: {error}", "nothing was added") from None
        if not entry.expires or entry.expires > now:
            entries.append(entry)
    with _opened(context) as suppressions:
        for entry in entries:
            suppressions.restore(entry)
    context.output.done(f"{len(entries)} suppressed.", added=len(entries))


def _imported(text: str, tenant: str, reason: str, now: float) -> Suppressed:
    """Raises ValueError, MsgspecError."""
    if not text.startswith("{"):
        return Suppressed(names.address(text).folded, tenant, reason=reason, added=now)
    entry = msgspec.json.decode(text, type=Suppressed)
    return msgspec.structs.replace(entry, address=names.address(entry.address).folded, tenant=entry.tenant or tenant)


@contextmanager
def _opened(context: Context, *, read_only: bool = False) -> Iterator[Suppressions]:
    """The list. A running server sees changes within a second."""
    config = context.config
    ledger = LmdbLedger(config.storage.path, read_only=read_only)
    try:
        with ledger:
            yield Suppressions(ledger, SystemClock(), config.suppression)
    finally:
        if not read_only:
            give_to_server_user(config, config.storage.path, ledger.path, f"{ledger.path}-lock")


def _address(text: str) -> Address:
    try:
        return names.address(text)
    except ValueError as error:
        raise OperatorError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return float(Duration(text)) if text else 0.0
    except ValueError as error:
        raise OperatorError(f"--for: {error}") from None


def _document(entry: Suppressed) -> dict[str, Any]:
    return msgspec.structs.asdict(entry)


def _day(when: float) -> str:
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%d}" if when else ""
