"""Command-line flags that several benchmarks share, each defined once, and how they reach a benchmark in another process."""

import functools
import os
import subprocess
import sys
from json import loads
from typing import Any

from absl import flags

from agent57_jax.commands import command_line


@functools.cache
def config() -> Any:
    """--config and its overrides."""
    return command_line.define_config()


def measured_apart(benchmark: str, *arguments: str, **environment: str) -> Any:
    """What another benchmark prints as its last line, JSON, in a process with the same settings.

    Raises:
      RuntimeError: if it fails, with the last line of its errors.
    """
    overrides = [argument for argument in sys.argv[1:] if argument.lstrip("-").startswith("config.")]
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", f"--config={command_line.config_path()}", *overrides, *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return loads(done.stdout.splitlines()[-1])


@functools.cache
def repeats() -> Any:
    """--repeats."""
    return flags.DEFINE_integer("repeats", 5, "runs of each measurement", lower_bound=1)


@functools.cache
def seconds() -> Any:
    """--seconds."""
    return flags.DEFINE_float("seconds", 1.0, "length of each run", lower_bound=0.0)


@functools.cache
def json() -> Any:
    """--json."""
    return command_line.define_path("json", "file for the record")
