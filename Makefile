# Two targets do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.NOTPARALLEL:
.PHONY: demo test fast slow lint docs clean

# As many processes as cores, at most four; a file's tests run in one.
SPREAD := --numprocesses logical --maxprocesses 4 --dist loadfile

$(VENV)/demo $(VENV)/test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[$(@F)]'
	touch $@

demo: $(VENV)/demo
	$(BIN)/python pipelines/demo.py demo

# The types are checked beside the tests, and told after them.
test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	@echo '$(BIN)/mypy &'; $(BIN)/mypy >$(VENV)/types 2>&1 & types=$$!; \
	$(BIN)/hirez-mosaic weights && $(BIN)/pytest $(SPREAD); tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/types; exit $$((tests + types))

# Without the network and the real weights, in a minute.
fast: $(VENV)/test
	$(BIN)/pytest $(SPREAD) -m 'not (slow or job or weights)'

slow: $(VENV)/test
	$(BIN)/hirez-mosaic weights
	$(BIN)/pytest -m slow

# The site, into build/site; `mkdocs serve` shows it while it is written.
docs: $(VENV)/test
	$(BIN)/mkdocs build --strict

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist
