"""Messages in threads (RFC 5256 §3): ORDEREDSUBJECT and REFERENCES, step by step as the RFC has them.

Nothing here recurses: threads made of thousands of answers to answers exist.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from rusmes.search.api import Threads

# Of more references the youngest count: nobody shall make us follow what nobody can read.
MAX_REFERENCES: Final = 200
# A link is not made when this many steps up do not show that it makes no loop. Real threads are some hundred deep.
MAX_DEPTH: Final = 1000


class Threadable(Struct):
    """What threading looks at of one message; they are given in mailbox order, which decides where dates are equal."""

    uid: int
    sent: float
    subject: bytes
    """The base subject, folded."""
    is_reply: bool
    message_id: bytes
    """Without its brackets and quotes; b"" without a valid one."""
    references: Sequence[bytes]
    """The oldest first; the one of In-Reply-To when there are no References."""


def by_subject(messages: Sequence[Threadable]) -> Threads:
    """ORDEREDSUBJECT: "poor man's threading". All answers are children of the first message."""
    threads: dict[bytes, list[Threadable]] = {}
    for message in sorted(messages, key=_sent):  # stable: equal dates stay in mailbox order
        threads.setdefault(message.subject, []).append(message)
    # A dictionary keeps the order in which subjects were met, which is that of the first messages' dates.
    found = Threads(array("I"), array("I"))
    for thread in threads.values():
        found.uids.extend(message.uid for message in thread)
        found.counts.append(len(thread) - 1)
        found.counts.extend([0] * (len(thread) - 1))
    return found


def _sent(message: Threadable) -> float:
    return message.sent


class _Node:
    """A message, or a dummy for one that is not there."""

    __slots__ = ("children", "message", "order", "parent")

    def __init__(self, message: Threadable | None = None, order: int = 0) -> None:
        self.message = message
        self.order = order
        self.parent: _Node | None = None
        self.children: dict[_Node, None] = {}
        """In the order in which they came; a dictionary, so that one goes without a search."""

    def adopt(self, child: _Node) -> None:
        self.children[child] = None
        child.parent = self

    def leave(self) -> None:
        if self.parent is not None:
            del self.parent.children[self]
            self.parent = None

    def first(self) -> _Node:
        """What stands for it: itself, or of a dummy the first child."""
        return self if self.message is not None else next(iter(self.children))

    def date(self) -> tuple[float, int]:
        first = self.first()
        return (first.message.sent if first.message is not None else 0.0, first.order)

    def subject(self) -> bytes:
        message = self.first().message
        return message.subject if message is not None else b""

    def is_reply(self) -> bool:
        return self.message is not None and self.message.is_reply


def by_references(messages: Sequence[Threadable]) -> Threads:
    """REFERENCES."""
    roots = [node for node in _linked(messages) if node.parent is None]  # steps 1 and 2
    heads = _pruned(roots)
    _sort(heads)  # step 4, and the children of dummies
    merged = _merged(heads)
    _sort_all(merged)
    return _values(merged)


# Step 1: links


def _linked(messages: Sequence[Threadable]) -> Iterable[_Node]:
    by_id: dict[bytes, _Node] = {}
    nodes: list[_Node] = []
    for order, message in enumerate(messages):
        node = by_id.get(message.message_id) if message.message_id else None
        if node is None or node.message is not None:
            # No valid id, or one that an earlier message has: it gets one of its own, which nobody refers to.
            node = _Node()
            nodes.append(node)
            if message.message_id:
                by_id.setdefault(message.message_id, node)
        node.message, node.order = message, order
        _link(node, message.references, by_id, nodes)
    return nodes


def _link(node: _Node, references: Sequence[bytes], by_id: dict[bytes, _Node], nodes: list[_Node]) -> None:
    previous: _Node | None = None
    for reference in references[-MAX_REFERENCES:]:  # 1.A
        current = by_id.get(reference)
        if current is None:
            current = by_id[reference] = _Node()
            nodes.append(current)
        if previous is not None and current.parent is None and not _is_below(previous, current):
            previous.adopt(current)
        previous = current
    if previous is not node.parent:  # 1.B
        if previous is None:
            node.leave()
        elif not _is_below(previous, node):
            node.leave()
            previous.adopt(node)


def _is_below(node: _Node, other: _Node) -> bool:
    """Whether `node` is `other` or a descendant of it, or so deep that it may be."""
    if node is other or not other.children:
        return node is other
    at: _Node | None = node
    for _ in range(MAX_DEPTH):
        if at is None or at is other:
            break
        at = at.parent
    return at is not None


# Step 3: dummies


def _pruned(roots: list[_Node]) -> list[_Node]:
    """The threads without dummies, but for those at the top that have more than one child."""
    for node in _bottom_up(roots):
        if all(child.message is not None for child in node.children):
            continue
        children, node.children = node.children, {}
        for child in children:
            # A dummy's own dummies are gone already: what is left of it comes up into its place.
            for kept in (child,) if child.message is not None else child.children:
                node.adopt(kept)
    heads: list[_Node] = []
    for root in roots:
        if root.message is not None or len(root.children) > 1:
            heads.append(root)
        else:
            for child in root.children:
                child.parent = None
                heads.append(child)
    return heads


def _bottom_up(roots: Iterable[_Node]) -> Iterator[_Node]:
    """Every node, after all that are below it."""
    stack, order = list(roots), []
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(node.children)
    return reversed(order)


# Steps 4 and 6: dates


def _sort(heads: list[_Node]) -> None:
    for head in heads:
        if head.message is None:
            _sort_children(head)
    heads.sort(key=_Node.date)


def _sort_children(node: _Node) -> None:
    if len(node.children) > 1:
        node.children = dict.fromkeys(sorted(node.children, key=_Node.date))


def _sort_all(heads: list[_Node]) -> None:
    for node in _bottom_up(heads):
        _sort_children(node)
    heads.sort(key=_Node.date)


# Step 5: subjects


def _merged(heads: list[_Node]) -> list[_Node]:
    table: dict[bytes, _Node] = {}
    for head in heads:  # 5.B
        subject = head.subject()
        if not subject:
            continue
        there = table.get(subject)
        if there is None or (
            there.message is not None and (head.message is None or (there.is_reply() and not head.is_reply()))
        ):
            table[subject] = head
    merged: dict[_Node, None] = dict.fromkeys(heads)
    for head in heads:  # 5.C
        subject = head.subject()
        there = table.get(subject) if subject else None
        if there is None or there is head or head.parent is there:
            continue
        if there.message is None:
            for node in list(head.children) if head.message is None else [head]:
                there.adopt(node)
            del merged[head]
        elif head.is_reply() and not there.is_reply():
            there.adopt(head)
            del merged[head]
        else:
            dummy = _Node()
            del merged[there], merged[head]
            dummy.adopt(there)
            dummy.adopt(head)
            merged[dummy] = None
            table[subject] = dummy
    return list(merged)


def _values(heads: list[_Node]) -> Threads:
    found = Threads(array("I"), array("I"))
    stack = heads[::-1]
    while stack:
        node = stack.pop()
        found.uids.append(node.message.uid if node.message is not None else 0)
        found.counts.append(len(node.children))
        if node.children:
            stack.extend(reversed(node.children))
    return found
