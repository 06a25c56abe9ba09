"""Bringing a store back that was not closed: the last checkpoint, and what the journal says happened after it.

After a kill the data file is as LMDB left it; after a power loss it is any mixture of pages that were written since the
last checkpoint, and LMDB's own meta pages may name trees of which half is missing. Nobody can tell the one from the other,
so both go the same way:

1. LMDB's meta page of the checkpoint is written over both meta pages. Its tree is whole: its pages were synced, and no page
   it reaches has been reused since (`checkpoint` has the rules).
2. The journal's records from there on are applied in one transaction.
3. The data file is synced, and the checkpoint after it is marked clean.

A crash in between changes nothing: the old checkpoint and the records stay until the new one is written.

Records name tables by their numbers, so a version may add tables at the end of `MAIL_TABLES` and `QUEUE_TABLES`, and
nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import lmdb
from msgspec.structs import replace

from rusmes.errors import StoreCorrupt
from rusmes.storage.lmdb.datafile import Mark, Meta, newest_meta, parse_meta, read_mark, read_metas, write_mark, write_metas
from rusmes.storage.lmdb.journal import RING_START, Journal, Slot, sync_data

GROWTH_FACTOR: Final = 2


def recover(path: str, tables: Sequence[bytes], journal: Journal, map_size: int) -> int:
    """Make the store clean; how many records were done again. The caller has it alone and holds the journal's lock.

    Raises:
        StoreCorrupt: data file and journal do not belong together, or one of them is damaged.
        OSError, lmdb.Error
    """
    slot = journal.newest_slot()
    is_used = slot is not None and not slot.is_clean
    if not os.path.exists(path) or not os.path.getsize(path):
        if is_used:
            raise StoreCorrupt(
                "the store is gone", f"{path} is missing beside {journal.path}; remove the journal too to begin anew"
            )
        return 0
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mark = read_mark(descriptor)
        if slot is None or slot.is_clean:
            if mark.is_open and (slot is None or slot.identity != mark.identity):
                raise StoreCorrupt("the journal is missing", f"{path} was in use, and {journal.path} is not its journal")
            return 0
        _check_belonging(descriptor, path, mark, slot)
        write_metas(descriptor, parse_meta(slot.meta, path))
        count, meta = _replay(descriptor, path, tables, journal, slot, map_size)
        write_mark(descriptor, Mark(slot.identity, False))
        sync_data(descriptor)
        journal.write_slot(
            replace(slot, sequence=slot.sequence + 1, is_clean=True, txn_id=meta.txn_id, offset=RING_START, meta=meta.raw)
        )
        return count
    finally:
        os.close(descriptor)


def _check_belonging(descriptor: int, path: str, mark: Mark, slot: Slot) -> None:
    """Nothing is written before this has been asked."""
    if mark.identity != slot.identity:
        raise StoreCorrupt("the journal is another file's", f"{path} and {path}.journal were not copied together")
    checkpoint = parse_meta(slot.meta, path)
    metas = read_metas(descriptor, path)
    if checkpoint.page_bytes != metas[0].page_bytes:
        raise StoreCorrupt("the journal is another file's", f"{path} has other pages than {path}.journal")
    if max(meta.txn_id for meta in metas) < slot.txn_id:
        raise StoreCorrupt("the store is older than its journal", f"{path} and {path}.journal were not copied together")


def _replay(
    descriptor: int, path: str, tables: Sequence[bytes], journal: Journal, slot: Slot, map_size: int
) -> tuple[int, Meta]:
    """All in one transaction: LMDB reuses nothing that the transaction before it reaches, which is the checkpoint's."""
    while True:
        # readahead as in `environment`; the caller's locks keep everybody else out.
        env = lmdb.open(path, subdir=False, map_size=map_size, max_dbs=len(tables), mode=0o600, sync=False, readahead=False)
        try:
            count = 0
            with env.begin(write=True) as txn:
                handles = [env.open_db(name, txn=txn) for name in tables]
                for rows in journal.records_after(slot):
                    for table, key, value in rows:
                        if value is None:
                            txn.delete(key, db=handles[table])
                        else:
                            txn.put(key, value, db=handles[table])
                    count += 1
            return count, newest_meta(descriptor, path)
        except lmdb.MapFullError:
            map_size = env.info()["map_size"] * GROWTH_FACTOR
        finally:
            env.close()
