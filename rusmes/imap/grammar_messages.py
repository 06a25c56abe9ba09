"""The rules of commands on messages: APPEND, REPLACE, FETCH, STORE, COPY, MOVE, EXPUNGE (RFC 9051 §6.3.12, §6.4, §9)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rusmes._core.imap import GrammarError, Lexer, LiteralReached
from rusmes.imap.command import (
    Append,
    AppendMessage,
    Copy,
    Expunge,
    Fetch,
    FetchItem,
    Literal,
    Replace,
    Section,
    Store,
    UrlPart,
)
from rusmes.imap.dates import parse_date_time
from rusmes.imap.grammar_terms import (
    CLOSE,
    LITERAL,
    MINUS,
    OPEN,
    PLUS,
    QUOTE,
    TILDE,
    items,
    mailbox,
    partial_range,
    sequence_set,
    unknown,
)

_BRACKET: Final = ord("[")
_END_BRACKET: Final = ord("]")
_DOT: Final = ord(".")
_LESS: Final = ord("<")
_GREATER: Final = ord(">")
_STAR: Final = ord("*")


# Messages that a client sends


class MessageReached(LiteralReached):
    """The literal that is only announced yet is a message, or a part of one."""

    def __init__(self, mailbox: str) -> None:
        super().__init__(mailbox)
        self.mailbox = mailbox
        self.flags: tuple[str, ...] = ()
        self.size_before = 0


def append(lexer: Lexer, tag: bytes) -> Append:
    """append = "APPEND" SP mailbox 1*append-message (RFC 3502 §6.3.11, RFC 4466 §3)."""
    lexer.space()
    target = mailbox(lexer)
    lexer.space()
    messages = [_message(lexer, target)]
    while lexer.skip_space():
        messages.append(_message(lexer, target))
    return Append(tag, target, tuple(messages))


def replace(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Replace:
    """RFC 8508 §5: replace = "REPLACE" SP seq-number SP mailbox append-message."""
    lexer.space()
    number = 0 if lexer.skip(_STAR) else lexer.nz_number()
    lexer.space()
    target = mailbox(lexer)
    lexer.space()
    return Replace(tag, number, target, _message(lexer, target), is_uid)


def _message(lexer: Lexer, target: str) -> AppendMessage:
    """[flag-list SP] [date-time SP] append-data"""
    flags: tuple[str, ...] = ()
    internal_date = None
    if lexer.is_at(OPEN):
        flags = lexer.flag_list()
        lexer.space()
    if lexer.is_at(QUOTE):
        internal_date = parse_date_time(lexer.string())
        lexer.space()
    try:
        return _append_data(lexer, target, flags, internal_date)
    except MessageReached as reached:
        reached.flags = flags
        raise


def _append_data(lexer: Lexer, target: str, flags: tuple[str, ...], internal_date: float | None) -> AppendMessage:
    if lexer.is_at(LITERAL) or lexer.is_at(TILDE):
        return AppendMessage((_message_literal(lexer, target),), flags, internal_date)
    kind = lexer.word()
    if kind == "UTF8":  # RFC 6855 §4
        lexer.space()
        return AppendMessage((_utf8_literal(lexer, target),), flags, internal_date, is_utf8=True)
    if kind != "CATENATE":
        raise GrammarError("expected a literal")
    lexer.space()
    is_utf8 = False
    size = 0

    def part(lexer: Lexer) -> Literal | UrlPart:
        nonlocal is_utf8, size
        kind = lexer.word()
        lexer.space()
        if kind == "URL":
            return UrlPart(lexer.astring())
        if kind not in ("TEXT", "UTF8"):
            unknown("part", kind)
        is_utf8 = is_utf8 or kind == "UTF8"
        try:
            literal = _message_literal(lexer, target) if kind == "TEXT" else _utf8_literal(lexer, target)
        except MessageReached as reached:
            reached.size_before = size
            raise
        size += len(literal) if isinstance(literal, bytes) else literal.size
        return literal

    # RFC 4469 §5
    return AppendMessage(items(lexer, part), flags, internal_date, is_catenate=True, is_utf8=is_utf8)


def _message_literal(lexer: Lexer, target: str) -> Literal:
    """literal / literal8: the only places where "~" is allowed but values of METADATA (RFC 3516 §4.4)."""
    lexer.skip(TILDE)
    try:
        found: Literal = lexer.literal()
    except LiteralReached:
        raise MessageReached(target) from None
    return found


def _utf8_literal(lexer: Lexer, target: str) -> Literal:
    lexer.take(OPEN)
    if not lexer.is_at(TILDE):
        raise GrammarError("expected a literal8")
    found = _message_literal(lexer, target)
    lexer.take(CLOSE)
    return found


# FETCH

_MACROS: Final = {
    name: tuple(map(FetchItem, parts.split()))
    for name, parts in {
        "ALL": "FLAGS INTERNALDATE RFC822.SIZE ENVELOPE",
        "FAST": "FLAGS INTERNALDATE RFC822.SIZE",
        "FULL": "FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODY",
    }.items()
}

_PLAIN: Final = {
    name: FetchItem(name)
    for name in (
        "FLAGS", "UID", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE", "MODSEQ", "EMAILID", "THREADID",
        "SAVEDATE", "PREVIEW", "RFC822", "RFC822.HEADER", "RFC822.TEXT",
    )
}  # fmt: skip

_SECTIONED: Final = {
    "BODY": ("BODY[]", False),
    "BODY.PEEK": ("BODY[]", True),
    "BINARY": ("BINARY", False),
    "BINARY.PEEK": ("BINARY", True),
    "BINARY.SIZE": ("BINARY.SIZE", True),
}
"""Name in the value, whether it leaves \\Seen alone."""

_MEMORY_OCTETS: Final = 256
"""Longer arguments of FETCH are not remembered."""

_Arguments = tuple[tuple[FetchItem, ...], int | None, bool, tuple[int, int] | None]


def fetch(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Fetch:
    """fetch = "FETCH" SP sequence-set SP (macro / fetch-att / "(" fetch-att *(SP fetch-att) ")") [fetch-modifiers]."""
    lexer.space()
    messages = sequence_set(lexer)
    lexer.space()
    at = lexer.at
    text = lexer.text
    if len(text) - at <= _MEMORY_OCTETS and (rest := lexer.rest()):
        wanted = _remembered(rest, lexer.is_utf8)
    else:
        wanted = _arguments(lexer)
    attributes, changed_since, vanished, partial = wanted
    if not is_uid and (vanished or partial is not None):
        raise GrammarError("only UID FETCH has VANISHED and PARTIAL")
    return Fetch(tag, messages, attributes, is_uid, changed_since, vanished, partial)


@lru_cache(256)
def _remembered(rest: bytes, is_utf8: bool) -> _Arguments:
    """Clients ask for the same few things again and again: 0.1 us instead of 1 to 20."""
    lexer = Lexer(rest, is_utf8=is_utf8)
    wanted = _arguments(lexer)
    lexer.end()
    return wanted


def _arguments(lexer: Lexer) -> _Arguments:
    if lexer.is_at(OPEN):
        attributes = items(lexer, fetch_attribute)
    else:
        name = lexer.attribute()
        attributes = _MACROS[name] if name in _MACROS else (_attribute(lexer, name),)
    changed_since: int | None = None
    vanished = False
    partial: tuple[int, int] | None = None
    if lexer.skip_space():

        def modifier(lexer: Lexer) -> None:
            nonlocal changed_since, vanished, partial
            name = lexer.word()
            if name == "CHANGEDSINCE" and changed_since is None:
                lexer.space()
                changed_since = lexer.nz_number64()
            elif name == "VANISHED" and not vanished:
                vanished = True
            elif name == "PARTIAL" and partial is None:
                lexer.space()
                partial = partial_range(lexer)
            else:
                unknown("modifier", name)

        items(lexer, modifier)
    if vanished and changed_since is None:
        # RFC 7162 §3.2.6: BAD without CHANGEDSINCE.
        raise GrammarError("VANISHED needs CHANGEDSINCE")
    return attributes, changed_since, vanished, partial


def fetch_attribute(lexer: Lexer) -> FetchItem:
    """fetch-att"""
    return _attribute(lexer, lexer.attribute())


def _attribute(lexer: Lexer, name: str) -> FetchItem:
    if lexer.is_at(_BRACKET):
        if name not in _SECTIONED:
            unknown("attribute", name)
        item, peek = _SECTIONED[name]
        lexer.take(_BRACKET)
        section = _binary_section(lexer) if item != "BODY[]" else _section(lexer)
        partial = None
        if item != "BINARY.SIZE" and lexer.skip(_LESS):
            # RFC 9051 §9: partial = "<" number64 "." nz-number64 ">"
            first = lexer.number64()
            lexer.take(_DOT)
            partial = (first, lexer.nz_number64())
            lexer.take(_GREATER)
        return FetchItem(item, section, peek, partial)
    plain = _PLAIN.get(name)
    if plain is None:
        unknown("attribute", name)
    if name == "PREVIEW" and lexer.text[lexer.at : lexer.at + 7].upper() == b" (LAZY)":
        # RFC 8970 §3.1: PREVIEW [SP "(" "LAZY" ")"]; a list of FETCH modifiers begins in the same way.
        lexer.space()
        items(lexer, Lexer.word)
        return FetchItem(name, lazy=True)
    return plain


def _binary_section(lexer: Lexer) -> Section:
    """section-binary = "[" [section-part] "]" """
    path = _path(lexer) if not lexer.is_at(_END_BRACKET) else ()
    lexer.take(_END_BRACKET)
    return Section(path)


def _path(lexer: Lexer) -> tuple[int, ...]:
    """section-part = nz-number *("." nz-number)"""
    path = [lexer.nz_number()]
    while lexer.skip(_DOT):
        path.append(lexer.nz_number())
    return tuple(path)


def _section(lexer: Lexer) -> Section:
    """section = "[" [section-spec] "]" (RFC 9051 §9)."""
    if lexer.skip(_END_BRACKET):
        return Section()
    path: list[int] = []
    while 48 <= lexer.peek() <= 57:
        path.append(lexer.nz_number())
        if lexer.skip(_END_BRACKET):
            return Section(tuple(path))
        lexer.take(_DOT)
    text = lexer.attribute()
    fields: tuple[bytes, ...] = ()
    if text in ("HEADER.FIELDS", "HEADER.FIELDS.NOT"):
        lexer.space()
        fields = items(lexer, Lexer.astring)
    elif text not in ("HEADER", "TEXT") and not (text == "MIME" and path):
        unknown("section", text)
    lexer.take(_END_BRACKET)
    return Section(tuple(path), text, fields)


# STORE, COPY, MOVE, EXPUNGE


def store(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Store:
    """store = "STORE" SP sequence-set [store-modifiers] SP store-att-flags (RFC 9051 §9, RFC 7162 §7)."""
    lexer.space()
    messages = sequence_set(lexer)
    lexer.space()
    unchanged_since: int | None = None
    if lexer.is_at(OPEN):

        def modifier(lexer: Lexer) -> None:
            nonlocal unchanged_since
            name = lexer.word()
            if name != "UNCHANGEDSINCE" or unchanged_since is not None:
                unknown("modifier", name)
            lexer.space()
            unchanged_since = lexer.number64()

        items(lexer, modifier)
        lexer.space()
    operation = "add" if lexer.skip(PLUS) else "remove" if lexer.skip(MINUS) else "set"
    name = lexer.word()
    if name not in ("FLAGS", "FLAGS.SILENT"):
        unknown("attribute", name)
    lexer.space()
    if lexer.is_at(OPEN):
        flags = lexer.flag_list()
    else:
        some = [lexer.flag()]
        while lexer.skip_space():
            some.append(lexer.flag())
        flags = tuple(some)
    return Store(tag, messages, operation, flags, name == "FLAGS.SILENT", is_uid, unchanged_since)


def copy(lexer: Lexer, tag: bytes, *, is_uid: bool = False, move: bool = False) -> Copy:
    """copy = "COPY" SP sequence-set SP mailbox; MOVE likewise (RFC 9051 §6.4.7, §6.4.8)."""
    lexer.space()
    messages = sequence_set(lexer)
    lexer.space()
    return Copy(tag, messages, mailbox(lexer), is_uid, move)


def move(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Copy:
    return copy(lexer, tag, is_uid=is_uid, move=True)


def expunge(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Expunge:
    """EXPUNGE; UID EXPUNGE SP sequence-set (RFC 9051 §6.4.9)."""
    if not is_uid:
        return Expunge(tag)
    lexer.space()
    return Expunge(tag, sequence_set(lexer))
