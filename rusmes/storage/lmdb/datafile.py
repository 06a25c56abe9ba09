"""The beginning of an LMDB data file, as bytes: its two meta pages, and a mark of our own between them.

LMDB keeps the roots of its trees in pages 0 and 1: transaction N writes page N & 1, and the higher number counts. A meta
page is 152 bytes long; LMDB never looks at the rest. At `MARK_AT` in page 0 we keep whose journal the file belongs to, and
whether it was closed, so that a file without its journal, or beside another one's, is not taken for whole.

The layout is that of LMDB 0.9 (data version 1, `mdb.c`: struct MDB_meta) on 64 bits. Anything else is refused before it is
touched.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final

from msgspec import Struct

from rusmes.errors import StoreCorrupt

META_BYTES: Final = 152
MARK_AT: Final = 2048
IDENTITY_BYTES: Final = 16
_NUMBER: Final = struct.Struct("=Q")
_MAGIC: Final = 0xBEEFC0DE
_MAGIC_AT_OF_OTHERS: Final = 24
_VERSION: Final = 1
_IS_META: Final = 0x08
# Page number 8, padding 2, flags 2, bounds 4; magic 4, version 4, address 8, map size 8; tree of free pages, which begins
# with the page size 4, and main tree 48 each; last page 8, transaction 8.
_META: Final = struct.Struct("=Q2xH4xII16xI44x48xQQ")
_TXN_AT: Final = META_BYTES - 8
_OPEN: Final = b"open    "
_SHUT: Final = b"shut    "


class Meta(Struct, frozen=True):
    """A meta page: `raw` is all that LMDB reads of it."""

    txn_id: int
    page_bytes: int
    last_page: int
    raw: bytes


class Mark(Struct, frozen=True):
    """`identity` is empty when the file never had a journal."""

    identity: bytes
    is_open: bool


def parse_meta(raw: bytes, path: str) -> Meta:
    """Raises StoreCorrupt."""
    if len(raw) < META_BYTES:
        raise StoreCorrupt("the store is damaged", f"{path} has no LMDB meta page")
    _, flags, magic, version, page_bytes, last_page, txn_id = _META.unpack(raw[:META_BYTES])
    if raw[_MAGIC_AT_OF_OTHERS : _MAGIC_AT_OF_OTHERS + 4] == _MAGIC.to_bytes(4, sys.byteorder):
        raise StoreCorrupt("the store is of another LMDB", f"{path} has pages of LMDB 1, not 0.9")
    if magic != _MAGIC or not flags & _IS_META or page_bytes < MARK_AT * 2 or page_bytes & (page_bytes - 1):
        raise StoreCorrupt("the store is damaged", f"{path} has no LMDB meta page")
    if version != _VERSION:
        raise StoreCorrupt("the store is of another LMDB", f"{path} has data version {version}, not {_VERSION}")
    return Meta(txn_id, page_bytes, last_page, raw[:META_BYTES])


def read_metas(descriptor: int, path: str) -> tuple[Meta, Meta]:
    """Pages 0 and 1. Raises StoreCorrupt."""
    first = parse_meta(os.pread(descriptor, META_BYTES, 0), path)
    second = parse_meta(os.pread(descriptor, META_BYTES, first.page_bytes), path)
    if second.page_bytes != first.page_bytes:
        raise StoreCorrupt("the store is damaged", f"{path}: meta pages of {first.page_bytes} and {second.page_bytes} bytes")
    return first, second


def newest_meta(descriptor: int, path: str) -> Meta:
    """The one LMDB would take. Raises StoreCorrupt."""
    first, second = read_metas(descriptor, path)
    return second if first.txn_id < second.txn_id else first


def write_metas(descriptor: int, meta: Meta) -> None:
    """Make both pages say what `meta` says, under its number and the one before: each page has its parity. Syncs nothing.

    A store with tables has seen a transaction, so the number is at least 1.
    """
    for txn_id in (meta.txn_id, meta.txn_id - 1):
        page = txn_id & 1
        raw = _NUMBER.pack(page) + meta.raw[8:_TXN_AT] + _NUMBER.pack(txn_id)
        os.pwrite(descriptor, raw, page * meta.page_bytes)


def read_mark(descriptor: int) -> Mark:
    raw = os.pread(descriptor, IDENTITY_BYTES + len(_OPEN), MARK_AT)
    identity, state = raw[:IDENTITY_BYTES], raw[IDENTITY_BYTES:]
    return Mark(identity if state in (_OPEN, _SHUT) else b"", state == _OPEN)


def write_mark(descriptor: int, mark: Mark) -> None:
    """Syncs nothing."""
    os.pwrite(descriptor, mark.identity + (_OPEN if mark.is_open else _SHUT), MARK_AT)
