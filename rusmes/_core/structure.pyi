"""BODYSTRUCTURE of a message in memory, in one walk. `rusmes.mime.structure` has the theory and the rules for broken mail,
does the same to files, and is asked for what few messages have."""

from collections.abc import Callable

LIMITS: tuple[int, int, int, int, int]
"""Depth of parts, parts, octets of a header block, of a value and of a boundary: those of `rusmes.mime`."""

def render_structure(
    block: bytes,
    data: bytes,
    start: int,
    end: int,
    content_type: Callable[[bytes], tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]] | None],
    disposition: Callable[[bytes], bytes],
    language: Callable[[bytes], bytes],
    envelope: Callable[[bytes], bytes],
) -> bytes:
    """The message with the header `block` and the body `data[start:end]`.

    Args:
        content_type: reads a Content-Type that is not written as nearly all are: (type, subtype, parameters).
        disposition: the form of a Content-Disposition in a BODYSTRUCTURE.
        language: that of a Content-Language.
        envelope: the ENVELOPE of a message with this header block.

    Raises:
        ValueError: the body is not within the data.
    """

def count_lines(data: bytes, start: int, end: int) -> int:
    """The line feeds in `data[start:end]`.

    Raises:
        ValueError: it is not within the data.
    """
