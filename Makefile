# freshet: every command a person needs. The first target prints this list.
#
# Installation goes into .venv with the exact versions of constraints.txt and happens once: stamp files
# inside .venv remember it until pyproject.toml or constraints.txt change. Needed on the machine: make and
# Python 3.11 or newer. On Linux without a GPU, `UV_TORCH_BACKEND=cpu make demo` fetches the small torch.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3 python
ARGS ?=
COMMA := ,

# One thread per process: two test workers share two cores, and token bytes are those of one thread.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help install install-dev demo test broker live-demo torture torture-kafka check lint format layers types quality synthetic bench bench-kafka reference clean

help:  ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.created:
	@found=""; \
	for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found="$$candidate"; break; \
	  fi; \
	done; \
	if [ -n "$$found" ]; then \
	  echo "creating $(VENV) with $$($$found --version)"; \
	  "$$found" -m venv "$(VENV)" || { command -v uv >/dev/null && uv venv -q --seed --allow-existing --python "$$found" "$(VENV)"; }; \
	elif command -v uv >/dev/null; then \
	  echo "creating $(VENV) with a Python 3.11 that uv provides"; uv venv -q --seed --python 3.11 "$(VENV)"; \
	else \
	  echo "freshet needs Python 3.11 or newer: install it, or set PYTHON=/path/to/python" >&2; exit 1; \
	fi
	@touch $@

# uv installs several times faster than pip; where it can not be had, pip does the same work.
$(VENV)/.uv: $(VENV)/.created
	@command -v uv >/dev/null || $(PY) -m pip install -q -c constraints.txt uv \
	  || echo "uv is not available: pip will install (slower)"
	@touch $@

define install_extras
	@echo "installing freshet[$(1)] into $(VENV) (versions of constraints.txt)"
	@start=$$SECONDS; \
	uv="$$(command -v uv || { [ -x $(BIN)/uv ] && echo $(BIN)/uv; } || true)"; \
	if [ -n "$$uv" ]; then \
	  "$$uv" pip install -q --python $(PY) -c constraints.txt --build-constraints constraints.txt -e '.[$(1)]'; \
	else \
	  $(PY) -m pip install -q -c constraints.txt -e '.[$(1)]'; \
	fi; \
	echo "installed in $$((SECONDS - start)) s"
endef

$(VENV)/.installed-report: $(VENV)/.uv pyproject.toml constraints.txt
	$(call install_extras,report)
	@touch $@

$(VENV)/.installed-live: $(VENV)/.uv pyproject.toml constraints.txt
	$(call install_extras,live$(COMMA)report)
	@touch $@ $(VENV)/.installed-report

$(VENV)/.installed-dev: $(VENV)/.uv pyproject.toml constraints.txt
	$(call install_extras,dev$(COMMA)live$(COMMA)report)
	@touch $@ $(VENV)/.installed-report $(VENV)/.installed-live

install: $(VENV)/.installed-report  ## create .venv with what the demo needs

install-dev: $(VENV)/.installed-dev  ## create .venv with what the tests and checks need

demo: $(VENV)/.installed-report  ## replay the shipped log with the shipped model, print the tables, write the report
	@$(BIN)/freshet demo $(ARGS)

test: $(VENV)/.installed-dev  ## run the tests on two workers, with coverage and the reason of every skip
	@$(BIN)/pytest -n 2 -ra --cov --cov-report=term:skip-covered $(ARGS)

broker: $(VENV)/.installed-live  ## start a real Kafka broker to play with (Java 17; Maven fetches it once)
	@$(BIN)/freshet broker $(ARGS)

live-demo: $(VENV)/.installed-live  ## a broker, a service, a producer: watch slates arrive, count everything (a minute; Java 17)
	@$(BIN)/freshet live-demo $(ARGS)

torture: $(VENV)/.installed-report  ## kill a replay 60 times, break its disk and files, compare what is left (minutes)
	@$(BIN)/freshet torture $(ARGS)

torture-kafka: $(VENV)/.installed-dev  ## kill a running service 24 times and its broker twice, balance the books (minutes)
	@$(BIN)/freshet torture-kafka $(ARGS)

check: format-check lint layers types test  ## everything that .ci/run runs

.PHONY: format-check
format-check: $(VENV)/.installed-dev
	@$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev  ## ruff: style, bugs, complexity, docstrings
	@$(BIN)/ruff check .

format: $(VENV)/.installed-dev  ## rewrite the sources in the house format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

layers: $(VENV)/.installed-dev  ## import-linter: who may import whom
	@$(BIN)/lint-imports

types: $(VENV)/.installed-dev  ## mypy --strict over the four packages
	@$(BIN)/mypy

quality: $(VENV)/.installed-report  ## measure the recipe against the baselines on the shipped log (long)
	@$(BIN)/freshet quality $(ARGS)

synthetic: $(VENV)/.installed-report  ## show what tokens carry, on a made-up task of long interests (minutes)
	@$(BIN)/freshet synthetic $(ARGS)

bench: $(VENV)/.installed-report  ## run the benchmarks, write bench/*.json and docs/performance.md (half an hour)
	@$(BIN)/freshet bench --all --page $(ARGS)

bench-kafka: $(VENV)/.installed-dev  ## the benchmarks beside a broker: ingest, latency, overload (Java 17; half an hour)
	@$(BIN)/freshet bench ingest latency overload --page $(ARGS)

reference: $(VENV)/.installed-report  ## rewrite docs/reference.md from the code
	@$(PY) -m infra.reference > docs/reference.md.new && mv docs/reference.md.new docs/reference.md

clean:  ## remove .venv, caches and outputs
	rm -rf $(VENV) out build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
