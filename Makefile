# Two commands set everything up: `make demo` and `make test`. Each builds the environment it needs, once.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test check docs soak clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash jobs/demo.sh

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not alone'
	$(BIN)/python -m pytest -m alone

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

soak: $(VENV)/.installed
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf $(VENV) demo_output build *.egg-info
