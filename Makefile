# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check clean

demo: $(VENV)/installed
	$(BIN)/anystroke demo -o demo --overwrite

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m slow --timeout 1800

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build src/*.egg-info
