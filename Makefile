# Needs make and Python 3.10 or newer; everything else is installed into .venv.
#   make test    style and tests, as CI runs them
#   make lint    style and types
#   make demo    the demo page, on http://127.0.0.1:7860
#   make clean   removes caches and build output, keeps .venv

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.requirements-installed
DEMO_STAMP := .venv/.demo-installed
DESELECTED := slow or gpu or network

.PHONY: test lint demo clean

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@echo 'Tests marked slow, gpu or network are left out here; to run them: $(BIN)/pytest -m "$(DESELECTED)"'
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

demo: $(DEMO_STAMP)
	$(BIN)/python app.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# pip is the last thing that venv puts in place: where it is missing, the environment is missing or half made.
$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(STAMP): requirements.txt requirements-dev.txt | $(BIN)/pip
	$(BIN)/python -m pip install -r requirements-dev.txt
	@touch $@

# What the demo needs, without the tools for tests and clusters.
$(DEMO_STAMP): requirements.txt | $(BIN)/pip
	$(BIN)/python -m pip install -r requirements.txt
	@touch $@
