"""A body on its way in, as long as it is in memory. `rusmes.storage.spool` has a subclass for what is larger."""

from typing_extensions import disjoint_base

@disjoint_base
class Collector:
    """Keeps the pieces of a body, and finds the end of its header.

    A subclass
    1. sets `spill_above`: how many octets may be in memory after a `write`;
    2. has `spill()`, which is called when there are more, and may raise.
    """

    spill_above: int

    def write(self, data: bytes) -> None:
        """Add bytes. Raises what `spill` raises."""

    def take_chunks(self) -> bytes:
        """What is in memory, and is no longer afterwards."""

    @property
    def size(self) -> int:
        """Octets written so far."""

    @property
    def in_memory(self) -> int:
        """Octets of them that were not taken."""

    @property
    def header_bytes(self) -> int:
        """Octets up to the end of the first empty line; all of them when there is none (RFC 5322 §2.1)."""
