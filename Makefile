# Needs Python 3.11 or newer, pip and make. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
NEWEST_PYTHON ?= python3.13
CONVERT ?= .venv-convert

# Two processes: most of the time is tracing, in Python. Each takes whole files, whose tests share results.
FAST = -m 'not slow' -n 2 --dist loadfile --durations=15
PIP_INSTALL = -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test test-all test-oldest test-newest test-convert test-gpu lint lock clean

help:
	@echo 'make demo         train, guide, sample and evaluate on real digits; a few minutes on a laptop'
	@echo 'make test         the fast tests'
	@echo 'make test-all     all tests'
	@echo 'make test-oldest  the fast tests with the oldest JAX that is supported'
	@echo 'make test-newest  the fast tests with the newest Python and JAX that are supported'
	@echo 'make test-convert the tests of .pt files, with PyTorch; its default build takes several GB'
	@echo 'make test-gpu     the tests of a GPU, with the JAX of PYTHON, in 4 minutes'
	@echo 'make lint         the linters and the type checker'
	@echo 'make lock         resolve the exact versions in requirements/ again'
	@echo 'make clean        remove environments and caches; runs/ stays'

demo: $(VENV)/installed
	@$(VENV)/bin/python -m diffusion_jax.main --config=configs/digits.py --workdir=runs/digits && \
	$(VENV)/bin/python experiments/digits_acceptance.py runs/digits; status=$$?; \
	if [ -f runs/digits/evaluation.json ]; then echo; \
	echo 'Guided digits, a row for each class:  runs/digits/samples/grid.png'; \
	echo 'The same without guidance:            runs/digits/samples/unguided/grid.png'; \
	echo 'How good they are:                    runs/digits/evaluation.json, agreement.json'; \
	echo 'How training went:                    runs/digits/*/metrics.jsonl, or tensorboard --logdir runs/digits'; \
	fi; exit $$status

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest $(FAST)

# Programs are compiled as users do, not as tests/conftest.py chooses for speed.
test-all: $(VENV)/installed-dev
	XLA_FLAGS= $(VENV)/bin/python -m pytest

test-oldest: $(OLDEST)/installed-dev
	$(OLDEST)/bin/python -m pytest $(FAST)

test-newest: $(NEWEST)/installed-dev
	$(NEWEST)/bin/python -m pytest $(FAST)

test-convert: $(CONVERT)/installed-dev
	$(CONVERT)/bin/python -m pytest tests/weights tests/commands

# With an environment that has JAX for the GPU and pytest. The other tests' settings, for CPUs, are left out.
GPU_PLATFORMS ?= cuda,cpu
test-gpu:
	TEST_GPU=1 JAX_PLATFORMS=$(GPU_PLATFORMS) $(PYTHON) -m pytest --confcutdir=tests/gpu tests/gpu -rP --durations=0

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --cache-dir .cache/import_linter
	$(VENV)/bin/mypy

lock: $(VENV)/made $(NEWEST)/made
	$(VENV)/bin/python requirements/lock.py
	$(NEWEST)/bin/python requirements/lock.py

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(CONVERT) .cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each of these files says that a step of an installation was completed, and with which inputs.

$(VENV)/made $(OLDEST)/made $(CONVERT)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(@D)
	@touch $@

$(NEWEST)/made:
	@$(NEWEST_PYTHON) -m venv $(@D) || { echo 'name another: make NEWEST_PYTHON=python3.13' >&2; exit 1; }
	@touch $@

$(VENV)/installed: $(VENV)/made requirements/runtime.lock setup.py
	@echo 'Installing into $(VENV); the first time this takes a minute ...'
	@$(VENV)/bin/python $(PIP_INSTALL) -r requirements/runtime.lock
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements/dev.lock
	@$(VENV)/bin/python $(PIP_INSTALL) -r requirements/dev.lock
	@touch $@

$(OLDEST)/installed-dev: requirements/oldest.lock
$(NEWEST)/installed-dev: requirements/newest.lock
$(OLDEST)/installed-dev $(NEWEST)/installed-dev: %/installed-dev: %/made setup.py
	@echo 'Installing into $(@D) ...'
	@$(@D)/bin/python $(PIP_INSTALL) -r $(filter %.lock,$^)
	@$(@D)/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(CONVERT)/installed-dev: $(CONVERT)/made requirements/dev.lock setup.py
	@echo 'Installing into $(CONVERT) ...'
	@$(CONVERT)/bin/python $(PIP_INSTALL) -r requirements/dev.lock
	@$(CONVERT)/bin/python $(PIP_INSTALL) --editable '.[convert]'
	@touch $@
