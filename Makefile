# Two commands do everything on a machine with Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-bench
RATERS := .venv-bench-ratings
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint bench bench-solvers bench-ratings docs clean

demo: $(VENV)/demo
	$(BIN)/proxfactor demo

test: $(VENV)/test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not exhaustive"

test-all: $(VENV)/test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/demo
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/prox.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/optimizers hardest
	$(BIN)/python benchmarks/solvers short --fresh

bench-solvers: $(PEERS)/ready
	$(PEERS)/bin/python benchmarks/solvers $(BENCH)

bench-ratings: $(RATERS)/ready
	$(RATERS)/bin/python benchmarks/ratings $(BENCH)

docs: $(VENV)/demo
	$(BIN)/python docs/make.py

clean:
	rm -rf $(VENV) $(PEERS) $(RATERS) demo

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "proxfactor needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(PEERS)/ready: $(VENV)/bin/python pyproject.toml constraints.txt benchmarks/solvers/systems.py
	$(VENV)/bin/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(PEERS)/bin/python benchmarks/solvers install
	touch $@

$(RATERS)/ready: $(VENV)/bin/python pyproject.toml constraints.txt benchmarks/ratings/systems.py
	$(VENV)/bin/python -m venv $(RATERS)
	$(RATERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(RATERS)/bin/python benchmarks/ratings install
	touch $@

$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/test: $(VENV)/demo
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/lint: $(VENV)/demo
	$(PIP) -e '.[test,lint]'
	touch $@
