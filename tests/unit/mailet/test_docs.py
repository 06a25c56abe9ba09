"""The pages of operators and of those who add mailets say what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli

from rusmes.config import schema
from rusmes.config.units import decode
from rusmes.mailet import catalogue
from rusmes.mailet.mailets import BUILT_IN as MAILETS
from rusmes.mailet.matchers import BUILT_IN as MATCHERS

DOCS = Path(__file__).parents[3] / "docs"
PIPELINE = (DOCS / "pipeline.md").read_text()
EXTENDING = (DOCS / "extending-mailets.md").read_text()


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


def test_the_catalogue_is_current() -> None:
    assert catalogue.page(PIPELINE) == PIPELINE, "run python -m rusmes.mailet.catalogue docs/pipeline.md"


def test_every_class_and_parameter_has_a_text() -> None:
    for name, made in {**MATCHERS, **MAILETS}.items():
        assert made.__doc__, name
        texts = catalogue._field_texts(made.Parameters)
        for field in msgspec.structs.fields(made.Parameters):
            assert texts.get(field.name), f"{name}.{field.name}"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks"):
        catalogue.page("text")


def test_the_shipped_pipeline_is_the_one_on_the_page() -> None:
    raw = tomli.loads(blocks(PIPELINE, "toml")[0])["processors"]
    read = msgspec.convert(raw, tuple[schema.Processor, ...], dec_hook=decode)
    assert read == schema.default_processors()


def test_the_examples_build(kit: Any) -> None:
    examples = blocks(PIPELINE, "toml")[1:]
    matchers = [line for block in examples for line in block.splitlines() if line.startswith("matcher = ")]
    steps = [line for block in examples for line in block.splitlines() if line.startswith("{ ")]
    assert len(matchers) == 7
    assert len(steps) == 3
    parsed = [{**tomli.loads(line), "mailet": "Null"} for line in matchers]
    parsed += [tomli.loads(f"step = {line}")["step"] for line in steps]
    (named,) = [tomli.loads(block)["processors"]["matchers"] for block in examples if "processors.matchers" in block]
    kit.build({"root": [*parsed, ("staff", "Null"), ("All", "Hold")], "journal": [("All", "RemoteDelivery")]}, matchers=named)


def test_the_example_classes_work(kit: Any) -> None:
    space: dict[str, Any] = {"__name__": "example"}
    for block in blocks(EXTENDING, "python"):
        exec(compile(block.replace("from __future__ import annotations\n", ""), "extending-mailets.md", "exec"), space)
    kit.matchers["LongLocalPart"] = space["LongLocalPart"]
    kit.mailets["Score"] = space["Score"]
    steps = [("LongLocalPart=4", "Null"), ("All", "Score", {"limit": 7.0}), ("All", "LocalDelivery")]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org"))
    assert [recipient.account for recipient, _ in plan.dropped] == ["alice@here.org"]
    assert b"X-Score: " in plan.appends[0].rendering.prefix
    plan = kit.run([("All", "Score", {"limit": 0.0})], kit.mail())
    assert [refusal.text for refusal in plan.refused.values()] == ["refused by policy"]
