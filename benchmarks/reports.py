"""What benchmarks print and write: aligned tables for people, JSON records for machines."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from agent57_jax import config
from agent57_jax.config import Settings
from reproductions import records


def aligned(lines: Sequence[Sequence[str]], to_the_right: bool = False) -> str:
    """Lines of cells as columns of text; all lines have the same number of cells, and numbers are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    place = str.rjust if to_the_right else str.ljust
    return "\n".join("  ".join(place(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def record(module: str, content: dict[str, Any], settings: Settings | None = None) -> dict[str, Any]:
    """The measurements of the benchmark `module`, with the command, the commit, the machine and the requested settings."""
    found = {
        "benchmark": module,
        "command": " ".join([f"python -m benchmarks.{module}", *sys.argv[1:]]),
        "date": records.now()[:10],
        "git": records.git_state(),
        # Not asked in another process: this one holds the device.
        "machine": records.machine(device=jax.devices()[0].device_kind),
        **content,
    }
    if settings is not None:
        found["settings"] = config.to_dict(settings)
    rounded: dict[str, Any] = records.rounded(found)
    return rounded


def write_json(path: str | None, module: str, content: dict[str, Any], settings: Settings | None = None) -> None:
    """Writes the record to the file that --json names, if it does."""
    if path:
        records.write_json(pathlib.Path(path), record(module, content, settings))
        print(f"wrote {path}")


def readable(value: float) -> str:
    """Three significant digits with a prefix: 1.23 G."""
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
