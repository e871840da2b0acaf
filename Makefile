# make demo, make test, ... on a bare machine with Python 3.11 or newer: everything happens in .venv.
# Another Python than python3: make test PYTHON=python3.12

PYTHON ?= python3
BIN = .venv/bin
EXTRA_test = [test]
EXTRA_dev = [dev]
FILES := $(sort $(shell find pyro_vae models guides -name '*.py'))

.PHONY: demo test lint types wheel clean FORCE

# train a small pair on the embedded data and show what it learned
demo: .venv/installed-core
	$(BIN)/python -m pyro_vae.demo

# the whole test suite
test: .venv/installed-test
	$(BIN)/python -m pytest

# style and layout of the code
lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# types
types: .venv/installed-dev
	$(BIN)/mypy

# sdist and wheel in dist/; the wheel is built from the sdist, and so from what is published
wheel: .venv/installed-test
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# remove the environment, builds and caches; what the demo wrote stays
clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The strict editable install is a tree of links to the files: a changed pyproject.toml means a full
# install, a changed list of files only new links. The first install takes minutes and says what it does.
.venv/installed-%: pyproject.toml .venv/files | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check $(if $(wildcard .venv/installed-*),--quiet) \
		$(if $(filter pyproject.toml,$?),,--no-deps) -e '.$(EXTRA_$*)' --config-settings editable_mode=strict
	@touch $@

# rewritten only when files came or went
.venv/files: FORCE | $(BIN)/pip
	@echo '$(FILES)' | cmp -s - $@ || echo '$(FILES)' > $@

# pip comes last when an environment is made, so an interrupted one is made again
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python 3.11 or newer; name one: make ... PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
