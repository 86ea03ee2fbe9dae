# `make demo` and `make test` are the two commands of the README; each target builds .venv first
# when it is missing or when pyproject.toml or constraints.txt changed, and starts at once otherwise.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Two torch threads collapse beside another busy process unless idle OpenMP threads sleep.
export OMP_WAIT_POLICY := PASSIVE
# Nothing here is ever fetched from a model hub.
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow check mutants notebooks bench clean

demo: $(STAMP)
	$(BIN)/python -m toy verify
	$(BIN)/python -m lm demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py

notebooks: $(STAMP)
	$(BIN)/python tools/run_notebooks.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks accuracy nearly_equal exact_speed

clean:
	rm -rf $(VENV) build *.egg-info

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@
