"""RUSMES_<SECTION>_<KEY>: every scalar of the configuration as an environment variable.

A variable that belongs to a section and names no key of it is an error, like an unknown key of the file. What Kubernetes
sets by itself for a service called `rusmes-...` is recognised, because it collides with these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from msgspec import Struct

from rusmes.config.convert import FILE_SUFFIX, Text, bare, field_types, is_table, item_type
from rusmes.config.problems import Collector, nearest
from rusmes.config.schema import NOT_KEYS, Config
from rusmes.config.units import Secret

PREFIX: Final = "RUSMES_"
_OTHER_USES: Final = frozenset({"RUSMES_CONFIG", "RUSMES_BUILD", "RUSMES_ANNOTATE", "RUSMES_SERVER"})
_KUBERNETES: Final = re.compile(r"RUSMES(_[A-Z0-9]+)*_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_\d+_(TCP|UDP)(_[A-Z]+)?)")
_KUBERNETES_VALUE: Final = re.compile(r"(tcp|udp)://[\d.:a-f\[\]]+:\d+")
_PREDECESSOR: Final = {
    "RUSMES_LOG_LEVEL": "RUSMES_LOGGING_LEVEL",
    "RUSMES_LOG_FORMAT": "RUSMES_LOGGING_FORMAT",
    "RUSMES_LOG_OUTPUT": "RUSMES_LOGGING_OUTPUT",
}


@cache
def variables() -> dict[str, tuple[str, ...]]:
    """Every variable with the key path it sets."""
    names = {PREFIX + "_".join(path).upper(): path for path in _scalars(Config, ())}
    return names | {old: names[new] for old, new in _PREDECESSOR.items()}


def _scalars(table: type[Struct], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, type_ in field_types(table).items():
        plain, here = bare(type_), (*path, name)
        if not path and name in NOT_KEYS:
            continue
        if is_table(plain):
            yield from _scalars(plain, here)
        elif not _holds_tables(plain):
            yield here
            if plain is Secret:
                yield (*path, name + FILE_SUFFIX)


def _holds_tables(type_: Any) -> bool:
    item = item_type(type_)
    return (item is not None and is_table(bare(item))) or getattr(type_, "__origin__", None) is dict


def apply_environment(raw: dict[str, Any], environ: Mapping[str, str], problems: Collector) -> dict[tuple[str, ...], str]:
    """Put the variables over the file's values; the name of the variable behind each key path that was set."""
    sections = {name.split("_")[1] for name in variables()}
    origin: dict[tuple[str, ...], str] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in _OTHER_USES:
            continue
        path = variables().get(name)
        if path is None:
            if _KUBERNETES.fullmatch(name):
                problems.warnings.append(f"{name} is set by Kubernetes and ignored (enableServiceLinks: false avoids it)")
            elif name.split("_")[1] in sections:
                problems.add((name,), "no such setting", nearest(name, variables()))
            else:
                problems.warnings.append(f"{name} is no setting, and ignored")
        elif _KUBERNETES_VALUE.fullmatch(environ[name]):
            hint = "Kubernetes sets it for a service of that name; use enableServiceLinks: false"
            problems.add((name,), f'"{environ[name]}" is not a value of this setting', hint)
        elif _set(raw, path, Text(environ[name])):
            origin[path] = name
    return origin


def _set(raw: dict[str, Any], path: tuple[str, ...], value: Text) -> bool:
    """False where the file has something else than a table on the way; the file's own error says so."""
    table: Any = raw
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return False
    # A secret and its _file variant exclude each other; the environment wins over the file.
    twin = path[-1].removesuffix(FILE_SUFFIX) if path[-1].endswith(FILE_SUFFIX) else path[-1] + FILE_SUFFIX
    if not isinstance(table.get(twin), (Text, dict)):
        table.pop(twin, None)
    table[path[-1]] = value
    return True
