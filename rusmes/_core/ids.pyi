"""Identifiers that sort by time, and their text. `rusmes.model.ids` says what they are."""

from typing import final

@final
class IdSource:
    """Makes identifiers that grow, even within one millisecond and when the wall clock goes back.

    The low 80 bits are a counter that starts at a random place for each source, so sources of several processes
    do not meet.
    """

    def __init__(self) -> None: ...
    def next_id(self) -> bytes: ...

def id_text(value: bytes) -> str:
    """The 26-character text of an identifier.

    Raises:
        ValueError: it has not 16 bytes.
    """
