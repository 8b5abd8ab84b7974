# Every target sets up its own virtual environment. Another place for it: make VENV=DIR ...
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/digits.py
WORKDIR ?= runs/digits

.PHONY: demo test test-slow check docs

demo: $(VENV)/.installed  ## train and evaluate on real handwritten digits
	$(VENV)/bin/python train.py --config $(CONFIG) --workdir $(WORKDIR)
	$(VENV)/bin/python eval.py --config $(CONFIG) --checkpoint $(WORKDIR)

test: $(VENV)/.installed  ## pass the tests
	$(VENV)/bin/python -m pytest

test-slow: $(VENV)/.installed  ## pass the tests that take long
	$(VENV)/bin/python -m pytest -m slow

check: $(VENV)/.installed-dev  ## ruff and pyright
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

docs: $(VENV)/.installed-docs  ## build the site into build/site; a warning is an error
	$(VENV)/bin/mkdocs build

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --requirement requirements-dev.txt
	touch $@

$(VENV)/.installed-docs: requirements-docs.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements-docs.txt
	touch $@
