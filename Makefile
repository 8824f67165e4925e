# make demo   install into .venv, then corpus -> features -> voice -> speech (Amharic sample)
# make test   the tests      make lint   ruff and mypy      make ui   MLflow on 127.0.0.1:5000
# make bench  the benchmarks that run without a GPU
# make head   a Ray cluster of this machine, which asks for a token      make head-stop  the end of every Ray here
# make submit JOB=train ARGS="--config VOICE.yaml"   a job on the cluster at RAY_API_SERVER_ADDRESS
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# No token is written to the home folder, and a local cluster needs none.
export RAY_AUTH_MODE ?= disabled

# The cluster that jobs are submitted to, and the folder of corpora, features and runs that it sees.
RAY_API_SERVER_ADDRESS ?= http://127.0.0.1:8265
DIMTS_HOME ?= $(CURDIR)
# Loopback is reached without a proxy for the internet.
DIRECT := $(no_proxy),$(NO_PROXY),localhost,127.0.0.1
JOB ?= train
ARGS ?= --config jobs/configs/sample_am.yaml

.PHONY: demo test lint ui bench install format head head-stop submit
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

head: export RAY_AUTH_MODE = token
head: install
	@$(BIN)/ray get-auth-token --generate > /dev/null
	PATH="$(abspath $(BIN)):$$PATH" RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_JOB_STOP_WAIT_TIME_S=60 \
		$(BIN)/ray start --head --disable-usage-stats

head-stop: install
	$(BIN)/ray stop

submit: export RAY_AUTH_MODE = token
submit: export no_proxy = $(DIRECT)
submit: export NO_PROXY = $(DIRECT)
submit: install
	$(BIN)/ray job submit --address "$(RAY_API_SERVER_ADDRESS)" --runtime-env runtime_env.yaml -- \
		env DIMTS_HOME="$(DIMTS_HOME)" python jobs/$(JOB).py $(ARGS)
