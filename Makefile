# Two commands for a newcomer: `make demo` and `make test`. Both build .venv from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled once and kept, whatever the caller has set: collecting tests and each command in a process of its own need it.
unexport PYTHONDONTWRITEBYTECODE

# Two processes a core, since each waits for half of its time (disks, servers, Ray, children), and at most eight: one takes
# 0.4 GiB, or 1.2 with torch. Files stay whole; tests/conftest.py says what runs first.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? 2 * n : 8)))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo screenshots test test-long test-full chaos loop fuzz search bench bench-packs bench-memory bench-commit bench-banks lint types format browser clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nsfwscan needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready ## two nights over a small media store, and the page of what was found
	$(BIN)/nsfwscan demo demo

screenshots: $(VENV)/.ready browser ## after make demo: the pictures in README, from demo/reports
	$(BIN)/python -m tests.screenshots demo/reports deploy/pictures

test: $(VENV)/.ready browser ## the test suite; JOBS=2 for the number of processes
	@echo "All tests but the long ones, in $(JOBS) processes: 8 to 15 minutes on two cores, by their speed. They are collected first, in half a minute."
	$(PYTEST) -m "not long and not full"

test-long: $(VENV)/.ready browser ## what takes long, and needs nothing but time
	@echo "The long tests, in $(JOBS) processes: about 11 minutes on two cores."
	$(PYTEST) -m "long and not full"

test-full: $(VENV)/.ready browser ## every test: those of both, and those with a real S3 server (Ceph)
	@echo "Every test there is, in $(JOBS) processes, with a Ceph that is installed first: half an hour or more on two cores."
	$(PYTEST)

chaos: $(VENV)/.ready ## kill a scan again and again, resume it, compare it with an undisturbed one; SEED= OBJECTS=
	$(BIN)/python -m tests.chaos.chaos $(if $(SEED),--seed $(SEED)) $(if $(OBJECTS),--objects $(OBJECTS))

loop: $(VENV)/.ready browser ## scan, decide in a browser, fine-tune, solve, replay: the whole loop on generated pictures
	$(BIN)/python -m tests.loop $(or $(FOLDER),build/loop)

fuzz: $(VENV)/.ready ## damaged files into every reader; SECONDS=60 SEED=
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

search: $(VENV)/.ready ## the property tests, with examples that no run has had before; SEED=
	$(PYTEST) -m "hypothesis and not full" --hypothesis-profile search $(if $(SEED),--hypothesis-seed $(SEED))

bench: $(VENV)/.ready ## measure it all on this machine, beside its neighbours; BENCH='--seconds 60' for other options
	$(BIN)/python jobs/bench.py --work build/bench --json build/bench/results.json --page deploy/SCALE.md $(BENCH)

bench-packs: $(VENV)/.ready ## packs alone, and the factory with and without gates; `nsfwscan models pull` first
	$(BIN)/python jobs/bench.py --work build/bench --only packs --json build/bench/results.json --page deploy/SCALE.md $(BENCH)

bench-memory: $(VENV)/.ready ## the memory curve: 100,000 objects scanned, ten million planned; long
	$(BIN)/python jobs/bench.py --work build/bench --only memory --json build/bench/results.json --page deploy/SCALE.md $(BENCH)

bench-commit: $(VENV)/.ready ## commits of a million rows, carried over and new; long
	$(BIN)/python jobs/bench.py --work build/bench --only commit --json build/bench/results.json --page deploy/SCALE.md $(BENCH)

bench-banks: $(VENV)/.ready ## a hash bank of ten million: building, memory, lookups a second; long
	$(BIN)/python jobs/bench.py --work build/bench --only banks --json build/bench/results.json --page deploy/SCALE.md $(BENCH)

lint: $(VENV)/.ready ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.ready ## let ruff write
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages are tested in Debian's chromium; elsewhere, or without root, those tests say that they were skipped.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium: the browser tests will be skipped"

clean: ## remove what the targets made
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
