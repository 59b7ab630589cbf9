# `make demo` and `make test` set up all they need in .venv, on a machine that has Python 3.11 and make.
# What is tested, and on which RD-Agent and Python, stands in noxfile.py.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NOX := $(BIN)/nox

# The CPU build of torch: from a folder of wheels where one is named, else from torch's own index.
TORCH := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)

.PHONY: demo test test-fast lint docs clean

# With KEEP=FOLDER in that folder, which stays.
demo: $(VENV)/.ready
	$(BIN)/python -m examples.demo $(if $(KEEP),--keep "$(KEEP)")

test: $(VENV)/.ready
	$(NOX)

# What runs nothing end to end, on the newest RD-Agent alone.
test-fast: $(VENV)/.ready
	$(NOX) -s newest -- -m "not e2e"

lint: $(VENV)/.ready
	$(NOX) -s lint

# The pages of docs/, in both languages, into .venv/site.
docs: $(VENV)/.ready
	$(NOX) -s docs

clean:
	rm -rf $(VENV)

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

# Compiled here: where PYTHONDONTWRITEBYTECODE is set, each Python that starts would compile it all again.
$(VENV)/.ready: $(BIN)/uv pyproject.toml
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(TORCH) --group make -e .
	touch $@
