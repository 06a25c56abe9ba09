"""The commands of every state, and who is there: CAPABILITY NOOP LOGOUT ID STARTTLS AUTHENTICATE LOGIN ENABLE COMPRESS
UNAUTHENTICATE (RFC 9051 §6.1 to §6.3.1, RFC 2971, RFC 4978, RFC 8437)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes._core.lines import LineTooLong
from rusmes._version import __version__
from rusmes.auth.api import Denied
from rusmes.errors import AlreadyExists, AuthUnavailable
from rusmes.imap import capabilities
from rusmes.imap.command import (
    Authenticate,
    Capability,
    Command,
    Compress,
    Enable,
    Id,
    Login,
    Logout,
    Noop,
    StartTls,
    Unauthenticate,
)
from rusmes.imap.commands.context import Bad, Context, Handler, No, Ok, Outcome
from rusmes.imap.commands.notify import end as end_notify
from rusmes.imap.response import nstring
from rusmes.model.identity import Identity
from rusmes.model.mailbox import Account
from rusmes.sasl import Cancelled, MalformedResponse

LOGGED_ID_OCTETS: Final = 100
"""Of each value."""

ENABLABLE: Final = ("IMAP4REV2", "CONDSTORE", "QRESYNC", "UTF8=ACCEPT", "UIDONLY")

_SPELLINGS: Final = {"IMAP4REV2": "IMAP4rev2"}
_NEEDS_TLS: Final = No("TLS is required here: use STARTTLS first", b"PRIVACYREQUIRED")
_UNAVAILABLE: Final = No("authentication is not available now", b"UNAVAILABLE")


def capability_list(context: Context) -> bytes:
    """What this session may use now, joined by spaces."""
    if context.identity is None:
        names = capabilities.before_login(
            context.mechanisms, may_log_in=context.may_log_in, may_start_tls=context.may_start_tls
        )
    else:
        names = capabilities.after_login(context.identity.disabled_capabilities, more_capabilities(context))
    return " ".join(names).encode()


def more_capabilities(context: Context) -> tuple[str, ...]:
    """Those that depend on the configuration and on the connection."""
    config = context.resources.config.imap
    names: tuple[str, ...] = (f"APPENDLIMIT={config.append_limit}",)  # RFC 7889 §3
    if config.message_limit:
        names += (f"MESSAGELIMIT={config.message_limit}",)  # RFC 9738 §3
    return names if context.is_compressed else (*names, "COMPRESS=DEFLATE")  # RFC 4978 §1: not listed while it is on


async def capability(context: Context, command: Capability) -> Outcome:
    context.output.write(b"* CAPABILITY %b\r\n" % capability_list(context))
    return Ok("here they are")


async def noop(context: Context, command: Noop) -> Outcome:
    return Ok("done")


async def logout(context: Context, command: Logout) -> Outcome:
    context.output.write(b"* BYE see you\r\n")  # RFC 9051 §6.1.3: before the tagged OK
    context.conversation.deselect()
    context.session.logged_out()
    return Ok("goodbye")


async def identify(context: Context, command: Id) -> Outcome:
    """RFC 2971 §3.1. What the client says goes to the log."""
    fields = command.fields or ()
    context.client_id = fields
    if fields:
        known = {name.decode("utf-8", "replace").lower(): value for name, value in fields if value is not None}
        told = {name: value[:LOGGED_ID_OCTETS].decode("utf-8", "replace") for name, value in known.items()}
        context.log.info("client", name=told.get("name", ""), version=told.get("version", ""), os=told.get("os", ""))
    context.output.write(b'* ID ("name" "RusMES" "version" %b)\r\n' % nstring(__version__.encode()))
    return Ok("pleased to meet you")


# Who is there


async def start_tls(context: Context, command: StartTls) -> Outcome:
    if not context.may_start_tls:
        return Bad("TLS is not available here")
    outcome: Outcome = await context.conversation.start_tls(command.tag)
    return outcome


async def login(context: Context, command: Login) -> Outcome:
    if not context.may_log_in:
        return _NEEDS_TLS  # RFC 9051 §6.2.3: LOGINDISABLED
    try:
        user, password = command.user.decode(), command.password.decode()
    except UnicodeDecodeError:
        return No("the name or the password is not UTF-8", b"AUTHENTICATIONFAILED")
    try:
        result = await context.resources.authenticator.login(user, password, context.attempt)
    except AuthUnavailable:
        return _UNAVAILABLE
    return await authenticated(context, result)


async def authenticate(context: Context, command: Authenticate) -> Outcome:
    """RFC 9051 §6.2.2, with an initial response (RFC 4959)."""
    if not context.may_log_in:
        return _NEEDS_TLS
    name = command.mechanism.upper()
    if name not in context.mechanisms:
        return No("this mechanism is not offered", b"CANNOT")
    try:
        result = await context.conversation.negotiate(name, command.initial)
    except Cancelled:
        return Bad("cancelled")  # §6.2.2: a tagged BAD
    except (MalformedResponse, LineTooLong) as error:
        context.conversation.count_error()
        return Bad(error.public)
    except AuthUnavailable:
        return _UNAVAILABLE
    return await authenticated(context, result)


async def authenticated(context: Context, result: Identity | Denied) -> Outcome:
    """What follows a login, whichever way it was made."""
    if isinstance(result, Denied):
        if context.session.count_failed_login() or result.locked_seconds:
            context.conversation.end_after_reply(b"too many failed logins")
        return No(result.public, b"UNAVAILABLE" if result.locked_seconds else b"AUTHENTICATIONFAILED")
    if "imap" in result.disabled_capabilities:
        return No("IMAP is switched off for this account", b"AUTHORIZATIONFAILED")
    account = await _account(context, result)
    context.identity = result
    context.account, context.account_id = account.name, account.id
    context.session.logged_in()
    context.conversation.logged_in()
    return Ok("logged in", b"CAPABILITY " + capability_list(context))


async def _account(context: Context, identity: Identity) -> Account:
    """The account in the store; one that was never delivered to is made now. Raises StoreError."""
    account = await context.store.account(identity.account)
    if account is None:
        try:
            account = await context.store.create_account(
                identity.account,
                mailboxes=context.resources.config.domains.create_mailboxes,
                quota_bytes=identity.quota_bytes,
                quota_messages=identity.quota_messages,
            )
        except AlreadyExists:  # by a delivery meanwhile
            account = await context.store.account(identity.account)
            assert account is not None
    return account


async def enable(context: Context, command: Enable) -> Outcome:
    """RFC 9051 §6.3.1: unknown names are ignored, and only what is new is told."""
    assert context.identity is not None
    offered = capabilities.after_login(context.identity.disabled_capabilities, more_capabilities(context))
    may = {name.upper() for name in offered}
    new = [name for name in command.names if name in ENABLABLE and name in may and context.session.enable(name)]
    context.output.write(b"* ENABLED%b\r\n" % b"".join(b" " + _SPELLINGS.get(name, name).encode() for name in new))
    return Ok("enabled")


async def compress(context: Context, command: Compress) -> Outcome:
    """RFC 4978 §3."""
    if context.is_compressed:
        return No("it is on already", b"COMPRESSIONACTIVE")
    if command.mechanism.upper() != "DEFLATE":
        return No("this mechanism is not offered", b"CANNOT")
    outcome: Outcome = context.conversation.start_compression(command.tag)
    return outcome


async def unauthenticate(context: Context, command: Unauthenticate) -> Outcome:
    """RFC 8437 §3: back to the state before login, on the same connection; what was enabled is forgotten."""
    end_notify(context)
    context.conversation.deselect()
    context.session.unauthenticated()
    context.conversation.logged_out()
    context.identity = None
    context.account, context.account_id = "", 0
    if not context.is_compressed:
        return Ok("logged out")
    outcome: Outcome = context.conversation.end_compression(command.tag)
    return outcome


HANDLERS: Final[Mapping[type[Command], Handler]] = {
    Capability: capability,
    Noop: noop,
    Logout: logout,
    Id: identify,
    StartTls: start_tls,
    Login: login,
    Authenticate: authenticate,
    Enable: enable,
    Compress: compress,
    Unauthenticate: unauthenticate,
}
