# make train: install and train TRPO on HalfCheetah-v5.   make test: install, run the tests and the linters.

PYTHON ?= python3
TORCH ?= torch==2.13.0
ENV ?= HalfCheetah-v5
STEPS ?= 1e6
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install train test test-all lint format readme clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

install: $(STAMP)  ## make .venv and install everything into it

# torch first and pinned: whatever comes after is satisfied and pulls no accelerator build of several gigabytes
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[examples,tune,databases,video,zoo,bench]' --group dev
	@touch $(STAMP)

train: install  ## train TRPO: make train ENV=Hopper-v5 STEPS=2e5 SEED=1
	@$(BIN)/sb3-trpo train --env $(ENV) --n-timesteps $(STEPS) --seed $(SEED)
	@$(BIN)/sb3-trpo plot $(ENV)

test: install lint  ## linters and tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-all: install lint  ## linters and all tests, the long ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m ''

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: install  ## write what is generated: tables in README.md, the schemas of hyperparameter files
	$(BIN)/python -m sb3_trpo.zoo.schema hyperparams
	$(BIN)/python -c 'from pathlib import Path; from sb3_trpo.algorithms.metrics import write_table; write_table(Path("README.md"))'
	$(BIN)/python -m benchmarks.readme

clean:  ## remove the environment and what the tests left
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
