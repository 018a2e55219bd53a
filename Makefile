# Everything runs in .venv, which `make setup` makes from uv.lock. Needs Python >= 3.11 with venv and pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := UV_PYTHON_DOWNLOADS=never $(BIN)/uv
ARGS   ?=
JOBS   ?= 3

.DEFAULT_GOAL := check
.PHONY: check help setup setup-tests test test-compiled lint fix serve demo bench docs wheel clean

check: lint test ## lint and test

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## make the virtual environment from the lock file

$(VENV)/.ready: uv.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet "uv>=0.9"
	$(UV) sync --frozen --quiet --extra demo
	@touch $@

lint: setup ## format, lint, types, layers, file sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py

test: setup setup-tests ## all tests, JOBS files at a time: they wait for processes more than they work
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

wheel: setup ## a wheel whose hot modules are compiled (needs GCC; some minutes), in dist/
	ENTREPOT_COMPILE=pgo $(UV) build --quiet --wheel

test-compiled: wheel setup-tests ## the tests over real processes and formats, on the compiled wheel
	UV_PROJECT_ENVIRONMENT=.venv-compiled $(UV) sync --frozen --quiet --extra demo --no-install-project
	$(UV) pip install --quiet --python .venv-compiled/bin/python --no-deps --reinstall dist/entrepot-*.whl
	.venv-compiled/bin/pytest tests/conformance tests/integration tests/faults tests/clients -m "not pure" -n $(JOBS) --dist loadfile $(ARGS)

setup-tests: setup ## what the tests need beside the virtual environment: the older SDK, the Node SDK
	sh tests/clients/setup.sh

fix: setup ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

serve: setup ## control plane and gateway on this machine; see `entrepot serve --help`
	$(BIN)/entrepot serve $(ARGS)

demo: setup ## the main job on real inference; ARGS=--once ends after the walk
	$(BIN)/entrepot demo $(ARGS)

bench: setup ## side by side with peers; prints ratios
	$(BIN)/python bench/policy.py
	$(BIN)/python bench/run.py $(ARGS)

docs: setup ## check that the documentation is complete
	$(BIN)/pytest -q tests/unit/test_docs.py

clean: ## remove what was made here
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis node_modules tests/clients/node/node_modules bench/.peers
