# Every chore is one target; each sets up what it needs and is quick the second time.
#
#   VENV=DIR         where the virtual environment lives (default .venv)
#   PYTHON=PROGRAM   the Python it is made with, 3.11 or later (default python3)
#   GEVPY_BUILD=MODE auto (default), required or pure: see setup.py
#   PYTEST_ARGS=...  for "make test" to pass on
#   GUARD_ARGS=...   for "make guard" to pass on: --must, in CI, where having nothing to compare with is a failure
#   FUZZ_S=SECONDS   for "make fuzz", for each parser (default 600)
#   BENCH_ARGS=...   for "make bench" and its kin to pass on, such as "--server gevpy --rounds 3"

VENV ?= .venv
PYTHON ?= python3
GEVPY_BUILD ?= auto
PYTEST_ARGS ?=
BENCH_ARGS ?=
GUARD_ARGS ?=
FUZZ_S ?= 600

# Three processes for what only computes and waits, more than CI has cores, for many tests do wait; what takes times comes
# after it, and has the machine to itself.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder -m 'not alone'

export GEVPY_BUILD
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq
PXD := $(shell find gevpy -name '*.pxd')
HOT := $(PXD) $(PXD:.pxd=.py)
BUILT := $(VENV)/.built-$(GEVPY_BUILD)
COUNTED := bench.protocol bench.micro
AUTOBAHN := build/autobahn

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: run
run: $(BUILT) ## Serve the echo example on port 1833
	@exec $(BIN)/python examples/echo.py

.PHONY: test
test: $(BUILT) $(VENV)/.extra-test ## Run the whole suite twice: compiled, then the pure sources
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS)
	GEVPY_PURE_PYTHON=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)
	GEVPY_PURE_PYTHON=1 $(BIN)/python -m pytest -m alone $(PYTEST_ARGS)

.PHONY: soak
soak: $(BUILT) $(VENV)/.extra-test ## Run the fault catalogue with its whole counts, compiled: half an hour
	GEVPY_SOAK=1 $(BIN)/python -m pytest tests/integration --timeout 900 --durations 20 $(PYTEST_ARGS)

.PHONY: asan
asan: $(VENV)/.extra-test ## Run the tests of the compiled modules under AddressSanitizer and UBSan: 3 minutes
	@tools/asan $(BIN)/python

.PHONY: conformance
conformance: $(BUILT) $(VENV)/.extra-test $(AUTOBAHN)/wstest ## Run all of Autobahn|Testsuite against server and client, and write its page: 10 minutes
	$(BIN)/python -m tools.autobahn both --page docs/reference/conformance.md

.PHONY: fuzz
fuzz: $(BUILT) $(VENV)/.extra-test $(VENV)/.extra-fuzz ## Fuzz every parser for FUZZ_S seconds (default 600) each, two at a time
	GEVPY_FUZZ_S=$(FUZZ_S) GEVPY_PURE_PYTHON=1 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py tests/websocket/test_differential.py $(PYTEST_ARGS)

.PHONY: coverage
coverage: $(BUILT) $(VENV)/.extra-test ## Measure what the suite covers of the pure sources
	GEVPY_PURE_PYTHON=1 $(BIN)/python -m coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m coverage report

.PHONY: lint
lint: $(BUILT) $(VENV)/.extra-test $(VENV)/.extra-lint ## Check style, types, layers, docstrings and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate gevpy
	$(BIN)/codespell

.PHONY: format
format: $(VENV)/.extra-lint ## Format the sources and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(BUILT) $(VENV)/.extra-docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: wheel
wheel: $(BUILT) $(VENV)/.extra-test ## Build the sdist, and from it the wheel, into dist/
	$(BIN)/python -m build --outdir dist .

.PHONY: bench
bench: $(BUILT) $(VENV)/.extra-bench ## Measure gevpy, the floor, the nearest peers, WebSocket, TLS and Redis: 10 minutes
	$(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: $(BUILT) $(VENV)/.extra-bench ## Measure the most important figures: about a minute
	$(BIN)/python -m bench quick $(BENCH_ARGS)

.PHONY: bench-report
bench-report: $(BUILT) $(VENV)/.extra-bench ## Measure every peer and draw the charts in docs/: 40 minutes
	$(BIN)/python -m bench report $(BENCH_ARGS)

.PHONY: bench-workers
bench-workers: $(BUILT) $(VENV)/.extra-bench ## Measure many processes: CPU, hand-over, kills, reloads, starts: 2 minutes
	$(BIN)/python -m bench workers $(BENCH_ARGS)

.PHONY: bench-websocket
bench-websocket: $(BUILT) $(VENV)/.extra-bench ## Measure WebSocket: sizes, depths, peers, broadcast, idle connections: 4 minutes
	$(BIN)/python -m bench websocket $(BENCH_ARGS)

.PHONY: bench-loops
bench-loops: $(BUILT) $(VENV)/.extra-bench ## Measure uvloop against asyncio, compiled against pure: 5 minutes
	$(BIN)/python -m bench loops $(BENCH_ARGS)

.PHONY: bench-build
bench-build: $(VENV)/.venv ## Build the benchmark's load generator, no more
	$(BIN)/python -m bench --build

.PHONY: guard
guard: $(BUILT) ## Hold the hot loops to their recorded instruction counts: quarter of a minute
	@bad=0; for suite in $(COUNTED); do $(BIN)/python -m $$suite --check $(GUARD_ARGS) || bad=1; done; exit $$bad

.PHONY: guard-record
guard-record: $(BUILT) ## Record their instruction counts anew, for this Python
	@set -e; for suite in $(COUNTED); do $(BIN)/python -m $$suite --record; done

.PHONY: clean
clean: ## Remove everything that was made, the virtual environment included
	rm -rf $(VENV) build dist site gevpy.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find gevpy -name '*.so' -delete
	find gevpy tests examples bench tools -name __pycache__ -prune -exec rm -rf {} +

# ---------------------------------------------------------------- stamps

$(VENV)/.venv: | tools/make_venv
	@PYTHON="$(PYTHON)" tools/make_venv "$(VENV)"
	@touch $@

# gevpy itself, editable; "pure" because pip would hide the compiler's output, and the next stamp compiles.
# What the build needs is named in pyproject.toml, and only there.
$(VENV)/.installed: pyproject.toml $(VENV)/.venv
	@$(PIP) --upgrade pip $$($(BIN)/python tools/build_requires.py)
	GEVPY_BUILD=pure $(PIP) --no-build-isolation --editable .
	@touch $@

# Without a stamp after a fall-back: the next "make" tries again, and says so again.
$(BUILT): $(HOT) setup.py $(VENV)/.installed
	@rm -f $(VENV)/.built-*
	$(BIN)/python setup.py --quiet build_ext --inplace $(if $(filter setup.py,$?),--force)
	@if [ -n "$$(find gevpy -name '*.so')" ]; then touch $@; fi

# Autobahn|Testsuite is a program for Python 2.7, in an environment of its own.
$(AUTOBAHN)/wstest: tools/autobahn/install tools/autobahn/requirements.txt
	@tools/autobahn/install $(AUTOBAHN)
	@touch $@

$(VENV)/.extra-%: $(VENV)/.installed
	GEVPY_BUILD=pure $(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@
