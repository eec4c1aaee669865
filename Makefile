# make demo, test, test-fast, lint, docs, bench, wheels: each sets up the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-fast lint docs bench wheels clean

setup: $(READY)

# Pinned versions (constraints.txt) make the environment, and so the bytes, the same everywhere.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'contrail needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	@echo "Setting up $(VENV): torch and its CUDA libraries are about 5 GB, this takes a few minutes once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt --editable '.[dev,docs]' \
		| grep --line-buffered -E '^(Collecting|Installing|Successfully)' | cut -c1-100
	$(BIN)/python -c "import contrail_train"
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pydoclint contrail_data contrail_train
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/step.py

# Wheels for machines without internet, except for the packages in WITHOUT, which they have already.
wheels: setup
	$(BIN)/python tools/wheels.py wheels --without $(WITHOUT)

clean:
	rm -rf $(VENV) demo site wheels .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
