# make demo   install into .venv, then corpus -> features -> voice -> speech (Amharic sample)
# make test   the tests      make lint   ruff and mypy      make ui   MLflow on 127.0.0.1:5000
# make bench  the benchmarks that run without a GPU
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# No token is written to the home folder, and a local cluster needs none.
export RAY_AUTH_MODE ?= disabled

.PHONY: demo test lint ui bench install format
.DEFAULT_GOAL := demo

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (several minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/python jobs/demo.py

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install
	$(BIN)/python jobs/ui.py

bench: install
	$(BIN)/python benchmarks/mel.py
	$(BIN)/python benchmarks/loop.py
