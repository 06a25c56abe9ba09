"""Pools: which source has the next mail.

Smooth weighted round robin (nginx): every source gains its weight, the one with most gives the sum of all back and has the
mail. With weights 3 and 1 that is a a b a, not a a a b. In a sticky pool the tenant's name decides (rendezvous hashing with
weights): the same source every time, on every worker, and when it does not work, only its tenants move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from rusmes.delivery.egress.sources import Source


class Pool:
    """Sources that share work."""

    def __init__(self, name: str, members: Mapping[str, int], sources: Mapping[str, Source], *, sticky: bool = False) -> None:
        self.name = name
        self.sticky = sticky
        self.sources = [sources[member] for member in members]
        self.weights = list(members.values())
        self._gained = [0] * len(self.sources)

    def choose(self, may_use: Callable[[Source], bool], tenant: str = "") -> Source | None:
        """The next source of those that may be used; None: there is none."""
        if self.sticky and tenant:
            return max(
                (source for source in self.sources if may_use(source)),
                key=lambda source: self._rank(source, tenant),
                default=None,
            )
        gained, weights = self._gained, self.weights
        left: Sequence[int] = range(len(gained))
        while left:
            best = max(left, key=lambda index: gained[index] + weights[index])
            if may_use(self.sources[best]):
                break
            gained[best] = 0  # what cannot be used gathers no right to a burst
            left = [index for index in left if index != best]
        else:
            return None
        total = 0
        for index in left:
            gained[index] += weights[index]
            total += weights[index]
        gained[best] -= total
        return self.sources[best]

    def _rank(self, source: Source, tenant: str) -> float:
        digest = blake2b(f"{tenant}\0{source.name}".encode(), digest_size=8).digest()
        chance = (int.from_bytes(digest) + 1) / (2**64 + 2)
        return -self.weights[self.sources.index(source)] / math.log(chance)
