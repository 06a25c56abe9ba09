"""`rusmes store`: reading everything, and making files small again."""

from __future__ import annotations

import os
from typing import Any

import click

from rusmes.cli.context import Context, JsonGroup, OperatorError, give_to_server_user, pass_context
from rusmes.cli.stores import mail_store_of, queue_slots, queue_stores_of
from rusmes.config.schema import Config
from rusmes.config.units import size_text
from rusmes.errors import NotFound


@click.group(cls=JsonGroup)
def store() -> None:
    """The databases in the data directory."""


@store.command("verify")
@pass_context
def verify(context: Context) -> int:
    """Read every record and body, and count again what is counted; exit status 1 when something is wrong.

    Nothing is changed. A running server goes on meanwhile.
    """
    findings = context.run(_verify(context.config))
    data = {"findings": findings, "stores": _files(context.config)}

    def for_people() -> None:
        context.output.table(
            ["PLACE", "WHAT IS WRONG", "STATE"],
            [(f["place"], f["reason"], "set aside" if f["repaired"] else "") for f in findings],
            empty=f"{_number_of_databases(data['stores'])} read, nothing is wrong.",
        )

    context.output.show(data, for_people)
    return 1 if findings else 0


def _number_of_databases(files: list[dict[str, Any]]) -> str:
    count = sum(1 for file in files if file["name"].endswith(".mdb"))
    return "1 database with its bodies" if count == 1 else f"{count} databases with their bodies"


async def _verify(config: Config) -> list[dict[str, Any]]:
    findings = []
    try:
        async with mail_store_of(config, read_only=True) as mail:
            findings += list(mail.verify())
    except NotFound:
        pass  # no mail has ever been stored
    async with queue_stores_of(config, read_only=True) as queues:
        for queue in queues:
            findings += list(queue.verify())
    return [{"place": f.place, "reason": f.reason, "repaired": f.repaired} for f in findings]


@store.command("compact")
@pass_context
def compact(context: Context) -> None:
    """Give free pages back to the file system; the server must be stopped."""
    if context.is_running:
        raise OperatorError("the server is running", "stop it first: a compacted file takes the place of the old one")
    rows = context.run(_compact(context.config))
    context.output.show(
        rows,
        lambda: context.output.table(
            ["STORE", "#BEFORE", "#AFTER"],
            [(row["store"], size_text(row["bytes_before"]), size_text(row["bytes_after"])) for row in rows],
            empty="There is no database yet.",
        ),
    )


async def _compact(config: Config) -> list[dict[str, Any]]:
    rows = []
    if any(file["name"] == "mail.mdb" for file in _files(config)):
        async with mail_store_of(config) as mail:
            rows.append(("mail.mdb", await mail.compact()))
    async with queue_stores_of(config, read_only=False) as queues:
        rows += [(f"queue-{queue.slot}.mdb", await queue.compact()) for queue in queues]
    for name, _ in rows:
        give_to_server_user(config, os.path.join(config.storage.path, name))
    return [{"store": name, "bytes_before": result.bytes_before, "bytes_after": result.bytes_after} for name, result in rows]


@store.command("restored")
@pass_context
def restored(context: Context) -> None:
    """Tell clients that mailboxes came from a backup; the server must be stopped.

    Mail that arrived after the backup is gone, and its UIDs will be given again. Every mailbox gets a new UIDVALIDITY, so that
    clients read it anew instead of showing old mail under new numbers.
    """
    if context.is_running:
        raise OperatorError("the server is running", "stop it first: its clients would go on with what they know")
    renewed = context.run(_restored(context.config))
    context.output.show(
        {"mailboxes": renewed}, lambda: context.output.say(f"{renewed} mailboxes have a new UIDVALIDITY.")
    )


async def _restored(config: Config) -> int:
    if not any(file["name"] == "mail.mdb" for file in _files(config)):
        return 0
    async with mail_store_of(config) as mail:
        renewed = await mail.renew_uid_validity()
    give_to_server_user(config, os.path.join(config.storage.path, "mail.mdb"))
    return renewed


@store.command("stats")
@pass_context
def stats(context: Context) -> None:
    """What is stored, and how much room it takes."""
    data = context.run(_stats(context.config)) | {"files": _files(context.config)}

    def for_people() -> None:
        context.output.facts(
            [
                ("Accounts", data["accounts"]),
                ("Messages", data["messages"]),
                ("Size of messages", size_text(data["message_bytes"])),
                ("Queued", data["queued"]),
            ]
        )
        context.output.say("")
        context.output.table(
            ["FILE", "#ON DISK"],
            [(file["name"], size_text(file["disk_bytes"])) for file in data["files"]],
            empty="There is no database yet.",
        )

    context.output.show(data, for_people)


async def _stats(config: Config) -> dict[str, Any]:
    try:
        async with mail_store_of(config, read_only=True) as mail:
            accounts = await mail.accounts()
    except NotFound:
        accounts = []
    queued = 0
    async with queue_stores_of(config, read_only=True) as queues:
        for queue in queues:
            queued += sum(1 for _ in queue.entries())
    return {
        "accounts": len(accounts),
        "messages": sum(account.used_messages for account in accounts),
        "message_bytes": sum(account.used_bytes for account in accounts),
        "queued": queued,
    }


def _files(config: Config) -> list[dict[str, Any]]:
    """The databases, and the bodies that have files of their own; sizes as the disk has them."""
    directory = config.storage.path
    found = []
    for name in ("mail.mdb", *(f"queue-{slot}.mdb" for slot in queue_slots(config))):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            found.append({"name": name, "disk_bytes": os.stat(path).st_blocks * 512})
    blobs = os.path.join(directory, "blobs")
    if os.path.isdir(blobs):
        found.append({"name": "blobs/", "disk_bytes": _disk_bytes(blobs)})
    return found


def _disk_bytes(directory: str) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed meanwhile
    return total
