# Two targets are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test lint types docs results clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[cluster,codecs,dev,dicom,docs,mesh,pacs,train]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/spider demo demo/input
	$(BIN)/python -W ignore -m monai.bundle run inference --config_file configs/inference.json \
		--dataset_dir demo/input --output_dir demo/output
	@echo "Results: demo/output (CT, labels, report, preview.png). Research use only."

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

# The documentation site, in docs/_build/html; warnings are errors.
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

# Rebuild every table and figure of the documentation; needs the data (SPIDER_DATA).
results: $(VENV)/.installed
	$(BIN)/spider evaluate
	$(BIN)/python -W ignore benchmarks/from_files.py
	$(BIN)/python -W ignore benchmarks/fine_heads.py
	$(BIN)/python -W ignore -m benchmarks.ablations
	$(BIN)/python benchmarks/publish.py

clean:
	rm -rf $(VENV) .venv-label .venv-deploy demo build docs/_build docs/_generated *.egg-info
