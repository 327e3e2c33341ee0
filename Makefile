# make quickstart   set up everything, then train, evaluate and report on the embedded defaults
# make check        set up everything, then lint, types and the tests that start nothing heavy
# make test         set up everything, then lint, types and the tests; make test-all: with the small forms of the longest benchmarks
# PYTHON=/path/to/python3.12 chooses the interpreter of the environment; ARGS="..." adds arguments.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup lock quickstart check test test-all audit bench study lint style dashboards clean
BIN := .venv/bin
# of the tests, which often wait; four of them take up to 15 GiB
PROCESSES = $(shell awk '/MemTotal/ {print (($$2 > 20e6) ? 4 : 3)}' /proc/meminfo 2>/dev/null || echo 3)
export PYTHON
unexport PYTHONDONTWRITEBYTECODE # a run has ten processes, each of which would compile every library anew

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## create .venv with everything in it; does nothing when it is current
	@for p in python3 python3.11 python3.12 python3.13 python3.14 "$$PYTHON"; do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null; then exec "$$p" .ci/setup.py; fi; \
	done; \
	echo "[setup] no Python found. Debian/Ubuntu: sudo apt-get install python3 python3-venv make" >&2; exit 1

lock: setup ## resolve pyproject.toml into both locks again; ARGS="--upgrade-package NAME" moves one
	@$(BIN)/python .ci/lock.py $(ARGS)

quickstart: setup ## a small model learns when to think: the main job, end to end, on this machine's CPU
	@$(BIN)/thinkless quickstart $(ARGS)

style: setup
	@echo "ruff check" && $(BIN)/ruff check . && echo "ruff format" && $(BIN)/ruff format --check .

lint: style ## ruff and mypy
	@echo "mypy" && $(BIN)/mypy

check: lint ## lint, types and the tests without Ray, vLLM or DeepSpeed: for every change
	@$(BIN)/python -m pytest -n 2 -m "not heavy" $(ARGS)

# mypy is one of these tests (tests/test_types.py): it takes one core, and others have the second one meanwhile
test: style ## lint, types and tests; as root on Debian or Ubuntu it installs the programs that they start
	@$(BIN)/python .ci/programs.py
	@$(BIN)/python -m pytest -n $(PROCESSES) -m "not bench" $(ARGS)

test-all: style ## the same, and the small forms of the benchmarks that take long
	@$(BIN)/python .ci/programs.py
	@$(BIN)/python -m pytest -n $(PROCESSES) $(ARGS)

audit: setup ## known vulnerabilities of the packages in both locks, where the package index has such data
	@$(BIN)/python .ci/audit.py $(ARGS)

bench: setup ## every benchmark, one JSON line per figure; ARGS=--small: only that each still runs
	@shopt -s nullglob; for b in benchmarks/[a-z]*.py; do $(BIN)/python "$$b" $(ARGS) || exit 1; done

study: setup ## DeGRPO against GRPO where thinking is long: an hour on two cores; goes on where it was stopped; ARGS=--jobs=1
	@$(BIN)/python benchmarks/long_task.py --out runs/long-study --jobs 2 --picture docs/why-degrpo.svg $(ARGS)

dashboards: setup ## write docker/grafana and docker/prometheus anew, after a change of the catalogue of metrics or of the rules
	@$(BIN)/thinkless dashboards out=docker prometheus=http://prometheus:9090 folder=/etc/grafana/dashboards

clean: ## remove the environment and caches; keeps runs/
	@for p in python3 python3.11 python3.12 python3.13 python3.14 "$$PYTHON"; do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null; then "$$p" .ci/setup.py --clean || exit; break; fi; \
	done
	@rm -rf build .bench ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
