"""Plays an agent for its score: python evaluate.py --help, or python -m agent57_jax evaluate (agent57_jax/commands/evaluate.py)."""

import runpy

if __name__ == "__main__":
    runpy.run_module("agent57_jax.commands.evaluate", run_name="__main__", alter_sys=True)
