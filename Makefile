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
HOST_TESTS := $(patsubst %,tests/test_%.py,alpha best_model dry_run environment fetching forks handoff history latest_log \
	listing locate model_verdict mounts normal options patch performance pickled qlib_config qlib_record quant \
	resume run_progress sessions source source_file startup training verdict_forms verification)

# Releases whose source is looked at, and which are not run: their files alone, beside each other.
LOOKED_AT := 0.5.0 0.6.1 0.7.0
SOURCES := $(VENV)/sources

# Further Pythons, for the newest RD-Agent alone: Qlib stays in the environment of Python 3.11, as a user's stays
# in conda. Never downloaded: of this machine, pyenv's among them. What runs there is what knows RD-Agent or the
# platform; and the hand-off, to the end (tests/test_pythons.py).
PYTHONS := 3.10 3.12
PYTHON_TESTS := $(patsubst %,tests/test_%.py,child filesystem mounts resume rooms sessions settings startup)
FIND_PYTHON = PATH="$$(printf '%s:' $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$*.*/bin)$$PATH" \
	UV_PYTHON_DOWNLOADS=never $(UV) python find --no-project $*

.PHONY: demo test lint clean

demo: $(VENV)/.ready
	$(BIN)/rdagent-sota demo

test: lint $(OLD_VENV)/.ready $(SOURCES)/.ready $(PYTHONS:%=$(VENV)/python-%/.ready)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 15
	$(OLD_VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not e2e" $(HOST_TESTS)
	@for version in $(PYTHONS); do \
		if test -e $(VENV)/python-$$version/.missing; then \
			printf '\033[1;31mPYTHON %s IS NOT ON THIS MACHINE: nothing ran on it\033[0m\n' $$version; \
		else \
			echo "Python $$version:"; \
			$(VENV)/python-$$version/bin/python -m pytest -q -n 2 --dist loadgroup -m "not e2e" $(PYTHON_TESTS) || exit 1; \
		fi; \
	done

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

$(SOURCES)/.ready: $(UV) Makefile
	for release in $(LOOKED_AT); do \
		$(UV) pip install --quiet --python $(BIN)/python --no-deps --target $(SOURCES)/$$release rdagent==$$release || exit 1; \
	done
	touch $@

# Its `.ready` is made where there is no such Python as well, beside a `.missing` that the tests and `test` tell of.
$(VENV)/python-%/.ready: $(UV) pyproject.toml Makefile
	@rm -f $(@D)/.missing $(@D)/.ready; mkdir -p $(VENV); \
	if python=$$($(FIND_PYTHON) 2>/dev/null); then \
		test -d $(@D)/bin || $(UV) venv --quiet --python "$$python" $(@D); \
		$(UV) pip install --quiet --python $(@D)/bin/python --group dev -e . $(NEWEST); \
	else \
		mkdir -p $(@D) && touch $(@D)/.missing && echo "There is no Python $* here" >&2; \
	fi
	touch $@

# What was missing is looked for each time: it may have been installed.
.PHONY: look-again
$(patsubst %.missing,%.ready,$(wildcard $(VENV)/python-*/.missing)): look-again
