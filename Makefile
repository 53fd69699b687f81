# One command a chore, the same on a laptop and in CI. Everything is installed into .venv by the first command that needs it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := actors gateway storage sdk
PIP_VERSION := 26.3

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# ---- set-up

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip==$(PIP_VERSION)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[server,embedded,demo]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[server,embedded,demo,dev,compat]'
	@touch $@ $(VENV)/.demo-installed

.PHONY: install
install: $(VENV)/.dev-installed ## Install everything for development into .venv

.PHONY: lock
lock: install ## Write the installed versions to constraints.txt
	{ echo '# Versions that a fresh install gets. Written by `make lock`.'; $(BIN)/python -m pip freeze --exclude-editable | grep -v '^pip=='; } > constraints.txt

# ---- run

FOLDER ?= .

.PHONY: demo
demo: $(VENV)/.demo-installed ## Count the words of a folder, a task a file (FOLDER=path)
	$(BIN)/broadaxe demo $(FOLDER)

# ---- check

.PHONY: format
format: install ## Format and fix what can be fixed
	$(BIN)/ruff check --quiet --fix $(PACKAGES) tests benchmarks
	$(BIN)/ruff format --quiet $(PACKAGES) tests benchmarks

.PHONY: lint
lint: install ## Check style, formatting and imports
	$(BIN)/ruff check $(PACKAGES) tests benchmarks
	$(BIN)/ruff format --check --quiet $(PACKAGES) tests benchmarks
	$(BIN)/lint-imports

.PHONY: types
types: install ## Check types, strictly
	$(BIN)/mypy

.PHONY: unit
unit: install ## The tests that need nothing outside their process
	$(BIN)/python -m pytest tests/unit

# Most tests wait for other processes, so more of them than cores fit side by side.
TEST_PROCESSES ?= 4

.PHONY: test
test: lint types compat-venv ## Everything: style, types, tests
	$(BIN)/python -m pytest tests -m 'not slow' --numprocesses $(TEST_PROCESSES) --dist loadfile --durations 40

.PHONY: slow
slow: install compat-venv ## The long proofs
	$(BIN)/python -m pytest tests -m slow --timeout 3600

.PHONY: compat-venv
compat-venv: install
	$(BIN)/python tests/compat/setup_1375.py

SEEDS ?= 1000

.PHONY: simulate
simulate: install ## Run the engine against random faults on virtual time (SEEDS=1000)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

.PHONY: bench
bench: install ## Measure: prints a table, and as its last line one JSON object
	$(BIN)/python -m benchmarks.harness

.PHONY: bench-flow
bench-flow: install ## Measure flow control: concurrency keys, labels, depth of the queue, fairness
	$(BIN)/python -m benchmarks.harness --group flow

.PHONY: bench-triggers
bench-triggers: install ## Measure what starts runs by itself: events to many workflows, and to many that wait
	$(BIN)/python -m benchmarks.harness --group triggers

.PHONY: wire
wire: install ## Generate the wire messages again from their .proto files
	cd sdk && PATH="$(CURDIR)/$(BIN):$$PATH" ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --mypy_out=quiet:. \
		broadaxe/wire/*.proto broadaxe/wire/v1/*.proto broadaxe/wire/v1/shared/*.proto

.PHONY: clean
clean: ## Remove the virtual environments and caches
	rm -rf $(VENV) .venv-compat-1375 .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
