# A newcomer's way in: `make demo` shows it, `make test` proves it. Needs Python 3.11 or later, git and make.
#
# Everything goes into .venv and .demo; nothing else on the machine is touched. Variables: PYTHON (interpreter for the
# virtual environment), VENV (where it goes), ONCE=1 (demo: end by itself), ARGS (more words for pytest or the benchmarks).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help setup test lint types demo bench bench-peers client lock clean

help:  ## Say what there is
	@echo "make demo          the whole thing on this machine, with simulated vendors; Ctrl-C ends it"
	@echo "make demo ONCE=1   the same, changes a manifest, waits until that is in force, and exits"
	@echo "make test          set up, then linters, types, import contracts and all tests"
	@echo "make setup         only the virtual environment ($(VENV))"
	@echo "make lint          ruff: rules and format"
	@echo "make types         mypy --strict"
	@echo "make bench         what we promise about speed, measured here"
	@echo "make bench-peers   whole syncs beside dlt, singer-sdk and airbyte-cdk, installed into a cache folder for it"
	@echo "make client        docs/openapi.json, and the methods of reconciler.client from it"
	@echo "make lock          newest permitted versions into requirements*.lock (with uv)"
	@echo "make clean         remove $(VENV), .demo and every cache"

setup: $(READY)  ## The virtual environment, exactly as locked

# Hashes are checked for everything that is downloaded; the project itself comes last, without dependencies of its own.
$(READY): requirements.lock requirements-ldap.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later is needed; say where with PYTHON=..." >&2; exit 1; fi
	@command -v git >/dev/null || { echo "git is needed: apt-get install git" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once; a minute or so)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no virtual environment can be made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install --require-hashes -r requirements.lock
	@if printf '#include <ldap.h>\n#include <sasl/sasl.h>\n#include <krb5.h>\n' | $${CC:-cc} -E - >/dev/null 2>&1; then \
		$(PIP) install --require-hashes -r requirements-ldap.lock; \
	else \
		echo "without the LDAP connector; for it: apt-get install gcc python3-dev libldap-dev libsasl2-dev libkrb5-dev,"; \
		echo "then: make clean setup"; \
	fi
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

test: $(READY)  ## Everything that must be right before a commit
	@$(MAKE) --no-print-directory lint types
	$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

demo: $(READY)
	@ONCE=$(ONCE) $(BIN)/python -m simulators.demo

bench: $(READY)
	@if [ -f benchmarks/__main__.py ]; then $(BIN)/python -m benchmarks $(ARGS); \
	else ls benchmarks; echo "benchmarks/ has no __main__.py: nothing to run" >&2; exit 1; fi

# Minutes, and the network: each peer goes into an environment of its own under ~/.cache/reconciler-benchmarks.
bench-peers: $(READY)
	$(BIN)/python -m benchmarks peers $(ARGS)

client: $(READY)
	$(BIN)/reconciler schema --api > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json
	$(BIN)/python -m tools.client

# requirements.lock: to develop; -ldap: to run, with the LDAP connector; -build: to make the wheel. One version in all three.
lock: $(READY)
	@test -x $(BIN)/uv || $(PIP) install uv
	$(COMPILE) --upgrade --group dev pyproject.toml --output-file requirements.lock
	$(COMPILE) --upgrade --extra ldap --constraint requirements.lock pyproject.toml --output-file requirements-ldap.lock
	$(COMPILE) --upgrade --constraint requirements.lock --group pyproject.toml:build --output-file requirements-build.lock

clean:
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
