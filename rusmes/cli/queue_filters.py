"""The options that say which entries of the queue are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rusmes.cli.context import OperatorError
from rusmes.config.units import Duration, Size
from rusmes.errors import NotAllowed
from rusmes.model.ids import parse_id
from rusmes.queue.api import QueueFilter
from rusmes.queue.selection import check_filter

STATUSES = ("queued", "deferred", "held", "delivered", "failed", "expired")

OPTIONS = (
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    click.option("--sender", default="", metavar="GLOB", help='Sender: "*@example.com"; "<>" is the null sender.'),
    click.option("--recipient", default="", metavar="GLOB", help="One of the recipients."),
    click.option("--domain", default="", metavar="GLOB", help="Domain of one of the recipients."),
    click.option("--site", default="", metavar="GLOB", help="Where it goes: a site, or one of its hosts."),
    click.option("--source", default="", metavar="GLOB", help="The egress source it leaves by."),
    click.option("--status", type=click.Choice(STATUSES), default=None, help="Status of one of the recipients."),
    click.option("--reply", default="", metavar="REGEX", help="Found in the last reply to one of the recipients."),
    click.option("--min-attempts", type=click.IntRange(min=0), default=0, metavar="N", help="Tried so often or more."),
    click.option("--max-attempts", type=click.IntRange(min=0), default=None, metavar="N", help="Tried so often or less."),
    click.option("--account", default="", metavar="ADDRESS", help="The account that logged in and sent it."),
    click.option("--tenant", default="", metavar="GLOB", help="For whom it is sent."),
    click.option("--campaign", default="", metavar="GLOB", help="As part of what it is sent."),
    click.option("--client", default="", metavar="NETWORK", help="Address or network of the client that brought it."),
    click.option("--older-than", default="", metavar="DURATION", help="Waits longer than 30m, 4h, 2d."),
    click.option("--younger-than", default="", metavar="DURATION", help="Waits less long."),
    click.option("--larger-than", default="", metavar="SIZE", help="Larger than 100KB, 5MB."),
    click.option("--smaller-than", default="", metavar="SIZE", help="Smaller."),
    click.option("--message-id", default="", metavar="ID", help="Its Message-ID field."),
    click.option("--header", default="", metavar="NAME:GLOB", help='A field of its header: "Subject: *invoice*".'),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options; `filter_of` reads them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def filter_of(options: dict[str, Any]) -> QueueFilter:
    """The filter that the options mean.

    Raises:
        OperatorError: an id, a duration, a size or a pattern is none.
    """
    for text in options["ids"]:
        try:
            parse_id(text)
        except ValueError as error:
            raise OperatorError(f'"{text}" is no queue id: {error}', "`rusmes queue list` shows them") from None
    which = QueueFilter(
        ids=tuple(text.lower() for text in options["ids"]),
        sender=options["sender"],
        account=options["account"],
        tenant=options["tenant"],
        campaign=options["campaign"],
        client=options["client"],
        message_id=options["message_id"],
        header=options["header"],
        older_than_seconds=_number(Duration, "--older-than", options["older_than"]),
        younger_than_seconds=_number(Duration, "--younger-than", options["younger_than"]),
        larger_than_bytes=int(_number(Size, "--larger-than", options["larger_than"])),
        smaller_than_bytes=int(_number(Size, "--smaller-than", options["smaller_than"])),
        recipient=options["recipient"],
        domain=options["domain"],
        status=options["status"] or "",
        site=options["site"],
        source=options["source"],
        attempts_at_least=options["min_attempts"],
        attempts_at_most=-1 if options["max_attempts"] is None else options["max_attempts"],
        reply=options["reply"],
    )
    try:
        check_filter(which)
    except NotAllowed as error:
        raise OperatorError(error.public, error.detail) from None
    return which


def by_ids(*ids: str) -> QueueFilter:
    """The filter of some ids. Raises OperatorError."""
    texts = ("sender", "account", "tenant", "campaign", "client", "message_id", "header", "older_than", "younger_than")
    others = ("larger_than", "smaller_than", "recipient", "domain", "site", "source", "reply")
    nothing = dict.fromkeys((*texts, *others), "")
    return filter_of({"ids": ids, "status": None, "min_attempts": 0, "max_attempts": None, **nothing})


def _number(kind: Callable[[str], float], option: str, text: str) -> float:
    """Raises OperatorError."""
    try:
        return float(kind(text)) if text else 0.0
    except ValueError as error:
        raise OperatorError(f"{option}: {error}") from None
