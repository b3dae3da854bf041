# Short names for the commands; the commands themselves are in run_tests.sh, install.sh and quickstart.sh.
SHELL := bash

.PHONY: install format lint type test test-all smoke check docs

install:  ## the environment: .venv if none is active, torch, then the package with its tools
	bash install.sh

format:  ## rewrite the code into its one form
	. ./install.sh && ruff check --fix . && ruff format .

lint:  ## ruff, shell syntax, file hygiene
	STEPS=lint bash run_tests.sh

type:  ## mypy
	STEPS=type bash run_tests.sh

test:  ## what is not marked slow or gpu
	STEPS=test bash run_tests.sh -m "not slow and not gpu"

test-all:  ## every test that the machine can run
	STEPS=test bash run_tests.sh --all

smoke:  ## the three stages, a few steps each, on a CPU
	bash quickstart.sh --smoke

check:  ## what a change must pass
	STEPS="lint type test" bash run_tests.sh -m "not slow and not gpu"

docs:  ## the site of docs/, in site/; fails on a broken link
	. ./install.sh && python .ci/make_pages.py && zensical build --strict
