# Two commands: `make demo` runs the main job, `make test` checks everything. Both do all their own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-vllm check quick bench train train-reward sandbox clean

demo: $(VENV)/.local  ## 100 held-out puzzles, every method at equal tokens: a table, demo/report.html, one JSON line
	$(BIN)/samplewise demo

test: sandbox check  ## ruff, mypy --strict and every test that needs no GPU
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not vllm"  # two workers, one thread each

test-vllm: $(VENV)/.dev .venv-vllm/.made  ## the tests against a real server: vLLM on a CPU, in an environment of its own
	$(BIN)/pytest -n 0 -m vllm tests/vllm

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(VENV)/.dev  ## the tests that take no time
	$(BIN)/pytest -m "not slow and not vllm"

bench: $(VENV)/.dev  ## make bench NAME=engine: prints its figures, and one JSON object as the last line
	@test -f bench/$(NAME).py || { echo "no bench is called '$(NAME)'; there are: $$(cd bench && ls [a-z]*.py | grep -vE '^(about|stories|stop_(worlds|replay|tiny)|explore_(alone|toy|game24))\.py' | sed 's/\.py//' | tr '\n' ' ')"; exit 2; }
	$(BIN)/python -m bench.$(NAME)

train: $(VENV)/.dev  ## makes the bundled model again, from random weights (about an hour on two cores)
	$(BIN)/python -m training.tiny.train

train-reward: $(VENV)/.dev  ## makes the bundled reward model again: draws, training, figures (about 45 minutes on two cores)
	$(BIN)/python -m training.reward.data
	$(BIN)/python -m training.reward.train
	$(BIN)/python -m training.reward.evaluate

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "samplewise needs Python 3.11 or newer; say which: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.local: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[local]'
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.local

.venv-vllm/.made: tests/vllm/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/vllm/requirements.txt
	touch $@

sandbox:  ## bubblewrap, which programs are graded in; without it their tests are skipped
	@command -v bwrap >/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then run=""; else run="sudo -n"; fi; \
		$$run apt-get install -qq -y bubblewrap >/dev/null 2>&1 || \
		{ $$run apt-get update -qq && $$run apt-get install -qq -y bubblewrap; } >/dev/null 2>&1 || \
		echo "bubblewrap is not here and cannot be installed; the tests of the code sandbox are skipped"; }

clean:
	rm -rf $(VENV) .venv-vllm demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
