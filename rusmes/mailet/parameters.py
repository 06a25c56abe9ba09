"""Parameters of matchers and mailets: typed, checked when the pipeline is built, with errors that name the place.

A `Parameters` Struct may use the types of `rusmes.config.units` (Duration, Size, Networks, Secret) and those below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, get_origin

import msgspec
from msgspec import Struct

from rusmes.config import names, units
from rusmes.config.problems import nearest
from rusmes.errors import ConfigError
from rusmes.model.address import Address

_parser: Final[Any] = re._parser  # type: ignore[attr-defined]
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

    Python's matcher goes back and tries again, so some patterns need very long on texts made for that. Those are refused at
    start: a repeat inside a repeat (`([a-z]+\\.)+`), alternatives inside a repeat that begin alike (`(a|ab)+`), and too many
    repeats without end. Possessive repeats (`([a-z]++\\.)+`) and atomic groups (`(?>...)`) never go back and are always fine,
    and a "^" at the beginning saves one repeat. A pattern that is taken needs less than 0.2 s on the longest text it is given.
    """

    __slots__ = ("max_characters", "search", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            degree = backtracking_degree(text)
            self.search = re.compile(text, re.IGNORECASE).search
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
        if degree > 3:
            raise ValueError(f"{text!r} has too many repeats without end: begin with ^, or make them possessive (a++)")
        self.max_characters = 4096 if degree <= 2 else 512
        """So much of a text is searched. Measured: n^3 / 6 steps of 7 ns in the third degree, n^2 / 2 in the second."""


def backtracking_degree(text: str) -> int:
    """The power of a text's length that bounds the time of a search.

    Raises:
        ValueError: no power does, the time may grow exponentially.
    """
    parsed = _parser.parse(text, re.IGNORECASE)
    anchored = bool(len(parsed)) and parsed[0][0] is _parser.AT and str(parsed[0][1]).startswith("AT_BEGINNING")
    return _repeats(parsed, False, text) + (0 if anchored else 1)


def _repeats(items: Any, inside: bool, text: str) -> int:
    """How many repeats without end follow each other; `inside` one that goes round, each way to match must be the only one."""
    count = 0
    for operation, argument in items:
        if operation in (_parser.MAX_REPEAT, _parser.MIN_REPEAT):
            least, most, body = argument
            if inside and least != most:
                raise ValueError(f"{text!r} repeats inside a repeat, which can take exponential time: write a++ or (?>a+)")
            count += (most > 100) + _repeats(body, inside or most > 1, text)
        elif operation is _parser.BRANCH:
            branches = argument[1]
            firsts = [branch[0] for branch in branches if len(branch) and branch[0][0] is _parser.LITERAL]
            if inside and len({chr(code).lower() for _, code in firsts}) < len(branches):
                raise ValueError(f"{text!r} has alternatives inside a repeat that may begin alike: write (?>...)++")
            count += max(_repeats(branch, inside, text) for branch in branches)
        elif operation is _parser.SUBPATTERN:
            count += _repeats(argument[-1], inside, text)
        elif operation in (_parser.ASSERT, _parser.ASSERT_NOT):
            count += _repeats(argument[1], inside, text)
        elif operation is _parser.ATOMIC_GROUP:
            count += min(1, _repeats(argument, False, text))
        elif operation is _parser.POSSESSIVE_REPEAT:
            _repeats(argument[-1], False, text)
        elif operation is _parser.GROUPREF_EXISTS:
            count += max(_repeats(branch, inside, text) for branch in argument[1:] if branch is not None)
    return count


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
    plain = first.type.__origin__ if get_origin(first.type) is Annotated else first.type
    if plain in (int, float, bool):
        try:
            return {first.encode_name: msgspec.convert(text.strip(), plain, strict=False)}
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
