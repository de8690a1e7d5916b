"""Trains an agent: python train.py --help, or the same as python -m agent57_jax train (agent57_jax/commands/train.py)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("agent57_jax.commands.train", run_name="__main__", alter_sys=True)
