# For users: `make run` and `make test`. Everything else is for developers, see `make help`.
# Needed on the machine: Python 3.10 or newer with its headers and venv, make and a C compiler.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := $(VENV)/.tools
BUILT  := $(VENV)/.built
# As in pyproject.toml's [build-system]; a test compares them.
BUILDERS := 'setuptools>=77' 'Cython>=3.1,<4'
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test test-slow test-bridge test-cassandra test-cluster test-deliver test-group test-models test-versions test-long lint sanitize instructions bench bench-compare soak build wheel clean help

run: build  ## start the service; with no NATS server at hand, on an embedded one
	@exec $(BIN)/python -m alarmdigest $(ARGS)

test: build  ## run the tests, the linters among them: 5 to 8 minutes
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

test-slow: build  ## kill the service at many points, cut networks, fill disks, count instructions, build the wheel: 5 minutes
	$(BIN)/python -m pytest -m slow --numprocesses 3 --dist loadfile $(ARGS)

test-bridge: build  ## run the bridge with real senders, kill it and its servers: 2 minutes
	$(BIN)/python -m pytest -m bridge -q --numprocesses 2 --dist loadfile $(ARGS)

test-cassandra: build  ## keep the state in a real Cassandra, and kill both of them: needs Java 17 and mvn
	$(BIN)/python -m pytest -m cassandra -q --numprocesses 2 --dist loadfile $(ARGS)

test-cluster: build  ## end nodes of a cluster of three, and print what the service adds: 4 minutes
	$(BIN)/python -m pytest -m cluster -q -s $(ARGS)

test-deliver: build  ## from alerts to mails, by schedule; kill every part, and the receivers: 4 minutes
	$(BIN)/python -m pytest -m deliver -q --numprocesses 3 --dist loadfile $(ARGS)

test-group: build  ## end replicas of a group, and their servers, and compare what they wrote: 4 minutes
	$(BIN)/python -m pytest -m group -q --numprocesses 2 --dist loadfile $(ARGS)

test-models: build  ## search the model of the replicas' protocol with Spin: 1 to 2 minutes
	$(BIN)/python -m pytest -m models --numprocesses 2 -q $(ARGS)

test-versions: build  ## run the service on servers from the oldest that it supports on: 2 minutes
	$(BIN)/python -m pytest -m versions -q $(ARGS)

test-long: build  ## run all tests with many more generated cases: about half an hour
	ALARMDIGEST_TEST_LONG=1 $(BIN)/python -m pytest -m 'not cluster and not group and not models and not versions' --timeout=3600 $(ARGS)

lint: build  ## run ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize:  ## test the compiled core under AddressSanitizer and UBSan, in a build of its own
	./tests/sanitize.sh $(PYTHON)

instructions: build  ## count machine instructions of the core, and print the limits for its test: needs valgrind
	@PYTHONPATH=tests $(BIN)/python -m support.instructions

bench: build  ## run the benchmarks: a quarter of an hour; results in benchmarks/results/
	$(PIP) --no-build-isolation --editable '.[test,bench]'
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,max --timeout=1800 -q -s $(ARGS)

bench-compare: build  ## the ratios of the last run beside those of the baseline
	$(BIN)/python benchmarks/compare.py

soak: build  ## an hour under load with kills and cuts; ARGS="--minutes 3" for a trial
	$(PIP) --no-build-isolation --editable '.[test,bench]'
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py $(ARGS)

build: $(BUILT)  ## make .venv and compile the core; the targets above do it by themselves

wheel: build  ## write a wheel for this machine into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove everything that make has made
	rm -rf build dist *.egg-info $(VENV) alarmdigest/_ext/*.so

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The stamps are written last, so an installation that broke off is done again. Building needs no
# network once the tools are there: --no-build-isolation takes setuptools and Cython from .venv.
$(BUILT): $(TOOLS) setup.py $(wildcard ext/*/*.pyx ext/*/*.pxd)
	@echo 'installing what it needs and compiling the core: one to two minutes'
	$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

$(TOOLS): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(BUILDERS)
	@touch $@
