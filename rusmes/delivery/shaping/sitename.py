"""A set of hosts as one name: "(alt1|alt2).mx.example.net".

What hosts have in common from the right is written once. The name says exactly which hosts they are, so two sets never share
one: "x?." is a label that is there or not, "(a|b)" one of both, and hosts that have nothing in common are joined with ",".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from zlib import crc32

MAX_NAME: Final = 200
"""Characters: a name is a key in the table of limits, in the ledger and in logs."""

_HERE: Final = ""
"""In a node of the tree: a host ends here."""


def site_name(hosts: Iterable[str]) -> str:
    """The name of a set of hosts; the same for every order of them."""
    tree: dict[str, Any] = {}
    for host in hosts:
        node = tree
        for label in reversed(host.split(".")):
            node = node.setdefault(label, {})
        node[_HERE] = {}
    return bounded(",".join(sorted(_written(label, node) for label, node in tree.items())))


def bounded(name: str) -> str:
    """A name of at most `MAX_NAME` characters; long ones end in a checksum."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 40]}#{crc32(name.encode()):08x}"


def _written(label: str, node: dict[str, Any]) -> str:
    """All hosts below a label, and itself if it is one."""
    more = sorted(_written(other, below) for other, below in node.items() if other != _HERE)
    if not more:
        return label
    if _HERE in node:
        return f"({'|'.join(more)})?.{label}"
    return f"{more[0]}.{label}" if len(more) == 1 else f"({'|'.join(more)}).{label}"
