"""Write the tables of docs/ that have their truth in the code: keys, metrics, keys of the predecessor.

`.venv/bin/python .ci/reference.py` rewrites what stands between the markers `<!-- begin NAME -->` and `<!-- end NAME -->`;
`--check` only says what is stale (exit status 1). tests/unit/config/test_reference.py calls the same functions.
"""

import ast
import re
import sys
import typing
from pathlib import Path
from types import NoneType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from msgspec import NODEFAULT, Struct, structs  # noqa: E402

from rusmes.config import schema  # noqa: E402
from rusmes.config.convert import bare, field_types, is_table, item_type  # noqa: E402
from rusmes.config.diff import _needs_restart  # noqa: E402
from rusmes.config.predecessor import RENAMED, REPLACED  # noqa: E402
from rusmes.config.units import Duration, Networks, Secret, Size, Targets, duration_text, size_text  # noqa: E402
from rusmes.metrics import definitions  # noqa: E402

NAMES = {
    Duration: "duration",
    Size: "size",
    Networks: "networks",
    Secret: "secret",
    Targets: "addresses",
    str: "string",
    int: "number",
    float: "number",
    bool: "true, false",
}


def documentation() -> dict[str, dict[str, str]]:
    """The string below each field, and each class's own under "", by class name."""
    found: dict[str, dict[str, str]] = {}
    names = ("events", "outbound", "overload", "returns", "signing", "schema")
    modules = [ast.parse((ROOT / f"rusmes/config/{name}.py").read_text()) for name in names]
    for node in (node for module in modules for node in module.body):
        if not isinstance(node, ast.ClassDef):
            continue
        texts: dict[str, str] = {}
        for base in node.bases:
            texts |= found.get(base.id, {}) if isinstance(base, ast.Name) else {}
        texts[""] = ast.get_docstring(node) or ""
        for before, after in zip(node.body, node.body[1:], strict=False):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(text, str):
                texts[before.target.id] = " ".join(text.split())
        found[node.name] = texts
    return found


def type_name(type_: Any) -> str:
    plain = bare(type_)
    if plain in NAMES:
        return NAMES[plain]
    origin, args = typing.get_origin(plain), typing.get_args(plain)
    if origin is typing.Literal:
        return ", ".join(map(str, args))
    if item_type(plain) is not None:
        return f"list of {type_name(item_type(plain))}s".replace("strings", "strings")
    if origin is dict:
        return "table"
    if args:
        return ", ".join(type_name(arg) for arg in args if arg is not NoneType)
    return "any"


def shown(value: Any) -> str:
    """A default as it is written in the file."""
    if value is NODEFAULT:
        return "required"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Duration):
        return f'"{duration_text(value)}"'
    if isinstance(value, Size):
        return f'"{size_text(value)}"'
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(v) if isinstance(v, Duration) else f'"{v}"' for v in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f'"{value}"' if isinstance(value, str) else str(value)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table_of(type_: type[Struct], prefix: str, hidden: frozenset[str] = frozenset()) -> list[str]:
    texts = documentation()[type_.__name__]
    rows = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for field in structs.fields(type_):
        hint = field_types(type_)[field.name]
        item = item_type(bare(hint))
        if field.name in hidden or is_table(bare(hint)) or (item is not None and is_table(bare(item))):
            continue
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        text = texts.get(field.name, "")
        if _needs_restart(f"{prefix}{field.name}"):
            text = f"{text} *(restart)*".strip()
        rows.append(f"| `{field.name}` | {cell(type_name(hint))} | `{cell(shown(default))}` | {cell(text)} |")
    return rows if len(rows) > 2 else []


def keys() -> str:
    texts = documentation()
    parts = ["### At the top of the file", "", *table_of(schema.Config, "", schema.NOT_KEYS), ""]

    def section(type_: type[Struct], name: str, header: str) -> None:
        parts.extend([f"### `{header}`", "", texts[type_.__name__][""], ""])
        rows = table_of(type_, f"{name}.")
        if rows:
            parts.extend([*rows, ""])
        overrides = False
        for key, hint in field_types(type_).items():
            plain = bare(hint)
            item = item_type(plain)
            if is_table(plain):
                if plain is schema.TlsOverride:
                    overrides = True
                elif plain is schema.Values:
                    parts.extend([f"`{key}` is a table with values as those of [[delivery.site]].", ""])
                else:
                    section(plain, f"{name}.{key}", f"[{name}.{key}]")
            elif item is not None and is_table(bare(item)):
                section(bare(item), f"{name}.{key}", f"[[{name}.{key}]]")
        if overrides:
            section(schema.TlsOverride, f"{name}.smtp", f"[{name}.smtp] [{name}.pop3] ... (any protocol)")

    for key, hint in field_types(schema.Config).items():
        plain = bare(hint)
        if is_table(plain):
            section(plain, key, f"[{key}]")
    section(schema.Processor, "processors", "[[processors]]")
    return "\n".join(parts).strip()


def metrics() -> str:
    rows = ["| metric | kind | label | values | |", "| --- | --- | --- | --- | --- |"]
    for one in definitions():
        values = ", ".join(f"`{value}`" for value in one.slots if value) if one.label else ""
        label = f"`{one.label}`" if one.label else ""
        rows.append(f"| `{one.name}` | {one.kind} | {label} | {values} | {cell(one.help)} |")
    return "\n".join(rows)


def predecessor() -> str:
    rows = ["| key of 0.1 | here |", "| --- | --- |"]
    rows += [f"| `{old}` | `{new}`, taken over with a warning |" for old, (new, _) in sorted(RENAMED.items())]
    rows += [f"| `{old}` | {cell(text)} |" for old, text in sorted(REPLACED.items())]
    return "\n".join(rows)


TABLES = {"keys": ("configuration.md", keys), "metrics": ("metrics.md", metrics), "predecessor": ("migration.md", predecessor)}


def rendered(name: str) -> tuple[Path, str, str]:
    """The file of a table, its text now, and as it should be."""
    file, make = TABLES[name]
    path = ROOT / "docs" / file
    text = path.read_text()
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    assert pattern.search(text), f"{path} has no markers for {name}"
    return path, text, pattern.sub(lambda match: f"{match[1]}{make()}\n{match[2]}", text)


def main() -> int:
    stale = 0
    for name in TABLES:
        path, before, after = rendered(name)
        if before != after:
            stale += 1
            if "--check" in sys.argv:
                print(f"{path}: the table {name} is stale; .ci/reference.py writes it", file=sys.stderr)
            else:
                path.write_text(after)
                print(f"{path.relative_to(ROOT)}: {name} written")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
