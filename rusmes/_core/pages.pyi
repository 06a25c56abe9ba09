"""Reading LMDB's pages from a map of the file: many keys in one go, without the GIL and without an object for any of them.

The binding gives the GIL away for each key, and makes two buffers of it. A transaction of the binding is open all the time:
it keeps the pages of its snapshot from being used again. What is read is LMDB 0.9's format (data version 1, 64 bits, as the
machine writes numbers); every page number and offset is checked before it is followed. Where anything does not fit there is
no snapshot, or no value: whoever asks then asks the binding.
"""

from typing import Any, final

@final
class Snapshot:
    """The snapshot of the transaction with this id, in a map of the whole file, which it keeps open.

    Raises:
        ValueError: the pages are not as expected, or the map is shorter than the snapshot, or two transactions came after it.
    """

    def __new__(cls, mapped: Any, txn_id: int) -> Snapshot: ...
    def table(self, name: bytes) -> Table:
        """Raises KeyError."""

@final
class Table:
    """One table, whose keys are compared octet by octet and have one value each."""

    def get(self, key: bytes) -> bytes | None: ...
