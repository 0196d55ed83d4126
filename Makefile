# Two commands matter: `make demo` and `make test`. Each sets up what it needs, in .venv, on a machine with Python 3.11+, pip, make and git.
PYTHON ?= $(shell for v in 3.13 3.12 3.11 3; do p=$$(command -v python$$v) && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
KEEP ?=
MODEL ?=

.PHONY: demo test test-full test-foreign test-adapters test-matrix lint types imports bench soak fuzz mutate clean help
.DELETE_ON_ERROR:

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## a governed multi-agent run, attacked (KEEP=DIR keeps its .agentguard, MODEL=provider:name uses a real model)
	@$(BIN)/agentguard demo $(if $(KEEP),--keep "$(KEEP)") $(if $(MODEL),--model "$(MODEL)")

test: $(VENV)/.dev ## everything that needs only Python: lint, types, imports, tests, code of README, docs and notebooks (and, if there is strace, faults)
	$(MAKE) lint types imports
	$(BIN)/pytest -n auto --dist worksteal

test-full: test test-foreign test-adapters ## what continuous integration runs

test-adapters: $(VENV)/.dev ## every adapter with its real framework, in three environments of their own (ADAPTERS="--only a")
	PYTHONPATH=tests $(BIN)/python -m support.environments $(ADAPTERS)

test-matrix: $(VENV)/.dev ## the oldest versions of some frameworks that their extras allow
	PYTHONPATH=tests $(BIN)/python -m support.environments --oldest $(ADAPTERS)

test-foreign: $(VENV)/.dev ## logs, proofs and tiles verified by other people's code (Go and Python; apt-get install golang-go golang-golang-x-mod-dev)
	$(BIN)/pytest -m foreign tests/foreign

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/lint-imports

bench: $(VENV)/.dev ## medians and ratios, with the peers in environments of their own (BENCH_ARGS="--quick")
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/policy.py $(filter --quick,$(BENCH_ARGS))
	$(BIN)/python benchmarks/log.py $(filter --quick,$(BENCH_ARGS))
	$(BIN)/python benchmarks/frameworks.py $(filter --quick,$(BENCH_ARGS))
	$(BIN)/python benchmarks/log_read.py $(filter --quick,$(BENCH_ARGS))

soak: $(VENV)/.dev ## what takes minutes: long sweeps (apt-get install strace), and the property tests for a long time
	$(BIN)/pytest -m soak
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest tests/property tests/second

fuzz: $(VENV)/.dev ## atheris on every reader, a minute each (SECONDS=60)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	for target in policy artifact call condition; do PYTHONPATH=tests $(BIN)/python -m fuzz.run $$target $(or $(SECONDS),60) || exit 1; done

mutate: $(VENV)/.dev ## mutants of the decision core, judged by the tests (MODULES="decide policy.budgets"); not in continuous integration
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mutate]'
	PYTHONPATH=tests $(BIN)/python -m mutation.run $(MODULES)

clean: ## remove what make made
	rm -rf $(VENV) .venvs .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "agentguard needs Python 3.11 or newer (set PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "installing agentguard and the demo's framework into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing agentguard and its development tools into $(VENV) (once)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.demo
