"""`rusmes-postqueue` and `rusmes-mailq`: the queue as Postfix's postqueue(1) shows it, for the programs that read that.

The output is that of Postfix 3.7: -p with the columns of `enable_long_queue_ids = yes`, widened for ids of 26 characters; -j
one object a line, with the same members. What a member has no counterpart for is left as Postfix shows what it does not use
(`forced_expire` is false).
"""

from __future__ import annotations

import asyncio
import getopt
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, NoReturn

import msgspec

from rusmes.cli.context import Context
from rusmes.cli.output import Output, printable
from rusmes.cli.queue import LONG_SECONDS, documents
from rusmes.errors import ConfigError, NotAllowed, RusmesError
from rusmes.model.ids import parse_id
from rusmes.queue.api import QueueFilter
from rusmes.storage.maildrop import maildrop_of, read_envelope, waiting_drops

USAGE: Final = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"
EX_UNAVAILABLE: Final = 69
HEADING: Final = f"{'----------Queue ID---------':<27} --Size-- ---Arrival Time---- --Sender/Recipient------"
UNFINISHED: Final = ("queued", "deferred", "held")


def objects(entry: dict[str, Any], now: float) -> dict[str, Any]:
    """An entry of the queue as one of Postfix's JSON objects."""
    held = entry["action"] == "hold"
    waiting = [one for one in entry["recipients"] if one["status"] in UNFINISHED]
    if held or all(one["status"] == "held" for one in waiting):
        queue = "hold"
    elif any(one["status"] == "queued" and one["due"] <= now for one in waiting):
        queue = "active"
    else:
        queue = "deferred"
    return {
        "queue_name": queue,
        "queue_id": entry["id"],
        "arrival_time": int(entry["created"]),
        "message_size": entry["size_bytes"],
        "forced_expire": False,
        "sender": "MAILER-DAEMON" if entry["sender"] == "<>" else entry["sender"],
        "recipients": [_recipient(one, entry["reason"]) for one in waiting],
    }


def _recipient(one: dict[str, Any], reason: str) -> dict[str, str]:
    reply = one["last_reply"] or reason
    if not reply:
        return {"address": one["address"]}
    said = f"host {one['last_host']} said: {reply}" if one["last_host"] and reply[:3].isdigit() else reply
    return {"address": one["address"], "delay_reason": said}


def listing(found: dict[str, Any]) -> Iterator[str]:
    """One object in the lines of `postqueue -p`, with the empty one that ends it. A reason stands above those who have it."""
    mark = {"hold": "!", "active": "*"}.get(found["queue_name"], "")
    arrival = time.asctime(time.localtime(found["arrival_time"]))[:19]
    yield printable(f"{found['queue_id'] + mark:<27} {found['message_size']:>8} {arrival} {found['sender']}")
    reason = ""
    for one in found["recipients"]:
        if one.get("delay_reason", "") != reason:
            reason = one.get("delay_reason", "")
            yield printable(f"{f'({reason})':>78}").replace("\n", " ")
        yield printable(f"{'':<27} {'':>8} {'':<19} {one['address']}")
    yield ""


async def _all(context: Context) -> AsyncGenerator[dict[str, Any], None]:
    now = time.time()
    for found in _maildrop(context.config.storage.path):
        yield found
    async with aclosing(documents(context, QueueFilter())) as entries:
        async for entry in entries:
            yield objects(entry, now)


def _maildrop(data: str) -> Iterator[dict[str, Any]]:
    """What the server has not taken in yet."""
    directory = maildrop_of(data)
    try:
        ids = waiting_drops(directory)
    except FileNotFoundError:
        return
    for id in ids:
        try:
            drop, size = read_envelope(directory, id)
        except (FileNotFoundError, NotAllowed):
            continue
        yield {
            "queue_name": "maildrop",
            "queue_id": id,
            "arrival_time": int(drop.created),
            "message_size": size,
            "forced_expire": False,
            "sender": "MAILER-DAEMON" if drop.sender == "<>" else drop.sender,
            "recipients": [{"address": one.address} for one in drop.recipients],
        }


async def _show(context: Context, as_json: bool) -> None:
    count = size = 0
    async with aclosing(_all(context)) as entries:
        async for found in entries:
            if as_json:
                sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
            else:
                if not count:
                    sys.stdout.write(HEADING + "\n")
                sys.stdout.writelines(f"{line}\n" for line in listing(found))
            count += 1
            size += found["message_size"]
    if as_json:
        return
    if not count:
        sys.stdout.write("Mail queue is empty\n")
    else:
        sys.stdout.write(f"-- {size // 1024} Kbytes in {count} Request{'' if count == 1 else 's'}.\n")


def _retry(context: Context, which: QueueFilter) -> int:
    if not context.is_running:
        sys.stderr.write("postqueue: fatal: the mail system is down\n")
        return EX_UNAVAILABLE
    body = {"filter": msgspec.to_builtins(which), "all": True}
    context.control.post("/queue/retry", body, timeout=LONG_SECONDS)
    return 0


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit status."""
    try:
        options, rest = getopt.getopt(list(arguments), "c:fi:jps:v")
    except getopt.GetoptError as error:
        return _fatal(f"{error}; {USAGE}")
    wanted = [(option, value) for option, value in options if option in ("-f", "-i", "-j", "-p", "-s")]
    if len(wanted) != 1 or rest:
        return _fatal(USAGE)
    path = next((value for option, value in options if option == "-c"), None)
    context = Context(path, Output())
    ((option, value),) = wanted
    try:
        if option in ("-p", "-j"):
            asyncio.run(_show(context, option == "-j"))
            sys.stdout.flush()
            return 0
        if option == "-f":
            return _retry(context, QueueFilter())
        if option == "-s":
            return _retry(context, QueueFilter(domain=value.strip("[]").lower()))
        parse_id(value)
        return _retry(context, QueueFilter(ids=(value.lower(),)))
    except ValueError:
        sys.stderr.write(f"postqueue: warning: {value!r} is no queue id\n")
        return 0  # as Postfix, which does not know all ids either
    except (RusmesError, ConfigError) as error:
        return _fatal(str(error))
    except OSError as error:
        return _fatal(f"{error.filename or 'the system'}: {error.strerror or error}")


def _fatal(sentence: str) -> int:
    sys.stderr.write(f"postqueue: fatal: {sentence}\n")
    return EX_UNAVAILABLE


def main() -> NoReturn:
    """`rusmes-postqueue`."""
    _run_and_exit(sys.argv[1:])


def mailq() -> NoReturn:
    """`rusmes-mailq`: its options are sendmail's, of which only -C means something here."""
    path = next((sys.argv[at + 1] for at, text in enumerate(sys.argv[:-1]) if text == "-C"), "")
    _run_and_exit(["-p", *(["-c", path] if path else [])])


def _run_and_exit(arguments: Sequence[str]) -> NoReturn:
    try:
        sys.exit(run(arguments))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
