# make demo: install and run the main job. make test: the tests. make fast: on every save. make test-slow: before a release.
# PYTHON chooses the interpreter that .venv is built from: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt

# Two workers with one torch thread each: the models of the tests are too small for more threads. Compiled tests are kept
# whatever the environment says: pytest's rewriting of assertions would else take a third of the time to collect them.
# Which files begin: tests/conftest.py.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slow fast lint check clean real-model wheel
.DELETE_ON_ERROR:

help:
	@echo "make demo       build $(VENV), install, and run the main job on the model and data that ship with the package"
	@echo "make test       the tests (no network and no GPU needed once installed)"
	@echo "make test-slow  the tests that take long: many kills, soak, simulations, Ray, Slurm, more examples of each property"
	@echo "make real-model  every verb on a real instruct model (TUNELAB_REAL_MODEL names its folder); skipped without one"
	@echo "make wheel      build the wheel, install it into an empty environment, and run it and the demo there"
	@echo "make fast       lint, types, and the tests of the rooms that differ from the last commit"
	@echo "make lint       ruff and mypy"
	@echo "make check      test, test-slow, lint"

demo: $(VENV)/.installed
	$(BIN)/tunelab demo

real-model: $(VENV)/.installed-test
	$(BIN)/python scripts/real_model.py

wheel: $(VENV)/.installed-test
	$(BIN)/python scripts/try_wheel.py

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-slow
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=thorough

fast: $(VENV)/.installed-lint
	$(BIN)/python scripts/fast.py

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: test test-slow lint

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; name a Python >= 3.10: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: tunelab needs Python >= 3.10; $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; \
		echo "hint: name another interpreter: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Each stamp stands for one set of extras, installed from the files it depends on.
$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-slow: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,llama-cpp]"
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed

$(VENV)/.installed-lint: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,lint]"
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed
