# make demo   install into .venv, then corpus -> features -> voice -> speech (Amharic sample)
# make test   the quick tests: minutes, with one try of each job on a real Ray
# make test-all   all tests, and the quick ones that compute as on a CPU without AVX-512 (make test-avx2)
# make lint   ruff and mypy      make docs   the site, in output/site      make ui   MLflow on 127.0.0.1:5000
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

.PHONY: demo test test-all test-avx2 lint docs ui bench install format head head-stop submit
.DEFAULT_GOAL := demo

# Not all of the 24,000 modules, a minute's work, but those that are used are compiled, as they are.
PIP = $(BIN)/pip install --quiet --no-compile --constraint constraints.txt

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (several minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[dev,judges,serve]"
	@$(PIP) --no-deps resemblyzer   # its weights
	@touch $@

demo: install
	$(BIN)/dimts demo

# What pytest's processes share is in tests/shared_fixtures.py.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15
# As on a CPU without AVX-512: most laptops, and AMD's before Zen 4.
AVX2 = ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
# Of the quick tests those whose figures come from torch's kernels; what jobs do with them is the
# same on any CPU, and tests/test_readme.py runs the demo on such a one.
COMPUTING = $(addprefix tests/test_,$(addsuffix .py, \
	alignment golden griffin_lim loop loss machine mel model resume synthesis \
	vocoder_model voice_pitch))
# A command, and how long it took, whatever came of it.
timed = begin=$$(date +%s); $(2); code=$$?; s=$$(($$(date +%s) - begin)); \
	echo "$(1): $$((s / 60)) min $$((s % 60)) s"; exit $$code

test: install
	@$(call timed,make test,$(PYTEST))

test-all: install
	@$(call timed,make test-all,$(PYTEST) -m "not slow" --hypothesis-profile thorough \
		&& $(AVX2) $(PYTEST) $(COMPUTING))

test-avx2: install
	@$(call timed,make test-avx2,$(AVX2) $(PYTEST) $(COMPUTING))

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile deploy/Dockerfile.serve

# What it is warned of is not this project's links: the theme has a successor.
docs: export NO_MKDOCS_2_WARNING = 1
docs: install
	$(BIN)/mkdocs build --strict

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install
	$(BIN)/dimts ui

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
