"""`rusmes queue`: looking at mail that waits. `queue_steering` has what changes it.

Listings read the databases directly, beside a running server or without one; what only a running server knows (where mail goes)
is asked of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import click
import msgspec

from rusmes.cli.context import Context, JsonGroup, OperatorError, pass_context
from rusmes.cli.control import ServerRefused
from rusmes.cli.queue_filters import by_ids, filter_of, filters
from rusmes.cli.queue_lines import HEADING, WIDE_HEADING, compact_lines, summary_lines, when, wide_lines
from rusmes.cli.stores import ledger_of, queue_stores_of
from rusmes.clock import SystemClock
from rusmes.config.units import duration_text, size_text
from rusmes.errors import NotFound
from rusmes.events.api import ATTEMPTS
from rusmes.events.history import find_history
from rusmes.events.writer import directory_of
from rusmes.queue.api import QueueFilter
from rusmes.queue.audit import AuditTrail
from rusmes.queue.control import StoreControl
from rusmes.queue.document import entry_document, suspension_document
from rusmes.queue.summary import KEYS, Summary
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.api import QueueEntry

LAST_FACTS = ("site", "host", "address", "port", "source", "source_address", "tls", "tls_policy", "reused", "phases", "class")
"""Of an attempt in the event log."""
PAGE = 500
"""Entries of each queue in memory at once."""
LONG_SECONDS = 3600.0
"""For an answer about a whole queue."""


@click.group(cls=JsonGroup)
def queue() -> None:
    """Mail that waits."""


# Reading


async def documents(context: Context, which: QueueFilter) -> AsyncGenerator[dict[str, Any], None]:
    """What matches in all queues, oldest first; ids sort by time. Never all of it in memory."""
    if which.needs_places:
        if not context.is_running:
            raise OperatorError("where mail goes is known to a running server only", "select by domain, or start the server")
        after = "0" * 26
        while after:
            body = {"filter": msgspec.to_builtins(which), "limit": PAGE, "after": after}
            page = context.control.post("/queue/list", body, timeout=LONG_SECONDS)
            for found in page["entries"]:
                yield found
            after = page["next"]
        return
    async with queue_stores_of(context.config, read_only=True) as stores:
        readers = [_Reader(StoreControl(store, SystemClock()), which) for store in stores]
        while readers := [reader for reader in readers if await reader.has_more()]:
            yield entry_document(min(readers, key=lambda reader: reader.first.item.id).take())


class _Reader:
    """One queue, page by page."""

    def __init__(self, control: StoreControl, which: QueueFilter) -> None:
        self._control = control
        self._which = which
        self._page: list[QueueEntry] = []
        self._after = "0" * 26
        self._is_at_end = False

    async def has_more(self) -> bool:
        if not self._page and not self._is_at_end:
            self._page = list(await self._control.list(self._which, limit=PAGE, after=self._after))
            self._is_at_end = len(self._page) < PAGE
            if self._page:
                self._after = entry_document(self._page[-1])["id"]
            self._page.reverse()
        return bool(self._page)

    @property
    def first(self) -> QueueEntry:
        return self._page[-1]

    def take(self) -> QueueEntry:
        return self._page.pop()


# Commands


@queue.command("list")
@filters
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="At most so many; 0 = all.")
@click.option("--wide", is_flag=True, help="Every cell whole, however long the lines get; what is piped is so anyway.")
@pass_context
def list_entries(context: Context, /, limit: int, wide: bool, **options: Any) -> None:
    """Entries, oldest first."""
    context.run(_list(context, filter_of(options), limit, wide or not context.output.is_terminal))


async def _list(context: Context, which: QueueFilter, limit: int, is_wide: bool) -> None:
    printer = _JsonPrinter(context) if context.output.as_json else None
    lines_of, heading = (wide_lines, WIDE_HEADING) if is_wide else (compact_lines, HEADING)
    count, more = 0, False
    async with aclosing(documents(context, which)) as found:
        async for entry in found:
            if limit and count == limit:
                more = True
                break
            count += 1
            if printer is not None:
                printer.add(entry)
                continue
            if count == 1:
                context.output.line(heading)
            for line in lines_of(entry, time.time()):
                context.output.line(line)
    if printer is not None:
        printer.close(more)
    elif not count:
        context.output.say("The queue is empty." if which == QueueFilter() else "No entry matches.")
    elif more:
        context.output.say("... and more; --limit 0 shows all, the options narrow it down.")


class _JsonPrinter:
    """One document, written while its entries are read."""

    def __init__(self, context: Context) -> None:
        self._write = context.output.write_raw
        self._lead = b'{\n  "entries": ['

    def add(self, entry: dict[str, Any]) -> None:
        self._write(self._lead + b"\n    " + msgspec.json.encode(entry))
        self._lead = b","

    def close(self, more: bool) -> None:
        begun = self._lead == b","
        self._write((b"\n  ]" if begun else self._lead + b"]") + b',\n  "more": ' + (b"true" if more else b"false") + b"\n}\n")


def entry_named(context: Context, id: str) -> dict[str, Any]:
    """One entry with all that is known of it. Raises NotFound, OperatorError."""
    which = by_ids(id)
    if context.is_running:
        try:
            found: dict[str, Any] = context.control.get(f"/queue/entries/{which.ids[0]}")
        except ServerRefused as error:
            raise NotFound(error.public, "`rusmes queue list` shows them") from None
        return found
    return context.run(_stored_entry(context, which))


async def _stored_entry(context: Context, which: QueueFilter) -> dict[str, Any]:
    async with queue_stores_of(context.config, read_only=True) as stores:
        for store in stores:
            for entry in await StoreControl(store, SystemClock()).list(which, limit=1):
                return entry_document(entry) | {"header": entry.item.rendering.header_block().decode("utf-8", "replace")}
    raise NotFound(f"there is no queue entry {which.ids[0]}", "`rusmes queue list` shows them")


@queue.command("show")
@click.argument("id")
@pass_context
def show(context: Context, id: str) -> None:
    """One entry with everything known of it, and its header."""
    row = entry_named(context, id)
    _add_last_attempts(context, row)

    def for_people() -> None:
        now = time.time()
        context.output.facts(
            [
                ("Id", row["id"]),
                ("Sender", row["sender"]),
                *((name.capitalize(), row[name]) for name in ("account", "tenant", "campaign", "client") if row[name]),
                ("Age", duration_text(max(now - row["created"], 0))),
                ("Size", size_text(row["size_bytes"])),
                ("Next", row["action"] + (f" ({row['reason']})" if row["reason"] else "")),
                *([("Route", row["route"])] if row["route"] else []),
                *([("Now", "being delivered")] if row.get("under_way") else []),
            ]
        )
        for recipient in row["recipients"]:
            context.output.say("")
            context.output.facts(_recipient_facts(recipient, now))
        context.output.say("\n" + row["header"].rstrip().replace("\r\n", "\n"))

    context.output.show(row, for_people)


def _add_last_attempts(context: Context, row: dict[str, Any]) -> None:
    """How the last attempt of each recipient went, as far as the event log knows: the queue keeps the outcome only."""
    config = context.config
    try:
        history = find_history(directory_of(config.events, config.storage.path), row["id"])
    except OSError:
        return  # there is no event log, or it is not ours to read
    last = {str(event.get("recipient", "")): event for event in history.events if event.get("kind") in ATTEMPTS}
    for recipient in row["recipients"]:
        event = last.get(recipient["address"])
        if event is not None:
            recipient["last"] = {name: event[name] for name in LAST_FACTS if name in event}


def _tls_text(recipient: dict[str, Any]) -> str:
    """TLS of the last attempt, and what decided about it."""
    last = recipient.get("last")
    if not last or not last.get("address"):
        return ""
    policy = last.get("tls_policy", "")
    return f"{last.get('tls') or 'in the clear'}{f' ({policy})' if policy else ''}"


def _recipient_facts(recipient: dict[str, Any], now: float) -> list[tuple[str, str]]:
    waits = recipient["status"] in ("queued", "deferred")
    last = recipient["last_attempt"]
    facts = [
        ("Recipient", recipient["address"]),
        ("Status", recipient["status"]),
        ("Attempts", str(recipient["attempts"]) + (f", the last {duration_text(max(now - last, 0))} ago" if last else "")),
        ("Next try", when(recipient["due"], now) if waits else ""),
        ("Site", recipient.get("site", "")),
        ("Source", recipient.get("source", "")),
        ("Last host", recipient["last_host"]),
        ("Last reply", recipient["last_reply"]),
        ("Class", recipient.get("last", {}).get("class", "")),
        ("TLS", _tls_text(recipient)),
    ]
    stopped = recipient.get("suspended")
    if stopped is not None:
        end = f"for {duration_text(round(stopped['until'] - now))} more" if stopped["until"] else "until it is resumed"
        facts.append(("Suspended", f"{end}{': ' if stopped['reason'] else ''}{stopped['reason']}"))
    return [(name, text) for name, text in facts if text]


@queue.command("summary")
@filters
@click.option("--by", type=click.Choice(list(KEYS)), default="domain", show_default=True, help="What the rows are.")
@click.option("--limit", type=click.IntRange(min=0, max=50_000), default=30, show_default=True, help="At most so many rows.")
@pass_context
def summary(context: Context, /, by: str, limit: int, **options: Any) -> None:
    """How many recipients wait, by name and by age in minutes; also called qshape."""
    which = filter_of(options)
    if which.needs_places or by in ("site", "source"):
        if not context.is_running:
            raise OperatorError("where mail goes is known to a running server only", "use --by domain, or start the server")
        body = {"filter": msgspec.to_builtins(which), "by": by, "limit": limit}
        data = context.control.post("/queue/summary", body, timeout=LONG_SECONDS)
    else:
        data = context.run(_summarize(context, which, by)).document(limit)

    def for_people() -> None:
        for line in summary_lines(data):
            context.output.line(line)
        if data["more"]:
            context.output.say(f"... and {data['more']} more; --limit 0 shows all.")

    context.output.show(data, for_people)


queue.add_command(summary, "qshape")


async def _summarize(context: Context, which: QueueFilter, by: str) -> Summary:
    whole = Summary(by, time.time())
    async with queue_stores_of(context.config, read_only=True) as stores:
        for store in stores:
            part = await StoreControl(store, SystemClock()).summarize(which, by)
            whole.add_rows(part.rows.values(), part.total)
    return whole


@queue.command("suspensions")
@pass_context
def suspensions(context: Context) -> None:
    """What is suspended now."""
    if context.is_running:
        found = context.control.get("/queue/suspensions")["suspensions"]
    else:
        with ledger_of(context.config, read_only=True) as ledger:
            found = [suspension_document(one) for one in Suspensions(ledger, SystemClock()).list()] if ledger else []

    def for_people() -> None:
        now = time.time()
        context.output.table(
            ["SCOPE", "NAME", "ENDS", "SINCE", "BY", "REASON"],
            [
                (
                    one["scope"],
                    one["name"],
                    when(one["until"], now) if one["until"] else "when resumed",
                    f"{duration_text(max(round(now - one['since']), 0))} ago",
                    one["by"],
                    one["reason"],
                )
                for one in found
            ],
            empty="Nothing is suspended.",
        )

    context.output.show({"suspensions": found}, for_people)


@queue.command("audit")
@click.option("--limit", type=click.IntRange(min=1, max=100_000), default=50, show_default=True, help="At most so many.")
@pass_context
def audit(context: Context, limit: int) -> None:
    """What operators did to the queue in the last 90 days, newest first."""
    if context.is_running:
        deeds = context.control.get(f"/queue/audit?limit={limit}")["deeds"]
    else:
        with ledger_of(context.config, read_only=True) as ledger:
            deeds = [msgspec.to_builtins(deed) for deed in AuditTrail(ledger, SystemClock()).last(limit)] if ledger else []

    def for_people() -> None:
        context.output.table(
            ["TIME", "BY", "OPERATION", "#ENTRIES", "#RECIPIENTS", "WHAT"],
            [
                (
                    time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deed["time"])),
                    deed["by"],
                    deed["operation"],
                    deed["entries"],
                    deed["recipients"],
                    msgspec.json.encode(deed["what"]).decode(),
                )
                for deed in deeds
            ],
            empty="Nothing was done.",
        )

    context.output.show({"deeds": deeds}, for_people)
