# Two commands: `make demo` runs the main job, `make test` checks everything. Both do all their own set-up.
PYTHON ?= python3
VENV ?= .venv
NEWEST ?= .venv-newest
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
LOCKED := $(BIN)/python $(PIP) --constraint constraints.txt
INSTALL := $(LOCKED) hatchling editables && $(LOCKED) --no-build-isolation --editable

.PHONY: demo test test-real test-vllm test-vllm-v2 test-clients test-ray test-package test-newest check docs site quick bench train train-reward lock sandbox clean

demo: $(VENV)/.local  ## 100 held-out puzzles, twelve methods at equal tokens: a table, demo/report.html, one JSON line
	$(BIN)/samplewise demo

test: sandbox check  ## ruff, mypy --strict and every test that needs no GPU
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not vllm and not real and not clients and not ray and not package"  # two workers, one thread each

test-real: $(VENV)/.dev  ## the tests on a real model of 135M parameters, fetched where that can be done; else they are skipped
	$(BIN)/python tests/real/fetch.py
	$(BIN)/pytest -n 0 -rs -m real tests/real tests/engines/local

test-vllm: $(VENV)/.dev .venv-vllm/.made  ## the tests with vLLM on a CPU, in an environment of its own: a server, then in process
	$(BIN)/pytest -n 0 -m vllm tests/vllm --ignore tests/vllm/inside
	PYTHONPATH=src .venv-vllm/bin/python -m pytest -m vllm tests/vllm/inside

test-vllm-v2: .venv-vllm/triton/.made  ## vLLM's second model runner, whose kernels an interpreter runs on a CPU
	PYTHONPATH=src:.venv-vllm/triton .venv-vllm/bin/python -m pytest -m vllm tests/vllm/inside/test_second_runner.py

test-clients: $(VENV)/.dev .venv-clients/.made  ## other people's programs: clients of `samplewise serve`, readers of exports, Inspect
	$(BIN)/pytest -n 0 -rs -m clients tests/serve tests/runs tests/integrations

test-ray: .venv-ray/.made  ## runs with Ray's actors, killed at random, in an environment of its own
	.venv-ray/bin/python -m pytest -n 0 -m ray tests/runs/actors

test-package: $(VENV)/.dev .venv-package/.made  ## the wheel and the sdist: built, checked, installed in clean environments
	$(BIN)/pytest -n 0 -m package tests/package

test-newest: $(NEWEST)/.made  ## the tests of engines, client and commands with the newest release of everything but torch
	$(NEWEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager --constraint constraints.in --editable '.[dev]'
	@sed 's/ ;.*//' constraints.txt > $(NEWEST)/locked
	@echo "other than in constraints.txt:"; $(NEWEST)/bin/python -m pip freeze --exclude-editable | tr _ - | grep -vixFf $(NEWEST)/locked || true
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(NEWEST)/bin/pytest -n 2 -m "not real and not slow" tests/engines tests/testing/test_endpoint.py tests/cli/test_cli.py tests/test_tiny.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev  ## docs/reference.md, made from the registry, and docs/tutorial.md, made by running the notebook
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/notebook.py

site: .venv-site/.made  ## the pages of docs/ as a site, in site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --quiet --strict

quick: $(VENV)/.dev  ## the tests that take no time
	$(BIN)/pytest -m "not slow and not vllm and not real and not clients and not ray and not package"

bench: $(VENV)/.dev  ## make bench NAME=engine: prints its figures, and one JSON object as the last line
	@test -f bench/$(NAME).py -o -f bench/$(NAME)/__main__.py || { echo "no bench is called '$(NAME)'; there are: $$(cd bench && ls [a-z]*.py | grep -vE '^(about|stories|scale_store|stop_(worlds|replay|tiny)|explore_(alone|toy|game24))\.py' | sed 's/\.py//' | tr '\n' ' ')"; exit 2; }
	$(BIN)/python -m bench.$(NAME)

train: $(VENV)/.dev  ## makes the bundled model again, from random weights (about an hour on two cores)
	$(BIN)/python -m training.tiny.train

train-reward: $(VENV)/.dev  ## makes the bundled reward model again: draws, training, figures (about 45 minutes on two cores)
	$(BIN)/python -m training.reward.data
	$(BIN)/python -m training.reward.train
	$(BIN)/python -m training.reward.evaluate

lock: $(VENV)/.made  ## every version in constraints.txt anew: the newest that pyproject.toml and constraints.in allow
	$(BIN)/python $(PIP) --upgrade uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make lock" --output-file constraints.txt pyproject.toml constraints.in

$(VENV)/.made $(NEWEST)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "samplewise needs Python 3.11 or newer; say which: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(@D)
	touch $@

$(VENV)/.local: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) '.[local]'
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.local

.venv-vllm/.made: tests/vllm/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python $(PIP) --no-deps -r tests/vllm/requirements.txt
	touch $@

.venv-vllm/triton/.made: .venv-vllm/.made
	.venv-vllm/bin/python $(PIP) --no-deps --target .venv-vllm/triton triton==3.9.0
	touch $@

.venv-clients/.made: tests/serve/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python $(PIP) uv
	.venv-clients/bin/uv pip install --quiet --python .venv-clients/bin/python --no-deps -r tests/serve/requirements.txt
	.venv-clients/bin/uv pip install --quiet --python .venv-clients/bin/python --no-deps --no-build-isolation --editable .
	touch $@

.venv-ray/.made: tests/runs/actors/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python $(PIP) uv
	.venv-ray/bin/uv pip install --quiet --python .venv-ray/bin/python --no-deps -r tests/runs/actors/requirements.txt
	.venv-ray/bin/uv pip install --quiet --python .venv-ray/bin/python --no-deps --no-build-isolation --editable .
	touch $@

.venv-package/.made: tests/package/requirements.txt
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python $(PIP) --no-deps -r tests/package/requirements.txt
	touch $@

.venv-site/.made: docs/requirements.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python $(PIP) --no-deps -r docs/requirements.txt
	touch $@

sandbox:  ## bubblewrap, which programs are graded in; without it their tests are skipped
	@command -v bwrap >/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then run=""; else run="sudo -n"; fi; \
		$$run apt-get install -qq -y bubblewrap >/dev/null 2>&1 || \
		{ $$run apt-get update -qq && $$run apt-get install -qq -y bubblewrap; } >/dev/null 2>&1 || \
		echo "bubblewrap is not here and cannot be installed; the tests of the code sandbox are skipped"; }

clean:
	rm -rf $(VENV) $(NEWEST) .venv-real .venv-vllm .venv-clients .venv-ray .venv-package .venv-site site demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
