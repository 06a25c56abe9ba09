"""What each command does: asks the authenticator and the store, and says what to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from rusmes._core import pop3 as core
from rusmes._core.pop3 import Command
from rusmes._version import __version__
from rusmes.auth.api import Attempt, Authenticator, Denied
from rusmes.errors import AuthUnavailable, NotFound, StoreCorrupt, StoreError
from rusmes.metrics import POP3_MESSAGES, Metrics
from rusmes.model.content import Rendering
from rusmes.model.identity import Identity
from rusmes.pop3 import reply
from rusmes.pop3.maildrop import Maildrop
from rusmes.pop3.reply import Answer, Body, Goodbye, Listing, Reply, StartTls
from rusmes.pop3.session import Session
from rusmes.storage.api import MailStore

MAILBOX: Final = "INBOX"

NO_SUCH_MESSAGE: Final = Reply(False, "no such message")
GONE: Final = Reply(False, "the message was removed meanwhile")
UNREADABLE: Final = Reply(False, "the message cannot be read", "SYS/PERM")
STORE_FAILS: Final = Reply(False, "the mailbox cannot be read now", "SYS/TEMP")
IN_USE: Final = Reply(False, "another session has this maildrop", "IN-USE")
NOT_NOW: Final = Reply(False, "authentication is not available now", "SYS/TEMP")
SWITCHED_OFF: Final = Reply(False, "POP3 is switched off for this account", "SYS/PERM")
NEEDS_TLS: Final = Reply(False, "TLS is required here: use STLS first")
NO_UTF8: Final = Reply(False, "not UTF-8")


class Limits(Protocol):
    """The part of `_core.counters.SharedCounters` that locks maildrops."""

    def acquire(self, key: bytes, limit: int) -> bool: ...

    def release(self, key: bytes) -> None: ...


def lock_key(account: str) -> bytes:
    """Under which the exclusive access to a maildrop (RFC 1939 §4) is taken, over all workers."""
    return b"pop3:" + account.encode()


class Commands:
    """The commands of one session. `mechanisms` and `may_log_in` change when TLS starts."""

    __slots__ = (
        "_attempt", "_authenticator", "_limits", "_locked", "_metrics", "_on_login", "_store", "may_log_in", "may_start_tls",
        "mechanisms", "removed", "session",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        *,
        store: MailStore,
        authenticator: Authenticator,
        limits: Limits,
        metrics: Metrics,
        attempt: Attempt,
        on_login: Callable[[Identity], None] = lambda identity: None,
    ) -> None:
        self.session = session
        self.mechanisms: tuple[str, ...] = ()
        self.may_log_in = False
        """TLS is on, or the peer is inside [auth] plaintext_networks."""
        self.may_start_tls = False
        self._store = store
        self._authenticator = authenticator
        self._limits = limits
        self._metrics = metrics
        self._attempt = attempt
        self._on_login = on_login
        self._locked = b""
        self.removed = 0
        """Messages removed at QUIT."""

    async def run(self, command: Command) -> Answer:
        """The answer to a command (AUTH apart, which is a conversation)."""
        quick = _QUICK.get(command.verb)
        return quick(self, command) if quick is not None else await _SLOW[command.verb](self, command)

    def release(self) -> None:
        """Give the maildrop back; safe to call twice."""
        if self._locked:
            self._limits.release(self._locked)
            self._locked = b""

    # AUTHORIZATION

    def capabilities(self) -> list[str]:
        """RFC 2449 §5 and §6. USER, SASL and STLS are announced in both states without a difference (RFC 2449 §6.2, RFC 5034
        §3, RFC 2595 §4); only TLS changes them."""
        names = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "UTF8 USER"]
        if self.may_log_in:
            names.append("USER")
        if self.mechanisms:
            names.append("SASL " + " ".join(self.mechanisms))
        if self.may_start_tls:
            names.append("STLS")
        names.append(f"IMPLEMENTATION RusMES-{__version__}")
        return names

    def _capa(self, command: Command) -> Answer:
        return Listing("capability list follows", [reply.rows(self.capabilities())])

    def mechanism_list(self) -> Answer:
        """AUTH without arguments: what old clients ask instead of CAPA (RFC 1734's usage)."""
        return Listing("mechanisms follow", [reply.rows(self.mechanisms)])

    def _user(self, command: Command) -> Answer:
        if not self.may_log_in:
            return NEEDS_TLS
        self.session.user = command.argument
        return Reply(True, "send PASS")  # whether or not there is such a user

    async def _pass(self, command: Command) -> Answer:
        if not self.may_log_in:
            return NEEDS_TLS
        name = self.session.user
        if name is None:
            return Reply(False, "send USER first")
        self.session.user = None
        try:
            # RFC 6856 §2.2: with "UTF8 USER" both are UTF-8, whether or not UTF8 was said.
            username, password = name.decode(), command.argument.decode()
        except UnicodeDecodeError:
            return NO_UTF8
        try:
            result = await self._authenticator.login(username, password, self._attempt)
        except AuthUnavailable:
            return NOT_NOW
        return await self.authenticated(result)

    async def authenticated(self, result: Identity | Denied) -> Answer:
        """What follows a login, whichever way it was made: the maildrop is locked and opened (RFC 1939 §4)."""
        if isinstance(result, Denied):
            code = "SYS/TEMP" if result.locked_seconds else "AUTH"
            refusal = Reply(False, result.public, code)
            return Goodbye(refusal) if self.session.count_failed_login() or result.locked_seconds else refusal
        if "pop3" in result.disabled_capabilities:
            return SWITCHED_OFF
        key = lock_key(result.account)
        if not self._limits.acquire(key, 1):
            return IN_USE
        self._locked = key
        try:
            maildrop = await self._open(result.account)
        except StoreError:
            self.release()
            return STORE_FAILS
        except BaseException:
            self.release()
            raise
        self.session.logged_in(result.account, maildrop)
        self._on_login(result)
        return Reply(True, f"{maildrop.count} messages, {maildrop.octets} octets")

    async def _open(self, name: str) -> Maildrop:
        account = await self._store.account(name)
        mailbox = await self._store.mailbox(account.id, MAILBOX) if account is not None else None
        if mailbox is None:  # nothing was delivered yet
            return Maildrop(0, 0, ())
        return Maildrop(mailbox.id, mailbox.uid_validity, await self._store.messages(mailbox.id))

    def _utf8(self, command: Command) -> Answer:
        self.session.utf8 = True
        return Reply(True, "UTF-8")

    def _stls(self, command: Command) -> Answer:
        if not self.may_start_tls:
            return Reply(False, "TLS is not available here")
        return StartTls(Reply(True, "begin TLS"))

    def _not_offered(self, command: Command) -> Answer:
        return Reply(False, "not offered here")

    # TRANSACTION

    @property
    def _maildrop(self) -> Maildrop:
        assert self.session.maildrop is not None
        return self.session.maildrop

    def _stat(self, command: Command) -> Answer:
        return Reply(True, f"{self._maildrop.count} {self._maildrop.octets}")

    def _list(self, command: Command) -> Answer:
        maildrop = self._maildrop
        if command.number < 0:
            return Listing(f"{maildrop.count} messages ({maildrop.octets} octets)", maildrop.sizes())
        if not maildrop.has(command.number):
            return NO_SUCH_MESSAGE
        return Reply(True, f"{command.number} {maildrop.size(command.number)}")

    def _uidl(self, command: Command) -> Answer:
        maildrop = self._maildrop
        if command.number < 0:
            return Listing("unique ids follow", maildrop.unique_ids())
        if not maildrop.has(command.number):
            return NO_SUCH_MESSAGE
        return Reply(True, f"{command.number} {maildrop.unique_id(command.number)}")

    async def _retr(self, command: Command) -> Answer:
        found = await self._rendering(command.number)
        return found if isinstance(found, Reply) else Body(found)

    async def _top(self, command: Command) -> Answer:
        found = await self._rendering(command.number)
        return found if isinstance(found, Reply) else Body(found, command.lines)

    async def _rendering(self, number: int) -> Rendering | Reply:
        """The message, or why not."""
        maildrop = self._maildrop
        if not maildrop.has(number):
            return NO_SUCH_MESSAGE
        try:
            [rendering] = await self._store.renderings(maildrop.mailbox_id, (maildrop.uid(number),))
        except NotFound:
            return GONE
        except StoreCorrupt:
            return UNREADABLE
        except StoreError:
            return STORE_FAILS
        return rendering

    def _dele(self, command: Command) -> Answer:
        if not self._maildrop.has(command.number):
            return NO_SUCH_MESSAGE
        self._maildrop.deleted.add(command.number)
        return Reply(True, "marked for deletion")

    def _rset(self, command: Command) -> Answer:
        self._maildrop.deleted.clear()
        return Reply(True, f"{self._maildrop.count} messages, {self._maildrop.octets} octets")

    def _noop(self, command: Command) -> Answer:
        return Reply(True, "")

    async def _quit(self, command: Command) -> Answer:
        """RFC 1939 §6: all marked messages go, in one transaction, or none."""
        maildrop = self.session.maildrop
        self.session.quit()
        if maildrop is None or not maildrop.deleted:
            return Goodbye(Reply(True, "bye"))
        try:
            gone = await self._store.expunge(maildrop.mailbox_id, maildrop.deleted_uids())
        except (StoreError, NotFound) as error:
            code = "SYS/PERM" if isinstance(error, NotFound) else "SYS/TEMP"
            return Goodbye(Reply(False, "the marked messages were not removed", code))
        self.removed = len(gone)
        self._metrics.inc(POP3_MESSAGES["deleted"], len(gone))
        return Goodbye(Reply(True, f"{len(gone)} messages removed, bye"))


# One table for all sessions: bound methods would cost each of them 2 KB.
_QUICK: Final[dict[int, Callable[[Commands, Command], Answer]]] = {
    core.CAPA: Commands._capa,
    core.USER: Commands._user,
    core.APOP: Commands._not_offered,
    core.LANG: Commands._not_offered,
    core.UTF8: Commands._utf8,
    core.STLS: Commands._stls,
    core.STAT: Commands._stat,
    core.LIST: Commands._list,
    core.UIDL: Commands._uidl,
    core.DELE: Commands._dele,
    core.RSET: Commands._rset,
    core.NOOP: Commands._noop,
}
_SLOW: Final[dict[int, Callable[[Commands, Command], Awaitable[Answer]]]] = {
    core.PASS: Commands._pass,
    core.RETR: Commands._retr,
    core.TOP: Commands._top,
    core.QUIT: Commands._quit,
}
