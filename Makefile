# The only entry points. Each target makes the environment first if it is missing or out of date;
# Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: setup demo up test test-postgres lint bench chaos lock
.DEFAULT_GOAL := demo

setup: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml requirements.lock requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/ods demo $(ARGS)

up: setup
	$(BIN)/ods up $(ARGS)

test: setup
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

# Needs PgBouncer, which no Python package brings: apt-get install pgbouncer. `make test` leaves these out.
test-postgres: setup
	$(BIN)/pytest -m pgbouncer tests/poolers $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

chaos: setup
	$(BIN)/python -m tests.chaos $(ARGS)

# Pins every dependency with its hashes. No address of an index is written: anyone's index serves.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url -c requirements.lock --extra embedded --extra bench --extra dev pyproject.toml -o requirements-dev.lock
