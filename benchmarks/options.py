"""Command-line flags that several benchmarks have, each defined once however many of them are imported."""

import functools
import sys
from typing import Any

from absl import flags

from agent57_jax.commands import command_line


@functools.cache
def config() -> Any:
    """--config and its overrides."""
    return command_line.define_config()


def config_arguments() -> list[str]:
    """--config and its overrides as they were given, for a process that is to have the same settings."""
    overrides = [argument for argument in sys.argv[1:] if argument.lstrip("-").startswith("config.")]
    return [f"--config={command_line.config_path()}", *overrides]


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
