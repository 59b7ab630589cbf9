# `make demo` and `make test` set up all they need in .venv, on a machine that has Python 3.11 and make.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

# The newest and the oldest RD-Agent that the package is tested on, each in an environment of its own.
NEWEST := rdagent==1.0.0
# 0.8.0 leaves this requirement open, and a newer one breaks its import.
OLDEST := rdagent==0.8.0 pydantic-ai-slim[mcp,openai,prefect]==1.66.0
QLIB := pyqlib==0.9.7 torch==2.13.0

# The CPU build of torch: from a folder of wheels where one is named, else from torch's own index.
ifdef PIP_FIND_LINKS
TORCH := --find-links "$(PIP_FIND_LINKS)"
else
TORCH := --torch-backend cpu
endif

OLD_VENV := $(VENV)/rdagent-0.8.0

# What looks at RD-Agent, and so runs on both; the other rooms do not know it.
HOST_TESTS := $(patsubst %,tests/test_%.py,alpha environment fetching handoff history latest_log listing locate normal \
	options patch performance qlib_config qlib_record resume run_progress sessions startup training verification)

.PHONY: demo test lint clean

demo: $(VENV)/.ready
	$(BIN)/rdagent-sota demo

test: lint $(OLD_VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 15
	$(OLD_VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not e2e" $(HOST_TESTS)

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.ready: $(UV) pyproject.toml Makefile
	$(UV) pip install --quiet --python $(BIN)/python $(TORCH) --group dev --group report -e ".[demo]" $(NEWEST) $(QLIB)
	touch $@

$(OLD_VENV)/.ready: $(UV) pyproject.toml Makefile
	test -d $(OLD_VENV) || $(UV) venv --quiet --python $(BIN)/python $(OLD_VENV)
	$(UV) pip install --quiet --python $(OLD_VENV)/bin/python $(TORCH) --group dev -e ".[demo]" $(OLDEST) $(QLIB)
	touch $@
