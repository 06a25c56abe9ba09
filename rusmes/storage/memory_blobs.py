"""Bodies in memory, with their reference counts."""

from __future__ import annotations

from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.storage.spool import SpoolWriter


class MemoryBlobs:
    """Bodies with their reference counts. Implements `BlobStore`."""

    def __init__(self, ids: IdSource, inline_limit: int = 0) -> None:
        self._ids = ids
        self.inline_limit = inline_limit
        self.contents: dict[bytes, Content] = {}
        self.references: dict[bytes, int] = {}
        self.is_full = False
        """Tests set it to see what the server does when the disk is full."""

    def writer(self) -> SpoolWriter:
        return SpoolWriter(self._ids.next_id(), "", self.inline_limit)

    def discard(self, content: Content) -> None:
        """Nothing to do: memory that nobody refers to is gone."""

    def check_space(self, size: int) -> bool:
        return not self.is_full

    def refer(self, content: Content) -> None:
        """One more reference; the first one takes the bytes over."""
        count = self.references.get(content.id, 0)
        if not count:
            kept = Content(content.id, content.size, content.header_bytes, data=content.read(), stored=True)
            self.contents[content.id] = kept
            content.stored = True
        self.references[content.id] = count + 1

    def release(self, blob_id: bytes) -> None:
        self.references[blob_id] -= 1
        if not self.references[blob_id]:
            del self.references[blob_id], self.contents[blob_id]
