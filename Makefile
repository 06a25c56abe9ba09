# Two commands do everything on a fresh machine: `make run` and `make test`. The rest is for those who work on RusMES.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard rusmes/_core/*.pyx rusmes/_core/*.pxd)

.PHONY: run test bench lint wheel build clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=80" "Cython>=3.3.0,<3.4" wheel
	$(BIN)/pip install --quiet --no-build-isolation -e ".[test,lint]"
	touch $@

build: $(VENV)/ready $(VENV)/core  ## compile rusmes/_core in place

$(VENV)/core: $(CORE) setup.py $(VENV)/ready
	flock $(VENV)/build.lock $(BIN)/python setup.py -q build_ext --inplace
	touch $@

run: build
	$(BIN)/rusmes init --quickstart var
	exec $(BIN)/rusmes-server var/rusmes.toml

test: build
	$(BIN)/python -m pytest

bench: build
	$(BIN)/python -m pytest --benchmark

lint: build
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest rusmes._core

wheel: $(VENV)/ready
	$(BIN)/pip wheel --no-deps -w dist .

clean:
	rm -rf build dist wheelhouse var $(VENV) rusmes/_core/*.so
