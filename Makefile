# Two commands do everything on a fresh machine: `make run` and `make test`. The rest is for those who work on RusMES.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard rusmes/_core/*.pyx rusmes/_core/*.pxd)
JOBS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: help run test parts bench lint wheel sanitize build clean

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/ready: pyproject.toml
	@$(PYTHON) .ci/preflight
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=80" "Cython>=3.3.0,<3.4" wheel
	$(BIN)/pip install --quiet --no-build-isolation -e ".[test,lint,wheel]"
	@touch $@

build: $(VENV)/ready $(VENV)/core  ## compile rusmes/_core in place

$(VENV)/core: $(CORE) setup.py $(VENV)/ready
	flock $(VENV)/build.lock $(BIN)/python setup.py -q build_ext --inplace -j $(JOBS)
	@touch $@

run: build  ## a server for rusmes.test in ./var, made on the first call
	@$(BIN)/rusmes init --quickstart var
	@exec $(BIN)/rusmes-server -c var/rusmes.toml

test: build parts  ## everything but benchmarks
	$(BIN)/python -m pytest

parts: $(VENV)/ready  ## the programs of others that tests talk to
	@$(BIN)/python -m tests.parts || test "$$CI" != true

bench: build  ## every benchmark, with timing
	$(BIN)/python -m pytest --benchmark

lint: build  ## ruff, mypy --strict, stubtest
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest rusmes._core --allowlist tests/stubtest_allowed.txt --ignore-unused-allowlist

wheel: $(VENV)/ready  ## a wheel in wheelhouse/, its manylinux tag checked
	rm -rf dist wheelhouse
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair -w wheelhouse dist/*.whl
	$(BIN)/auditwheel show wheelhouse/*.whl
	@ls wheelhouse/*manylinux*.whl

sanitize: build  ## unit tests and fuzz targets on an ASan + UBSan build of _core
	.ci/sanitize

clean:  ## remove what was built, and ./var
	rm -rf build dist wheelhouse var $(VENV) rusmes/_core/*.so
