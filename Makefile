# Everything is run from .venv, made and installed on first use. PYTHON names the interpreter it is made from.
PYTHON ?= python3
# Small models are fastest on one thread, and runs are then repeatable to the last digit.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

BIN := .venv/bin
INSTALLED := .venv/.installed
CHECKPOINT ?= data/digits_mlp/clean_seed0_step00640.pt

.PHONY: demo test test-all check bench clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	mkdir -p out
	$(BIN)/basinscope spectrum $(CHECKPOINT) --output out/spectrum.h5 --plot out/spectrum.png --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -m ""

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

bench: $(INSTALLED)
	@echo "benchmarks/ holds nothing to run yet"

clean:
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# torch goes first, so that nothing else picks another version of it.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "basinscope needs Python 3.11 or newer; '$(PYTHON)' is missing or older: name another with 'make PYTHON=python3.11'." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
