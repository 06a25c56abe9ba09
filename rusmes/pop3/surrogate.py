"""What a client gets that does not say UTF8 (RFC 6856 §2.1, §4): a message whose header is not ASCII with another header.

The alternative is `-ERR [UTF8]`, with which the user of such a client never sees the message, nor gets rid of it. The store
keeps what came, and who says UTF8 gets that. Bodies are left alone: 8bit is allowed (RFC 6856 §2.1), and clients have read it
for decades. LIST says what is stored; to be exact (a "SHOULD"), it would have to read every header.
"""

from __future__ import annotations

from rusmes.mime.asciiheader import ascii_block
from rusmes.model.content import Rendering


def surrogate(rendering: Rendering, data: bytes | None = None) -> Rendering:
    """The message itself where its header is ASCII. `data` is the content's, where it is at hand.

    Raises:
        OSError: it is in a file that cannot be read.
    """
    content = rendering.content
    if data is None:
        block = rendering.header_block()
    elif data.isascii() and rendering.prefix.isascii():  # nearly all are
        return rendering
    else:
        block = rendering.prefix + data[rendering.skip : content.header_bytes]
    if block.isascii():
        return rendering
    return Rendering(content, ascii_block(block, for_reader=True), content.header_bytes)
