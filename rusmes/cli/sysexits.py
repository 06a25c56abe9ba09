"""The exit statuses of sysexits.h that mail programs end with, and the exception that ends them."""

from __future__ import annotations

from typing import Final

EX_OK: Final = 0
EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOUSER: Final = 67
EX_UNAVAILABLE: Final = 69
EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78


class Exit(Exception):
    """The program ends with a status, and a sentence if there is something to say."""

    def __init__(self, status: int, sentence: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
