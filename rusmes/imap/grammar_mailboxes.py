"""The rules of commands on mailboxes: SELECT to STATUS, quota, rights, metadata, NOTIFY (RFC 9051 §6.3 and extensions)."""

from __future__ import annotations

from typing import Final

from rusmes._core.imap import GrammarError, Lexer
from rusmes.imap.command import (
    Create,
    Delete,
    DeleteAcl,
    FetchItem,
    GetAcl,
    GetMetadata,
    GetQuota,
    GetQuotaRoot,
    List,
    ListRights,
    MyRights,
    Notify,
    NotifyEvents,
    QResync,
    Rename,
    Select,
    SetAcl,
    SetMetadata,
    SetQuota,
    Status,
    Subscribe,
)
from rusmes.imap.grammar_messages import fetch_attribute
from rusmes.imap.grammar_terms import (
    LITERAL,
    OPEN,
    QUOTE,
    TILDE,
    ascii_text,
    item_or_items,
    items,
    mailbox,
    sequence_set,
    unknown,
)
from rusmes.imap.limits import LIST_ITEMS
from rusmes.imap.names import decode_name

# SELECT, CREATE and their kind


def select(lexer: Lexer, tag: bytes, *, examine: bool = False) -> Select:
    """select = "SELECT" SP mailbox [select-params]; CONDSTORE and QRESYNC of RFC 7162 §3.1.8, §3.2.5."""
    lexer.space()
    name = mailbox(lexer)
    condstore = False
    qresync: QResync | None = None
    if lexer.skip_space():

        def parameter(lexer: Lexer) -> None:
            nonlocal condstore, qresync
            word = lexer.word()
            if word == "CONDSTORE" and not condstore:
                condstore = True
            elif word == "QRESYNC" and qresync is None:
                lexer.space()
                qresync = _qresync(lexer)
            else:
                unknown("parameter", word)

        items(lexer, parameter)
    return Select(tag, name, examine, condstore, qresync)


def examine(lexer: Lexer, tag: bytes) -> Select:
    return select(lexer, tag, examine=True)


def _qresync(lexer: Lexer) -> QResync:
    """ "(" uidvalidity SP mod-sequence-value [SP known-uids] [SP seq-match-data] ")" (RFC 7162 §7)."""
    known_uids = known_sequence = known_sequence_uids = None
    lexer.take(OPEN)
    uid_validity = lexer.nz_number()
    lexer.space()
    modseq = lexer.nz_number64()
    if lexer.skip_space() and not lexer.is_at(OPEN):
        known_uids = sequence_set(lexer)
        lexer.skip_space()
    if lexer.skip(OPEN):
        known_sequence = sequence_set(lexer)
        lexer.space()
        known_sequence_uids = sequence_set(lexer)
        lexer.take(ord(")"))
    lexer.take(ord(")"))
    for known in (known_uids, known_sequence, known_sequence_uids):
        # RFC 7162 §7: these sets have neither "*" nor "$".
        if known is not None and (known.saved or any(not low or not high for low, high in known.ranges)):
            raise GrammarError("a known set names what it knows")
    return QResync(uid_validity, modseq, known_uids, known_sequence, known_sequence_uids)


def create(lexer: Lexer, tag: bytes) -> Create:
    """create = "CREATE" SP mailbox [create-params]; USE of RFC 6154 §6."""
    lexer.space()
    name = mailbox(lexer)
    uses: tuple[str, ...] = ()
    if lexer.skip_space():

        def parameter(lexer: Lexer) -> tuple[str, ...]:
            word = lexer.word()
            if word != "USE":
                unknown("parameter", word)
            lexer.space()
            return items(lexer, Lexer.flag, may_be_empty=True)

        uses = tuple(use for some in items(lexer, parameter) for use in some)
        if not all(use.startswith("\\") for use in uses):
            raise GrammarError("a special use begins with a backslash")
    # RFC 9051 §6.3.4: a separator at the end says that names will be made below; it is not part of the name.
    is_parent = len(name) > 1 and name.endswith("/")
    return Create(tag, name[:-1] if is_parent else name, is_parent, uses)


def delete(lexer: Lexer, tag: bytes) -> Delete:
    lexer.space()
    return Delete(tag, mailbox(lexer))


def rename(lexer: Lexer, tag: bytes) -> Rename:
    lexer.space()
    name = mailbox(lexer)
    lexer.space()
    return Rename(tag, name, mailbox(lexer))


def subscribe(lexer: Lexer, tag: bytes) -> Subscribe:
    lexer.space()
    return Subscribe(tag, mailbox(lexer))


def unsubscribe(lexer: Lexer, tag: bytes) -> Subscribe:
    lexer.space()
    return Subscribe(tag, mailbox(lexer), False)


# LIST, STATUS

_STATUS_ITEMS: Final = frozenset(
    {
        "MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "RECENT", "HIGHESTMODSEQ", "APPENDLIMIT",
        "MAILBOXID", "DELETED-STORAGE",
    }
)  # fmt: skip


def status(lexer: Lexer, tag: bytes) -> Status:
    """status = "STATUS" SP mailbox SP "(" status-att *(SP status-att) ")"."""
    lexer.space()
    name = mailbox(lexer)
    lexer.space()
    return Status(tag, name, items(lexer, _status_item))


def _status_item(lexer: Lexer) -> str:
    word = lexer.word()
    if word not in _STATUS_ITEMS:
        unknown("item", word)
    return word


def list_(lexer: Lexer, tag: bytes) -> List:
    """list = "LIST" [SP list-select-opts] SP mailbox SP mbox-or-pat [SP list-return-opts] (RFC 9051 §6.3.9)."""
    lexer.space()
    options: dict[str, bool] = {}
    is_extended = lexer.is_at(OPEN)
    if is_extended:
        for word in items(lexer, Lexer.word, may_be_empty=True):
            if word not in _SELECTION:
                unknown("selection option", word)
            options[_SELECTION[word]] = True
        if "recursive_match" in options and not options.keys() & {"select_subscribed", "select_special_use"}:
            # RFC 9051 §6.3.9.1: RECURSIVEMATCH alone or with REMOTE only is BAD.
            raise GrammarError("RECURSIVEMATCH needs another selection option")
        lexer.space()
    reference = mailbox(lexer)
    lexer.space()
    if lexer.is_at(OPEN):
        is_extended = True
        patterns = items(lexer, _pattern)
    else:
        patterns = (_pattern(lexer),)
    returned = _Returned()
    if lexer.skip_space():
        is_extended = True
        word = lexer.word()
        if word != "RETURN":
            unknown("argument", word)
        lexer.space()
        items(lexer, returned.take, may_be_empty=True)
    return List(
        tag,
        reference,
        patterns,
        is_extended=is_extended,
        return_status=returned.status,
        return_metadata=returned.metadata,
        return_metadata_depth=returned.depth,
        return_metadata_max_size=returned.max_size,
        **options,
        **returned.options,
    )


def lsub(lexer: Lexer, tag: bytes) -> List:
    """lsub = "LSUB" SP mailbox SP list-mailbox (RFC 3501 §6.3.9)."""
    lexer.space()
    reference = mailbox(lexer)
    lexer.space()
    return List(tag, reference, (_pattern(lexer),), is_lsub=True)


_SELECTION: Final = {
    "SUBSCRIBED": "select_subscribed",
    "REMOTE": "select_remote",
    "SPECIAL-USE": "select_special_use",
    "RECURSIVEMATCH": "recursive_match",
}
_RETURN: Final = {
    "SUBSCRIBED": "return_subscribed",
    "CHILDREN": "return_children",
    "SPECIAL-USE": "return_special_use",
    "MYRIGHTS": "return_my_rights",
}


class _Returned:
    """list-return-opts"""

    def __init__(self) -> None:
        self.options: dict[str, bool] = {}
        self.status: tuple[str, ...] = ()
        self.metadata: tuple[str, ...] = ()
        self.depth = 0
        self.max_size = -1

    def take(self, lexer: Lexer) -> None:
        word = lexer.word()
        if word in _RETURN:
            self.options[_RETURN[word]] = True
        elif word == "STATUS":  # RFC 5819 §4
            lexer.space()
            self.status = items(lexer, _status_item)
        elif word == "METADATA":  # RFC 9590 §5
            lexer.space()
            if lexer.is_at(OPEN) and not _begins_entry(lexer):
                self.depth, self.max_size = _metadata_options(lexer)
                lexer.space()
            self.metadata = item_or_items(lexer, _entry)
        else:
            unknown("return option", word)


def _begins_entry(lexer: Lexer) -> bool:
    """Whether a list of entries is here; one of options looks alike but for its first octet."""
    return lexer.text[lexer.at + 1 : lexer.at + 2] in (b"/", b'"', b"\0")


def _pattern(lexer: Lexer) -> str:
    return decode_name(lexer.list_mailbox(), is_utf8=lexer.is_utf8)


# Quota (RFC 9208 §7)


def get_quota(lexer: Lexer, tag: bytes) -> GetQuota:
    lexer.space()
    return GetQuota(tag, lexer.astring())


def get_quota_root(lexer: Lexer, tag: bytes) -> GetQuotaRoot:
    lexer.space()
    return GetQuotaRoot(tag, mailbox(lexer))


def set_quota(lexer: Lexer, tag: bytes) -> SetQuota:
    """setquota = "SETQUOTA" SP quota-root-name SP setquota-list"""
    lexer.space()
    root = lexer.astring()
    lexer.space()

    def limit(lexer: Lexer) -> tuple[str, int]:
        resource = lexer.word()
        lexer.space()
        return resource, lexer.number64()

    return SetQuota(tag, root, items(lexer, limit, may_be_empty=True))


# Rights (RFC 4314 §7)


def get_acl(lexer: Lexer, tag: bytes) -> GetAcl:
    lexer.space()
    return GetAcl(tag, mailbox(lexer))


def set_acl(lexer: Lexer, tag: bytes) -> SetAcl:
    """setacl = "SETACL" SP mailbox SP identifier SP mod-rights"""
    lexer.space()
    name = mailbox(lexer)
    lexer.space()
    identifier = lexer.astring()
    lexer.space()
    rights = ascii_text(lexer.astring(), "rights")
    operation = {"+": "add", "-": "remove"}.get(rights[:1], "set")
    if operation != "set":
        rights = rights[1:]
    if rights and not (rights.isalnum() and rights == rights.lower()):
        # RFC 4314 §2: rights are lower-case letters and digits.
        raise GrammarError("rights are lower-case letters and digits")
    return SetAcl(tag, name, identifier, rights, operation)


def delete_acl(lexer: Lexer, tag: bytes) -> DeleteAcl:
    lexer.space()
    name = mailbox(lexer)
    lexer.space()
    return DeleteAcl(tag, name, lexer.astring())


def list_rights(lexer: Lexer, tag: bytes) -> ListRights:
    lexer.space()
    name = mailbox(lexer)
    lexer.space()
    return ListRights(tag, name, lexer.astring())


def my_rights(lexer: Lexer, tag: bytes) -> MyRights:
    lexer.space()
    return MyRights(tag, mailbox(lexer))


# Metadata (RFC 5464 §5)


def get_metadata(lexer: Lexer, tag: bytes) -> GetMetadata:
    """getmetadata = "GETMETADATA" [SP getmetadata-options] SP mailbox SP entries.

    The examples of RFC 5464 §4.2 have the options behind the mailbox, and so do clients: both places are taken.
    """
    lexer.space()
    depth, max_size = 0, -1
    if lexer.is_at(OPEN):
        depth, max_size = _metadata_options(lexer)
        lexer.space()
    name = mailbox(lexer)
    lexer.space()
    if lexer.is_at(OPEN) and not _begins_entry(lexer):
        depth, max_size = _metadata_options(lexer)
        lexer.space()
    return GetMetadata(tag, name, item_or_items(lexer, _entry), depth, max_size)


def _metadata_options(lexer: Lexer) -> tuple[int, int]:
    depth, max_size = 0, -1

    def option(lexer: Lexer) -> None:
        nonlocal depth, max_size
        word = lexer.word()
        lexer.space()
        if word == "MAXSIZE":
            max_size = lexer.number64()
        elif word == "DEPTH":
            depth = {"0": 0, "1": 1, "INFINITY": -1}.get(value := lexer.word(), -2)
            if depth == -2:
                unknown("depth", value)
        else:
            unknown("option", word)

    items(lexer, option)
    return depth, max_size


def _entry(lexer: Lexer) -> str:
    """entry = astring, "/" before each of its parts, without wildcards and control characters (RFC 5464 §3.2)."""
    entry = ascii_text(lexer.astring(), "an entry").lower()
    if not entry.startswith("/") or entry.endswith("/") or "//" in entry or not entry.isprintable() or set(entry) & {"*", "%"}:
        raise GrammarError("not the name of an entry")
    return entry


def set_metadata(lexer: Lexer, tag: bytes) -> SetMetadata:
    """setmetadata = "SETMETADATA" SP mailbox SP "(" entry SP value *(SP entry SP value) ")"."""
    lexer.space()
    name = mailbox(lexer)
    lexer.space()

    def entry(lexer: Lexer) -> tuple[str, bytes | None]:
        name = _entry(lexer)
        lexer.space()
        if lexer.skip(TILDE):  # literal8
            value = lexer.literal()
            if type(value) is not bytes:
                raise GrammarError("a value cannot be a message")
            return name, value
        if lexer.is_at(QUOTE) or lexer.is_at(LITERAL):
            return name, lexer.string()
        return name, lexer.nstring()

    return SetMetadata(tag, name, items(lexer, entry))


# NOTIFY (RFC 5465 §8) and the filters that ESEARCH shares with it (RFC 7377 §2.1)

_MAILBOX_FILTERS: Final = {
    "SELECTED": "selected",
    "SELECTED-DELAYED": "selected-delayed",
    "INBOXES": "inboxes",
    "PERSONAL": "personal",
    "SUBSCRIBED": "subscribed",
    "SUBTREE": "subtree",
    "SUBTREE-ONE": "subtree-one",
    "MAILBOXES": "mailboxes",
}
_WITH_MAILBOXES: Final = ("subtree", "subtree-one", "mailboxes")
_EVENTS: Final = {
    name.upper(): name
    for name in (
        "MessageNew", "MessageExpunge", "FlagChange", "AnnotationChange", "MailboxName", "SubscriptionChange",
        "MailboxMetadataChange", "ServerMetadataChange",
    )
}  # fmt: skip


def filter_mailboxes(lexer: Lexer) -> tuple[str, tuple[str, ...]]:
    """filter-mailboxes: its name in lower case and the mailboxes it names."""
    word = lexer.word()
    kind = _MAILBOX_FILTERS.get(word)
    if kind is None:
        unknown("filter", word)
    if kind not in _WITH_MAILBOXES:
        return kind, ()
    lexer.space()
    return kind, item_or_items(lexer, mailbox)


def notify(lexer: Lexer, tag: bytes) -> Notify:
    """notify = "NOTIFY" SP ("SET" [SP "STATUS"] SP event-groups / "NONE")"""
    lexer.space()
    word = lexer.word()
    if word == "NONE":
        return Notify(tag)
    if word != "SET":
        unknown("argument", word)
    lexer.space()
    status = False
    if not lexer.is_at(OPEN):
        word = lexer.word()
        if word != "STATUS":
            unknown("argument", word)
        status = True
        lexer.space()
    groups = [_event_group(lexer)]
    while lexer.skip_space():
        if len(groups) == LIST_ITEMS:
            raise GrammarError("too many event groups")
        groups.append(_event_group(lexer))
    return Notify(tag, tuple(groups), status)


def _event_group(lexer: Lexer) -> NotifyEvents:
    """event-group = "(" filter-mailboxes SP events ")" """
    lexer.take(OPEN)
    kind, mailboxes = filter_mailboxes(lexer)
    if kind == "subtree-one":
        unknown("filter", kind)
    lexer.space()
    names: list[str] = []
    wanted: tuple[FetchItem, ...] = ()

    def event(lexer: Lexer) -> None:
        nonlocal wanted
        word = lexer.word()
        if word not in _EVENTS:
            unknown("event", word)
        names.append(_EVENTS[word])
        if word == "MESSAGENEW" and lexer.is_at(32) and lexer.text[lexer.at + 1 : lexer.at + 2] == b"(":
            lexer.space()
            wanted = items(lexer, fetch_attribute)

    if lexer.is_at(OPEN):
        items(lexer, event)
    elif (word := lexer.word()) != "NONE":
        unknown("events", word)
    lexer.take(ord(")"))
    return NotifyEvents(kind, mailboxes, tuple(names), wanted)
