# Two targets are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test test-all test-pydicom24 lint types docs results clean

# what users need
$(VENV)/.core: pyproject.toml constraints.txt
	@echo "Installing SPIDER into $(VENV), once: about 1.7 GB with PyTorch for CPUs, 1 to 5 minutes."
	@echo "PyTorch for GPUs, which pip takes from PyPI, needs several GB more."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --no-compile -c constraints.txt -e ".[codecs]"
	touch $@

# what developers need beside it
$(VENV)/.installed: $(VENV)/.core
	@echo "Installing tests, documentation and all extras into $(VENV), once: about 2 GB."
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -c constraints.txt -e ".[cluster,codecs,dev,dicom,docs,mesh,pacs,train]"
	touch $@

demo: $(VENV)/.core
	$(BIN)/spider demo demo/input
	$(BIN)/spider infer demo/input -o demo/output
	@echo "Research use only, never for diagnosis."

# The quick tests; `make test-all` runs the slow ones too.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-all: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# MONAI Label's environment has pydicom 2.4: reading, and what the Label application imports, work
# with it. All else is tested with pydicom 3.
test-pydicom24: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/pydicom24 "pydicom==2.4.*"
	OMP_NUM_THREADS=1 PYTHONPATH=build/pydicom24 $(BIN)/python -m pytest -m "not slow" \
		tests/dicom/test_pair.py tests/dicom/test_transforms.py tests/label/test_label_app.py

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

# The tables of codes, and the documentation site in docs/_build/html; warnings are errors.
docs: $(VENV)/.installed
	$(BIN)/python docs/tables.py
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

# Rebuild every table and figure of the documentation; needs the data (SPIDER_DATA).
results: $(VENV)/.installed
	$(BIN)/spider evaluate
	$(BIN)/python -W ignore -m benchmarks.from_files
	$(BIN)/python -W ignore -m benchmarks.fine_heads
	$(BIN)/python -W ignore -m benchmarks.ablations
	$(BIN)/python -m benchmarks.publish

clean:
	rm -rf $(VENV) .venv-label .venv-deploy demo build docs/_build docs/_generated *.egg-info
