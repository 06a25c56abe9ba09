"""Raw TOML values into the schema, every problem collected.

msgspec converts the leaves; the walk over tables is ours, because msgspec stops at the first error and an operator
wants all of them, and because unknown keys get the nearest known one as a hint.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal

import msgspec
from msgspec import NODEFAULT, Struct

from rusmes.config.problems import Collector, KeyPath, nearest
from rusmes.config.units import Secret, decode

FILE_SUFFIX: Final = "_file"


class Text(str):
    """A value that came as text from outside the file (an environment variable), to be read leniently: "2525" is a port."""

    __slots__ = ()


@cache
def field_types(table: type[Struct]) -> dict[str, Any]:
    """The type of each key of a table."""
    return typing.get_type_hints(table, include_extras=True)


@cache
def required_keys(table: type[Struct]) -> tuple[str, ...]:
    """The keys of a table that have no default."""
    return tuple(field.name for field in msgspec.structs.fields(table) if field.required)


def bare(type_: Any) -> Any:
    """A type without Annotated and without `| None`."""
    if typing.get_origin(type_) is typing.Annotated:
        return bare(typing.get_args(type_)[0])
    if typing.get_origin(type_) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(type_) if member is not types.NoneType]
        if len(members) == 1:
            return bare(members[0])
    return type_


def is_table(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, Struct)


def item_type(type_: Any) -> Any:
    """X of `tuple[X, ...]`, else None."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    return args[0] if origin is tuple and len(args) == 2 and args[1] is Ellipsis else None


def convert_table(
    table: type[Struct],
    raw: Any,
    path: KeyPath,
    problems: Collector,
    *,
    hidden: frozenset[str] = frozenset(),
    read_secret: Callable[[str], str] = str,
) -> Struct | None:
    """Fill one table; None when a required key is missing or the value is no table. Fields in `hidden` are no keys.

    `read_secret` gives the content of the file that a `<key>_file` names, and may raise OSError or ValueError.
    """
    if not isinstance(raw, Mapping):
        problems.add(path, f"expected a table, got {_kind(raw)}")
        return None
    fields = {name: type_ for name, type_ in field_types(table).items() if name not in hidden}
    secrets = {name + FILE_SUFFIX: name for name, type_ in fields.items() if bare(type_) is Secret}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        here = (*path, key)
        if key in fields:
            converted = convert_value(fields[key], value, here, problems, read_secret=read_secret)
            if converted is not NODEFAULT:
                values[key] = converted
        elif key in secrets:
            _secret_from_file(secrets[key], value, raw, here, problems, values, read_secret)
        else:
            problems.add(here, "unknown key", nearest(key, [*fields, *secrets]))
    return _build(table, values, raw, path, problems)


def convert_value(type_: Any, raw: Any, path: KeyPath, problems: Collector, *, read_secret: Callable[[str], str] = str) -> Any:
    """One value of any type of the schema; NODEFAULT after a problem."""
    plain = bare(type_)
    if is_table(plain):
        table = convert_table(plain, raw, path, problems, read_secret=read_secret)
        return NODEFAULT if table is None else table
    item = item_type(plain)
    if item is not None and is_table(bare(item)):
        if not isinstance(raw, list):
            problems.add(path, f"expected an array of tables, got {_kind(raw)}", f"write [[{path[-1]}]]")
            return NODEFAULT
        tables = [
            convert_table(bare(item), one, (*path, index), problems, read_secret=read_secret) for index, one in enumerate(raw)
        ]
        return tuple(table for table in tables if table is not None)
    if typing.get_origin(plain) is dict:
        return _convert_mapping(typing.get_args(plain)[1], raw, path, problems)
    return _convert_leaf(type_, raw, path, problems)


def _convert_mapping(value_type: Any, raw: Any, path: KeyPath, problems: Collector) -> Any:
    if not isinstance(raw, Mapping):
        problems.add(path, f"expected a table, got {_kind(raw)}")
        return NODEFAULT
    converted = {}
    for key, value in raw.items():
        one = value if value_type is Any else convert_value(value_type, value, (*path, key), problems)
        if one is not NODEFAULT:
            converted[key] = one
    return converted


def _convert_leaf(type_: Any, raw: Any, path: KeyPath, problems: Collector) -> Any:
    choices = _choices(type_)
    value = _from_text(type_, raw) if isinstance(raw, Text) else raw
    if choices and not (isinstance(value, int) and not isinstance(value, bool) and _allows_number(type_)):
        if value in choices:
            return value
        numbers = " or a number" if _allows_number(type_) else ""
        hint = nearest(value, choices) if isinstance(value, str) else ""
        problems.add(path, f"{_shown(value)} is not one of {', '.join(choices)}{numbers}", hint)
        return NODEFAULT
    for text in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        if isinstance(text, str) and any(char < " " or char == "\x7f" for char in text):
            problems.add(path, "contains a control character")
            return NODEFAULT
    try:
        return msgspec.convert(value, type_, strict=not isinstance(raw, Text), dec_hook=decode)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        inside, reason = _reason(error, value, bare(type_))
        problems.add((*path, *inside), reason)
        return NODEFAULT


def _from_text(type_: Any, text: Text) -> Any:
    """What the text of an environment variable means for a type: lists are separated by commas."""
    plain = bare(type_)
    if item_type(plain) is not None or (isinstance(plain, type) and issubclass(plain, tuple)):
        return [part.strip() for part in text.split(",") if part.strip()]
    if _choices(type_) and _allows_number(type_) and text.isdecimal():
        return int(text)
    return str(text)


def _secret_from_file(
    key: str,
    name: Any,
    raw: Mapping[str, Any],
    path: KeyPath,
    problems: Collector,
    values: dict[str, Any],
    read_secret: Callable[[str], str],
) -> None:
    if key in raw:
        problems.add(path, f'"{key}" is set as well', "keep one of them")
    elif not isinstance(name, str) or not name:
        problems.add(path, f"expected the path of a file, got {_kind(name)}")
    else:
        try:
            values[key] = Secret(read_secret(name))
        except OSError as error:
            problems.add(path, f"cannot read {name}: {error.strerror or error}")
        except ValueError as error:
            problems.add(path, f"cannot read {name}: {error}")


def _build(
    table: type[Struct], values: dict[str, Any], raw: Mapping[str, Any], path: KeyPath, problems: Collector
) -> Struct | None:
    required = required_keys(table)
    for name in required:
        if name not in values and name not in raw:
            problems.add(path, f'"{name}" is missing')
    return table(**values) if values.keys() >= set(required) else None


def _choices(type_: Any) -> list[str]:
    """The words that a Literal, or a union with one, allows."""
    origin = typing.get_origin(type_)
    if origin is Literal:
        return [choice for choice in typing.get_args(type_) if isinstance(choice, str)]
    if origin in (types.UnionType, typing.Union):
        return [choice for member in typing.get_args(type_) for choice in _choices(member)]
    return []


def _allows_number(type_: Any) -> bool:
    return typing.get_origin(type_) in (types.UnionType, typing.Union) and any(
        bare(member) is int for member in typing.get_args(type_)
    )


_WORDS: Final = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def _reason(error: Exception, value: Any, type_: Any) -> tuple[tuple[int, ...], str]:
    """What to tell the operator, and the index inside a list it is about."""
    text, _, place = str(error).partition(" - at `$")
    digits = place.partition("]")[0].removeprefix("[")
    inside = (int(digits),) if digits.isdecimal() else ()
    if inside and isinstance(value, list) and inside[0] < len(value):
        value = value[inside[0]]
    if text.startswith("Expected `") and ", got `" in text:
        expected = text.split("`")[1]
        return inside, f"expected {_WORDS.get(expected, expected)}, got {_kind(value)}"
    if text.startswith("Expected `"):
        kind, _, bound = text.removeprefix("Expected `").partition("`")
        return inside, f"{_shown(value)} is out of range: {_WORDS.get(kind, kind)} {bound.strip()} is expected"
    if text.startswith("Invalid value"):
        return inside, f"{_shown(value)} is not allowed"
    return inside, text[:1].lower() + text[1:] if text[:2].istitle() else text


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return f"the {'string' if isinstance(value, str) else 'number'} {_shown(value)}"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    return f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
