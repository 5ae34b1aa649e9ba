# Two targets do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.NOTPARALLEL:
.PHONY: demo test slow lint clean

$(VENV)/demo $(VENV)/test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[$(@F)]'
	touch $@

demo: $(VENV)/demo
	$(BIN)/python pipelines/demo.py demo

test: lint
	$(BIN)/hirez-mosaic weights
	$(BIN)/pytest

slow: $(VENV)/test
	$(BIN)/hirez-mosaic weights
	$(BIN)/pytest -m slow

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist
