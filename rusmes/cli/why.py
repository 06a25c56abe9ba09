"""`rusmes why`: what happened to a message, and why it is still here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

import click

from rusmes.cli.context import Context, JsonCommand, pass_context
from rusmes.cli.control import ServerFailed, ServerRefused
from rusmes.cli.queue_lines import when
from rusmes.clock import SystemClock
from rusmes.config.schema import Config
from rusmes.errors import NotFound, StoreError
from rusmes.events.history import MAX_EVENTS, History, find_history
from rusmes.events.segments import Event
from rusmes.events.writer import directory_of
from rusmes.model.ids import parse_id
from rusmes.queue.api import FOREVER

MAX_STATES: Final = 20
"""Entries whose present state is asked for, the newest."""
SITE_LIMIT: Final = 20

_RECEPTIONS: Final = ("received", "refused", "dropped")


@click.command("why", cls=JsonCommand)
@click.argument("text", metavar="MESSAGE-ID|QUEUE-ID|RECIPIENT")
@click.option(
    "--limit", type=click.IntRange(min=1, max=100_000), default=MAX_EVENTS, show_default=True, help="At most so many events."
)
@pass_context
def why(context: Context, text: str, limit: int) -> int:
    """Tell what happened to a message: its reception, every attempt, where it is now and what it waits for.

    TEXT is a Message-ID, a queue id (of the log, a reply, or `rusmes queue list`), or the address of a recipient, whose latest
    events are shown then. It works with the server running or stopped, as far back as [events] keeps.
    """
    config = context.config
    started = time.perf_counter()
    history = find_history(directory_of(config.events, config.storage.path), text, limit=limit)
    ids = history.ids[-MAX_STATES:] if history.ids else _as_id(text)
    unknown = ""
    try:
        waiting = _states(context, ids)
    except (ServerFailed, StoreError) as error:
        if not history.events:
            raise
        waiting, unknown = [], str(error)
    if "@" in text and not text.startswith("<") and any(text.lower() == _address(one).lower() for one in _all(waiting)):
        for entry in waiting:
            entry["recipients"] = [one for one in entry["recipients"] if _address(one).lower() == text.lower()]
        waiting = [entry for entry in waiting if entry["recipients"]]
    if not history.events and not waiting:
        hint = "" if config.events.enabled else "; [events] enabled is false, so nothing is recorded"
        raise NotFound(f"nothing is known of {text}{hint}", f"events are kept for {config.events.max_age:.0f} s at most")
    data = {
        "asked": text,
        "events": history.events,
        "is_cut": history.is_cut,
        "waiting": waiting,
        "unknown": unknown,
        "seconds": round(time.perf_counter() - started, 4),
    }
    context.output.show(data, lambda: _tell(context, history, waiting, unknown))
    return 0


def _address(recipient: dict[str, Any]) -> str:
    return str(recipient["address"])


def _all(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield from entry["recipients"]


def _as_id(text: str) -> list[str]:
    try:
        parse_id(text)
    except ValueError:
        return []
    return [text.lower()]


# The present


def _states(context: Context, ids: list[str]) -> list[dict[str, Any]]:
    """What is in the queue now, each recipient with the reason it waits for."""
    if not ids:
        return []
    if context.is_running:
        entries = [entry for id in ids if (entry := _asked(context, id)) is not None]
        sites = _sites(context, {str(one.get("site", "")) for one in _all(entries)} - {""})
    else:
        entries, sites = context.run(_read(context.config, ids)), {}
    now = time.time()
    for entry in entries:
        for recipient in entry["recipients"]:
            place = sites.get(recipient.get("site", ""))
            recipient["why"] = reason_of(entry, recipient, place, now, is_running=context.is_running)
    return entries


def _asked(context: Context, id: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = context.control.get(f"/queue/entries/{id}")
    except ServerRefused:
        return None
    found.pop("header", None)  # it may be long, and is no part of the history
    return found


def _sites(context: Context, names: set[str]) -> dict[str, dict[str, Any]]:
    """What these sites do now; what is there only of one egress source stands for all."""
    if not names:
        return {}
    query = urlencode([("limit", SITE_LIMIT), *(("site", name) for name in sorted(names)[:SITE_LIMIT])])
    try:
        answer = context.control.get(f"/top?{query}")
    except ServerRefused:
        return {}
    return {site["site"]: site for site in reversed(answer["sites"])}


async def _read(config: Config, ids: list[str]) -> list[dict[str, Any]]:
    """Entries of a stopped server, with what is suspended as far as that depends on no site."""
    from rusmes.cli.stores import ledger_of, queue_stores_of  # the store takes a while to import
    from rusmes.queue.document import entry_document
    from rusmes.queue.suspensions import Suspensions

    found = []
    async with queue_stores_of(config, read_only=True) as stores:
        for id in ids:
            for store in stores:
                entry = await store.get(parse_id(id))
                if entry is not None:
                    found.append(entry_document(entry))
    with ledger_of(config, read_only=True) as ledger:
        if ledger is None:
            return found
        suspensions = Suspensions(ledger, SystemClock())
        for document in found:
            for recipient in document["recipients"]:
                domain = _address(recipient).rpartition("@")[2]
                stopped = suspensions.until(domain=domain, tenant=document["tenant"], campaign=document["campaign"])
                if stopped is not None:
                    recipient["suspended"] = {"until": 0.0 if stopped[0] == FOREVER else stopped[0], "reason": stopped[1]}
    return found


def reason_of(
    entry: dict[str, Any], recipient: dict[str, Any], site: dict[str, Any] | None, now: float, *, is_running: bool = True
) -> str:
    """Why one recipient has not been delivered yet, in words; "" = it has ended."""
    status = recipient["status"]
    if entry["action"] == "hold" or status == "held":
        return f"held for an operator: {entry['reason']}" if entry.get("reason") else "held for an operator"
    if status not in ("queued", "deferred"):
        return ""
    suspended = recipient.get("suspended")
    if suspended:
        until = f"until {_clock(suspended['until'])}" if suspended["until"] else "until it is resumed"
        return f"suspended {until}: {suspended['reason'] or 'no reason given'}"
    if entry["action"] == "resume":
        return "goes on in the pipeline " + (f"at {_clock(recipient['due'])}" if recipient["due"] > now else "now")
    if recipient.get("egress"):
        return f"waits for an egress source: {recipient['egress']}"
    if recipient["due"] > now:
        return f"the next attempt is due {when(recipient['due'], now)}, at {_clock(recipient['due'])}"
    if not is_running:
        return "is due now, and the server does not run"
    return "is due now; " + (_site_reason(site, now) if site else "waits for its turn or is being delivered")


def _site_reason(site: dict[str, Any], now: float) -> str:
    if site["stopped_until"] > now:
        return f"nothing is sent to its site until {_clock(site['stopped_until'])}: {site['stop_reason']}"
    if site["paused"]:
        return f"its site waits for its rate or for connections that others hold, and {site['waiting']} wait with it"
    if site["waiting"] and site["active"] >= site["window"]:
        return f"its site's {site['window']} connections are all in use, and {site['waiting']} wait for one"
    return f"its site has {site['active']} connections at work, and {site['waiting']} wait"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


# For people


def _tell(context: Context, history: History, waiting: list[dict[str, Any]], unknown: str) -> None:
    output = context.output
    if history.is_cut:
        output.say(f"... only the newest {len(history.events)} events; --limit shows more.", "dim")
    for event in history.events:
        for line in lines_of(event):
            output.line(line)
    for entry in waiting:
        for recipient in entry["recipients"]:
            if recipient["why"]:
                output.say(f"now: {entry['id']} to {recipient['address']}: {recipient['why']}", "bold")
    if unknown:
        output.say(f"now: the queue does not tell: {unknown}", "bold red")
    elif not any(recipient["why"] for recipient in _all(waiting)):
        output.say("now: nothing of it is in the queue", "bold")


def lines_of(event: Event) -> Iterator[str]:
    """An event for people: a line, and what a server said below it."""
    kind = str(event["kind"])
    parts = [_local(str(event.get("time", ""))), f"{kind:<9}"]
    if kind in _RECEPTIONS:
        parts += list(_reception(event))
    elif "attempt" in event:
        parts += list(_attempt(event))
    else:
        parts += list(_change(event))
    yield " ".join(part for part in parts if part)
    reply = " ".join(str(event[key]) for key in ("code", "status", "text") if event.get(key))
    if reply:
        yield f"    {reply}"
    if event.get("phases"):
        yield "    " + ", ".join(f"{name} {_short(seconds)}" for name, seconds in event["phases"].items())


def _reception(event: Event) -> Iterator[str]:
    yield f"from {event.get('sender') or '<>'}"
    listed = event.get("recipients", [])
    count = event.get("recipient_count", len(listed))
    yield f"to {', '.join(listed[:3])}{f' and {count - 3} more' if count > 3 else ''}"
    yield f"by {event.get('protocol') or event.get('listener') or 'this server'}"
    if event.get("client"):
        yield f"from [{event['client']}]"
    if event.get("user"):
        yield f"as {event['user']}"
    yield f"size {event.get('size', 0)}"
    if event.get("queue_ids"):
        yield f"queue {' '.join(event['queue_ids'])}"
    if event.get("stored"):
        yield f"stored in {event['stored']} mailbox{'es' if event['stored'] > 1 else ''}"
    if event.get("reason"):
        yield f": {event['reason']}"


def _attempt(event: Event) -> Iterator[str]:
    yield f"{event['recipient']} (attempt {event['attempt']}"
    yield f"{event.get('via', '')} {event.get('queue_id', '')})"
    if event.get("host"):
        yield f"by {event['host']}" + (f" [{event['address']}]:{event.get('port', 0)}" if event.get("address") else "")
    if event.get("source"):
        yield f"from {event['source']}"
    if event.get("via") == "relay" and event.get("host"):
        yield f"tls {event['tls']}" if event.get("tls") else "in the clear"
    if event.get("tls_policy"):
        yield f"({event['tls_policy']})"
    if event.get("next_attempt"):
        yield f"next {_local(event['next_attempt'])}"


def _change(event: Event) -> Iterator[str]:
    listed = event.get("recipients", [])
    if listed:
        yield ", ".join(listed[:3]) + (f" and {event.get('recipient_count', 0) - 3} more" if len(listed) > 3 else "")
    known = ("time", "kind", "queue_id", "session_id", "message_id", "recipients", "recipient_count", "code", "status", "text")
    yield " ".join(f"{key}={value}" for key, value in event.items() if key not in known)


def _local(text: str) -> str:
    """A time of the log (UTC) as the clocks of this machine show it."""
    try:
        return _clock(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return text


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
