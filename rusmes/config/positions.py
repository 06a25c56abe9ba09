"""On which line of a TOML text each key stands.

The parser gives values without positions, so a second, small scan finds them; it runs only when something is wrong, on a text
that the parser has accepted. A text it does not understand gives fewer positions, never an error.
"""

from __future__ import annotations

from bisect import bisect_right

from rusmes.config.problems import KeyPath

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


def key_lines(text: str) -> dict[KeyPath, int]:
    """The 1-based line of every key, table header and array item."""
    scanner = _Scanner(text)
    try:
        scanner.scan()
    except (IndexError, ValueError):
        pass  # what was found up to here is still right
    starts = [0]
    while (newline := text.find("\n", starts[-1])) >= 0:
        starts.append(newline + 1)
    return {path: bisect_right(starts, offset) for path, offset in scanner.offsets.items()}


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of a key, or of the nearest table around it; 0 when there is none."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0


class _Scanner:
    """A cursor over the text. `offsets` maps each key path to where it is first written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.offsets: dict[KeyPath, int] = {}
        self._array_lengths: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip_blank("\n")
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip_blank(self, also: str = "") -> None:
        """Skip white space and comments; `also` names further characters to skip."""
        skipped = " \t\r" + also
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in skipped:
                self.at += 1
            else:
                return

    def _header(self) -> KeyPath:
        start = self.at
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        names = self._dotted_key()
        self.at += 2 if is_array else 1
        path: KeyPath = ()
        for position, name in enumerate(names):
            path = (*path, name)
            if is_array and position == len(names) - 1:
                self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            self.offsets.setdefault(path, start)
            if path in self._array_lengths:
                path = (*path, self._array_lengths[path] - 1)
        self.offsets.setdefault(path, start)
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self.at
        path = table
        for name in self._dotted_key():
            path = (*path, name)
            self.offsets.setdefault(path, start)
        if self.text[self.at] != "=":
            raise ValueError("no value")
        self.at += 1
        self._skip_blank()
        self._value(path)

    def _dotted_key(self) -> list[str]:
        names = []
        while True:
            self._skip_blank()
            names.append(self._string() if self.text[self.at] in "\"'" else self._bare_key())
            self._skip_blank()
            if self.text[self.at] != ".":
                return names
            self.at += 1

    def _bare_key(self) -> str:
        start = self.at
        while self.text[self.at] in _BARE:
            self.at += 1
        if start == self.at:
            raise ValueError("no key")
        return self.text[start : self.at]

    def _value(self, path: KeyPath) -> None:
        char = self.text[self.at]
        if char in "\"'":
            self._string()
        elif char == "{":
            self._inline_table(path)
        elif char == "[":
            self._array(path)
        else:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] not in ",]}\n#":
                self.at += 1
            if start == self.at:
                raise ValueError("no value")

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while True:
            self._skip_blank("\n,")
            if self.text[self.at] == "}":
                self.at += 1
                return
            self._pair(path)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip_blank("\n,")
            if self.text[self.at] == "]":
                self.at += 1
                return
            self.offsets.setdefault((*path, index), self.at)
            self._value((*path, index))
            index += 1

    def _string(self) -> str:
        quote = self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            return self._long_string(quote)
        self.at += 1
        parts = []
        while self.text[self.at] != quote:
            if quote == '"' and self.text[self.at] == "\\":
                parts.append(self._escape())
            else:
                parts.append(self.text[self.at])
                self.at += 1
        self.at += 1
        return "".join(parts)

    def _escape(self) -> str:
        kind = self.text[self.at + 1]
        width = {"x": 2, "u": 4, "U": 8}.get(kind, 0)
        digits = self.text[self.at + 2 : self.at + 2 + width]
        self.at += 2 + width
        return chr(int(digits, 16)) if width else _ESCAPES.get(kind, kind)

    def _long_string(self, quote: str) -> str:
        """A value only, never a key: nobody needs its content."""
        self.at += 3
        while not self.text.startswith(quote * 3, self.at):
            if self.at >= len(self.text):
                raise ValueError("no end")
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += 3
        while self.text.startswith(quote, self.at):  # up to two quotes may stand before the closing ones
            self.at += 1
        return ""
