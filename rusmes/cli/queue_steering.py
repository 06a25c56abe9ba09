"""`rusmes queue hold|release|retry|bounce|delete|expire|reroute|suspend|resume`: changes.

They go to the running server, whose workers own their queues, or to the databases of a stopped one. Each can be tried with
--dry-run; what cannot be taken back is asked for on a terminal, with what it would be done to.
"""

from __future__ import annotations

import datetime
import os
import pwd
import time
from typing import Any

import click
import msgspec

from rusmes.cli.context import Context, OperatorError, confirm, pass_context
from rusmes.cli.queue import LONG_SECONDS, entry_named, queue
from rusmes.cli.queue_filters import filter_of, filters
from rusmes.cli.queue_lines import HEADING, compact_lines
from rusmes.cli.stores import events_of, ledger_of, queue_stores_of
from rusmes.clock import SystemClock
from rusmes.config.schema import Config
from rusmes.config.units import Duration, duration_text, size_text
from rusmes.errors import NotAllowed
from rusmes.queue.api import FOREVER, SCOPES, QueueFilter, QueueOrder, QueueResult
from rusmes.queue.audit import AuditTrail, audit_order
from rusmes.queue.control import StoreControl
from rusmes.queue.document import entry_document
from rusmes.queue.operations import EVENTS
from rusmes.queue.suspensions import Suspensions, checked_name

SAMPLE = 5
TOLD = {
    "retry": "will be tried now",
    "hold": "held",
    "release": "released",
    "delete": "deleted",
    "bounce": "returned",
    "expire": "expired",
    "reroute": "go another way now",
}
DRY = {
    "retry": "would be tried now",
    "hold": "would be held",
    "release": "would be released",
    "delete": "would be deleted",
    "bounce": "would be returned",
    "expire": "would expire",
    "reroute": "would go another way",
}
ASKED = {
    "delete": "Delete {what} without a notice to the sender?",
    "bounce": "Return {what} to the sender?",
    "expire": "Give up {what} and tell the sender?",
}

_all = click.option("--all", "all_entries", is_flag=True, help="Every entry.")
_dry = click.option("--dry-run", is_flag=True, help="Show what it would be done to, and do nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_reason = click.option("--reason", default="", metavar="TEXT", help="For the audit trail; with bounce, for the sender too.")


def _change(context: Context, operation: str, options: dict[str, Any], *, reason: str = "", route: str = "") -> None:
    dry_run, yes, is_all = options.pop("dry_run"), options.pop("yes", True), options.pop("all_entries")
    which = filter_of(options)
    if which == QueueFilter() and not is_all:
        raise click.UsageError("say which: ids, a filter, or --all")
    order = QueueOrder(operation, which, reason, route, "", dry_run, SAMPLE if dry_run else 0)
    if operation in ASKED and not dry_run and not yes:
        _confirm(context, order)
    done = _carry_out(context, order)
    if which.ids and not done["count"]:
        _explain_nothing(context, operation, which)
    context.output.show(done, lambda: _tell(context, operation, done, dry_run))


def _confirm(context: Context, order: QueueOrder) -> None:
    """Show what is meant, and ask. Raises OperatorError, click.Abort."""
    if not context.output.is_terminal:
        confirm(ASKED[order.operation].format(what="what matches"), False)
    would = _carry_out(context, msgspec.structs.replace(order, dry_run=True, sample=SAMPLE))
    if would["count"]:
        _show_sample(context, would)
        confirm(ASKED[order.operation].format(what=_amount(would)), False)


def _tell(context: Context, operation: str, done: dict[str, Any], dry_run: bool) -> None:
    if dry_run and done["count"]:
        _show_sample(context, done)
    later = f"; {done['later']} of them are being delivered now, and it is done when that has ended" if done["later"] else ""
    notices = f"; {done['notices']} notices to senders" if done["notices"] else ""
    context.output.say(f"{_amount(done)} {(DRY if dry_run else TOLD)[operation]}{notices}{later}.")
    if done["not_reached"]:
        context.output.say("The queues of workers that are down were not reached; try again in a moment.", style="bold red")


def _show_sample(context: Context, done: dict[str, Any]) -> None:
    context.output.line(HEADING)
    for entry in done["sample"]:
        for line in compact_lines(entry, time.time()):
            context.output.line(line)
    if done["count"] > len(done["sample"]):
        context.output.line(f"... and {done['count'] - len(done['sample'])} more")


def _amount(done: dict[str, Any]) -> str:
    entries = f"{done['count']} {'entry' if done['count'] == 1 else 'entries'}"
    recipients = f"{done['recipients']} {'recipient' if done['recipients'] == 1 else 'recipients'}"
    return f"{entries} ({recipients}, {size_text(done['size_bytes'])})"


def _carry_out(context: Context, order: QueueOrder) -> dict[str, Any]:
    if context.is_running:
        body = {
            "filter": msgspec.to_builtins(order.which),
            "all": True,  # an empty filter was asked for with --all
            "dry_run": order.dry_run,
            "reason": order.reason,
            "route": order.route,
            "sample": order.sample,
        }
        done: dict[str, Any] = context.control.post(f"/queue/{order.operation}", body, timeout=LONG_SECONDS)
        return done
    return context.run(_carry_out_stopped(context.config, msgspec.structs.replace(order, by=_whoami())))


async def _carry_out_stopped(config: Config, order: QueueOrder) -> dict[str, Any]:
    if order.operation == "reroute":
        _check_route(config, order.route)
    whole = QueueResult()
    try:
        with events_of(config) as events:
            async with queue_stores_of(config, read_only=order.dry_run) as stores:
                for store in stores:
                    part = await StoreControl(store, SystemClock(), events=events).carry_out(order)
                    whole.entries += part.entries
                    whole.recipients += part.recipients
                    whole.size_bytes += part.size_bytes
                    whole.sample += part.sample
    except NotAllowed as error:
        raise OperatorError(error.public, error.detail) from None
    if not order.dry_run:
        with ledger_of(config) as ledger:
            assert ledger is not None
            audit_order(AuditTrail(ledger, SystemClock()), order, whole)
    return {
        "count": whole.entries,
        "recipients": whole.recipients,
        "size_bytes": whole.size_bytes,
        "later": 0,
        "notices": 0,
        "sample": [entry_document(entry) for entry in whole.sample[: order.sample]],
        "dry_run": order.dry_run,
        "not_reached": [],
    }


def _check_route(config: Config, route: str) -> None:
    """Raises OperatorError: there is no such route, and it is no host."""
    names = [one.name for one in config.delivery.route]
    if route and route not in names and not any(char in route for char in ".:["):
        hint = f"there are {', '.join(names)}" if names else "name a host: mx.example.net, mx.example.net:2525"
        raise OperatorError(f"there is no route {route!r} in the configuration", hint)


def _whoami() -> str:
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "?"
    return f"{name} (uid {uid}, the server was stopped)"


def _explain_nothing(context: Context, operation: str, which: QueueFilter) -> None:
    """Raises OperatorError, NotFound: why nothing was done to entries that were named."""
    row = entry_named(context, which.ids[0])
    held = row["action"] == "hold" or any(recipient["status"] == "held" for recipient in row["recipients"])
    why, way = ("is held", "release") if held else ("is not held, or does not match", "show")
    raise OperatorError(f"nothing to {operation}: {row['id']} {why}", f"see `rusmes queue {way} {row['id']}`")


@queue.command("retry")
@filters
@_all
@_dry
@pass_context
def retry(context: Context, /, **options: Any) -> None:
    """Try again now, whatever the schedule says."""
    _change(context, "retry", options)


@queue.command("hold")
@filters
@_all
@_dry
@_reason
@pass_context
def hold(context: Context, /, reason: str, **options: Any) -> None:
    """Keep until it is released."""
    _change(context, "hold", options, reason=reason)


@queue.command("release")
@filters
@_all
@_dry
@pass_context
def release(context: Context, /, **options: Any) -> None:
    """Let held mail go on."""
    _change(context, "release", options)


@queue.command("delete")
@filters
@_all
@_dry
@_yes
@_reason
@pass_context
def delete(context: Context, /, reason: str, **options: Any) -> None:
    """Remove without telling the sender."""
    _change(context, "delete", options, reason=reason)


@queue.command("bounce")
@filters
@_all
@_dry
@_yes
@_reason
@pass_context
def bounce(context: Context, /, reason: str, **options: Any) -> None:
    """Return to the sender, with a notice."""
    _change(context, "bounce", options, reason=reason)


@queue.command("expire")
@filters
@_all
@_dry
@_yes
@_reason
@pass_context
def expire(context: Context, /, reason: str, **options: Any) -> None:
    """Give up as if its time were over, with a notice."""
    _change(context, "expire", options, reason=reason)


@queue.command("reroute")
@click.argument("route")
@filters
@_all
@_dry
@_reason
@pass_context
def reroute(context: Context, /, route: str, reason: str, **options: Any) -> None:
    """Send it another way: ROUTE is a [[delivery.route]], a host (mx.example.net:2525, [::1]:25), or "default"."""
    _change(context, "reroute", options, reason=reason, route="" if route == "default" else route)


# Suspensions


@queue.command("suspend")
@click.argument("scope", type=click.Choice(SCOPES))
@click.argument("name", default="")
@click.option("--for", "duration", default="", metavar="DURATION", help="For so long: 30m, 4h, 2d.")
@click.option("--until", "until_text", default="", metavar="TIME", help="Until 18:00, or 2026-12-24T18:00.")
@_reason
@_dry
@pass_context
def suspend(context: Context, scope: str, name: str, duration: str, until_text: str, reason: str, dry_run: bool) -> None:
    """Send no more of it until it is resumed, or for a time: a domain ("*.example.org": all below it), a site, a tenant, a
    campaign, a source, or everything."""
    if duration and until_text:
        raise click.UsageError("one of --for and --until")
    now = time.time()
    until = _end_of(duration, until_text, now)
    named = _checked(scope, name)
    end = f"for {duration_text(round(until - now))}" if until else "until it is resumed"
    if dry_run:
        _preview(context, scope, named, end)
        return
    if context.is_running:
        context.control.post("/queue/suspend", {"scope": scope, "name": named, "until": until, "reason": reason})
    else:
        with ledger_of(context.config) as ledger, events_of(context.config) as events:
            assert ledger is not None
            Suspensions(ledger, SystemClock()).suspend(scope, named, until or FOREVER, reason, by=_whoami())
            events.changed("suspended", scope=scope, name=named, until=until, reason=reason, by=_whoami())
            what = {"scope": scope, "name": named, "until": until, "reason": reason}
            AuditTrail(ledger, SystemClock()).add("suspend", _whoami(), what)
    context.output.done(f"{_subject(scope, named)} is suspended {end}.", scope=scope, name=named, until=until)


@queue.command("resume")
@click.argument("scope", type=click.Choice(SCOPES))
@click.argument("name", default="")
@pass_context
def resume(context: Context, scope: str, name: str) -> None:
    """Send it again."""
    named = _checked(scope, name)
    if context.is_running:
        was_suspended = context.control.post("/queue/resume", {"scope": scope, "name": named})["was_suspended"]
    else:
        with ledger_of(context.config) as ledger, events_of(context.config) as events:
            assert ledger is not None
            was_suspended = Suspensions(ledger, SystemClock()).resume(scope, named)
            if was_suspended:
                events.changed("resumed", scope=scope, name=named, by=_whoami())
            AuditTrail(ledger, SystemClock()).add("resume", _whoami(), {"scope": scope, "name": named})
    if not was_suspended:
        raise OperatorError(f"{_subject(scope, named)} is not suspended", "`rusmes queue suspensions` shows what is")
    context.output.done(f"{_subject(scope, named)} is resumed.", scope=scope, name=named)


def _preview(context: Context, scope: str, name: str, end: str) -> None:
    """How much mail would wait now."""
    which = QueueFilter() if scope == "everything" else msgspec.convert({scope: name}, QueueFilter)
    would = _carry_out(context, QueueOrder("retry", which, dry_run=True, sample=SAMPLE))

    def for_people() -> None:
        if would["count"]:
            _show_sample(context, would)
        context.output.say(f"{_subject(scope, name)} would be suspended {end}; {_amount(would)} would wait.")

    context.output.show(would, for_people)


def _checked(scope: str, name: str) -> str:
    """Raises OperatorError."""
    try:
        return checked_name(scope, name)
    except NotAllowed as error:
        raise OperatorError(error.public, error.detail) from None


def _subject(scope: str, name: str) -> str:
    return "Everything" if scope == "everything" else f"The {scope} {name}"


def _end_of(duration: str, text: str, now: float) -> float:
    """Seconds since the epoch; 0 = no end. Raises OperatorError."""
    if duration:
        try:
            return now + Duration(duration)
        except ValueError as error:
            raise OperatorError(f"--for: {error}") from None
    if not text:
        return 0.0
    here = datetime.datetime.fromtimestamp(now).astimezone()
    try:
        if len(text) <= 5:
            wanted = datetime.time.fromisoformat(text if len(text) == 5 else f"0{text}")
            end = here.replace(hour=wanted.hour, minute=wanted.minute, second=0, microsecond=0)
            end += datetime.timedelta(days=1) if end <= here else datetime.timedelta()
        else:
            end = datetime.datetime.fromisoformat(text)
            end = end.astimezone() if end.tzinfo is None else end
    except ValueError:
        raise OperatorError(f'--until: "{text}" is no time', 'write "18:00" or "2026-12-24T18:00"') from None
    if end <= here:
        raise OperatorError(f"--until: {end:%Y-%m-%d %H:%M} has passed")
    return end.timestamp()


assert set(EVENTS) == set(TOLD) == set(DRY)
