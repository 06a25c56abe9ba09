"""The commands of both revisions and of the extensions, as values. `grammar` makes them; `commands` carries them out.

Names of mailboxes are Unicode with "/" between levels, INBOX folded to capitals, decoded from modified UTF-7 or UTF-8. Flags
are system flags in the RFC's spelling and keywords as the client wrote them. A literal is `bytes`, or a `Content` when it was
streamed into the store (APPEND, REPLACE, CATENATE).
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from rusmes.model.content import Content
from rusmes.model.query import Query, SequenceSet


class Command(Struct, frozen=True):
    tag: bytes


# Any state


class Capability(Command, frozen=True): ...


class Noop(Command, frozen=True): ...


class Logout(Command, frozen=True): ...


class Id(Command, frozen=True):
    """RFC 2971. None: the client said NIL."""

    fields: tuple[tuple[bytes, bytes | None], ...] | None = None


# Not authenticated


class StartTls(Command, frozen=True): ...


class Authenticate(Command, frozen=True):
    mechanism: str
    initial: bytes | None = None
    """As on the wire: base64, b"=" for an empty one (RFC 4959)."""

    def __repr__(self) -> str:
        return f"Authenticate({self.tag!r}, {self.mechanism!r}{', ***' if self.initial else ''})"


class Login(Command, frozen=True):
    user: bytes
    password: bytes

    def __repr__(self) -> str:
        return f"Login({self.tag!r}, {self.user!r}, ***)"


# Authenticated


class Enable(Command, frozen=True):
    names: tuple[str, ...]
    """In capitals."""


class Namespace(Command, frozen=True): ...


class Compress(Command, frozen=True):
    mechanism: str


class Unauthenticate(Command, frozen=True): ...


class QResync(Struct, frozen=True):
    """RFC 7162 §3.2.5."""

    uid_validity: int
    modseq: int
    known_uids: SequenceSet | None = None
    known_sequence: SequenceSet | None = None
    known_sequence_uids: SequenceSet | None = None


class Select(Command, frozen=True):
    mailbox: str
    examine: bool = False
    condstore: bool = False
    qresync: QResync | None = None


class Create(Command, frozen=True):
    mailbox: str
    is_parent: bool = False
    """The name ended with the hierarchy separator (RFC 9051 §6.3.4)."""
    special_uses: tuple[str, ...] = ()
    """RFC 6154 §3, as written."""


class Delete(Command, frozen=True):
    mailbox: str


class Rename(Command, frozen=True):
    mailbox: str
    new_name: str


class Subscribe(Command, frozen=True):
    mailbox: str
    subscribed: bool = True


class List(Command, frozen=True):
    """LIST and LSUB (RFC 9051 §6.3.9, RFC 5258)."""

    reference: str
    patterns: tuple[str, ...]
    is_lsub: bool = False
    is_extended: bool = False
    """A selection option, a list of patterns or a return option was given."""
    select_subscribed: bool = False
    select_remote: bool = False
    select_special_use: bool = False
    recursive_match: bool = False
    return_subscribed: bool = False
    return_children: bool = False
    return_special_use: bool = False
    return_my_rights: bool = False
    """RFC 8440."""
    return_status: tuple[str, ...] = ()
    """RFC 5819; in capitals."""
    return_metadata: tuple[str, ...] = ()
    """RFC 9590; entry names in lower case."""
    return_metadata_depth: int = 0
    """-1 = infinity."""
    return_metadata_max_size: int = -1


class Status(Command, frozen=True):
    mailbox: str
    items: tuple[str, ...]
    """In capitals: MESSAGES, UIDNEXT, UIDVALIDITY, UNSEEN, DELETED, SIZE, RECENT, HIGHESTMODSEQ, APPENDLIMIT, MAILBOXID,
    DELETED-STORAGE."""


class UrlPart(Struct, frozen=True):
    """CATENATE (RFC 4469): a URL of RFC 5092 without server, "/mailbox;UIDVALIDITY=n/;UID=n[/;SECTION=...][/;PARTIAL=...]", or
    without the mailbox when one is selected."""

    url: bytes


Literal = bytes | Content


class AppendMessage(Struct, frozen=True):
    parts: tuple[Literal | UrlPart, ...]
    """One literal; CATENATE has several."""
    flags: tuple[str, ...] = ()
    internal_date: float | None = None
    is_catenate: bool = False
    is_utf8: bool = False
    """UTF8 (~{n} ...) (RFC 6855 §4)."""


class Append(Command, frozen=True):
    """More than one message: RFC 3502."""

    mailbox: str
    messages: tuple[AppendMessage, ...]


class Replace(Command, frozen=True):
    """RFC 8508."""

    message: int
    """Sequence number or UID; 0 stands for "*"."""
    mailbox: str
    replacement: AppendMessage
    is_uid: bool = False


class Idle(Command, frozen=True): ...


class NotifyEvents(Struct, frozen=True):
    """One event group (RFC 5465 §5, §6)."""

    filter: str
    """selected | selected-delayed | inboxes | personal | subscribed | subtree | mailboxes."""
    mailboxes: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    """MessageNew, MessageExpunge, FlagChange, AnnotationChange, MailboxName, SubscriptionChange, MailboxMetadataChange,
    ServerMetadataChange; () = NONE."""
    fetch: tuple[FetchItem, ...] = ()
    """What MessageNew is told with."""


class Notify(Command, frozen=True):
    """No groups: NOTIFY NONE."""

    groups: tuple[NotifyEvents, ...] = ()
    status: bool = False


# Quota (RFC 9208), ACL (RFC 4314), metadata (RFC 5464)


class GetQuota(Command, frozen=True):
    root: bytes


class GetQuotaRoot(Command, frozen=True):
    mailbox: str


class SetQuota(Command, frozen=True):
    root: bytes
    limits: tuple[tuple[str, int], ...]
    """Resource in capitals, limit in its unit."""


class GetAcl(Command, frozen=True):
    mailbox: str


class SetAcl(Command, frozen=True):
    mailbox: str
    identifier: bytes
    rights: str
    """Letters."""
    operation: str = "set"
    """set | add | remove."""


class DeleteAcl(Command, frozen=True):
    mailbox: str
    identifier: bytes


class ListRights(Command, frozen=True):
    mailbox: str
    identifier: bytes


class MyRights(Command, frozen=True):
    mailbox: str


class GetMetadata(Command, frozen=True):
    mailbox: str
    """"" = the server's."""
    entries: tuple[str, ...]
    """In lower case."""
    depth: int = 0
    """-1 = infinity."""
    max_size: int = -1


class SetMetadata(Command, frozen=True):
    mailbox: str
    entries: tuple[tuple[str, bytes | None], ...]


# Selected


class Check(Command, frozen=True): ...


class Close(Command, frozen=True):
    expunge: bool = True
    """False: UNSELECT (RFC 3691)."""


class Expunge(Command, frozen=True):
    uids: SequenceSet | None = None
    """UID EXPUNGE (RFC 4315)."""


class Section(Struct, frozen=True):
    """What is between the brackets of BODY[], BINARY[] (RFC 9051 §6.4.5, §7.5.2)."""

    path: tuple[int, ...] = ()
    text: str = ""
    """"" | HEADER | HEADER.FIELDS | HEADER.FIELDS.NOT | TEXT | MIME."""
    fields: tuple[bytes, ...] = ()
    """As the client wrote them."""


class FetchItem(Struct, frozen=True):
    name: str
    """In capitals: FLAGS UID INTERNALDATE RFC822.SIZE ENVELOPE BODY (the structure) BODYSTRUCTURE MODSEQ EMAILID THREADID
    SAVEDATE PREVIEW RFC822 RFC822.HEADER RFC822.TEXT, and with a section: BODY[] BINARY BINARY.SIZE. Macros are expanded."""
    section: Section | None = None
    peek: bool = False
    partial: tuple[int, int] | None = None
    """First octet, count."""
    lazy: bool = False
    """PREVIEW (LAZY) (RFC 8970)."""


class Fetch(Command, frozen=True):
    messages: SequenceSet
    items: tuple[FetchItem, ...]
    is_uid: bool = False
    changed_since: int | None = None
    """RFC 7162 §3.1.4.1."""
    vanished: bool = False
    partial: tuple[int, int] | None = None
    """RFC 9394: 1:100, -1:-100."""


class Store(Command, frozen=True):
    messages: SequenceSet
    operation: str
    """set | add | remove."""
    flags: tuple[str, ...]
    silent: bool = False
    is_uid: bool = False
    unchanged_since: int | None = None


class Copy(Command, frozen=True):
    messages: SequenceSet
    mailbox: str
    is_uid: bool = False
    move: bool = False
    """MOVE (RFC 6851)."""


class SearchReturn(Struct, frozen=True):
    """RFC 4731, RFC 5182, RFC 5267, RFC 9394."""

    min: bool = False
    max: bool = False
    all: bool = False
    count: bool = False
    save: bool = False
    partial: tuple[int, int] | None = None
    update: bool = False
    context: bool = False
    relevancy: bool = False


class Search(Command, frozen=True):
    """SEARCH, and ESEARCH of RFC 7377 with a `source`."""

    query: Query
    is_uid: bool = False
    results: SearchReturn | None = None
    """None: no RETURN was given."""
    charset: str = "US-ASCII"
    source: SearchSource | None = None


class SearchSource(Struct, frozen=True):
    """RFC 7377 §2.1: the same filters as NOTIFY's."""

    filters: tuple[tuple[str, tuple[str, ...]], ...]


class Sort(Command, frozen=True):
    criteria: tuple[tuple[str, bool], ...]
    """Key in capitals (ARRIVAL CC DATE FROM SIZE SUBJECT TO DISPLAYFROM DISPLAYTO RELEVANCY), whether reversed."""
    query: Query
    charset: str
    is_uid: bool = False
    results: SearchReturn | None = None


class Thread(Command, frozen=True):
    algorithm: str
    """ORDEREDSUBJECT | REFERENCES."""
    query: Query
    charset: str
    is_uid: bool = False


class GetJmapAccess(Command, frozen=True):
    """RFC 9698 §4."""


class CancelUpdate(Command, frozen=True):
    """RFC 5267 §4.3.3."""

    tags: tuple[bytes, ...]


AnyCommand = Any
"""One of the classes above."""
