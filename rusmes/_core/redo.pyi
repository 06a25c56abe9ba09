"""Records of the redo journal: what a transaction writes, as bytes. `rusmes.storage.lmdb.journal` says where they lie.

A record is a header, the writes, and zeros up to a whole page, so that no page is ever written twice with something in it
that was acknowledged. It names its epoch (a life of the store) and its transaction, so a record of another life or round is
never taken for it. A transaction that was made durable piece by piece has several parts.
"""

PAGE_BYTES: int
MAX_RECORD_BYTES: int

def encode(held: list[dict[bytes, bytes | None]], epoch: int, txn_id: int, part: int = 0) -> bytearray | None:
    """The record of a batch's held rows, without its checksum; None when it would be larger than MAX_RECORD_BYTES."""

def append(descriptor: int, record: bytearray, at: int) -> None:
    """Fill in the checksum, write and fdatasync(2), all without the GIL.

    Raises:
        OSError: nobody knows what is on the disk then.
    """

def transaction_at(data: bytes, at: int, epoch: int) -> tuple[int, int]:
    """The transaction and the part whose record seems to begin at an offset, (0, 0) when none of this epoch does; no checksum
    is looked at."""

def read(
    data: bytes, at: int, epoch: int, txn_id: int, part: int = 0
) -> tuple[int, list[tuple[int, bytes, bytes | None]]] | None:
    """Where the record ends, and its writes (table, key, value or None); None when it is not there whole."""

def checksum(data: bytes) -> int:
    """XXH64 with seed 0."""
