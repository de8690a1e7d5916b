"""What benchmarks leave behind: aligned tables for people, records for machines."""

import sys
from collections.abc import Sequence
from typing import Any

import jax

from agent57_jax import config
from agent57_jax.config import Settings
from reproductions import records


def aligned(lines: Sequence[Sequence[str]], to_the_right: bool = False) -> str:
    """Lines of cells as columns of text.

    Args:
      lines: the same number of cells each, the headings first.
      to_the_right: numbers want it, words do not.
    """
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    place = str.rjust if to_the_right else str.ljust
    return "\n".join("  ".join(place(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def record(module: str, content: dict[str, Any], settings: Settings | None = None) -> dict[str, Any]:
    """What was measured, with the command, the commit and the machine; write it with `records.write_json`.

    Args:
      module: the benchmark's, such as "throughput".
      content: what it measured.
      settings: those that it was asked for.
    """
    found = {
        "benchmark": module,
        "command": " ".join([f"python -m benchmarks.{module}", *sys.argv[1:]]),
        "date": records.now()[:10],
        "git": records.git_state(),
        # Not asked in a process of its own: this one holds the device.
        "machine": records.machine(device=jax.devices()[0].device_kind),
        **content,
    }
    if settings is not None:
        found["settings"] = config.to_dict(settings)
    rounded: dict[str, Any] = records.rounded(found)
    return rounded


def readable(value: float) -> str:
    """Three significant digits with a prefix: 1.23 G."""
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
