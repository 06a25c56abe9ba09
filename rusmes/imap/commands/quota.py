"""QUOTA (RFC 9208): one quota root for each account, named like it, with STORAGE, MESSAGE and MAILBOX.

A resource without a limit is not listed. The number of mailboxes is always limited, so a root always has something to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes.errors import NotFound
from rusmes.imap.command import Command, GetQuota, GetQuotaRoot, SetQuota
from rusmes.imap.commands import rights
from rusmes.imap.commands.context import Bad, Context, Handler, No, NotPermitted, Ok, Outcome
from rusmes.imap.response import astring
from rusmes.model.mailbox import Account
from rusmes.storage.names import MAX_MAILBOXES

UNIT_OCTETS: Final = 1024
"""RFC 9208 §5.1: STORAGE counts in units of 1024 octets."""


async def get_quota(context: Context, command: GetQuota) -> Outcome:
    account = await _account(context, command.root)
    context.output.write(await _quota_line(context, account))
    return Ok("this is the quota")


async def get_quota_root(context: Context, command: GetQuotaRoot) -> Outcome:
    """RFC 9208 §4.1.2; of a mailbox of somebody else it is the owner's quota that counts."""
    located = await rights.mailbox(context, command.mailbox, need="r")
    account = await context.store.account(located.owner)
    if account is None:
        raise NotFound("there is no such mailbox")
    name = rights.wire_name(context, command.mailbox)
    context.output.write(b"* QUOTAROOT %b %b\r\n" % (name, astring(account.name.encode(), utf8=True)))
    context.output.write(await _quota_line(context, account))
    return Ok("this is its quota")


async def set_quota(context: Context, command: SetQuota) -> Outcome:
    """RFC 9208 §4.1.3: limits that are not named are discarded. Only for administrators."""
    if context.identity is None or not context.identity.admin:
        raise NotPermitted("only an administrator may set quotas")
    limits = {"STORAGE": 0, "MESSAGE": 0}
    for resource, limit in command.limits:
        if resource not in limits:
            return No("this resource cannot be limited", b"CANNOT")
        if not 0 < limit <= (1 << 63) // UNIT_OCTETS:
            return Bad("not a limit") if limit else No("a quota of nothing cannot be set", b"CANNOT")
        limits[resource] = limit
    account = await _account(context, command.root)
    quotas = {"quota_bytes": limits["STORAGE"] * UNIT_OCTETS, "quota_messages": limits["MESSAGE"]}
    if context.resources.accounts is not None:  # where quotas are kept; the store is brought after it
        await context.resources.accounts.set_quota(account.name, **quotas)
    account = await context.store.set_quota(account.name, **quotas)
    context.output.write(await _quota_line(context, account))
    return Ok("the quota is set")


async def _account(context: Context, root: bytes) -> Account:
    """The account of a quota root. Roots of others are for administrators; anybody else learns nothing of them.

    Raises NotFound, StoreError.
    """
    name = root.decode(errors="replace")
    is_admin = context.identity is not None and context.identity.admin
    account = await context.store.account(name) if name == context.account or is_admin else None
    if account is None:
        raise NotFound("there is no such quota root")
    return account


async def _quota_line(context: Context, account: Account) -> bytes:
    mailboxes = len(await context.store.mailboxes(account.id))
    resources = [b"MAILBOX %d %d" % (mailboxes, MAX_MAILBOXES)]
    if account.quota_messages:
        resources.insert(0, b"MESSAGE %d %d" % (account.used_messages, account.quota_messages))
    if account.quota_bytes:
        used, limit = -(-account.used_bytes // UNIT_OCTETS), -(-account.quota_bytes // UNIT_OCTETS)
        resources.insert(0, b"STORAGE %d %d" % (used, limit))
    return b"* QUOTA %b (%b)\r\n" % (astring(account.name.encode(), utf8=True), b" ".join(resources))


HANDLERS: Final[Mapping[type[Command], Handler]] = {
    GetQuota: get_quota,
    GetQuotaRoot: get_quota_root,
    SetQuota: set_quota,
}
