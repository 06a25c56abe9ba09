"""The bytes of a message: received once, stored once, never changed."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_BYTES = 64 * 1024


class Content:
    """Bytes of a message with CRLF line ends, in memory or in a file.

    `data` holds all of a message that is not larger than the store's `inline_limit`; otherwise it is None and `path` names
    an immutable file. `id` is the blob's identifier (16 bytes): the same id in several appends and queue entries
    means the same blob, stored once. `header_bytes` is the length of the header block with its empty line (the whole
    size when there is no empty line). `stored` says that the blob is already in the store. `checksum` is the CRC-32 of
    the bytes, -1 when it was not computed yet.
    """

    __slots__ = ("checksum", "data", "header_bytes", "id", "path", "size", "stored")

    def __init__(
        self,
        id: bytes,
        size: int,
        header_bytes: int,
        *,
        data: bytes | None = None,
        path: str = "",
        stored: bool = False,
        checksum: int = -1,
    ) -> None:
        self.id = id
        self.size = size
        self.header_bytes = header_bytes
        self.data = data
        self.path = path
        self.stored = stored
        self.checksum = checksum

    def header_block(self) -> bytes:
        """The header lines with the empty line that ends them."""
        if self.data is not None:
            return self.data[: self.header_bytes]
        with open(self.path, "rb") as file:
            return file.read(self.header_bytes)

    def chunks(self, skip: int = 0) -> Iterator[bytes]:
        """The bytes from offset `skip`, in pieces of at most 64 KiB."""
        if self.data is not None:
            for start in range(skip, self.size, CHUNK_BYTES):
                yield self.data[start : start + CHUNK_BYTES]
            return
        with open(self.path, "rb") as file:
            file.seek(skip)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def read(self) -> bytes:
        """All bytes; for contents known to be small."""
        return self.data if self.data is not None else b"".join(self.chunks())


class Rendering:
    """How a content looks to one group of recipients: `prefix`, then the content from offset `skip`.

    Headers added on top are a prefix and skip nothing. When header lines in the middle were removed or changed, the prefix is
    the whole new header block and `skip` is the old one's length. Either way the body exists once.
    """

    __slots__ = ("content", "prefix", "skip")

    def __init__(self, content: Content, prefix: bytes = b"", skip: int = 0) -> None:
        self.content = content
        self.prefix = prefix
        self.skip = skip

    @property
    def size(self) -> int:
        return len(self.prefix) + self.content.size - self.skip

    def chunks(self) -> Iterator[bytes]:
        if self.prefix:
            yield self.prefix
        yield from self.content.chunks(self.skip)

    def header_block(self) -> bytes:
        """The header as this group sees it, with the empty line."""
        return self.prefix + self.content.header_block()[self.skip :]
