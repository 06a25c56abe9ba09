"""What the documentation says is what the code does: tables, links, commands and files in it."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import tomli

from rusmes.cli.entry import root
from rusmes.config.convert import convert_table
from rusmes.config.load import load_config, parse_config
from rusmes.config.problems import Collector
from rusmes.config.schema import NOT_KEYS, Config
from rusmes.errors import ConfigError
from rusmes.mailet.api import CONTINUE
from rusmes.mailet.parameters import convert
from rusmes.mailet.registry import Registry
from rusmes.metrics import definitions
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.mail import Mail, Origin, Recipient

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = ROOT / ".ci" / "reference.py"
    if not path.exists():
        pytest.skip("needs a source tree")
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["keys", "metrics", "predecessor"])
def test_tables_are_fresh(reference: ModuleType, name: str) -> None:
    path, now, wanted = reference.rendered(name)
    assert now == wanted, f"{path.name}: run .venv/bin/python .ci/reference.py"


def test_every_key_has_a_sentence(reference: ModuleType) -> None:
    """Rows of the reference without a meaning, but for overrides of a key that has one elsewhere."""
    repeated = ("[[delivery.site]]", "[[delivery.provider]]", "any protocol")
    section, missing = "", []
    for line in reference.keys().splitlines():
        if line.startswith("###"):
            section = line
        elif line.startswith("| `") and line.endswith("|  |") and not any(name in section for name in repeated):
            missing.append(f"{section} {line}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}, (
                target
            )


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if match[1] == language:
            yield match[2]


def commands() -> Iterator[tuple[str, list[str]]]:
    for page in (page for page in PAGES if page.name != "migration.md"):  # it shows the old commands too
        fenced = (
            line
            for language in ("", "sh", "console", "bash")
            for block in blocks(page, language)
            for line in block.splitlines()
        )
        inline = re.findall(r"`(rusmes [a-z][^`]*)`", page.read_text())
        for line in [*fenced, *inline]:
            words = line.removeprefix("$ ").strip()
            if re.match(r"(\S*/)?rusmes\s", words) and "..." not in words:
                yield page.name, shlex.split(re.sub(r"\s[<>|]\s.*", "", words), comments=True)[1:]


def test_documented_commands_exist() -> None:
    seen = 0
    for page, words in commands():
        command: click.Command = root
        arguments = list(words)
        context = click.Context(root, info_name="rusmes")
        while isinstance(command, click.Group):
            while arguments and arguments[0].startswith("-"):
                del arguments[: 2 if arguments[0] in ("-c", "--config", "--color") else 1]
            if not arguments:
                break
            found = command.get_command(context, arguments[0])
            assert found is not None, f"{page}: rusmes {' '.join(words)}"
            command = found
            del arguments[0]
        if arguments:
            options = [word for word in arguments if word.startswith("-") and len(word) > 1]
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert set(options) <= known | {"--help"}, f"{page}: rusmes {' '.join(words)}"
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_in_the_documentation_is_configuration(page: Path) -> None:
    """What begins with a section of the file; fragments of one and other files begin otherwise."""
    for block in blocks(page, "toml"):
        begins = re.match(r"\[{1,2}(\w+)[\].]", block)
        if begins is None or begins[1] not in Config.__struct_fields__ or block.startswith("[processors."):
            continue
        raw = tomli.loads(block)
        problems = Collector()
        convert_table(Config, raw, (), problems, hidden=NOT_KEYS)
        assert problems.found == [], block


def test_the_shipped_file_is_valid_and_complete() -> None:
    text = (ROOT / "rusmes.toml").read_text()
    config = load_config(str(ROOT / "rusmes.toml"), environ={})
    assert parse_config(text, environ={}, base=str(ROOT)).processors == config.processors
    sections = set(tomli.loads(text))
    assert {name for name in Config.__struct_fields__ if name not in NOT_KEYS} <= sections


def test_the_mailet_in_the_documentation_works() -> None:
    (code,) = blocks(ROOT / "docs" / "development.md", "python")
    module: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "development.md", "exec", dont_inherit=True), module)
    stamp = module["Stamp"]
    registry = Registry(mailets={"Stamp": stamp})
    assert registry.mailet("Stamp") is stamp
    content = Content(bytes(16), 2, 2, data=b"\r\n")
    mail = Mail(bytes(16), None, [Recipient(Address("alice", "example.com"))], content, Origin(), created=0.0)
    parameters = convert(stamp.Parameters, {"name": "X-Seen"}, who="Stamp", key="")
    assert stamp(parameters, None).service(mail) is CONTINUE
    assert mail.prepended == [b"X-Seen: yes\r\n"]
    with pytest.raises(ConfigError, match="nam"):
        convert(stamp.Parameters, {"nam": "X-Seen"}, who="Stamp", key="")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_in_the_documentation_exist(page: Path) -> None:
    known = {one.name for one in definitions()}
    source = (ROOT / "rusmes" / "http" / "metrics.py").read_text()
    known |= set(re.findall(r'"(rusmes_process_\w+)"', source))  # made at the scrape, from the kernel
    histograms = {
        one.name + suffix for one in definitions() if one.kind == "histogram" for suffix in ("_bucket", "_sum", "_count")
    }
    named = set(re.findall(r"\brusmes_[a-z0-9_]+[a-z0-9]\b", page.read_text()))
    assert named <= known | histograms
