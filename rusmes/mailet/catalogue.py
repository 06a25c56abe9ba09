"""The manual of the built-in matchers and mailets, made from their classes.

`python -m rusmes.mailet.catalogue docs/pipeline.md` writes it between the two marks of that page; a test checks that it is
current.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from rusmes.config.units import Duration, Networks, Size, duration_text
from rusmes.mailet.mailets import BUILT_IN as MAILETS
from rusmes.mailet.matchers import BUILT_IN as MATCHERS
from rusmes.mailet.parameters import Addresses, Domains, Pattern, Words

BEGIN: Final = "<!-- catalogue: made by python -m rusmes.mailet.catalogue -->"
END: Final = "<!-- end of catalogue -->"

_TYPES: Final[Mapping[Any, str]] = {
    int: "number",
    float: "number",
    str: "string",
    bool: "true, false",
    type(None): "not set",
    Words: "words",
    Addresses: "addresses",
    Domains: "domains",
    Networks: "networks",
    Pattern: "regular expression",
    Duration: "duration",
    Size: "size",
}


def catalogue() -> str:
    """Both tables as Markdown."""
    lines = ["## Matchers", ""]
    for name, matcher in MATCHERS.items():
        lines += _entry(name, matcher)
    lines += ["## Mailets", ""]
    for name, mailet in MAILETS.items():
        lines += _entry(name, mailet)
    return "\n".join(lines).rstrip() + "\n"


def page(text: str) -> str:
    """A page with the part between its marks made new.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for the catalogue")
    return f"{before}{BEGIN}\n\n{catalogue()}\n{END}{after}"


def _entry(name: str, made: Any) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield inspect.cleandoc(made.__doc__ or "")
    yield ""
    fields = msgspec.structs.fields(made.Parameters)
    if not fields:
        return
    texts = _field_texts(made.Parameters)
    yield "| parameter | type | default | |"
    yield "| --- | --- | --- | --- |"
    for field in fields:
        text = " ".join(texts.get(field.name, "").split()).replace("|", "\\|")
        yield f"| `{field.encode_name}` | {_type_text(field.type)} | {_default_text(field)} | {text} |"
    yield ""


def _type_text(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _type_text(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind in _TYPES:
        return _TYPES[kind]
    parts = dict.fromkeys(_type_text(part) for part in get_args(kind) if part is not type(None))
    return ", ".join(parts)


def _default_text(field: Any) -> str:
    value = field.default
    if value is NODEFAULT:
        return "required" if field.default_factory is NODEFAULT else "none"
    if isinstance(value, Duration):
        return f"`{duration_text(value)}`"
    if value is None or (isinstance(value, tuple) and not value):
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`"


def _field_texts(kind: type[Struct]) -> dict[str, str]:
    """The string below each field, of the class and its ancestors."""
    texts: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one is Struct or not issubclass(one, Struct):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        previous: ast.stmt | None = None
        for node in getattr(body, "body", []):
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            if is_text and isinstance(previous, ast.AnnAssign) and isinstance(previous.target, ast.Name):
                texts[previous.target.id] = str(node.value.value)
            previous = node
    return texts


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        place = Path(argument)
        place.write_text(page(place.read_text()))
