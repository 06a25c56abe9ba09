"""Comparing texts without case: i;unicode-casemap (RFC 5051), and a search for a text in others that uses it.

Folding takes a character to its titlecase, decomposes that (with compatibility mappings), and again, until nothing changes; so
"é" is "E" and an accent, and "ﬁ" is "FI", one step further than the RFC goes, which leaves the second one in lower case.
Hangul syllables stay whole, as the RFC has it. UTF-8 that is none is taken octet by octet as ISO 8859-1, so that a text
without a label is found under either name.
"""

from typing import final

def fold(text: str) -> bytes:
    """The text as it is compared, in UTF-8."""

def fold_octets(text: bytes) -> bytes:
    """The same for what should be UTF-8."""

@final
class Pattern:
    """A text to look for. Takes time that grows linearly with the text searched, whatever the two are."""

    def __new__(cls, text: str) -> Pattern: ...
    @property
    def folded(self) -> bytes: ...
    @property
    def is_ascii(self) -> bool:
        """Whether it may be found by comparing octets but for the case of ASCII letters."""

    def find_in_folded(self, text: bytes) -> int:
        """Its offset in a folded text, or -1."""

    def find_in_ascii(self, text: bytes) -> int:
        """Its offset in a text of which only ASCII letters are compared without case, or -1."""
