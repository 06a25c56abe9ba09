"""`rusmes queue`: looking at mail that waits, and steering it.

Listings read the databases directly, beside a running server or without one. Changes go to the running server, whose workers
own their queues, or to the databases of a stopped one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from rusmes.cli.context import Context, JsonGroup, OperatorError, confirm, pass_context
from rusmes.cli.stores import queue_stores_of
from rusmes.clock import SystemClock
from rusmes.config.schema import Config
from rusmes.config.units import Duration, duration_text, size_text
from rusmes.errors import NotFound
from rusmes.model.ids import parse_id
from rusmes.queue.api import QueueFilter, QueueOrder
from rusmes.queue.control import StoreControl
from rusmes.queue.document import entry_document
from rusmes.storage.api import QueueEntry

STATUSES = ("queued", "deferred", "held", "delivered", "failed", "expired")


@click.group(cls=JsonGroup)
def queue() -> None:
    """Mail that waits."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which entries are meant."""
    options = (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--sender", default="", metavar="GLOB", help='Sender: "*@example.com"; "<>" is the null sender.'),
        click.option("--recipient", default="", metavar="GLOB", help="One of the recipients."),
        click.option("--domain", default="", metavar="GLOB", help="Domain of one of the recipients."),
        click.option("--status", type=click.Choice(STATUSES), default=None, help="Status of one of the recipients."),
        click.option("--account", default="", metavar="ADDRESS", help="The account that logged in and sent it."),
        click.option("--older-than", "older_than", default="", metavar="DURATION", help="Waits longer than 30m, 4h, 2d."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _filter(options: dict[str, Any]) -> QueueFilter:
    """The filter that the options mean.

    Raises:
        OperatorError: an id or a duration is none.
    """
    for text in options["ids"]:
        try:
            parse_id(text)
        except ValueError as error:
            raise OperatorError(f'"{text}" is no queue id: {error}', "`rusmes queue list` shows them") from None
    try:
        age = Duration(options["older_than"]) if options["older_than"] else 0.0
    except ValueError as error:
        raise OperatorError(f"--older-than: {error}") from None
    return QueueFilter(
        ids=tuple(text.lower() for text in options["ids"]),
        sender=options["sender"],
        recipient=options["recipient"],
        domain=options["domain"],
        status=options["status"] or "",
        account=options["account"],
        older_than_seconds=age,
    )


async def _entries(config: Config, which: QueueFilter, limit: int) -> list[QueueEntry]:
    """What matches in all queues, oldest first; ids sort by time. Valid while nothing removes the entries."""
    async with queue_stores_of(config, read_only=True) as stores:
        found = [entry for store in stores for entry in await StoreControl(store, SystemClock()).list(which, limit=limit)]
    found.sort(key=lambda entry: entry.item.id)
    return found[:limit] if limit else found


@queue.command("list")
@_filters
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="At most so many; 0 = all.")
@pass_context
def list_entries(context: Context, /, limit: int, **options: Any) -> None:
    """Entries, oldest first."""
    # One more than is shown tells whether there are more.
    found = context.run(_entries(context.config, _filter(options), limit + 1 if limit else 0))
    rows = [entry_document(entry) for entry in found]
    shown = rows[:limit] if limit else rows
    data = {"entries": shown, "more": len(rows) > len(shown)}

    def for_people() -> None:
        now = time.time()
        context.output.table(
            ["ID", "AGE", "#SIZE", "SENDER", "RECIPIENT", "STATUS", "NEXT TRY", "LAST REPLY"],
            [line for row in shown for line in _lines(row, now)],
            empty="The queue is empty." if not any(options.values()) else "No entry matches.",
        )
        if data["more"]:
            context.output.say("... and more; --limit 0 shows all, the options narrow it down.")

    context.output.show(data, for_people)


def _lines(row: dict[str, Any], now: float) -> list[tuple[str, ...]]:
    """A line for each recipient; the entry's own facts stand on the first."""
    lines = []
    for index, recipient in enumerate(row["recipients"]):
        first = (row["id"], duration_text(max(now - row["created"], 0)), size_text(row["size_bytes"]), row["sender"])
        held = row["action"] == "hold"
        lines.append(
            (
                *(first if index == 0 else ("", "", "", "")),
                recipient["address"],
                "held" if held else recipient["status"],
                "" if held or recipient["status"] not in ("queued", "deferred") else _when(recipient["due"], now),
                row["reason"] if held else recipient["last_reply"] or row["reason"],
            )
        )
    return lines


def _when(due: float, now: float) -> str:
    return "now" if due <= now else f"in {duration_text(round(due - now))}"


@queue.command("show")
@click.argument("id")
@pass_context
def show(context: Context, id: str) -> None:
    """One entry with everything known of it, and its header."""
    which = _filter({"ids": (id,), "sender": "", "recipient": "", "domain": "", "status": "", "account": "", "older_than": ""})

    row = context.run(_entry(context.config, which))

    def for_people() -> None:
        now = time.time()
        context.output.facts(
            [
                ("Id", row["id"]),
                ("Sender", row["sender"]),
                *([("Account", row["account"])] if row["account"] else []),
                *([("Client", row["client"])] if row["client"] else []),
                ("Age", duration_text(max(now - row["created"], 0))),
                ("Size", size_text(row["size_bytes"])),
                ("Next", row["action"] + (f" ({row['reason']})" if row["reason"] else "")),
                *([("Route", row["route"])] if row["route"] else []),
            ]
        )
        context.output.say("")
        context.output.table(
            ["RECIPIENT", "STATUS", "#ATTEMPTS", "NEXT TRY", "HOST", "LAST REPLY"],
            [
                (
                    r["address"],
                    r["status"],
                    r["attempts"],
                    _when(r["due"], now) if r["status"] in ("queued", "deferred") else "",
                    r["last_host"],
                    r["last_reply"],
                )
                for r in row["recipients"]
            ],
            empty="",
        )
        context.output.say(f"\n{row['header'].rstrip()}")

    context.output.show(row, for_people)


async def _entry(config: Config, which: QueueFilter) -> dict[str, Any]:
    """The one entry a filter names, with its header. Raises NotFound."""
    async with queue_stores_of(config, read_only=True) as stores:
        for store in stores:
            for entry in await StoreControl(store, SystemClock()).list(which, limit=1):
                return entry_document(entry) | {"header": entry.item.rendering.header_block().decode("utf-8", "replace")}
    raise NotFound(f"there is no queue entry {', '.join(which.ids)}", "`rusmes queue list` shows them")


def _change(context: Context, operation: str, options: dict[str, Any], told: str) -> None:
    which = _filter(options)
    if which == QueueFilter() and not options.pop("all_entries", False):
        raise click.UsageError("say which: ids, a filter, or --all")
    if context.is_running:
        document = msgspec.to_builtins(which)
        count = int(context.control.post(f"/queue/{operation}", {"filter": document})["count"])
    else:
        count = context.run(_change_stopped(context.config, operation, which))
    if which.ids and not count:
        row = context.run(_entry(context.config, QueueFilter(ids=which.ids)))
        held = row["action"] == "hold" or any(recipient["status"] == "held" for recipient in row["recipients"])
        why, way = ("is held", "release") if held else ("is not held, or is being delivered", "show")
        raise OperatorError(f"nothing to {operation}: {row['id']} {why}", f"see `rusmes queue {way} {row['id']}`")
    context.output.done(f"{count} {'entry' if count == 1 else 'entries'} {told}.", count=count)


async def _change_stopped(config: Config, operation: str, which: QueueFilter) -> int:
    count = 0
    async with queue_stores_of(config, read_only=False) as stores:
        for store in stores:
            count += (await StoreControl(store, SystemClock()).carry_out(QueueOrder(operation, which))).entries
    return count


_all = click.option("--all", "all_entries", is_flag=True, help="Every entry.")


@queue.command("retry")
@_filters
@_all
@pass_context
def retry(context: Context, /, **options: Any) -> None:
    """Try again now, whatever the schedule says."""
    _change(context, "retry", options, "will be tried now")


@queue.command("hold")
@_filters
@_all
@pass_context
def hold(context: Context, /, **options: Any) -> None:
    """Keep until it is released."""
    _change(context, "hold", options, "held")


@queue.command("release")
@_filters
@_all
@pass_context
def release(context: Context, /, **options: Any) -> None:
    """Let held mail go on."""
    _change(context, "release", options, "released")


@queue.command("delete")
@_filters
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def delete(context: Context, /, yes: bool, **options: Any) -> None:
    """Remove without telling the sender."""
    which: Sequence[str] = options["ids"]
    confirm(f"Delete {', '.join(which) if which else 'what matches'} without a notice to the sender?", yes)
    _change(context, "delete", options, "deleted")
