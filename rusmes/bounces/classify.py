"""What a refusal means: replies and reports by rules, in categories that operators know from other relays.

The rules are data: `rules.toml` beside this file, and files of the operator, which are asked first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import tomli
from msgspec import Struct

from rusmes.errors import ConfigError

Category = Literal[
    "InvalidRecipient",
    "BadDomain",
    "InactiveMailbox",
    "QuotaIssues",
    "RateLimited",
    "Greylisted",
    "AuthenticationFailed",
    "SpamBlock",
    "SpamContent",
    "VirusRelated",
    "PolicyRelated",
    "RelayDenied",
    "InvalidSender",
    "MessageTooLarge",
    "DNSFailure",
    "NoAnswerFromHost",
    "BadConnection",
    "RoutingErrors",
    "ProtocolErrors",
    "BadConfiguration",
    "Expired",
    "TransientFailure",
    "Uncategorized",
]

HARD: Final[frozenset[str]] = frozenset({"InvalidRecipient", "BadDomain", "InactiveMailbox"})
"""Categories that say that the address itself takes no mail, when the refusal is permanent."""

MAX_TEXT: Final = 1000
"""Characters of a text that are looked at."""
MAX_RULES: Final = 2000


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One [[rule]] of a file; what is absent fits everything."""

    category: Category
    code: str = ""
    status: str = ""
    text: tuple[str, ...] = ()


class _Compiled(Struct, frozen=True):
    category: Category
    code: re.Pattern[str] | None
    status: re.Pattern[str] | None
    text: re.Pattern[str] | None


class Classifier:
    """Rules in their order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Raises ConfigError: a pattern is none."""
        self._rules = [_compiled(rule) for rule in rules]

    @classmethod
    def load(cls, paths: Sequence[str] = ()) -> Classifier:
        """The operator's files, then ours.

        Raises:
            ConfigError: a file cannot be read, or is none of rules.
        """
        rules: list[Rule] = []
        for path in paths:
            try:
                rules += _read(Path(path).read_bytes(), path)
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}", key="returns.rules") from None
        return cls([*rules, *_own_rules()])

    def category(self, code: int, status: str, text: str) -> Category:
        """What a reply says; code 0 and status "" = not given."""
        text = text[:MAX_TEXT]
        digits = f"{code:03}" if code else ""
        for rule in self._rules:
            if (
                (rule.code is None or rule.code.fullmatch(digits))
                and (rule.status is None or rule.status.fullmatch(status))
                and (rule.text is None or rule.text.search(text))
            ):
                return rule.category
        return "Uncategorized"


def is_permanent(code: int, status: str) -> bool:
    """Whether a refusal is for ever; the code decides, and where there is none the status."""
    return code >= 500 if code else status.startswith("5")


def _compiled(rule: Rule) -> _Compiled:
    try:
        return _Compiled(
            rule.category,
            re.compile(rule.code) if rule.code else None,
            re.compile(rule.status) if rule.status else None,
            re.compile("|".join(f"(?:{text})" for text in rule.text), re.IGNORECASE) if rule.text else None,
        )
    except re.error as error:
        raise ConfigError(f"rule {rule.category}: {error.pattern!r} is no regular expression: {error.msg}") from None


def _read(data: bytes, path: str) -> list[Rule]:
    try:
        document: dict[str, Any] = tomli.loads(data.decode())
        rules = msgspec.convert(document.pop("rule", []), list[Rule])
    except (tomli.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}", key="returns.rules") from None
    if document:
        raise ConfigError(f"{path}: there is no {next(iter(document))!r}, only [[rule]]", key="returns.rules")
    if len(rules) > MAX_RULES:
        raise ConfigError(f"{path}: {len(rules)} rules, {MAX_RULES} may be", key="returns.rules")
    return rules


@lru_cache(1)
def _own_rules() -> list[Rule]:
    return _read((files("rusmes.bounces") / "rules.toml").read_bytes(), "rules.toml")
