# minizaya: every command of the README. `make` alone lists them.

# The Python that makes the environment: 3.11 or newer.
PYTHON ?= python3

# Where the environment lives.
VENV ?= .venv

# The torch to install: whatever you would write after `pip install`. It is read when the
# environment is made and installed first, so nothing replaces it later. For example
#   make lessons TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
# picks the build without CUDA; the same site has one index for each ROCm and CUDA release.
# trap: the shell reads this text, so write == in it, never >=.
TORCH ?= torch==2.13.0

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check

.PHONY: help lessons test browser lint demo figures bench grade handout book clean
.DELETE_ON_ERROR:

help:
	@echo "make lessons   install the course and open it in JupyterLab"
	@echo "make test      install everything and run every test: units, laws, lessons"
	@echo "make browser   the course in a headless Chromium: what a student sees and clicks"
	@echo "make lint      look through the code: ruff, codespell, and the order of the rooms' imports"
	@echo "make demo      train the nano model here and show what it learned"
	@echo "make figures   draw the lessons' figures again, into lessons/figures"
	@echo "make bench     time this machine, and minizaya against transformers"
	@echo "make grade     judge the notebooks in a folder: make grade SUBMISSIONS=class (default: the lessons)"
	@echo "make handout   the lessons without answers, in handout/ and handout.zip (HANDOUT=second: another folder)"
	@echo "make book      run the lessons and write them as a site to read, in book/"
	@echo "make clean     remove the environment and the caches (your runs stay)"
	@echo
	@echo "Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  TORCH=\"$(TORCH)\""

# --- the environment -----------------------------------------------------------------------
# A stamp file says that a step is done. The two install steps run again only when
# pyproject.toml or constraints.txt has changed.

# trap: pip keeps a torch that is already there when only the build differs, so another
# TORCH needs a new environment. Say so instead of going on with the old one.
INSTALLED_TORCH := $(shell cat "$(VENV)/torch.stamp" 2>/dev/null)
ifneq ($(INSTALLED_TORCH),)
ifneq ($(origin TORCH),file)
ifneq ($(INSTALLED_TORCH),$(TORCH))
ifneq ($(MAKECMDGOALS),clean)
$(error $(VENV) was made with TORCH="$(INSTALLED_TORCH)"; run `make clean` first to change it)
endif
endif
endif
endif

$(VENV)/torch.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("minizaya needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "making $(VENV) and installing $(TORCH): a large download the first time"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps $(TORCH)
	@echo '$(TORCH)' > $@

$(VENV)/lessons.stamp: $(VENV)/torch.stamp pyproject.toml constraints.txt
	$(PIP) --quiet --constraint constraints.txt --editable '.[lessons,checkpoints]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/lessons.stamp
	$(PIP) --quiet --constraint constraints.txt --editable '.[lessons,checkpoints,serve,evaluate,test,lint]'
	@touch $@

# --- the commands --------------------------------------------------------------------------

# JupyterLab refuses to run as root (in a container, say) unless it is told to. With the passive policy torch's threads
# sleep while they wait, so a lesson stays quick while a browser uses the other core.
lessons: $(VENV)/lessons.stamp
	OMP_WAIT_POLICY=PASSIVE $(PY) -m jupyterlab --config lessons/.jupyter/config.py \
		$(if $(filter 0,$(shell id -u)),--allow-root) lessons

# Two processes, a test file at a time each; one torch thread in each, since a product this small gains from no second
# one. `$(PY) -m pytest tests/laws/test_laws.py` runs a part.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

# A Chromium of the system is used where `chromium` is on the path; else playwright fetches its own.
browser: $(VENV)/test.stamp
	$(PIP) --quiet --constraint constraints.txt --editable '.[browser]'
	command -v chromium >/dev/null || $(PY) -m playwright install chromium
	$(PY) -m pytest tests/browser

lint: $(VENV)/test.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/codespell
	$(VENV)/bin/lint-imports

demo: $(VENV)/lessons.stamp
	$(PY) -m minizaya demo

figures: $(VENV)/lessons.stamp
	$(PY) -m minizaya.plots lessons/figures

# The peer in the comparison is transformers, so this needs the test extras.
bench: $(VENV)/test.stamp
	$(PY) -m minizaya bench

# A class: a folder for each student in SUBMISSIONS.
SUBMISSIONS ?= lessons

grade: $(VENV)/lessons.stamp
	$(PY) -m minizaya grade $(SUBMISSIONS)

# For a class. What is in the folder is never overwritten: remove it, or make another, HANDOUT=second.
HANDOUT ?= handout

handout: $(VENV)/lessons.stamp
	$(PY) -m minizaya lessons --without-answers $(HANDOUT)
	$(PY) -m zipfile -c $(HANDOUT).zip $(HANDOUT)/

# What is in book/ is never overwritten. `minizaya lessons --book DIR --only 01 02` makes a part.
book: $(VENV)/lessons.stamp
	$(PY) -m minizaya lessons --book book

# Only a folder that is a virtual environment is removed, whatever VENV says.
clean:
	test ! -e $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf .ci/venv build *.egg-info .pytest_cache .hypothesis
	find . -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
