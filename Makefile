# One command each: make demo | test | check | bench. `make help` lists them. All work on a fresh Debian 12, as root.
PYTHON ?= python3
DATA_DIR ?= /var/lib/sandboxd
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit check format generate bench clean packages packages-test guest agent image

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

packages:
	@tools/install_packages.sh deploy/packages/run.txt deploy/packages/build.txt

packages-test: packages
	@tools/install_packages.sh deploy/packages/test.txt

$(STAMP): pyproject.toml setup.py $(wildcard sandboxd/linux/_build_*.py) | packages
	@echo "python: installing sandboxd and its dependencies into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

agent: packages
	@$(MAKE) -s -C images/agent install

guest: $(STAMP) agent ## Guest kernel (Debian's package, unpacked, not installed) and initrd
	@$(BIN)/python -m sandboxd.guest.kernel fetch --data-dir $(DATA_DIR)
	@$(BIN)/python -m sandboxd.guest.boot --data-dir $(DATA_DIR)

setup: $(STAMP) guest ## Everything that sandboxctl needs from this checkout

image: packages
	@$(MAKE) -s -C images/busybox

demo: setup image ## Sets up, then runs a real image in a microVM
	@$(BIN)/sandboxctl doctor
	@$(BIN)/sandboxctl load -i images/busybox/build/busybox --tag busybox
	@echo '$$ sandboxctl run --rm --timings busybox uname -a'
	@$(BIN)/sandboxctl run --rm --timings busybox uname -a

test: packages-test setup ## Every test: unit, contract, fuzz, real guests
	@$(BIN)/pytest $(PYTEST_ARGS)

test-unit: $(STAMP) ## The tests that touch nothing
	@$(BIN)/pytest tests/unit $(PYTEST_ARGS)

check: $(STAMP) packages ## ruff, mypy --strict, import contracts, C warnings
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache
	@$(MAKE) -s -C images/agent check

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

generate: $(STAMP) ## sandboxd/api from proto/
	@$(BIN)/python tools/generate.py

bench: ## JSON: p50 and p95 of a start, its stages, memory of each process
	@$(MAKE) -s setup image >&2
	@$(BIN)/python bench/run_start.py

clean:
	@rm -rf $(VENV) build dist *.egg-info images/agent/build images/busybox/build sandboxd/guest/data
	@find sandboxd -name '_[a-z]*.so' -o -path 'sandboxd/linux/_*.c' | xargs -r rm -f
