"""Looking at emails where they lie in the store: texts in their headers and bodies, and values of their fields.

A store hands rows to `EmailReader.take`, some hundred at a time; texts are decoded and searched without the GIL. What is
where in a message follows the rules of `rusmes.mime.structure`. The text of a message is that of its text and message parts,
decoded, and of the headers of the messages in it; header text is unfolded and has its encoded words decoded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, final

from typing_extensions import disjoint_base

from rusmes._core.pages import Table

_Rows = list[tuple[Any, Any]]
"""Pairs of key and value, as buffers, in the order in which they were asked for; what is missing is left out."""

HEADER: Final = 0
"""The text is in a field of that name; an empty text: there is such a field."""
TEXT: Final = 1
"""The text is in the header, the header of a part, or the body."""
BODY: Final = 2

MAX_TERMS: Final = 64

@disjoint_base
class EmailReader:
    """`size` is how many emails it is for: it has a result for each position below."""

    def __new__(cls, size: int, *args: object, **kwargs: object) -> EmailReader: ...
    @property
    def size(self) -> int: ...
    def take(
        self,
        first: int,
        account_id: int,
        ids: list[bytes],
        emails: _Rows,
        get_blobs: Callable[[list[bytes]], _Rows],
        open_file: Callable[[bytes], AbstractContextManager[Any]],
    ) -> None:
        """Look at the emails `ids`, which have the positions from `first` on.

        Args:
            emails: their rows; those of other accounts are passed over.
            get_blobs: the rows of bodies that have to be looked at.
            open_file: a buffer with the body that is in a file.
        """

    def take_pages(
        self,
        first: int,
        account_id: int,
        ids: list[bytes],
        emails: Table,
        blobs: Table,
        open_file: Callable[[bytes], AbstractContextManager[Any]],
    ) -> list[int]:
        """The same with tables that are read where they are mapped; the places in `ids` of those that were not found."""

    def take_message(
        self, position: int, thread_id: bytes, cached: bytes, prefix: bytes, body: Any, skip: int, header_size: int
    ) -> None:
        """Look at one email; `body` is a buffer, of which `prefix` replaces the first `skip` octets."""

@final
class TextScan(EmailReader):
    """Which of at most 64 terms, (kind, name of the field in lower case, text), are in which email.

    Args:
        cached: names of fields that the cache of an email answers for, unless it is empty.
    """

    def __new__(cls, size: int, terms: Sequence[tuple[int, bytes, str]], cached: frozenset[bytes]) -> TextScan: ...
    def hits(self, term: int) -> bytes:
        """One octet for each position, 1 where the term is."""

@final
class FieldReader(EmailReader):
    """The values of fields as they were received; of several with one name the first.

    Args:
        cached: names of fields that the cache of an email answers for, unless it is empty.
    """

    def __new__(cls, size: int, names: tuple[bytes, ...], cached: frozenset[bytes]) -> FieldReader: ...
    def values(self, position: int) -> tuple[bytes, list[bytes | None]] | None:
        """Id of the thread, and a value for each name; None for an email that is not there."""
