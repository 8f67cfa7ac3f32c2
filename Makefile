# Each target makes .venv itself. WORKSPACE: where results go (path or URI). PHOTOS: a folder or tar of photos; empty: generated.
# SERVE=0: `make demo` ends after the table. PYTHON: the interpreter that makes .venv.
PYTHON ?= python3
WORKSPACE ?= workspace
PHOTOS ?=
SERVE ?= 1
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all bench lint constraints

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

install: .venv/.installed  ## .venv with the package, its tests and tools, at the versions of constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

demo: install  ## the whole loop through `ray job submit`, then the search page on 127.0.0.1:8000
	$(BIN)/python cluster/demo.py --workspace '$(WORKSPACE)' --photos '$(PHOTOS)' --serve '$(SERVE)'

test: install  ## the tests, without the slow drills
	$(BIN)/python -m pytest -m 'not slow and not gpu and not cloud'

test-all: install  ## all tests that this machine can run
	$(BIN)/python -m pytest -m 'not gpu and not cloud'

bench: install  ## measure, with medians and ratios; writes $(WORKSPACE)/reports/benchmark-*.json, README's table and its plot
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python -m jobs.benchmark --workspace '$(WORKSPACE)' --page README.md --plot docs/benchmark.svg

lint: install  ## ruff, mypy, and the layers of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

constraints: install  ## write the installed versions to constraints.txt
	(echo "# Versions that installs repeat: written by \`make constraints\`."; $(BIN)/python -m pip freeze --exclude-editable | sort -f) > constraints.txt
