# The two commands of the README are `make run` and `make test`; everything else is for developers.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BUILT  := $(VENV)/.built

.PHONY: run build test test-long lint sanitize bench wheel clean

run: build  ## start the service; with no server at hand, on an embedded one
	@exec $(BIN)/python -m alarmdigest $(ARGS)

build: $(BUILT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(BUILT): $(VENV)/bin/python setup.py pyproject.toml $(wildcard ext/*.pyx ext/*.pxd)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

test: build  ## everything that CI runs
	$(BIN)/python -m pytest $(ARGS)

test-long: build  ## the properties and mutations with 10^5 and 10^6 cases: about half an hour
	ALARMDIGEST_TEST_LONG=1 $(BIN)/python -m pytest --timeout=3600 $(ARGS)

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize:  ## the compiled core under AddressSanitizer and UBSan, in a build of its own
	./tests/sanitize.sh $(PYTHON)

bench: build
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

wheel: build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info $(VENV) alarmdigest/_ext/*.so
