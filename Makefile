# Everything starts from nothing: the first target that needs it makes .venv and installs the package into it.
# Hand options on with ARGS, for example `make test ARGS=tests/losses` or `make demo ARGS=--help`.

VENV ?= .venv
ARGS ?=
# The first Python that runs; name another with `make PYTHON=...`.
PYTHON ?= $(or $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $p -c '' 2>/dev/null && echo $p))),python3)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all check format wheel docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed ## train and compare on generated streets; writes runs/demo/report.html
	$(VENV)/bin/spcnet demo $(ARGS)

test: $(VENV)/.installed ## run the tests but the slow ones, on all cores
	$(VENV)/bin/python -m pytest -n auto -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed ## run the slow tests: killed runs, several processes, compilation, every export
	$(VENV)/bin/python -m pytest -n auto -m slow $(ARGS)

test-all: ## run all tests
	$(MAKE) test
	$(MAKE) test-slow

check: $(VENV)/.installed ## lint, formatting, types, who imports whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed ## format the code and mend what the linter can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

wheel: $(VENV)/.installed ## build dist/spcnet-*.whl
	$(VENV)/bin/python -m hatchling build -t wheel

docs: $(VENV)/.installed ## build the site into docs/_build/html
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site is docs/_build/html/index.html"

bench: $(VENV)/.installed ## run every program in benchmarks/
	@set -e; for program in benchmarks/[a-z]*.py; do echo "$$program"; $(VENV)/bin/python "$$program" $(ARGS); done

clean: ## remove built files and caches; keeps .venv and runs/
	rm -rf build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find spcnet tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs again when pyproject.toml has changed; the stamp is set last, so an interrupted installation is taken up again.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing spcnet and PyTorch into $(VENV): some minutes and about 5 GB the first time"
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --editable ".[dev]"
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "spcnet needs Python 3.11 or newer, and $(PYTHON) is not: install one, or name it with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
