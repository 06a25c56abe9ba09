"""Lines of the event log, collected in memory with the entries of their index."""

from typing import Final, Self, final

@final
class Template:
    """The fields of one kind of line, in their order: name, code, and kind of key.

    Codes: s text, i integer, f number (six decimals), t time (seconds since the epoch), b true, q identifier (16 octets), Q
    identifiers, a address (always written; None is ""), A recipients, p phases, x JSON of whole fields, with their names. A
    key is "q", "m" or "r": by it the line is found (`queue_key`, `text_key`); "" = by this field it is not.

    Raises:
        ValueError: a field is not like that, or there are more than 64.
    """

    fields: Final[tuple[tuple[str, str, str], ...]]
    def __new__(cls, *fields: tuple[str, str, str]) -> Self: ...

@final
class EventBuffer:
    """Lines that wait to be written, and where each can be found.

    Raises:
        ValueError: `capacity` is below 1024 octets.
    """

    capacity: Final[int]
    """Octets; the line that goes beyond it is the last one."""
    count: Final[int]
    """Lines that wait."""
    def __new__(cls, capacity: int) -> Self: ...
    @property
    def pending(self) -> int:
        """Octets that wait."""

    def add(self, kind: bytes, moment: float, template: Template, values: tuple[object, ...]) -> bool:
        """Collect one line; False: there is no room, or another thread is at it, and nothing was done. `moment` is in seconds
        since the epoch.

        Values that are empty ("", 0, None, ()) are left out with their names. Text is cut after 1000 characters, lists after
        100 values.

        Raises:
            ValueError: there is not a value for each field, or an identifier has no 16 octets.
            TypeError: a value is not what its code says.
        """

    def take(self) -> tuple[bytes, bytes, int]:
        """What waits, and nothing waits any more: lines, the entries of their index, number of lines. Nothing while another
        thread makes a line.

        An entry has 12 octets, big-endian: the key (8) and the offset of the line in these lines (4).
        """

def queue_key(id: bytes) -> bytes:
    """The 8 octets under which lines with an identifier are found."""

def text_key(kind: str, text: str) -> bytes:
    """The same for a text of kind "m" (Message-ID) or "r" (recipient). ASCII letters count as small ones."""

def sort_entries(entries: bytes) -> bytes:
    """Entries in their order (by key, then by offset). Other threads go on meanwhile."""

def shift_entries(entries: bytes, by: int) -> bytes:
    """The entries of lines that are written `by` octets further on."""

def find_message_id(header: bytes, start: int = 0) -> str:
    """The value of the first Message-ID field of a header block from offset `start` on, "" when there is none.

    Raises:
        ValueError: the offset is negative.
    """
