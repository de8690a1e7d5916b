"""The lines of metrics.jsonl, read back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent57_jax.config import SettingsError


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics of a file, one after the other, without a last one that is cut off.

    Raises:
      SettingsError: for a line that is no line of metrics, with its number and what to do.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                return
            yield read_line(text, f"line {number} of {path}")


def read_line(text: bytes, name: str) -> dict[str, Any]:
    """One line of metrics; `name` is how an error calls it.

    Raises:
      SettingsError: if it is none, with what to do.
    """
    try:
        line: dict[str, Any] = json.loads(text)
        float(line["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{name} is not a line of metrics; mend or remove the line, or move the file away: {error!r}") from error
    return line
