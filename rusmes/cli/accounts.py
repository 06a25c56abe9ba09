"""`rusmes user` and `rusmes mailbox`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

import click

from rusmes.auth.file import FileBackend
from rusmes.cli.context import Context, JsonGroup, OperatorError, confirm, pass_context, read_password
from rusmes.cli.stores import accounts_of, mail_store_of
from rusmes.config import names
from rusmes.config.problems import nearest
from rusmes.config.schema import Config
from rusmes.config.units import Size, size_text
from rusmes.errors import AlreadyExists, NotFound
from rusmes.model.identity import Identity
from rusmes.model.mailbox import Account

_PASSWORD_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_PASSWORD_LENGTH: Final = 20
"""Of 54 characters: 115 bits."""

_address = click.argument("address")
_password_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input (one line).")
_generate = click.option("--generate", is_flag=True, help="Make a password and print it.")


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """A size such as 500MB; "none" and 0 are no limit."""
    try:
        return None if value is None else Size(0 if value == "none" else int(value) if value.isdecimal() else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_quota = click.option("--quota", callback=_size, metavar="SIZE", help="Bytes: 500MB, 2GB, none.")
_quota_messages = click.option("--quota-messages", type=click.IntRange(min=0), default=None, metavar="N", help="0 = no limit.")


@click.group(cls=JsonGroup)
def user() -> None:
    """Accounts: who has a mailbox and may log in."""


@user.command("add")
@_address
@_password_stdin
@_generate
@_quota
@_quota_messages
@pass_context
def add(
    context: Context, address: str, password_stdin: bool, generate: bool, quota: int | None, quota_messages: int | None
) -> None:
    """Make an account with its mailboxes."""
    account = local_account(context.config, address)
    context.run(_refuse_existing(context.config, account))
    password = generate_password() if generate else read_password(password_stdin)
    context.run(add_account(context.config, account, password, quota_bytes=quota or 0, quota_messages=quota_messages or 0))
    shown = f"\nIts password is {password}" if generate else ""
    data = {"account": account} | ({"password": password} if generate else {})
    context.output.done(f"{account} can log in and receive mail.{shown}", **data)


async def _refuse_existing(config: Config, account: str) -> None:
    """Before a password is asked for."""
    async with accounts_of(config) as backend:
        if await backend.find(account) is not None:
            raise AlreadyExists(f"{account} exists already", "`rusmes user passwd` changes its password")


async def add_account(config: Config, account: str, password: str, *, quota_bytes: int = 0, quota_messages: int = 0) -> None:
    """An account with its password and its mailboxes.

    Raises:
        AlreadyExists, AuthUnavailable, StoreError
    """
    async with accounts_of(config) as backend:
        await backend.add(account, password, quota_bytes=quota_bytes, quota_messages=quota_messages)
    try:
        async with mail_store_of(config) as store:
            await store.create_account(
                account, mailboxes=config.domains.create_mailboxes, quota_bytes=quota_bytes, quota_messages=quota_messages
            )
    except AlreadyExists:
        # Mail came for it before (a deleted account whose mail was kept): the mailboxes are there.
        async with mail_store_of(config) as store:
            await store.set_quota(account, quota_bytes=quota_bytes, quota_messages=quota_messages)
    except BaseException:
        async with accounts_of(config) as backend:
            await backend.delete(account)
        raise


@user.command("list")
@pass_context
def list_accounts(context: Context) -> None:
    """Every account with what it uses."""
    rows = context.run(_accounts(context.config))
    context.output.show(
        rows,
        lambda: context.output.table(
            ["ADDRESS", "#MESSAGES", "#USED", "#QUOTA", "STATE"],
            [
                (row["address"], row["messages"], size_text(row["used_bytes"]), _limits(row), row["state"])
                for row in rows
            ],
            empty="There is no account yet: `rusmes user add` makes one.",
        ),
    )


async def _accounts(config: Config) -> list[dict[str, Any]]:
    async with accounts_of(config) as backend:
        identities = {identity.account: identity for identity in await backend.list()}
        disabled = await backend.disabled()
    stored = {account.name: account for account in await _stored_accounts(config)}
    return [
        _account_row(name, identities.get(name), stored.get(name), name in disabled) for name in sorted({*identities, *stored})
    ]


async def _stored_accounts(config: Config) -> list[Account]:
    try:
        async with mail_store_of(config, read_only=True) as store:
            return await store.accounts()
    except NotFound:
        return []


def _account_row(name: str, identity: Identity | None, account: Account | None, is_disabled: bool) -> dict[str, Any]:
    return {
        "address": name,
        "name": identity.display_name if identity else "",
        "addresses": sorted(identity.addresses - {name}) if identity else [],
        "messages": account.used_messages if account else 0,
        "used_bytes": account.used_bytes if account else 0,
        "quota_bytes": identity.quota_bytes if identity else account.quota_bytes if account else 0,
        "quota_messages": identity.quota_messages if identity else account.quota_messages if account else 0,
        "admin": identity.admin if identity else False,
        "state": "disabled" if is_disabled else "active" if identity else "mail only",
    }


@user.command("show")
@_address
@pass_context
def show(context: Context, address: str) -> None:
    """One account and its mailboxes."""
    account = local_account(context.config, address, must_be_local=False)
    rows = {row["address"]: row for row in context.run(_accounts(context.config))}
    if account not in rows:
        raise NotFound(f"there is no account {account}", nearest(account, rows))
    row = rows[account] | {"mailboxes": context.run(_mailboxes(context.config, account))}

    def for_people() -> None:
        context.output.facts(
            [
                ("Address", row["address"]),
                *([("Name", row["name"])] if row["name"] else []),
                *([("Further addresses", ", ".join(row["addresses"]))] if row["addresses"] else []),
                ("State", row["state"]),
                ("Messages", f"{row['messages']} of {_limit(row['quota_messages'], str)}"),
                ("Space", f"{size_text(row['used_bytes'])} of {_limit(row['quota_bytes'])}"),
            ]
        )
        context.output.say("")
        _print_mailboxes(context, row["mailboxes"])

    context.output.show(row, for_people)


@user.command("passwd")
@_address
@_password_stdin
@_generate
@pass_context
def passwd(context: Context, address: str, password_stdin: bool, generate: bool) -> None:
    """Change a password; sessions that are logged in stay so."""
    account = local_account(context.config, address, must_be_local=False)
    context.run(_existing(context.config, account))
    password = generate_password() if generate else read_password(password_stdin, "New password")

    async def change() -> None:
        async with accounts_of(context.config) as backend:
            await backend.set_password(account, password)

    context.run(change())
    shown = f"\nThe new password of {account} is {password}" if generate else ""
    data = {"account": account} | ({"password": password} if generate else {})
    context.output.done(f"The password of {account} is changed.{shown}", **data)


@user.command("delete")
@_address
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-mail", is_flag=True, help="Leave the mailboxes; a new account of that name gets them.")
@pass_context
def delete(context: Context, address: str, yes: bool, keep_mail: bool) -> None:
    """Remove an account and its mail."""
    account = local_account(context.config, address, must_be_local=False)
    stored = {one.name: one for one in context.run(_stored_accounts(context.config))}
    if account not in stored:
        context.run(_existing(context.config, account))
    messages = 0 if keep_mail or account not in stored else stored[account].used_messages
    confirm(f"Delete {account} with {messages} messages?", yes)

    async def remove() -> None:
        async with accounts_of(context.config) as backend:
            try:
                await backend.delete(account)
            except NotFound:
                pass  # only its mail is left
        if account in stored and not keep_mail:
            async with mail_store_of(context.config) as store:
                await store.delete_account(account)

    context.run(remove())
    context.output.done(f"{account} is deleted, with {messages} messages.", account=account, messages=messages)


@user.command("quota")
@_address
@_quota
@_quota_messages
@pass_context
def quota(context: Context, address: str, quota: int | None, quota_messages: int | None) -> None:
    """Show or change what an account may store."""
    account = local_account(context.config, address, must_be_local=False)
    before = context.run(_existing(context.config, account))
    quota_bytes = before.quota_bytes if quota is None else quota
    messages = before.quota_messages if quota_messages is None else quota_messages

    async def change() -> None:
        async with accounts_of(context.config) as backend:
            await backend.set_quota(account, quota_bytes=quota_bytes, quota_messages=messages)
        async with mail_store_of(context.config) as store:
            try:
                await store.set_quota(account, quota_bytes=quota_bytes, quota_messages=messages)
            except NotFound:
                pass  # the store makes the account with its first mail, and takes the quota from the file

    if quota is not None or quota_messages is not None:
        context.run(change())
    context.output.done(
        f"{account} may store {_limit(quota_bytes)} and {_limit(messages, str)} messages.",
        account=account,
        quota_bytes=quota_bytes,
        quota_messages=messages,
    )


@user.command("disable")
@_address
@pass_context
def disable(context: Context, address: str) -> None:
    """Forbid logins; mail is still received."""
    _set_disabled(context, address, True)


@user.command("enable")
@_address
@pass_context
def enable(context: Context, address: str) -> None:
    """Allow logins again."""
    _set_disabled(context, address, False)


def _set_disabled(context: Context, address: str, disabled: bool) -> None:
    account = local_account(context.config, address, must_be_local=False)

    async def change() -> None:
        async with accounts_of(context.config) as backend:
            await backend.set_disabled(account, disabled)

    context.run(change())
    state = "can not log in any more" if disabled else "can log in"
    context.output.done(f"{account} {state}.", account=account, disabled=disabled)


@click.group(cls=JsonGroup)
def mailbox() -> None:
    """Mailboxes of an account."""


@mailbox.command("list")
@_address
@pass_context
def list_mailboxes(context: Context, address: str) -> None:
    """The mailboxes of an account, with their sizes."""
    account = local_account(context.config, address, must_be_local=False)
    rows = context.run(_mailboxes(context.config, account))
    context.output.show(rows, lambda: _print_mailboxes(context, rows))


_RIGHTS: Final = "lrswipkxtea"
"""RFC 4314 §2.1"""
_LEVELS: Final = {"none": "", "read": "lrs", "write": "lrswite", "all": _RIGHTS}


@mailbox.command("rights")
@_address
@click.argument("name")
@click.argument("who", required=False)
@click.argument("rights", required=False)
@pass_context
def mailbox_rights(context: Context, address: str, name: str, who: str | None, rights: str | None) -> None:
    """Show or change who else may use a mailbox.

    WHO is an account, or "anyone". RIGHTS are none, read, write, all, or letters of RFC 4314, such as lrs. IMAP clients see it
    as "Other Users/ADDRESS/NAME".
    """
    account = local_account(context.config, address, must_be_local=False)
    identifier = who
    if who is not None and who != "anyone":
        identifier = local_account(context.config, who, must_be_local=False)
        context.run(_existing(context.config, identifier))
    letters = None if rights is None else _LEVELS.get(rights, rights)
    if (who is None) != (letters is None) or set(letters or "") - set(_RIGHTS):
        raise click.UsageError(f"WHO needs RIGHTS: {', '.join(_LEVELS)}, or some of the letters {_RIGHTS}")
    if identifier == account:
        raise OperatorError(f"{account} is the owner, who has all rights.")
    rows = context.run(_rights(context, account, name, identifier, letters))
    context.output.show(rows, lambda: _print_rights(context, rows))


def _print_rights(context: Context, rows: list[dict[str, str]]) -> None:
    context.output.table(["WHO", "RIGHTS"], [(row["who"], row["rights"]) for row in rows], empty="Only its owner may use it.")


async def _rights(
    context: Context, account: str, name: str, identifier: str | None, letters: str | None
) -> list[dict[str, str]]:
    async with mail_store_of(context.config, read_only=letters is None) as store:
        found = await store.account(account)
        box = await store.mailbox(found.id, name) if found is not None else None
        if box is None:
            raise OperatorError(f"{account} has no mailbox {name}.", f"`rusmes mailbox list {account}` lists them")
        if identifier is not None and letters is not None:
            await store.set_rights(box.id, identifier, "".join(letter for letter in _RIGHTS if letter in letters))
        return [{"who": who, "rights": rights} for who, rights in (await store.acl(box.id)).items()]


def _print_mailboxes(context: Context, rows: list[dict[str, Any]]) -> None:
    context.output.table(
        ["MAILBOX", "#MESSAGES", "#UNSEEN", "#SIZE", "USE"],
        [(row["name"], row["messages"], row["unseen"], size_text(row["size_bytes"]), row["special_use"]) for row in rows],
        empty="No mailbox yet: the first mail makes them.",
    )


async def _mailboxes(config: Config, account: str) -> list[dict[str, Any]]:
    try:
        async with mail_store_of(config, read_only=True) as store:
            found = await store.account(account)
            boxes = [] if found is None else await store.mailboxes(found.id)
    except NotFound:
        boxes = []
    if not boxes:
        await _existing(config, account)
    return [
        {
            "name": box.name,
            "messages": box.exists,
            "unseen": box.unseen,
            "size_bytes": box.size,
            "special_use": box.special_use.replace("\\", ""),
            "uid_validity": box.uid_validity,
            "uid_next": box.uid_next,
            "highest_modseq": box.highest_modseq,
            "subscribed": box.subscribed,
        }
        for box in sorted(boxes, key=lambda box: (box.name != "INBOX", box.name))
    ]


async def _existing(config: Config, account: str) -> Identity:
    """Raises NotFound, with the nearest name."""
    async with accounts_of(config) as backend:
        return await _find(backend, account)


async def _find(backend: FileBackend, account: str) -> Identity:
    identities = {identity.account: identity for identity in await backend.list()}
    if account not in identities:
        raise NotFound(f"there is no account {account}", nearest(account, identities))
    return identities[account]


def local_account(config: Config, text: str, *, must_be_local: bool = True) -> str:
    """The account that a typed address names; a bare name belongs to the primary domain.

    Raises:
        OperatorError: it is no address, or its domain is not local.
    """
    try:
        address = names.address(text if "@" in text else f"{text}@{config.domain}")
    except ValueError as error:
        raise OperatorError(str(error)) from None
    if must_be_local and address.domain not in config.local_domains:
        hint = nearest(address.domain, config.local_domains) or f"`rusmes domain add {address.domain}` makes it local"
        raise OperatorError(f"{address.domain} is not a local domain", hint)
    return address.folded


def generate_password() -> str:
    return "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(_PASSWORD_LENGTH))


def _limits(row: dict[str, Any]) -> str:
    """Both quotas in one word or two."""
    texts = [size_text(row["quota_bytes"])] if row["quota_bytes"] else []
    if row["quota_messages"]:
        texts.append(f"{row['quota_messages']} messages")
    return ", ".join(texts) or "unlimited"


def _limit(value: int, show: Callable[[int], str] = size_text) -> str:
    return show(value) if value else "unlimited"
