"""The rules of SEARCH, SORT, THREAD, ESEARCH and CANCELUPDATE (RFC 9051 §6.4.4, RFC 5256, RFC 7377, RFC 5267)."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final, TypeVar

from rusmes._core.imap import GrammarError, Lexer
from rusmes.imap.command import CancelUpdate, Search, SearchReturn, SearchSource, Sort, Thread
from rusmes.imap.dates import parse_day
from rusmes.imap.grammar_mailboxes import filter_mailboxes
from rusmes.imap.grammar_terms import CLOSE, OPEN, QUOTE, Impossible, ascii_text, items, partial_range, sequence_set, unknown
from rusmes.imap.limits import LIST_ITEMS, NESTING, SEARCH_KEYS
from rusmes.model import query as q

Found = TypeVar("Found")

_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")
_MAX_UID: Final = 0xFFFFFFFF

# Charsets

_CHARSETS: Final = (
    "ascii", "big5", "cp1", "cp4", "cp7", "cp8", "cp9", "euc_", "gb", "hz", "iso2022_", "iso8859", "koi8", "mac", "shift_jis",
    "tis_620", "utf-16", "utf-32", "utf-8",
)  # fmt: skip
"""Beginnings of the names of Python's codecs that are charsets of mail; others are no charsets (unicode_escape) or not ones
to decode what a stranger sends (idna is quadratic)."""

BAD_CHARSET: Final = b"BADCHARSET (US-ASCII UTF-8)"


def _decoder(name: str) -> Callable[[bytes], str]:
    """Texts of a search to Unicode.

    Raises:
        Impossible: not a charset we know.
    """
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        raise Impossible("unknown charset", BAD_CHARSET) from None
    if not codec.name.startswith(_CHARSETS):
        raise Impossible("unknown charset", BAD_CHARSET)
    # Clients that say US-ASCII, or nothing, and send UTF-8 are many; RFC 9051 §6.4.4 makes UTF-8 what is meant by nothing.
    codec = codecs.lookup("utf-8") if codec.name == "ascii" else codec

    def decode(raw: bytes) -> str:
        try:
            return codec.decode(raw, "strict")[0]
        except UnicodeError:
            raise Impossible("the text is not in the charset", BAD_CHARSET) from None

    return decode


_UTF8: Final = _decoder("utf-8")


# Commands


def search(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Search:
    """search = "SEARCH" [search-return-opts] SP search-program"""
    lexer.space()
    results = _results(lexer)
    charset, query = _program(lexer)
    return Search(tag, query, is_uid, results, charset)


def esearch(lexer: Lexer, tag: bytes) -> Search:
    """esearch = "ESEARCH" [SP esearch-source-opts] [SP search-return-opts] SP search-program (RFC 7377 §2.1, §4)."""
    lexer.space()
    # RFC 7377 §2.1: without sources it is the selected mailbox; and the answer names it.
    source = SearchSource((("selected", ()),))
    if _skip_word(lexer, "IN"):
        lexer.space()
        lexer.take(OPEN)
        filters = [filter_mailboxes(lexer)]
        while lexer.skip_space():
            if lexer.is_at(OPEN):
                # RFC 7377 §2.1: scope options, of which none is defined.
                raise GrammarError("unknown scope option")
            if len(filters) == LIST_ITEMS:
                raise GrammarError("too many sources")
            filters.append(filter_mailboxes(lexer))
        lexer.take(CLOSE)
        lexer.space()
        source = SearchSource(tuple(filters))
    results = _results(lexer)
    charset, query = _program(lexer)
    return Search(tag, query, True, results or SearchReturn(all=True), charset, source)


def sort(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Sort:
    """sort = "SORT" [search-return-opts] SP sort-criteria SP charset 1*(SP search-key) (RFC 5256 §5, RFC 5267 §5)."""
    lexer.space()
    results = _results(lexer)
    criteria = items(lexer, _criterion)
    lexer.space()
    charset, query = _charset_and_keys(lexer)
    return Sort(tag, criteria, query, charset, is_uid, results)


def thread(lexer: Lexer, tag: bytes, *, is_uid: bool = False) -> Thread:
    """thread = "THREAD" SP thread-alg SP charset 1*(SP search-key) (RFC 5256 §5)."""
    lexer.space()
    algorithm = lexer.word()
    if algorithm not in ("ORDEREDSUBJECT", "REFERENCES"):
        unknown("algorithm", algorithm)
    lexer.space()
    charset, query = _charset_and_keys(lexer)
    return Thread(tag, algorithm, query, charset, is_uid)


def cancel_update(lexer: Lexer, tag: bytes) -> CancelUpdate:
    """ "CANCELUPDATE" 1*(SP quoted) (RFC 5267 §4.3.3)."""
    lexer.space()
    tags = [lexer.string()]
    while lexer.skip_space():
        if len(tags) == LIST_ITEMS:
            raise GrammarError("too many tags")
        tags.append(lexer.string())
    return CancelUpdate(tag, tuple(tags))


_CRITERIA: Final = frozenset(
    {"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO", "RELEVANCY"}
)


def _criterion(lexer: Lexer) -> tuple[str, bool]:
    """sort-criterion = ["REVERSE" SP] sort-key"""
    word = lexer.word()
    is_reversed = word == "REVERSE"
    if is_reversed:
        lexer.space()
        word = lexer.word()
    if word not in _CRITERIA:
        unknown("criterion", word)
    return word, is_reversed


def _skip_word(lexer: Lexer, word: str) -> bool:
    """A word, if it is the next one."""
    end = lexer.at + len(word)
    if lexer.text[lexer.at : end].upper() != word.encode() or lexer.text[end : end + 1] != b" ":
        return False
    return lexer.word() == word


def _results(lexer: Lexer) -> SearchReturn | None:
    """search-return-opts = "RETURN" SP "(" [option *(SP option)] ")", and the space behind it."""
    if not _skip_word(lexer, "RETURN"):
        return None
    lexer.space()
    flags: dict[str, bool] = {}
    partial: tuple[int, int] | None = None

    def option(lexer: Lexer) -> None:
        nonlocal partial
        word = lexer.word()
        if word in ("MIN", "MAX", "ALL", "COUNT", "SAVE", "UPDATE", "CONTEXT", "RELEVANCY"):
            flags[word.lower()] = True
        elif word == "PARTIAL" and partial is None:
            lexer.space()
            partial = partial_range(lexer)
        else:
            unknown("return option", word)

    items(lexer, option, may_be_empty=True)
    if partial is not None and "all" in flags:
        # RFC 9394 §3.1: PARTIAL and ALL together are BAD.
        raise GrammarError("PARTIAL excludes ALL")
    if not flags and partial is None:
        # RFC 9051 §6.4.4: no option means ALL.
        flags["all"] = True
    lexer.space()
    return SearchReturn(partial=partial, **flags)


def _program(lexer: Lexer) -> tuple[str, q.Query]:
    """search-program = ["CHARSET" SP charset SP] search-key *(SP search-key)"""
    if _skip_word(lexer, "CHARSET"):
        if lexer.forbids_charset:
            # RFC 6855 §3: after ENABLE UTF8=ACCEPT it is BAD.
            raise GrammarError("no CHARSET after ENABLE UTF8=ACCEPT")
        lexer.space()
        return _charset_and_keys(lexer)
    return "US-ASCII", _Keys(_UTF8).program(lexer)


def _charset_and_keys(lexer: Lexer) -> tuple[str, q.Query]:
    charset = ascii_text(lexer.astring(), "a charset").upper()
    decode = _decoder(charset)
    lexer.space()
    return charset, _Keys(decode).program(lexer)


# Keys

_FIXED: Final[dict[str, q.Query]] = {
    "ALL": q.Everything(),
    "ANSWERED": q.HasFlag("\\Answered"),
    "DELETED": q.HasFlag("\\Deleted"),
    "DRAFT": q.HasFlag("\\Draft"),
    "FLAGGED": q.HasFlag("\\Flagged"),
    "RECENT": q.HasFlag("\\Recent"),
    "SEEN": q.HasFlag("\\Seen"),
    "UNANSWERED": q.Not(q.HasFlag("\\Answered")),
    "UNDELETED": q.Not(q.HasFlag("\\Deleted")),
    "UNDRAFT": q.Not(q.HasFlag("\\Draft")),
    "UNFLAGGED": q.Not(q.HasFlag("\\Flagged")),
    "UNSEEN": q.Not(q.HasFlag("\\Seen")),
    "NEW": q.And((q.HasFlag("\\Recent"), q.Not(q.HasFlag("\\Seen")))),
    "OLD": q.Not(q.HasFlag("\\Recent")),
    "SAVEDATESUPPORTED": q.SaveDateSupported(),
}
_ADDRESS_FIELDS: Final = frozenset({"BCC", "CC", "FROM", "SUBJECT", "TO"})
_DAYS: Final = {
    prefix + relation.upper(): (field, relation)
    for prefix, field in (("", "internal"), ("SENT", "sent"), ("SAVED", "saved"))
    for relation in ("before", "on", "since")
}


_WITH_ARGUMENT: Final = frozenset({
    *_ADDRESS_FIELDS, *_DAYS, "UID", "TEXT", "BODY", "HEADER", "KEYWORD", "UNKEYWORD", "LARGER", "SMALLER", "NOT", "OR",
    "OLDER", "YOUNGER", "MODSEQ", "UIDAFTER", "UIDBEFORE", "EMAILID", "THREADID", "FUZZY",
})  # fmt: skip


class _Keys:
    """The keys of one search; counts them and how deep they are nested."""

    __slots__ = ("_count", "_decode", "_depth")

    def __init__(self, decode: Callable[[bytes], str]) -> None:
        self._decode = decode
        self._count = 0
        self._depth = 0

    def program(self, lexer: Lexer) -> q.Query:
        keys = [self.key(lexer)]
        while lexer.skip_space():
            keys.append(self.key(lexer))
        return keys[0] if len(keys) == 1 else q.And(tuple(keys))

    def key(self, lexer: Lexer) -> q.Query:
        """search-key"""
        self._count += 1
        if self._count > SEARCH_KEYS:
            raise GrammarError("too many search keys")
        octet = lexer.peek()
        if 48 <= octet <= 57 or octet in (_STAR, _DOLLAR):
            return q.Numbers(sequence_set(lexer))
        if octet == OPEN:
            parts = self._deeper(lambda: items(lexer, self.key))
            return parts[0] if len(parts) == 1 else q.And(parts)
        word = lexer.word()
        fixed = _FIXED.get(word)
        if fixed is not None:
            return fixed
        if word not in _WITH_ARGUMENT:
            unknown("search key", word)
        lexer.space()
        return self._with_argument(lexer, word)

    def _deeper(self, take: Callable[[], Found]) -> Found:
        self._depth += 1
        if self._depth > NESTING:
            raise GrammarError("search keys are nested too deeply")
        found = take()
        self._depth -= 1
        return found

    def _with_argument(self, lexer: Lexer, word: str) -> q.Query:
        if word in _ADDRESS_FIELDS:
            return q.HeaderContains(word.capitalize(), self._decode(lexer.astring()))
        if word in _DAYS:
            field, relation = _DAYS[word]
            return q.DateIs(field, relation, parse_day(lexer.string() if lexer.is_at(QUOTE) else lexer.atom().encode()))
        match word:
            case "UID":
                return q.Uids(sequence_set(lexer))
            case "TEXT":
                return q.TextContains(self._decode(lexer.astring()))
            case "BODY":
                return q.BodyContains(self._decode(lexer.astring()))
            case "HEADER":
                name = ascii_text(lexer.astring(), "the name of a header field")
                lexer.space()
                return q.HeaderContains(name, self._decode(lexer.astring()))
            case "KEYWORD":
                return q.HasFlag(lexer.atom())
            case "UNKEYWORD":
                return q.Not(q.HasFlag(lexer.atom()))
            case "LARGER":
                return q.SizeAbove(lexer.number64())
            case "SMALLER":
                return q.SizeBelow(lexer.number64())
            case "NOT":
                return q.Not(self._deeper(lambda: self.key(lexer)))
            case "OR":
                return self._deeper(lambda: self._either(lexer))
            case _:
                return self._of_extensions(lexer, word)

    def _either(self, lexer: Lexer) -> q.Query:
        first = self.key(lexer)
        lexer.space()
        return q.Or((first, self.key(lexer)))

    def _of_extensions(self, lexer: Lexer, word: str) -> q.Query:
        match word:
            case "OLDER":  # RFC 5032 §4
                return q.OlderThan(lexer.nz_number())
            case "YOUNGER":
                return q.YoungerThan(lexer.nz_number())
            case "MODSEQ":
                return _modseq(lexer)
            case "UIDAFTER":  # RFC 9738 §3.5
                number = lexer.nz_number()
                return q.Uids(q.SequenceSet(((number + 1, _MAX_UID),))) if number < _MAX_UID else q.Uids(q.SequenceSet())
            case "UIDBEFORE":
                number = lexer.nz_number()
                return q.Uids(q.SequenceSet(((1, number - 1),))) if number > 1 else q.Uids(q.SequenceSet())
            case "EMAILID":  # RFC 8474 §6
                return q.EmailIdIs(lexer.atom())
            case "THREADID":
                return q.ThreadIdIs(lexer.atom())
            case "FUZZY":  # RFC 6203 §7
                return q.Fuzzy(self._deeper(lambda: self.key(lexer)))
            case _:
                unknown("search key", word)


def _modseq(lexer: Lexer) -> q.Query:
    """ "MODSEQ" [SP entry-name SP entry-type-req] SP mod-sequence-valzer (RFC 7162 §3.1.5).

    The entry is taken and has no effect: there is one mod-sequence for all flags of a message, as §3.1.5 allows.
    """
    if lexer.is_at(QUOTE):
        if not lexer.string().lower().startswith(b"/flags/"):
            raise GrammarError("not the name of an entry")
        lexer.space()
        kind = lexer.word()
        if kind not in ("PRIV", "SHARED", "ALL"):
            unknown("entry type", kind)
        lexer.space()
    return q.ModifiedSince(lexer.number64())
