"""Imports may look down, never up; floors 4 and 5 never look sideways."""
import ast
import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = [  # first match wins; the house, read from the door down
    (7, "rusmes.cli*"), (7, "rusmes.__main__"),
    (6, "rusmes.server*"),
    (2, "rusmes.sasl*"), (5, "rusmes.*.server"), (5, "rusmes.*.commands*"), (5, "rusmes.imap.hub"), (5, "rusmes.http*"),
    (3, "rusmes.*.api"), (3, "rusmes.net*"), (3, "rusmes.dns*"), (3, "rusmes.tls*"), (3, "rusmes.verify*"),
    (4, "rusmes.storage*"), (4, "rusmes.auth*"), (4, "rusmes.queue*"),
    (4, "rusmes.mailet*"), (4, "rusmes.delivery*"), (4, "rusmes.search*"),
    (4, "rusmes.events*"), (4, "rusmes.returns*"), (4, "rusmes.injection*"),
    (2, "rusmes.smtp*"), (2, "rusmes.imap*"), (2, "rusmes.pop3*"), (2, "rusmes.sasl*"),
    (2, "rusmes.mime*"), (2, "rusmes.sieve*"), (2, "rusmes.config*"), (2, "rusmes.dkim*"), (2, "rusmes.bounces*"),
    (1, "rusmes.model*"), (1, "rusmes.metrics"), (1, "rusmes.log"), (1, "rusmes.logfiles"), (1, "rusmes.clock"),
    (0, "rusmes.errors"), (0, "rusmes._version"), (0, "rusmes._core*"), (0, "rusmes"),
]
SANS_IO = {"asyncio", "uvloop", "socket", "ssl", "threading"}


def floor(name: str) -> int:
    return next(n for n, pat in FLOORS if fnmatch(name, pat))


def imports(path: Path):
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: absolute imports only"
                yield node.module
    else:
        yield from re.findall(r"^\s*(?:from\s+([\w.]+)\s+)c?import", text, re.M)


def modules():
    for path in sorted((ROOT / "rusmes").rglob("*.py*")):
        if path.suffix in {".py", ".pyx", ".pxd"}:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def violations():
    for name, path in modules():
        here, home = floor(name), name.split(".")[1:2]
        for target in imports(path):
            if target.split(".")[0] in SANS_IO and here <= 2:
                yield f"{name} (floor {here}) imports {target}: floors 0-2 are sans-IO"
            if not target.startswith("rusmes"):
                continue
            there = floor(target)
            if there > here:
                yield f"{name} (floor {here}) looks up at {target} (floor {there})"
            if here == there and here in (4, 5) and target.split(".")[1:2] != home:
                yield f"{name} looks sideways at {target}"


def test_floors():
    assert not list(violations())


VAGUE = {"utils", "util", "helpers", "common", "base", "misc", "manager"}


def test_rooms_have_names_and_walls():
    for name, path in modules():
        assert name.rsplit(".", 1)[-1] not in VAGUE, f"{name}: say what it holds"
        assert len(path.read_text().splitlines()) <= 800, f"{name}: split it"
