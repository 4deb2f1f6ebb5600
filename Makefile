# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone with Python >= 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# compiled modules are kept, or each worker and each of the dozens of processes that tests start would compile them anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint bench notebooks clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bayesreg needs Python >= 3.11; this is %d.%d. Say make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q bayesreg
	touch $@

demo: $(STAMP)
	$(BIN)/bayesreg demo --out report.html --force

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	@for script in benchmarks/*.py; do echo "## $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script --quick || exit 1; done

notebooks: $(STAMP)
	@for script in notebooks/*.py; do \
	  $(BIN)/jupytext --to notebook $$script && $(BIN)/jupyter-execute --inplace $${script%.py}.ipynb || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache report.html report.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
