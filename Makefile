# `make demo` and `make test` need Python >= 3.10, make and a package index; everything else is built here.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
TEST_WORKERS ?= 2
UV := $(VENV)/bin/uv
UV_VERSION := 0.13.9

.PHONY: demo test setup lint types tests format lock docs benchmark clean

demo: setup  ## run the phantom MR→CT benchmark and print its table
	$(PY) -m uda run cardiac_phantom

test: lint types tests  ## everything CI runs

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	touch $@

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: setup
	$(VENV)/bin/mypy

tests: setup  ## by several processes, a file in one of them, each computing with one thread
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile

format: setup  ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: setup  ## resolve the dependencies of pyproject.toml again
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	  --extra dev --python-version 3.10 --upgrade pyproject.toml -o requirements.lock

docs: setup  ## write docs/losses.md from the losses' docstrings
	$(PY) docs/make_losses.py

benchmark: setup  ## speed and memory of the loop, the store, the losses and the record reader, ratios from one run
	$(PY) benchmarks/loop.py
	$(PY) benchmarks/losses.py
	$(PY) benchmarks/records.py

clean:
	rm -rf dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
