# The commands of the project, for a machine with Python 3.11 or newer and nothing else. `make help` lists them.

PYTHON ?= python3
CONFIG ?= configs/zaxxon.py
WORKDIR ?= runs/$(basename $(notdir $(firstword $(subst :, ,$(CONFIG)))))
ARGS ?=

DRIVER := $(shell nvidia-smi -L 2>/dev/null | grep -q ^GPU && echo yes)
LOCKS := requirements.lock$(if $(DRIVER), requirements-cuda.lock)
# Written last, so that a set-up that was cut short is done again; one for each kind of machine, so that a new driver brings CUDA.
READY := .venv/ready-$(if $(DRIVER),cuda,cpu)
RUN := .venv/bin/python -m
FREEZE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-annotate --no-python-downloads \
	--custom-compile-command 'make lock'

COMMA := ,
PROFILE := $(filter paper laptop smoke,$(subst $(COMMA), ,$(word 2,$(subst :, ,$(CONFIG)))))
PROFILED := $(CONFIG)
ifeq ($(DRIVER)$(PROFILE),)
PROFILED := $(CONFIG)$(if $(findstring :,$(CONFIG)),$(COMMA),:)laptop
endif

TRAIN = train.py --config=$(PROFILED) --workdir=$(WORKDIR)$(if $(ARGS), $(ARGS))

.DEFAULT_GOAL := help
.PHONY: help train watch test test-slow bench-smoke chaos soak lint types reproductions lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

# exec: Ctrl-C goes to the trainer, which saves and exits, with no shell in between.
train: $(READY)  ## train, or go on with WORKDIR: CONFIG=configs/NAME.py[:profile] WORKDIR=runs/NAME ARGS="--config.seed=1"
	@$(if $(filter $(CONFIG),$(PROFILED)),,echo "No NVIDIA driver found: using the laptop profile (CPU)")
	@echo ".venv/bin/python $(TRAIN)"
	@exec .venv/bin/python $(TRAIN)

watch: $(READY)  ## play the agent of WORKDIR in a window or in the terminal: WORKDIR=runs/NAME ARGS="--speed=2"
	@exec $(RUN) agent57_jax.watch --workdir=$(WORKDIR)$(if $(ARGS), $(ARGS))

test: lint types  ## lint, types and the fast tests
	$(RUN) pytest -n 2 --dist worksteal

test-slow: lint types  ## the same with the slow tests, then bench-smoke
	$(RUN) pytest -n 2 --dist worksteal -m "not gpu and not chaos and not soak"
	@$(MAKE) bench-smoke

chaos: $(READY)  ## kill a training at sixty random instants and expect nothing lost: a quarter of an hour
	$(RUN) pytest -m chaos tests/chaos

soak: $(READY)  ## train for an hour, twice, and expect that memory, files and threads stay as they were
	$(RUN) pytest -s -m soak tests/chaos

bench-smoke: $(READY)  ## ratios of speed that must not get worse: two minutes, on cores that do nothing else
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(RUN) benchmarks.guard

lint: $(READY)  ## check style and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(READY)  ## check types
	$(RUN) mypy

reproductions: $(READY)  ## the papers' figures at the size of two CPU cores: hours; stopped, the same command goes on
	$(RUN) reproductions.meta_controller --profile=cpu
	$(RUN) reproductions.random_coin --profile=cpu
	$(RUN) reproductions.controllable_states --profile=cpu
	$(RUN) reproductions.disco_maze --profile=cpu
	$(RUN) reproductions.lunar_lander --profile=cpu
	$(RUN) reproductions.atari --profile=cpu

lock: $(READY)  ## renew the locks from the bounds in requirements*.txt and pyproject.toml
	$(RUN) pip install --quiet uv
	$(FREEZE) --upgrade -o requirements.lock pyproject.toml requirements-dev.txt --extra video --extra gymnasium --extra scoreboard --extra wandb
	$(FREEZE) --upgrade -o requirements-cuda.lock -c requirements.lock pyproject.toml requirements-cuda.txt --extra video --extra gymnasium

clean:  ## remove the virtual environment and all caches; runs/ stays
	rm -rf .venv .jax_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(LOCKS)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v}: try make PYTHON=python3.11")'
	@echo "Creating the virtual environment .venv"
	@$(PYTHON) -m venv .venv
	@echo "Installing the packages of $(LOCKS) into it (a few minutes the first time)"
	@$(RUN) pip install --quiet --disable-pip-version-check $(addprefix -r ,$(LOCKS))
	@touch $@
