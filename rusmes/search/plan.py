"""A query as a tree of questions. Columns answer some for all messages at once; the others stay open until somebody reads.

The tree is evaluated with three values. For each node there are the rows for which it is surely true, and those for which it
may be: an open question is surely true for none, and may be for all. What lies between the two is looked at, one kind of open
question after the other, the cheapest first; so a message that a flag rules out is never read, whatever the order the client
wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from rusmes._core.textscan import BODY, HEADER, MAX_TERMS, TEXT
from rusmes._core.view import Mask
from rusmes.mime.fields import CACHED_NAMES
from rusmes.model import query as q
from rusmes.model.ids import ID_BYTES, parse_id
from rusmes.search.api import Scope, TooComplex

# Real queries have a dozen; a client that searches for a hundred UIDs or flags one by one still fits.
MAX_NODES: Final = 1000
MAX_DEPTH: Final = 100
# All texts together; each of them is compared with every message that is read.
MAX_TEXT_BYTES: Final = 8192

EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DAY_SECONDS: Final = 86400.0
_BITS: Final = {"\\seen": 1, "\\answered": 2, "\\flagged": 4, "\\deleted": 8, "\\draft": 16}
"""The columns' system bits (`MailboxRows`)."""

SENT, SAVED, THREAD = "sent", "saved", "thread"
"""Kinds of open questions that are answered from rows of the store."""
CHEAP_TEXT, DEAR_TEXT = "header", "message"
"""Texts in fields that the store keeps at hand, and texts for which messages are read."""
STAGES: Final = (SAVED, THREAD, SENT, CHEAP_TEXT, DEAR_TEXT)
"""The cheapest first."""


class Question(Struct, frozen=True):
    """An open one; `kind` is one of STAGES."""

    kind: str
    relation: str = ""
    """Of a day: before | on | since."""
    day: int = 0
    thread_id: bytes = b""
    where: int = 0
    """Of a text: HEADER, TEXT or BODY of `_core.textscan`."""
    name: bytes = b""
    text: str = ""

    def holds(self, day: int) -> bool:
        """Whether a day is before, on, or since."""
        return day < self.day if self.relation == "before" else day == self.day if self.relation == "on" else day >= self.day


class Values(Protocol):
    """What trees are evaluated over: masks of rows, or numbers with a bit (in an octet) for each row."""

    def __and__(self: V, other: V, /) -> V: ...
    def __or__(self: V, other: V, /) -> V: ...


V = TypeVar("V", bound=Values)
Bounds = tuple[V, V]
"""Surely true, perhaps true."""


class Node(Struct):
    """`operator` is and | or | not | known | open."""

    operator: str
    parts: list[Node]
    mask: Mask | None = None
    question: int = -1
    """Of an open node its place in `Plan.questions`."""


class Plan(Struct):
    root: Node
    questions: list[Question]


class _Planner:
    def __init__(self, scope: Scope, now: float) -> None:
        self.scope = scope
        self.rows = scope.rows
        self.now = now
        self.questions: dict[Question, int] = {}
        self.count = 0
        self.text_bytes = 0
        self.text_count = 0

    def node(self, query: q.Query, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise TooComplex("too many search keys", f"more than {MAX_NODES}, or deeper than {MAX_DEPTH}")
        if isinstance(query, q.And | q.Or):
            return Node("and" if isinstance(query, q.And) else "or", [self.node(part, depth + 1) for part in query.parts])
        if isinstance(query, q.Not):
            return Node("not", [self.node(query.part, depth + 1)])
        if isinstance(query, q.Fuzzy):  # RFC 6203: without an index nothing is fuzzy
            return self.node(query.part, depth + 1)
        made = _MAKERS[type(query)](self, query)
        return made if isinstance(made, Node) else Node("known", [], made)

    def open(self, question: Question) -> Node:
        return Node("open", [], None, self.questions.setdefault(question, len(self.questions)))

    def all(self) -> Mask:
        return Mask(self.rows, 1)

    def none(self) -> Mask:
        return Mask(self.rows)

    def text(self, where: int, name: str, text: str) -> Node | Mask:
        if where != HEADER and not text:
            return self.all()
        field = name.lower().encode("utf-8", "surrogatepass")
        kind = CHEAP_TEXT if where == HEADER and field in CACHED_NAMES else DEAR_TEXT
        question = Question(kind, where=where, name=field, text=text)
        if question not in self.questions:
            self.text_count += 1
            self.text_bytes += len(text.encode("utf-8", "surrogatepass"))
            if self.text_count > MAX_TERMS or self.text_bytes > MAX_TEXT_BYTES:
                raise TooComplex("too many texts to search for", f"more than {MAX_TERMS}, or than {MAX_TEXT_BYTES} octets")
        return self.open(question)

    def date(self, query: q.DateIs) -> Node | Mask:
        if query.field != "internal":
            return self.open(Question(SENT if query.field == "sent" else SAVED, query.relation, query.day))
        # The server shows internal dates in UTC, so days are those of UTC.
        begin = (query.day - EPOCH_DAY) * _DAY_SECONDS
        if query.relation == "before":
            return self.rows.mask_dates(before=begin)
        if query.relation == "on":
            return self.rows.mask_dates(since=begin, before=begin + _DAY_SECONDS)
        return self.rows.mask_dates(since=begin)

    def flag(self, query: q.HasFlag) -> Mask:
        folded = query.flag.lower()
        if folded == "\\recent":
            return self.scope.recent() if self.scope.recent is not None else self.none()
        if folded.startswith("\\"):
            bit = _BITS.get(folded, 0)
            return self.rows.mask_flags(bit, bit) if bit else self.none()
        return self.rows.mask_keyword(query.flag)

    def numbers(self, query: q.Numbers) -> Mask:
        if query.set.saved:
            return self.rows.mask_uids([(uid, uid) for uid in self.scope.saved])
        if self.scope.by_numbers is None:
            return self.none()
        return self.scope.by_numbers(query.set.resolve(self.scope.largest_number))

    def uids(self, query: q.Uids) -> Mask:
        if query.set.saved:
            return self.rows.mask_uids([(uid, uid) for uid in self.scope.saved])
        return self.rows.mask_uids(query.set.resolve(self.scope.largest_uid))

    def email(self, query: q.EmailIdIs) -> Mask:
        id = _id_of(query.id)
        return self.rows.mask_email(id) if id is not None else self.none()

    def thread(self, query: q.ThreadIdIs) -> Node | Mask:
        id = _id_of(query.id)
        return self.open(Question(THREAD, thread_id=id)) if id is not None else self.none()


def _id_of(text: str) -> bytes | None:
    try:
        id = parse_id(text)
    except ValueError:
        return None
    return id if len(id) == ID_BYTES else None


# RFC 5032 §3: both ends belong to what is asked for.
_MAKERS: Final[dict[type[q.Query], Callable[[_Planner, Any], Node | Mask]]] = {
    q.Everything: lambda p, x: p.all(),
    q.Numbers: lambda p, x: p.numbers(x),
    q.Uids: lambda p, x: p.uids(x),
    q.HasFlag: lambda p, x: p.flag(x),
    q.HeaderContains: lambda p, x: p.text(HEADER, x.name, x.text),
    q.TextContains: lambda p, x: p.text(TEXT, "", x.text),
    q.BodyContains: lambda p, x: p.text(BODY, "", x.text),
    q.SizeAbove: lambda p, x: p.rows.mask_sizes(above=min(x.size, 1 << 62)),
    q.SizeBelow: lambda p, x: p.rows.mask_sizes(below=min(x.size, 1 << 62)),
    q.DateIs: lambda p, x: p.date(x),
    q.YoungerThan: lambda p, x: p.rows.mask_dates(since=p.now - x.seconds),
    q.OlderThan: lambda p, x: p.rows.mask_dates(before=p.now - x.seconds + 1),
    q.ModifiedSince: lambda p, x: p.rows.mask_modseq(min(x.modseq, (1 << 64) - 1)),
    q.EmailIdIs: lambda p, x: p.email(x),
    q.ThreadIdIs: lambda p, x: p.thread(x),
    q.SaveDateSupported: lambda p, x: p.all(),
}


def plan(scope: Scope, query: q.Query, now: float) -> Plan:
    """Answer what the columns can; good until the rows change.

    Raises:
        TooComplex
    """
    planner = _Planner(scope, now)
    root = planner.node(query, 0)
    return Plan(root, list(planner.questions))


def evaluate(
    node: Node,
    known: Callable[[Mask], V],
    opened: Callable[[int], Bounds[V]],
    invert: Callable[[V], V],
    everything: V,
    nothing: V,
) -> Bounds[V]:
    """The rows for which the tree is surely true, and those for which it may be."""
    if node.operator == "known":
        assert node.mask is not None
        value = known(node.mask)
        return value, value
    if node.operator == "open":
        return opened(node.question)
    bounds = [evaluate(part, known, opened, invert, everything, nothing) for part in node.parts]
    if node.operator == "not":
        [(surely, perhaps)] = bounds
        return invert(perhaps), invert(surely)
    surely, perhaps = (everything, everything) if node.operator == "and" else (nothing, nothing)
    for one_surely, one_perhaps in bounds:
        if node.operator == "and":
            surely, perhaps = surely & one_surely, perhaps & one_perhaps
        else:
            surely, perhaps = surely | one_surely, perhaps | one_perhaps
    return surely, perhaps
