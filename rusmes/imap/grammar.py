"""One command, framed, to its value (RFC 9051 §9 and the extensions' grammar).

`parse` reads a whole command; `parse_announced` what there is of one whose next literal is only announced, so that a command
that is wrong already, or not allowed, is refused before the literal is sent.

The grammar is strict, but for three things real clients do: spaces at the end of a line, RFC 5464's options at either side of
the mailbox, and UTF-8 in texts of a search that name no charset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from rusmes._core.imap import GrammarError, Lexer, LiteralReached
from rusmes.imap import command as c
from rusmes.imap import grammar_mailboxes as mailboxes
from rusmes.imap import grammar_messages as messages
from rusmes.imap import grammar_search as searches
from rusmes.imap.command import AnyCommand
from rusmes.imap.grammar_messages import MessageReached
from rusmes.imap.grammar_terms import OPEN, Impossible, items
from rusmes.imap.limits import ID_FIELD_OCTETS, ID_FIELDS, ID_VALUE_OCTETS, LIST_ITEMS
from rusmes.imap.names import BadName

Reader = Callable[[Lexer, bytes], Any]


class Malformed(Struct, frozen=True, gc=False):
    """A command that is refused before anybody carries it out. `tag` is b"" where there was none to be read.

    `status` is BAD for what is not grammar, NO for what is grammar and impossible, with its `code`.
    """

    tag: bytes
    text: str
    code: bytes = b""
    status: bytes = b"BAD"

    def wire(self) -> bytes:
        """The tagged reply; untagged without a tag (RFC 9051 §7.1.3)."""
        code = b"[%s] " % self.code if self.code else b""
        return b"%s %s %s%s\r\n" % (self.tag or b"*", self.status, code, self.text.encode("ascii", "replace"))


class Announced(Struct, frozen=True):
    """A command up to a literal that is announced. `kind` is the class its value will have; `mailbox` is where the literal
    goes if it is a message, else None; `flags` are the message's, `size_before` counts the parts of it before this one."""

    tag: bytes
    kind: type[c.Command]
    mailbox: str | None = None
    size_before: int = 0
    flags: tuple[str, ...] = ()


def parse(
    text: bytes, literals: Sequence[Any] = (), *, is_utf8: bool = False, forbids_charset: bool = False
) -> AnyCommand | Malformed:
    """The command of a text and its literals. Never fails: what is not grammar is Malformed.

    `is_utf8`: the client enabled IMAP4rev2 or UTF8=ACCEPT.
    """
    lexer = Lexer(text, literals, is_utf8=is_utf8, forbids_charset=forbids_charset)
    tag = b""
    try:
        tag = lexer.tag()
        lexer.space()
        command = _reader(lexer)[1](lexer, tag)
        lexer.end()
        return command
    except GrammarError as error:
        return Malformed(tag, error.public)
    except BadName as error:
        return Malformed(tag, error.public, b"CANNOT", b"NO")
    except Impossible as error:
        return Malformed(tag, error.public, error.code, b"NO")


def parse_announced(
    text: bytes, literals: Sequence[Any] = (), *, is_utf8: bool = False, forbids_charset: bool = False
) -> Announced | Malformed:
    """The same of a text whose last octet is a literal that has not come yet."""
    lexer = Lexer(text, literals, is_utf8=is_utf8, forbids_charset=forbids_charset)
    tag = b""
    kind: type[c.Command] = c.Command
    try:
        tag = lexer.tag()
        lexer.space()
        kind, read = _reader(lexer)
        read(lexer, tag)
        lexer.end()
    except MessageReached as reached:
        return Announced(tag, kind, reached.mailbox, reached.size_before, reached.flags)
    except LiteralReached:
        return Announced(tag, kind)
    except GrammarError as error:
        return Malformed(tag, error.public)
    except BadName as error:
        return Malformed(tag, error.public, b"CANNOT", b"NO")
    except Impossible as error:
        return Malformed(tag, error.public, error.code, b"NO")
    return Malformed(tag, "too many arguments")


def tag_of(text: bytes) -> bytes:
    """The tag a text begins with, b"" when there is none."""
    try:
        return Lexer(text).tag()
    except GrammarError:
        return b""


def _reader(lexer: Lexer) -> tuple[type[c.Command], Reader]:
    name = lexer.word()
    found = COMMANDS.get(name)
    if found is not None:
        return found
    if name != "UID":
        raise GrammarError("unknown command")
    lexer.space()
    found = UID_COMMANDS.get(lexer.word())
    if found is None:
        raise GrammarError("unknown command after UID")
    return found


# The small ones


def _alone(kind: type[c.Command]) -> tuple[type[c.Command], Reader]:
    """A command without arguments."""
    return kind, lambda lexer, tag: kind(tag)


def _id(lexer: Lexer, tag: bytes) -> c.Id:
    """id = "ID" SP ("(" [string SP nstring *(SP string SP nstring)] ")" / nil) (RFC 2971 §4)."""
    lexer.space()
    if not lexer.is_at(OPEN):
        if lexer.nstring() is not None:
            raise GrammarError("expected a list or NIL")
        return c.Id(tag)

    def field(lexer: Lexer) -> tuple[bytes, bytes | None]:
        name = lexer.string()
        lexer.space()
        value = lexer.nstring()
        # RFC 2971 §3.3 limits what is sent. A client that says more is not worth a BAD, which it may take for a failed login.
        return name[:ID_FIELD_OCTETS], None if value is None else value[:ID_VALUE_OCTETS]

    return c.Id(tag, items(lexer, field, may_be_empty=True)[:ID_FIELDS])


def _authenticate(lexer: Lexer, tag: bytes) -> c.Authenticate:
    """authenticate = "AUTHENTICATE" SP auth-type [SP initial-resp] (RFC 9051 §9, RFC 4959 §5)."""
    lexer.space()
    mechanism = lexer.word()
    if not lexer.skip_space():
        return c.Authenticate(tag, mechanism)
    return c.Authenticate(tag, mechanism, lexer.atom().encode("ascii"))


def _login(lexer: Lexer, tag: bytes) -> c.Login:
    lexer.space()
    user = lexer.astring()
    lexer.space()
    return c.Login(tag, user, lexer.astring())


def _enable(lexer: Lexer, tag: bytes) -> c.Enable:
    """enable = "ENABLE" 1*(SP capability)"""
    lexer.space()
    names = [lexer.word()]
    while lexer.skip_space():
        if len(names) == LIST_ITEMS:
            raise GrammarError("too many names")
        names.append(lexer.word())
    return c.Enable(tag, tuple(names))


def _compress(lexer: Lexer, tag: bytes) -> c.Compress:
    lexer.space()
    return c.Compress(tag, lexer.word())


def _close(lexer: Lexer, tag: bytes) -> c.Close:
    return c.Close(tag)


def _unselect(lexer: Lexer, tag: bytes) -> c.Close:
    return c.Close(tag, False)


COMMANDS: Final[dict[str, tuple[type[c.Command], Reader]]] = {
    "APPEND": (c.Append, messages.append),
    "AUTHENTICATE": (c.Authenticate, _authenticate),
    "CANCELUPDATE": (c.CancelUpdate, searches.cancel_update),
    "CAPABILITY": _alone(c.Capability),
    "CHECK": _alone(c.Check),
    "CLOSE": (c.Close, _close),
    "COMPRESS": (c.Compress, _compress),
    "COPY": (c.Copy, messages.copy),
    "CREATE": (c.Create, mailboxes.create),
    "DELETE": (c.Delete, mailboxes.delete),
    "DELETEACL": (c.DeleteAcl, mailboxes.delete_acl),
    "ENABLE": (c.Enable, _enable),
    "ESEARCH": (c.Search, searches.esearch),
    "EXAMINE": (c.Select, mailboxes.examine),
    "EXPUNGE": (c.Expunge, messages.expunge),
    "FETCH": (c.Fetch, messages.fetch),
    "GETACL": (c.GetAcl, mailboxes.get_acl),
    "GETJMAPACCESS": _alone(c.GetJmapAccess),
    "GETMETADATA": (c.GetMetadata, mailboxes.get_metadata),
    "GETQUOTA": (c.GetQuota, mailboxes.get_quota),
    "GETQUOTAROOT": (c.GetQuotaRoot, mailboxes.get_quota_root),
    "ID": (c.Id, _id),
    "IDLE": _alone(c.Idle),
    "LIST": (c.List, mailboxes.list_),
    "LISTRIGHTS": (c.ListRights, mailboxes.list_rights),
    "LOGIN": (c.Login, _login),
    "LOGOUT": _alone(c.Logout),
    "LSUB": (c.List, mailboxes.lsub),
    "MOVE": (c.Copy, messages.move),
    "MYRIGHTS": (c.MyRights, mailboxes.my_rights),
    "NAMESPACE": _alone(c.Namespace),
    "NOOP": _alone(c.Noop),
    "NOTIFY": (c.Notify, mailboxes.notify),
    "RENAME": (c.Rename, mailboxes.rename),
    "REPLACE": (c.Replace, messages.replace),
    "SEARCH": (c.Search, searches.search),
    "SELECT": (c.Select, mailboxes.select),
    "SETACL": (c.SetAcl, mailboxes.set_acl),
    "SETMETADATA": (c.SetMetadata, mailboxes.set_metadata),
    "SETQUOTA": (c.SetQuota, mailboxes.set_quota),
    "SORT": (c.Sort, searches.sort),
    "STARTTLS": _alone(c.StartTls),
    "STATUS": (c.Status, mailboxes.status),
    "STORE": (c.Store, messages.store),
    "SUBSCRIBE": (c.Subscribe, mailboxes.subscribe),
    "THREAD": (c.Thread, searches.thread),
    "UNAUTHENTICATE": _alone(c.Unauthenticate),
    "UNSELECT": (c.Close, _unselect),
    "UNSUBSCRIBE": (c.Subscribe, mailboxes.unsubscribe),
}


def _by_uid(read: Callable[..., Any]) -> Reader:
    return lambda lexer, tag: read(lexer, tag, is_uid=True)


UID_COMMANDS: Final[dict[str, tuple[type[c.Command], Reader]]] = {
    "COPY": (c.Copy, _by_uid(messages.copy)),
    "EXPUNGE": (c.Expunge, _by_uid(messages.expunge)),
    "FETCH": (c.Fetch, _by_uid(messages.fetch)),
    "MOVE": (c.Copy, _by_uid(messages.move)),
    "REPLACE": (c.Replace, _by_uid(messages.replace)),
    "SEARCH": (c.Search, _by_uid(searches.search)),
    "SORT": (c.Sort, _by_uid(searches.sort)),
    "STORE": (c.Store, _by_uid(messages.store)),
    "THREAD": (c.Thread, _by_uid(searches.thread)),
}
