# Needs Python 3.11 or newer (with venv and pip) and make. Another interpreter: make PYTHON=python3.12 <target>
PYTHON ?= python3

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable
REQUIREMENTS := pyproject.toml constraints.txt
BENCHMARKS := $(filter-out benchmarks/demo.py benchmarks/gallery.py,$(wildcard benchmarks/[a-z]*.py))

.DELETE_ON_ERROR:
.PHONY: help setup demo test chaos lint bench docs dist

help:
	@echo "make demo    run the three jobs on real photographs; pictures land in runs/"
	@echo "make setup   everything for development, in .venv"
	@echo "make test    lint, then the tests"
	@echo "make chaos   long schedules of faults: kills, hangs, outages; prints what was lost"
	@echo "make lint    ruff, pyright, import-linter"
	@echo "make bench   the measurements behind the claims in the documentation"
	@echo "make docs    the documentation's site, in site/"
	@echo "make dist    the wheel and its constraints, for cluster.yaml"

setup: .venv/.test

demo: .venv/.demo
	$(BIN)/python benchmarks/demo.py

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

chaos: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long tests/chaos

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.test
	set -e; for script in $(BENCHMARKS); do $(BIN)/python $$script; done

docs: .venv/.docs
	$(BIN)/python docs/tools/options.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: | $(BIN)/python
	rm -rf dist
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .
	cp constraints.txt dist/

# The stamps record what was installed: .demo is enough to run jobs, .docs builds the documentation, and .test has both
# and the tools and references of the tests.
.venv/.demo: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[demo]'
	touch $@

.venv/.docs: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[docs]'
	touch $@

.venv/.test: $(REQUIREMENTS) | $(BIN)/python
	$(INSTALL) '.[test]'
	touch .venv/.demo .venv/.docs $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
