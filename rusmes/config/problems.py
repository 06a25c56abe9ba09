"""All that is wrong with a configuration, at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from rusmes.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands: table names, keys, and indexes of arrays."""


class InvalidConfig(ConfigError):
    """A configuration with at least one problem; `problems` has each of them with its place, in the order of the file."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        first = problems[0]
        super().__init__(first.reason, key=first.key, path=first.path, line=first.line, hint=first.hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(problem_line(problem) for problem in self.problems)


def problem_line(problem: ConfigError) -> str:
    """One line for people: place, key, reason, and the way out in brackets."""
    return f"{problem.public} ({problem.hint})" if problem.hint else problem.public


def all_problems(error: ConfigError) -> tuple[ConfigError, ...]:
    """The single problems of an error, whichever kind it is."""
    return error.problems if isinstance(error, InvalidConfig) else (error,)


def dotted(path: KeyPath) -> str:
    """A key path as an operator writes it: `processors[0].mailets[2].matcher`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part and all(c.isalnum() or c in "-_" for c in part)
            text += f"{'.' if text else ''}{part if bare else repr(part)}"
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint for a word that is not known: the nearest one, or all when they are few."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 12 else ""


class Collector:
    """Gathers problems by key path; their lines are looked up once, at the end, and only when there are any."""

    def __init__(self) -> None:
        self.found: list[tuple[KeyPath, str, str]] = []
        self.warnings: list[str] = []

    def add(self, path: KeyPath, reason: str, hint: str = "") -> None:
        self.found.append((path, reason, hint))

    def has_problem_at(self, *path: str | int) -> bool:
        """Whether this value, or something inside it, is already reported."""
        return any(found[: len(path)] == path for found, _, _ in self.found)
