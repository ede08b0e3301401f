# Everything is run from .venv, made and installed on first use. PYTHON names the interpreter it is made from.
PYTHON ?= python3
# Small models are fastest on one thread, and runs are then repeatable to the last digit.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

BIN := .venv/bin
# Two processes, a file of tests to one: each builds its dense matrices once. In the order of the folders, the short files
# of doctests come last, so that no process waits for the other.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/.installed
# The peers of the benchmarks have an environment of their own; benchmarks/requirements-no-deps.txt says why.
BENCH_BIN := .bench-venv/bin
BENCH_INSTALLED := .bench-venv/.installed
# The oldest releases of everything that are allowed, and the newest that the index serves, have environments of their
# own; torch brings gigabytes of CUDA where the index has no smaller build. SELECTION= EXTRAS=test,language runs the
# whole suite in them.
OLDEST_BIN := .venv-oldest/bin
NEWEST_BIN := .venv-newest/bin
EXTRAS ?= test
# Those of neox need transformers.
SELECTION ?= -k 'not neox' tests/test_basinscope/test_packages.py tests/test_basinscope/test_public.py \
	tests/test_basinscope/test_results.py tests/test_basinscope/test_cli/test_demo.py \
	tests/test_basinscope/test_cli/test_spectrum_command.py tests/test_spectra/test_checkpoint \
	tests/test_spectra/test_files tests/test_spectra/test_lanczos tests/test_spectra/test_operators \
	tests/test_spectra/test_plots.py tests/test_volume/test_priors tests/test_volume/test_quadratic/test_saddlepoint.py \
	tests/test_volume/test_bridge/test_bridge.py tests/test_comparisons/test_measures/test_curvature.py \
	spectra volume comparisons basinscope
CHECKPOINT ?= data/digits_mlp/clean_seed0_step00640.pt
POISONED ?= data/digits_mlp/poisoned_seed0_step00640.pt

# Each warning is an error. The variable keeps a notice about the next major version of MkDocs off the screen.
BUILD_DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
{ echo "basinscope needs Python 3.11 or newer; '$(PYTHON)' is missing or older: name another as in" \
"'make PYTHON=python3.11'." >&2; exit 1; }
endef

.PHONY: demo test test-all test-wheel test-oldest test-newest check docs bench clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	mkdir -p out
	$(BIN)/basinscope spectrum $(CHECKPOINT) --output out/spectrum.h5 --plot out/spectrum.png --overwrite
	$(BIN)/basinscope volume $(CHECKPOINT) --method shifted-determinant --method quadratic-mass --method star-domain \
		--method ellipsoid-slice --method ellipsoid-slice-corrected --method segment --directions 200 \
		--output out/volume.h5 --plot out/volume.png --overwrite
	$(BIN)/basinscope bridge $(CHECKPOINT) --prior gaussian:1.3975 --cutoff 10 --draws 16 --output out/bridge.h5 \
		--plot out/bridge.png --overwrite
	$(BIN)/basinscope compare $(CHECKPOINT) $(POISONED) --output out/compare.h5 --plot out/compare.png --overwrite
	$(BIN)/basinscope audit --known --output out/audit.h5 --plot out/audit.png --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS)

test-all: $(INSTALLED)
	$(BIN)/python -m pytest $(WORKERS) -m ""

test-wheel: $(INSTALLED)
	$(BIN)/python tests/wheel.py

test-oldest:
	@$(CHECK_PYTHON)
	test -x $(OLDEST_BIN)/pip || $(PYTHON) -m venv .venv-oldest
	$(OLDEST_BIN)/python -m pip install --quiet -c constraints-oldest.txt -e '.[$(EXTRAS)]'
	$(OLDEST_BIN)/python -m pytest $(WORKERS) $(SELECTION)

test-newest:
	@$(CHECK_PYTHON)
	test -x $(NEWEST_BIN)/pip || $(PYTHON) -m venv .venv-newest
	$(NEWEST_BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[$(EXTRAS)]'
	$(NEWEST_BIN)/python -m pytest $(WORKERS) $(SELECTION)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/wheel.py
	$(BIN)/python -m pytest $(WORKERS)
	$(BUILD_DOCS)

docs: $(INSTALLED)
	$(BUILD_DOCS)

bench: $(INSTALLED) $(BENCH_INSTALLED)
	mkdir -p out
	$(BIN)/python benchmarks/spectra_accuracy.py --output out/spectra_accuracy.md
	$(BENCH_BIN)/python benchmarks/spectra_speed.py --raw out/spectra_speed.json --output out/spectra_speed.md
	$(BENCH_BIN)/python benchmarks/sgld_speed.py --output out/sgld_speed.md

clean:
	rm -rf out site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# torch goes first, so that nothing else picks another version of it.
$(INSTALLED): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	touch $@

$(BENCH_INSTALLED): pyproject.toml benchmarks/requirements.txt benchmarks/requirements-no-deps.txt
	@$(CHECK_PYTHON)
	test -x $(BENCH_BIN)/pip || $(PYTHON) -m venv .bench-venv
	$(BENCH_BIN)/python -m pip install --quiet torch==2.13.0
	$(BENCH_BIN)/python -m pip install --quiet -r benchmarks/requirements.txt
	$(BENCH_BIN)/python -m pip install --quiet --no-deps -r benchmarks/requirements-no-deps.txt
	$(BENCH_BIN)/python -m pip install --quiet --no-deps -e .
	touch $@
