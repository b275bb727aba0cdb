# Two commands do everything: `make demo` and `make test`. Both set up their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := build/demo

.PHONY: demo test test-heavy lint setup clean

demo: $(VENV)/.demo
	$(BIN)/microscope-bench run --model demo-llava-next --tasks shapesqa --limit 200 --output_path $(DEMO)/results
	$(BIN)/microscope-bench run --model demo-omnifusion --tasks shapesqa --limit 200 --output_path $(DEMO)/results
	$(BIN)/microscope-bench validate $(DEMO)/results
	$(BIN)/microscope-bench leaderboard $(DEMO)/results -o $(DEMO)/leaderboard.md
	@echo
	@cat $(DEMO)/leaderboard.md
	@echo
	@echo "results: $(DEMO)/results    leaderboard: $(DEMO)/leaderboard.md"

test: lint
	$(BIN)/python -m pytest -m "not heavy"

test-heavy: $(VENV)/.dev
	$(BIN)/python -m pytest -m heavy -s

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.dev

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# llm-microscope is the reference of the parity tests; its package does not import, only its functions.py is read
$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-microscope==0.0.7
	touch $@

clean:
	rm -rf $(VENV) build dist
