# Two commands do everything: `make run` fine-tunes and registers, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing about you leaves the machine.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help run ui test test-slow test-browser test-gpu check format docs clean install dev \
        bench-prepare bench-training bench-sweep bench-overhead bench-serve demo-model

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

run: $(BIN)/.installed ## Prepare, sweep, evaluate and register: `make run ARGS="-P epochs=2"`
	@# In place of what is given, not beside it: MLflow refuses a parameter that stands twice.
	@MLFLOW_LOGGING_LEVEL=WARNING mlflow run . --env-manager local $(or $(ARGS),-P epochs=3)

ui: $(BIN)/.installed ## Open the MLflow UI on the runs of this folder
	@# Without the seven job workers of the GenAI features, which nothing here uses, it starts at once.
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db $(ARGS)

test: $(BIN)/.installed-dev ## The default tests
	@# Side by side, as most of them wait for servers; a file's tests share one.
	@python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(BIN)/.installed-dev ## The tests that take minutes
	@python -m pytest -m slow $(ARGS)

test-browser: $(BIN)/.installed-dev ## Pages in headless Chromium (Debian: apt-get install chromium)
	@python -m pytest -m browser $(ARGS)

test-gpu: $(BIN)/.installed-dev ## The engine on a CUDA device beside the CPU
	@python -m pytest tests/gpu -m gpu $(ARGS)

check: $(BIN)/.installed-dev ## Lint, format, types, import rules, generated files
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@python -m mlflow_phi3.cli.reference --check

format: $(BIN)/.installed-dev ## Let ruff format and mend
	@ruff check --fix-only .
	@ruff format .

docs: $(BIN)/.installed ## Write the pages that are generated from the code
	@python -m mlflow_phi3.cli.reference

bench-prepare: $(BIN)/.installed-bench ## Rows per second of `prepare` beside `datasets` + TRL
	@python benchmarks/prepare.py $(ARGS)

bench-training: $(BIN)/.installed-bench ## Tokens per second of the engine beside TRL
	@python benchmarks/training.py $(ARGS)

bench-sweep: $(BIN)/.installed-bench ## A sweep of 12 trials beside a process a trial
	@python benchmarks/sweep.py $(ARGS)

bench-overhead: $(BIN)/.installed-bench ## What a study of 1,000 trials costs beside its training
	@python benchmarks/sweep_overhead.py $(ARGS)

bench-serve: $(BIN)/.installed-bench ## Requests per second beside `transformers serve` and MLflow
	@python benchmarks/serve.py $(ARGS)

demo-model: $(BIN)/.installed ## Make the embedded demo model again, from its text
	@python -m mlflow_phi3.modeling.demo.build $(ARGS)

install: $(BIN)/.installed ## Make the environment
dev: $(BIN)/.installed-dev ## Make the environment for developers

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@# Without Debian's python3-venv it fails when python is there already, and pip is not.
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(BIN)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (some minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[emulator]'
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[emulator,dev]'
	@touch $@

$(BIN)/.installed-bench: $(BIN)/.installed-dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[emulator,dev,bench]'
	@touch $@

clean: ## Remove the environment and caches; runs and models stay
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
