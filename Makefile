# `make check` proves the ports, `make test` runs the tests; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
REQUIREMENTS := $(wildcard requirements/*.txt)

.PHONY: help setup check self-test test unit lint format bench demo clean

help:
	@echo "make check   prove every port equal to its original (four to six minutes on two cores, and 20 GB)"
	@echo "make test    run all tests"
	@echo "make self-test  plant every kind of mistake in every port, and score what the check finds (hours)"
	@echo "make demo    train STDC1 on a small generated city, evaluate and predict"
	@echo "make unit    run the unit tests alone"
	@echo "make lint    check style; make format applies it"
	@echo "make bench   measure against peers"

setup: $(READY)

# the pinned versions are for Python 3.11; the packages themselves run on 3.9 to 3.13
$(READY): $(REQUIREMENTS) setup.py
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('needs Python 3.11: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(foreach file,$(filter-out requirements/constraints.txt requirements/export.txt,$(REQUIREMENTS)),-r $(file)) -c requirements/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

check: $(READY)
	$(BIN)/python parity/check.py

self-test: $(READY)
	mkdir -p output
	$(BIN)/python parity/check.py --self-test --seeds 20 --json output/self_test.json --md benchmarks/self_test.md

# one thread per worker: two test processes on two cores are faster than one that uses both
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not network"

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network"

unit: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/postprocess.py

# every tool without --config works on the generated city
demo: $(READY)
	$(BIN)/python tools/train.py --do_eval
	$(BIN)/python tools/val.py --aug_eval --scales 0.75 1.0 1.25 --save_dir output/demo/val
	$(BIN)/python tools/predict.py --save_dir output/demo/result
	$(BIN)/python tools/analyze_log.py

clean:
	rm -rf $(VENV) build dist *.egg-info parity_report output
