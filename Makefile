# One command each; `make help` lists them. Needs Python 3.11 or newer, make and pip.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# One thread a worker: two workers fill two cores, and the numbers do not depend on the machine.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint types docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed ## meta-train on embedded characters, evaluate on unseen scripts (minutes)
	$(BIN)/innerloop train --recipe glyphs-demo --out runs/demo --overwrite
	$(BIN)/innerloop evaluate runs/demo

test: $(VENV)/.installed-dev ## the quick tests, then the slow ones
	$(PYTEST) -m "not slow"
	@$(PYTEST) -m slow || { code=$$?; [ $$code -eq 5 ] && echo "no slow tests"; } # 5: none collected

quick: $(VENV)/.installed-dev ## the quick tests and the doctests
	$(PYTEST) -m "not slow"

lint: types ## ruff, pyright and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.installed-dev ## pyright
	$(BIN)/pyright

docs: $(VENV)/.installed-docs ## build the documentation: docs/_build/html/index.html
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove the environment, caches and build products (runs/ stays)
	rm -rf $(VENV) build dist docs/_build docs/reference .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "got: $$($(PYTHON) --version 2>/dev/null || echo "no $(PYTHON)")"; \
	  echo "expected: Python 3.11 or newer"; \
	  echo "do: install it, then make PYTHON=python3.11 (or the path of another one)"; exit 2; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing innerloop and what it needs (PyTorch is large: this can take minutes)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing innerloop with its development tools (PyTorch is large: this can take minutes)"
	@$(PIP) --editable '.[dev,tensorboard]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing innerloop with what builds its documentation"
	@$(PIP) --editable '.[docs]'
	@touch $(VENV)/.installed $@
