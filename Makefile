# The commands of the project, for a machine with Python 3.11 or newer and nothing else. `make help` lists them.

PYTHON ?= python3
CONFIG ?= configs/zaxxon.py
RUNS ?= runs/atari57
WORKDIR ?= $(if $(AGENT),agents/$(AGENT),runs/$(basename $(notdir $(firstword $(subst :, ,$(CONFIG))))))
ARGS ?=

DRIVER := $(shell nvidia-smi -L 2>/dev/null | grep -q ^GPU && echo yes)
LOCKS := requirements.lock$(if $(DRIVER), requirements-cuda.lock)
# Written last, so that a set-up that was cut short is done again; one for each kind of machine, so that a new driver brings CUDA.
READY := .venv/ready-$(if $(DRIVER),cuda,cpu)
RUN := .venv/bin/python -m
FREEZE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-annotate --no-python-downloads \
	--custom-compile-command 'make lock'
# The container's locks: the versions of requirements.lock, without what only tests need, and with the hash of every file.
FREEZE_IMAGE := $(FREEZE) --upgrade --generate-hashes -c requirements.lock --extra video --extra gymnasium --extra wandb

COMMA := ,
IN_CONFIG := $(filter paper box laptop smoke,$(subst $(COMMA), ,$(word 2,$(subst :, ,$(CONFIG)))))
PROFILED := $(CONFIG)
ifeq ($(DRIVER)$(IN_CONFIG),)
PROFILED := $(CONFIG)$(if $(findstring :,$(CONFIG)),$(COMMA),:)laptop
endif

TRAIN = train.py --config=$(PROFILED) --workdir=$(WORKDIR)$(if $(ARGS), $(ARGS))

.DEFAULT_GOAL := help
.PHONY: help train doctor watch test test-slow bench-smoke chaos soak lint types docs reproductions atari57 lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*  ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# exec: Ctrl-C goes to the trainer, which saves and exits, with no shell in between.
train: $(READY)  ## train, or resume WORKDIR: CONFIG=configs/NAME.py[:profile] WORKDIR=runs/NAME ARGS="--config.seed=1"
	@$(if $(filter $(CONFIG),$(PROFILED)),,echo "No NVIDIA driver found: using the laptop profile (CPU)")
	@echo ".venv/bin/python $(TRAIN)"
	@exec .venv/bin/python $(TRAIN)

doctor: $(READY)  ## check versions, devices, task, memory and disk: CONFIG=configs/NAME.py for that task
	@.venv/bin/python train.py --doctor --config=$(PROFILED) --workdir=$(WORKDIR)

watch: $(READY)  ## play an agent in a window or in the terminal: AGENT=boxing, or WORKDIR=runs/NAME, and ARGS="--speed=2"
	@exec $(RUN) agent57_jax watch --workdir=$(WORKDIR)$(if $(ARGS), $(ARGS))

test: lint types  ## lint, types and the fast tests
	$(RUN) pytest -n 2 --dist worksteal

test-slow: lint types  ## the same with the slow tests, then bench-smoke
	$(RUN) pytest -n 2 --dist worksteal -m "not gpu and not chaos and not soak"
	@$(MAKE) bench-smoke

chaos: $(READY)  ## kill a run at sixty random instants and check that nothing is lost (a quarter of an hour)
	$(RUN) pytest -m chaos tests/chaos

soak: $(READY)  ## train for an hour, twice, and check that memory, files and threads stay constant
	$(RUN) pytest -s -m soak tests/chaos

bench-smoke: $(READY)  ## check speed ratios against limits (two minutes, on idle cores)
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(RUN) benchmarks.guard

lint: $(READY)  ## check style and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(READY)  ## check types
	$(RUN) mypy

docs: $(READY)  ## regenerate the generated parts of docs/ and build the site in site/
	$(RUN) docs.describe_settings
	$(RUN) agent57_jax.monitoring.metrics
	$(RUN) mkdocs build --strict --quiet

reproductions: $(READY)  ## reproduce the papers' figures at the size of two CPU cores (hours; the same command resumes)
	$(RUN) reproductions.meta_controller --profile=cpu
	$(RUN) reproductions.random_coin --profile=cpu
	$(RUN) reproductions.controllable_states --profile=cpu
	$(RUN) reproductions.disco_maze --profile=cpu
	$(RUN) reproductions.lunar_lander --profile=cpu
	$(RUN) reproductions.atari --profile=cpu

# exec: as for training, Ctrl-C reaches the program, which stops what runs.
atari57: $(READY)  ## all 57 games, or GAMES="Pong-v5 Boxing-v5" SEEDS="0 1" PROFILE=laptop RUNS=runs/atari57 ARGS="--episodes=10"
	@exec $(RUN) reproductions.atari57 $(if $(GAMES),--games $(GAMES)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(PROFILE),--profile=$(PROFILE)) --runs=$(RUNS) $(ARGS)

lock: $(READY)  ## renew the locks from the bounds in requirements*.txt and pyproject.toml
	$(RUN) pip install --quiet uv
	$(FREEZE) --upgrade -o requirements.lock pyproject.toml requirements-dev.txt --extra video --extra gymnasium --extra wandb
	$(FREEZE_IMAGE) -o requirements-cpu.lock pyproject.toml requirements-image.txt
	$(FREEZE_IMAGE) -o requirements-cuda.lock pyproject.toml requirements-image.txt requirements-cuda.txt

clean:  ## remove the virtual environment and all caches; runs/ stays
	rm -rf .venv site .jax_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(LOCKS)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v}: try make PYTHON=python3.11")'
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 13) or print("Python", sys.version.split()[0], "is not tested: 3.11 and 3.12 are (make PYTHON=python3.12)")'
	@echo "Creating the virtual environment .venv"
	@$(PYTHON) -m venv .venv
	@echo "Installing the packages of $(LOCKS) into it (a few minutes the first time)"
	@# One after another: pip wants hashes for all or for none.
	@for lock in $(LOCKS); do $(RUN) pip install --quiet --disable-pip-version-check -r $$lock || exit; done
	@touch $@
