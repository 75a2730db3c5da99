# Each target makes .venv if it is missing. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check parity format clean

demo: .venv/run  ## Train and look at a small model, minutes on a CPU
	$(BIN)/python launch.py --config=configs/quickstart.py --workdir=runs/demo

test: .venv/test  ## The test suite, with the real PyTorch modules
	$(BIN)/python -m pytest -n 2 --dist=loadfile

parity: .venv/test  ## The same models in float64; prints the differences
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -m parity --log-cli-level=INFO tests

check: .venv/dev  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

# One stamp for each set of packages; pyproject.toml newer than the stamp installs again.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@ .venv/run

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[dev,test]'
	touch $@ .venv/test .venv/run
