"""Compaction: a copy of what is in use takes the file's place. Only for a process that has the store alone."""

from __future__ import annotations

import os

import lmdb

from rusmes.errors import StoreError
from rusmes.storage.api import CompactResult
from rusmes.storage.lmdb.environment import Environment, translate
from rusmes.storage.spool import store_failure
from rusmes.storage.writeback import sync_directory


def compact_environment(environment: Environment) -> CompactResult:
    """Copy, sync, swap, sync the directory; a crash leaves the old file or the new one. Blocks.

    Raises:
        StoreError: another process has it open.
        StoreFull: no room for the copy.
    """
    if not environment.claim():
        raise StoreError(
            "the store is in use",
            f"another process has {environment.path} open: stop the server, or compact again when it is stopped",
        )
    path = environment.path
    copy = f"{path}.compact"
    before = _file_bytes(path)
    try:
        if os.path.exists(copy):
            os.unlink(copy)
        environment.copy_compact(copy)
        after = _file_bytes(copy)
        environment.replace(copy)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise store_failure(error, f"compacting {path}") from None
    except lmdb.Error as error:
        raise translate(error, f"compacting {path}") from None
    finally:
        if os.path.exists(copy):
            os.unlink(copy)
    return CompactResult(before, after)


def _file_bytes(path: str) -> int:
    """Bytes on the disk: the file may have holes."""
    return os.stat(path).st_blocks * 512
