"""Threads as RFC 5256 §3 has them, in plain lists and with recursion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rusmes.search.threads import Threadable

Tree = list[Any]
"""[index of the message or None, children]"""


def by_subject(messages: Sequence[Threadable]) -> list[Any]:
    """(uid, children) pairs."""
    subjects = {message.subject for message in messages}
    threads = []
    for subject in subjects:
        found = [(message.sent, at, message.uid) for at, message in enumerate(messages) if message.subject == subject]
        threads.append(sorted(found))
    return [(thread[0][2], [(uid, []) for _, _, uid in thread[1:]]) for thread in sorted(threads)]


def by_references(messages: Sequence[Threadable]) -> list[Any]:
    parent = _parents(messages)
    trees = [_tree(id, parent) for id, above in parent.items() if above is None]
    trees = [pruned for tree in trees for pruned in _pruned(tree, is_top=True)]
    for tree in trees:
        if tree[0] is None:
            tree[1].sort(key=lambda child: _date(child, messages))
    trees.sort(key=lambda tree: _date(tree, messages))
    trees = _gathered(trees, messages)
    _sorted(trees, messages)
    return [_value(tree, messages) for tree in trees]


def _parents(messages: Sequence[Threadable]) -> dict[Any, Any]:
    """Step 1. A message is known by its index, a missing one by its Message-ID."""
    index: dict[bytes, int] = {}
    for at, message in enumerate(messages):
        if message.message_id:
            index.setdefault(message.message_id, at)
    parent: dict[Any, Any] = {}

    def is_below(id: Any, other: Any) -> bool:
        return id == other or (parent.get(id) is not None and is_below(parent[id], other))

    # Only messages that came before are there; one that comes later is a dummy until then, under the same name.
    for at, message in enumerate(messages):
        parent.setdefault(at, None)
        names = [index.get(reference, reference) for reference in message.references]
        for name in names:
            parent.setdefault(name, None)
        for above, name in pairwise(names):
            if parent[name] is None and not is_below(above, name):
                parent[name] = above
        if not names:
            parent[at] = None
        elif not is_below(names[-1], at):
            parent[at] = names[-1]
    return parent


def _tree(id: Any, parent: dict[Any, Any]) -> Tree:
    return [id if isinstance(id, int) else None, [_tree(child, parent) for child, above in parent.items() if above == id]]


def _pruned(tree: Tree, *, is_top: bool) -> list[Tree]:
    """Step 3: what stands in the place of the tree."""
    message, children = tree
    children = [kept for child in children for kept in _pruned(child, is_top=False)]
    if message is None and (not is_top or len(children) < 2):
        return children
    return [[message, children]]


def _first(tree: Tree) -> int:
    return tree[0] if tree[0] is not None else _first(tree[1][0])


def _date(tree: Tree, messages: Sequence[Threadable]) -> tuple[float, int]:
    first = _first(tree)
    return messages[first].sent, first


def _gathered(trees: list[Tree], messages: Sequence[Threadable]) -> list[Tree]:
    """Step 5."""

    def subject(tree: Tree) -> bytes:
        return messages[_first(tree)].subject

    def is_reply(tree: Tree) -> bool:
        return tree[0] is not None and messages[tree[0]].is_reply

    table: dict[bytes, Tree] = {}
    for tree in trees:
        if not subject(tree):
            continue
        there = table.get(subject(tree))
        if there is None or (there[0] is not None and (tree[0] is None or (is_reply(there) and not is_reply(tree)))):
            table[subject(tree)] = tree
    result = list(trees)
    for tree in trees:
        name = subject(tree)
        if not name or table[name] is tree:
            continue
        there = table[name]
        if there[0] is None and tree[0] is None:
            there[1] += tree[1]
        elif there[0] is None or (is_reply(tree) and not is_reply(there)):
            there[1].append(tree)
        else:
            dummy = [None, [there, tree]]
            result = [other for other in result if other is not there]
            result.append(dummy)
            table[name] = dummy
        result = [other for other in result if other is not tree]
    return result


def _sorted(trees: list[Tree], messages: Sequence[Threadable]) -> None:
    """Step 6."""
    for tree in trees:
        _sorted(tree[1], messages)
    trees.sort(key=lambda tree: _date(tree, messages))


def _value(tree: Tree, messages: Sequence[Threadable]) -> Any:
    return (messages[tree[0]].uid if tree[0] is not None else 0, [_value(child, messages) for child in tree[1]])
