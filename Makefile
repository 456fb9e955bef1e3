# `make demo` and `make test` need Python >= 3.10, make and a package index; everything else is built here.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
TEST_WORKERS ?= 2
CHOSEN := -m "not campaign"
UV := $(VENV)/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.10
AUDIT := $(VENV)-audit
# compiled once at setup and in tests: where the environment forbids it, each process would compile torch anew
unexport PYTHONDONTWRITEBYTECODE
LOCKS := requirements.lock requirements-uv.lock requirements-audit.lock

.PHONY: demo test test-all setup lint types tests format lock audit docs benchmark clean

demo: setup  ## run the phantom MR→CT benchmark and print its table
	$(PY) -m uda run cardiac_phantom --allow-fallback

test: setup  ## everything CI runs; lint and types beside the tests
	$(MAKE) -j2 lint types tests

test-all: setup  ## and the long campaigns of faults and damaged files
	$(MAKE) -j2 lint types tests CHOSEN=

setup: $(VENV)/.ready

# Every file that comes over the network has its hash in a lock; source distributions, which would build with what no
# lock names, are not taken.
$(VENV)/.ready: requirements.lock requirements-uv.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements-uv.lock
	$(UV) pip install --quiet --python $(PY) --no-build --compile-bytecode --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	touch $@

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: setup
	$(VENV)/bin/mypy

tests: setup  ## by several processes that share the work, each computing with one thread
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_WORKERS) --dist worksteal $(CHOSEN)

format: setup  ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: setup  ## resolve the dependencies of pyproject.toml again, and the tools that install and audit them
	$(COMPILE) --extra dev --upgrade pyproject.toml -o requirements.lock
	echo uv | $(COMPILE) --upgrade - -o requirements-uv.lock
	echo pip-audit | $(COMPILE) --upgrade - -o requirements-audit.lock

audit: setup  ## ask a public database for known faults of all dependencies; needs the network, fails without an answer
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(UV) pip install --quiet --python $(AUDIT)/bin/python --no-build --require-hashes -r requirements-audit.lock
	for lock in $(LOCKS); do $(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes \
	  --progress-spinner off $(AUDIT_OPTIONS) --requirement $$lock || exit 1; done

docs: setup  ## write docs/losses.md from the losses' docstrings
	$(PY) docs/make_losses.py

benchmark: setup  ## speed and memory of the loop, the store, the losses and the record reader, ratios from one run
	$(PY) benchmarks/loop.py
	$(PY) benchmarks/losses.py
	$(PY) benchmarks/records.py

clean:
	rm -rf dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
