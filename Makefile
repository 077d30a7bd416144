# Needs make and Python >= 3.10, nothing else: the first of demo, test and lint fills .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$p" -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null && echo $$p && break; \
	done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test lint

help:
	@echo "make demo   the whole flow on made-up scans, in minutes"
	@echo "make test   the fast tests"
	@echo "make lint   style, types, import order, docs"

demo: $(INSTALLED)
	$(BIN)/kitspipe_demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_docs.py tests/test_layout.py

# torch first and alone: a build that its index or the user chose is not replaced later.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "kitspipe needs Python 3.10 or newer; none of python3, python3.13, python3.12,"; \
		echo "python3.11, python3.10 is one. Install it, or name it: make PYTHON=/path/to/python"; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) can't make a virtual environment (Debian, Ubuntu: install python3-venv)"; \
		exit 1; }
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
