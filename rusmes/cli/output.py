"""What commands print: one JSON document, or tables and sentences for people."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STEERING: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Output:
    """Where a command's results go. `color` is auto, always or never (NO_COLOR counts as never)."""

    def __init__(self, *, as_json: bool = False, color: str = "auto") -> None:
        self.as_json = as_json
        forced = {"always": True, "never": False}.get(color)
        self.console = Console(
            force_terminal=forced,
            no_color=True if color == "never" else None,
            # Piped into a program there is no width to fit into: every row is one line, every cell whole.
            width=None if sys.stdout.isatty() else 10_000,
            highlight=False,
            soft_wrap=True,
            emoji=False,
        )

    def show(self, data: Any, for_people: Callable[[], None]) -> None:
        """The document `data` under --json, else whatever `for_people` prints."""
        if self.as_json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2) + b"\n")
            sys.stdout.buffer.flush()
        else:
            for_people()

    def done(self, sentence: str, **data: Any) -> None:
        """The result of a change: a sentence, or its facts."""
        self.show(data, lambda: self.say(sentence))

    @property
    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    def line(self, text: str) -> None:
        """One plain line; quick, for output that may be long."""
        sys.stdout.write(f"{printable(text)}\n")

    def write_raw(self, data: bytes) -> None:
        """Part of a document that is written while it is made."""
        sys.stdout.buffer.write(data)

    def say(self, sentence: str, style: str = "") -> None:
        self.console.print(Text(printable(sentence), style=style))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """A table whose cells are plain text; `empty` is said when there are no rows. Columns named "#..." are numbers."""
        listed = list(rows)
        if not listed:
            self.say(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            is_number = column.startswith("#")
            table.add_column(column.lstrip("#"), justify="right" if is_number else "left", overflow="fold", no_wrap=False)
        for row in listed:
            table.add_row(*(Text(printable(str(cell))) for cell in row))
        self.console.print(table, soft_wrap=False, crop=False)

    def facts(self, facts: Iterable[tuple[str, object]]) -> None:
        """Names and values, one a line."""
        listed = list(facts)
        width = max((len(name) for name, _ in listed), default=0)
        for name, value in listed:
            line = Text(f"{name:<{width}}  ", style="bold")
            line.append(printable(str(value)), style="not bold")
            self.console.print(line)


def printable(text: str) -> str:
    """Text from elsewhere without what could steer a terminal, or be shown in another order than it has (TR36 §2.2.1)."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)
