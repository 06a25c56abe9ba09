"""What is imported is the compiled extension, not a substitute that would be slow or absent in a wheel."""

from __future__ import annotations

import importlib
import importlib.machinery
from pathlib import Path

import pytest

import rusmes._core

SOURCES = sorted(Path(rusmes._core.__file__).parent.glob("*.pyx"))


@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_the_extension_is_loaded(name):
    module = importlib.import_module(f"rusmes._core.{name}")
    assert isinstance(module.__loader__, importlib.machinery.ExtensionFileLoader)


@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_every_source_has_its_stub_and_its_source_of_layout(name):
    folder = SOURCES[0].parent
    assert (folder / f"{name}.pyi").is_file()
    assert (folder / f"{name}.pxd").is_file()
