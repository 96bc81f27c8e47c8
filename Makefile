# The two commands of a fresh machine are `make course` and `make test`; each sets up .venv by itself.
PYTHON ?= python3
# For a PyTorch without CUDA on Linux (gigabytes less): make course TORCH_FROM=https://download.pytorch.org/whl/cpu
TORCH_FROM ?=
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
STAMP := $(VENV)/.installed

# Run the notebooks below a folder cell by cell: fast mode, no widgets, progress in a file of its own. Outputs are compared
# where a cell is tagged so, in notebooks that were executed.
define run_notebooks
$(if $(wildcard $(1)/*/*.ipynb),COURSE_FAST=1 COURSE_HEADLESS=1 COURSE_PROGRESS="$$(mktemp -d)/progress.json" $(BIN)/python -m pytest \
	-o addopts=-q -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout=120 --timeout=300 $(1),@echo "$(1): no notebooks yet")
endef

.PHONY: help course test test-browser test-nbgrader lab lessons sweeps bench bench-peers lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt $(if $(TORCH_FROM),--index-url $(TORCH_FROM))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,oracles,classroom,cluster,bench,search,tracking]' -c constraints.txt
	@touch $(STAMP)

course: $(STAMP) ## prepare data and teacher, compress the NER model, print and save the scorecard
	$(BIN)/course compress

test: $(STAMP) ## lint and all tests, all lessons, without a network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90
	$(BIN)/course build --check
	$(call run_notebooks,solutions)
	$(call run_notebooks,notebooks)

test-browser: $(STAMP) ## take a lesson in Chromium; screenshots in artifacts/browser
	$(BIN)/python -m pytest tests/browser -m browser

test-nbgrader: $(STAMP) ## the real nbgrader on every known answer of every exercise, release to feedback; half an hour
	$(BIN)/python -m pytest tests/classroom/test_nbgrader_whole.py -m nbgrader

lab: $(STAMP) ## copy the lessons to work/ (yours are kept) and open JupyterLab there
	$(BIN)/course start
	$(BIN)/jupyter lab --ServerApp.root_dir=work

lessons: $(STAMP) ## build and execute all lessons from their sources
	$(BIN)/course build

sweeps: $(STAMP) ## measure what lessons plot and is missing or stale; after `make course`; resumes
	$(BIN)/course sweeps

bench: $(STAMP) ## time the library's own kernels against well-known ones; writes artifacts/bench.json
	$(BIN)/python -m course_lib.measure.bench

bench-peers: $(STAMP) ## race the compressed model against PyTorch, ONNX Runtime and OpenVINO; writes artifacts/peers.json
	$(BIN)/course peers

lint: $(STAMP) ## mend formatting and imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and artifacts
	rm -rf $(VENV) artifacts
