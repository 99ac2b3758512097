# Everything starts here: `make` alone lists the targets. Only Python 3.11 or newer is needed;
# a C++ compiler makes the searches faster.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Workers of the tests: two fit any machine; `make test JOBS=8` on a larger one.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

.PHONY: help quickstart test lint types docs bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# A name may stand for an interpreter that does not start (a version manager's placeholder),
# so each is asked for its version.
$(READY): requirements-dev.lock pyproject.toml
	@for python in $(CANDIDATES); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "rulesearch needs Python 3.11 or newer; none of these is: $(CANDIDATES)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version) (some minutes, once)"; \
	$$found -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# A run never overwrites another: the first name that is free.
quickstart: $(READY) ## find a rule on the bundled digits (minutes), print it, write its report
	@run=runs/quickstart; n=1; \
	while [ -e "$$run" ]; do n=$$((n + 1)); run=runs/quickstart-$$n; done; \
	$(BIN)/rulesearch search examples/quickstart.yaml --out "$$run" && \
	echo && echo "The rule in LaTeX:" && $(BIN)/rulesearch show "$$run" --latex && \
	echo && $(BIN)/rulesearch report "$$run"

test: $(READY) ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

lint: $(READY) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

docs: $(READY) ## build the documentation; a warning is an error
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Hours: on an idle machine. One suite: make bench SUITE=main
SUITE ?= all
bench: $(READY) ## measure beside torch and JAX (hours; SUITE=main: less), write tables and figures
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[jax]"
	@mkdir -p docs/figures
	@$(BIN)/rulesearch bench --suite $(SUITE) --out benchmarks/machine.json --figures docs/figures

clean: ## remove what tools leave behind; runs and the environment stay
	@rm -rf build dist docs/_build docs/generated .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
