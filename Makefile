PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-slow test-oldest test-slurm test-cluster fuzz lint bench

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/installed ## create .venv and install, once
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,lite,yolo,search,launchers,mistakes,export,parquet,transformer]'
	touch $@

demo: .venv/installed ## train on the built-in data set and print its scores
	$(BIN)/python train.py experiment=demo

test: .venv/installed-test ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: .venv/installed-test ## run the tests that `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

test-oldest: ## run the tests with the oldest and the newest versions that are allowed
	tests/oldest.sh

test-slurm: .venv/installed-test ## run the tests of SLURM, on a cluster that is made of this machine (as root)
	tests/slurm.sh

test-cluster: .venv/installed-test ## run the tests of Ray's launcher, in an environment of its own
	tests/cluster.sh

FUZZ ?= 2000
fuzz: .venv/installed-test ## try the readers with FUZZ damaged inputs a test (hours for many)
	MMLABEL_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -n 2 --dist loadfile tests/fuzz

.venv/installed-cpu: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cpu]'
	touch $@

LEVEL = $(if $(FULL),full,$(if $(QUICK),quick,usual))
bench: .venv/installed-cpu ## measure the speed: 10 to 20 minutes; QUICK=1: 3; FULL=1: hours; ONLY=features,captions
	$(BIN)/python -m benchmarks --level $(LEVEL) $(if $(ONLY),--only '$(ONLY)')

lint: .venv/installed-test ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright -p . --pythonpath $(BIN)/python
