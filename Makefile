# Everything here also works by hand in an environment of your own; see README.md, "Without make".
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install repro test test-slow bench lint
install: $(STAMP)

repro: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m dvc repro

# Two processes of tests, each with torch's threads: those of one do not spin where the other computes.
test: $(STAMP)
	GOMP_SPINCOUNT=0 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m slow

bench: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The package itself is installed as it lies here: `nightshift` is there, and runs what is edited. The stages of a queued
# run import their own copy all the same: `python -m stages.X` looks in the current folder first.
$(STAMP): requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
