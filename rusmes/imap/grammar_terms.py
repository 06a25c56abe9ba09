"""What the rules of many commands are made of (RFC 9051 §9): mailboxes, sets, lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from rusmes._core.imap import GrammarError, Lexer
from rusmes.errors import PeerError
from rusmes.imap.limits import LIST_ITEMS, SET_RANGES
from rusmes.imap.names import decode_name
from rusmes.model.query import SequenceSet

Term = TypeVar("Term")

OPEN: Final = ord("(")
CLOSE: Final = ord(")")
QUOTE: Final = ord('"')
LITERAL: Final = 0
COLON: Final = ord(":")
MINUS: Final = ord("-")
PLUS: Final = ord("+")
SLASH: Final = ord("/")
TILDE: Final = ord("~")

SAVED_RESULT: Final = SequenceSet(saved=True)


class Impossible(PeerError):
    """Grammar, but it cannot be done: NO with a code."""

    def __init__(self, public: str, code: bytes) -> None:
        super().__init__(public)
        self.code = code


def mailbox(lexer: Lexer) -> str:
    """mailbox = "INBOX" / astring. Raises BadName."""
    return decode_name(lexer.astring(), is_utf8=lexer.is_utf8)


def sequence_set(lexer: Lexer) -> SequenceSet:
    ranges = lexer.sequence_set(SET_RANGES)
    return SAVED_RESULT if ranges is None else SequenceSet(ranges)


def items(lexer: Lexer, take: Callable[[Lexer], Term], *, may_be_empty: bool = False) -> tuple[Term, ...]:
    """ "(" item *(SP item) ")" """
    lexer.take(OPEN)
    if may_be_empty and lexer.skip(CLOSE):
        return ()
    found: list[Term] = []
    while True:
        if len(found) == LIST_ITEMS:
            raise GrammarError("too many items in a list")
        found.append(take(lexer))
        if lexer.skip(CLOSE):
            return tuple(found)
        lexer.space()


def item_or_items(lexer: Lexer, take: Callable[[Lexer], Term]) -> tuple[Term, ...]:
    """item / "(" item *(SP item) ")" """
    return items(lexer, take) if lexer.is_at(OPEN) else (take(lexer),)


def partial_range(lexer: Lexer) -> tuple[int, int]:
    """RFC 9394 §4: 1:100 or -1:-100, either end first; the one nearer to the beginning (or the end) comes first here."""
    is_from_end = lexer.skip(MINUS)
    first = lexer.nz_number()
    lexer.take(COLON)
    if is_from_end:
        lexer.take(MINUS)
    last = lexer.nz_number()
    low, high = min(first, last), max(first, last)
    return (-low, -high) if is_from_end else (low, high)


def ascii_text(raw: bytes, what: str) -> str:
    """A name that is only defined in US-ASCII."""
    if not raw.isascii():
        raise GrammarError(f"octets above 127 in {what}")
    return raw.decode("ascii")


def unknown(what: str, name: str) -> NoReturn:
    raise GrammarError(f"unknown {what} {name}" if len(name) <= 32 else f"unknown {what}")
