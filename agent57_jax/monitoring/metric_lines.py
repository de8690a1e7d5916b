"""Reads the lines of metrics.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent57_jax.config import SettingsError


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a file, except a truncated last one; raises SettingsError for a damaged line."""
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                return
            yield read_line(text, f"line {number} of {path}")


def read_line(text: bytes, name: str) -> dict[str, Any]:
    """Parses one line; raises SettingsError with the line's `name` if it is damaged."""
    try:
        line: dict[str, Any] = json.loads(text)
        float(line["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{name} is not a line of metrics; fix or remove the line, or move the file away: {error!r}") from error
    return line
