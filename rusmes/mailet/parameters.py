"""Parameters of matchers and mailets: typed, checked when the pipeline is built, with errors that name the place.

A `Parameters` Struct may use the types of `rusmes.config.units` (Duration, Size, Networks, Secret) and those below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from rusmes.config import names, units
from rusmes.config.problems import nearest
from rusmes.errors import ConfigError
from rusmes.model.address import Address

_SEPARATORS: Final = re.compile(r"[,\s]+")


class Words(tuple[str, ...]):
    """Words. Written as a list, or as one string with commas or blanks between them."""

    __slots__ = ()


class Addresses(tuple[Address, ...]):
    """Addresses, written like Words."""

    __slots__ = ()

    def folded(self) -> frozenset[str]:
        """How addresses are compared."""
        return frozenset(address.folded for address in self)


class Domains(tuple[str, ...]):
    """Domains in lower-case A-labels, written like Words; ".example.com" means every domain below it."""

    __slots__ = ()

    def test(self) -> Callable[[str], bool]:
        """Whether a domain is meant."""
        exact = frozenset(item for item in self if not item.startswith("."))
        below = tuple(item for item in self if item.startswith("."))
        if not below:
            return exact.__contains__
        return lambda domain: domain in exact or domain.endswith(below)


class Pattern:
    """A regular expression (Python's `re`), compiled at start, that ignores case.

    Repeats inside repeats, such as `(a+)+`, are refused: on a text that almost matches they need exponential time. A
    possessive inner repeat `(a++)+` or an atomic group `(?>a+)+` says the same without that. What is searched is bounded by the
    matchers.
    """

    __slots__ = ("search", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            check_repeats(text)
            self.search = re.compile(text, re.IGNORECASE).search
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None


def check_repeats(text: str) -> None:
    """Raises ValueError when an unbounded repeat contains another one."""
    parser = re._parser  # type: ignore[attr-defined]
    opens = {parser.MAX_REPEAT, parser.MIN_REPEAT}

    def walk(items: Any, inside: bool) -> None:
        for operation, argument in items:
            if operation in opens:
                _, most, body = argument
                unbounded = most is parser.MAXREPEAT or most > 100
                if unbounded and inside:
                    raise ValueError(f"{text!r} repeats inside a repeat, which can take exponential time; use a++ or (?>a+)")
                walk(body, inside or unbounded)
            elif operation is parser.BRANCH:
                for branch in argument[1]:
                    walk(branch, inside)
            elif operation is parser.SUBPATTERN:
                walk(argument[-1], inside)
            elif operation in (parser.ASSERT, parser.ASSERT_NOT):
                walk(argument[1], inside)
            elif operation is parser.ATOMIC_GROUP:
                walk(argument, False)
            elif operation is parser.POSSESSIVE_REPEAT:
                walk(argument[-1], False)
            elif operation is parser.GROUPREF_EXISTS:
                walk(argument[1], inside)
                if argument[2] is not None:
                    walk(argument[2], inside)

    walk(parser.parse(text, re.IGNORECASE), False)


def decode(type_: Any, value: Any) -> Any:
    """The `dec_hook` of msgspec.convert for parameters.

    Raises:
        ValueError: the value cannot be read as that type.
    """
    if type_ is Words:
        return Words(_words(value))
    if type_ is Addresses:
        return Addresses(names.address(word) for word in _words(value))
    if type_ is Domains:
        dotted = [(word.startswith("."), word.removeprefix(".")) for word in _words(value)]
        return Domains(("." if below else "") + names.domain_name(word) for below, word in dotted)
    if type_ is units.Networks and isinstance(value, str):
        return units.decode(type_, _words(value))
    if type_ is Pattern:
        if not isinstance(value, str):
            raise ValueError(f"a regular expression is a string, not {value!r}")
        return Pattern(value)
    return units.decode(type_, value)


def convert(type_: type[Struct], values: Mapping[str, Any], *, who: str, key: str, strict: bool = True) -> Struct:
    """The parameters of one matcher or mailet.

    Args:
        who: what the error text begins with: 'processor "root", step 2, mailet Reject'.
        key: the dotted key of the table the values come from.

    Raises:
        ConfigError: a key is unknown or missing, or a value is not of its type.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    for name in values:
        if name not in fields:
            hint = nearest(name, fields) if fields else "it takes no parameters"
            raise ConfigError(f"{who}: unknown parameter {name!r}", key=f"{key}.{name}", hint=hint)
    for name, field in fields.items():
        if name not in values and field.required:
            raise ConfigError(f"{who}: the parameter {name!r} is missing", key=key)
    try:
        return msgspec.convert(dict(values), type_, strict=strict, dec_hook=decode)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        name = path.lstrip(".").rstrip("`")
        raise ConfigError(f"{who}: parameter {name!r}: {reason}", key=f"{key}.{name}") from None


def from_condition(type_: type[Struct], text: str, *, who: str, key: str) -> dict[str, Any]:
    """What "Name=condition" means: the condition is the first field.

    Raises:
        ConfigError: the matcher takes no condition, or the text is not of that field's type.
    """
    fields = msgspec.structs.fields(type_)
    if not fields:
        raise ConfigError(f"{who}: it takes no condition, but {text!r} is given", key=key)
    first = fields[0]
    if first.type in (int, float, bool):
        try:
            return {first.encode_name: msgspec.convert(text.strip(), first.type, strict=False)}
        except msgspec.ValidationError as error:
            raise ConfigError(f"{who}: condition {text!r}: {error}", key=key) from None
    return {first.encode_name: text}


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        words = [word for word in _SEPARATORS.split(value) if word]
    elif isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        words = list(value)
    else:
        raise ValueError(f"expected a string or a list of strings, not {value!r}")
    if not words:
        raise ValueError("the list is empty")
    return words
