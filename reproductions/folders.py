"""What the folder of a run contains: its last checkpoint, its metrics, and measurements made from it."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from agent57_jax import config
from agent57_jax.config import Settings, SettingsError
from agent57_jax.monitoring.metric_lines import read_line, read_lines
from agent57_jax.training import run_folder
from reproductions import records
from reproductions.records import ROOT

TAIL_BYTES = 1 << 18  # of metrics.jsonl; a line has a few thousand


class ReproductionError(RuntimeError):
    """A figure cannot be made as requested; the message says why in one line."""


class DamageError(ReproductionError):
    """A file of a run cannot be read; the message names it."""


def evaluation_of(folder: pathlib.Path, episodes: int, seed: int) -> dict[str, Any] | None:
    """evaluation.json, if it is of the last checkpoint, with this number of episodes and this seed."""
    found = records.read_json(folder / "evaluation.json")
    wanted = {"episodes": episodes, "seed": seed, "checkpoint": latest_checkpoint(folder)}
    return found if isinstance(found, dict) and all(found.get(key) == value for key, value in wanted.items()) else None


def remembered(folder: pathlib.Path, name: str, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement of a run's last checkpoint, read from `<folder>/<name>.json` if that has the same key, else computed and written."""
    key = {**key, "checkpoint": latest_checkpoint(folder)}
    found = records.read_json(folder / f"{name}.json")
    if isinstance(found, dict) and found.get("key") == key:
        return dict(found["value"])
    value = compute()
    records.write_json(folder / f"{name}.json", {"key": key, "value": value})
    return value


def finished(folder: pathlib.Path, settings: Settings) -> bool:
    """Whether the folder holds a run with these settings that has reached its end and saved it.

    Raises:
      ReproductionError: if it holds a run with other settings, whose numbers must not be used.
      DamageError: if the last line of metrics is damaged.
    """
    values = records.read_json(folder / "config.json")
    if not isinstance(values, dict) or latest_checkpoint(folder) is None:
        return False  # train.py will start from the beginning
    line = last_metrics(folder)
    before, free = config.flatten(values), ("total_steps", *config.INCIDENTAL_SETTINGS)
    changed = run_folder.differences(before, settings, free)
    steps, total = line["steps"] if line else 0, before.get("total_steps", 0)
    if total > settings.total_steps <= steps:
        changed.append(f"total_steps was {total}, is {settings.total_steps}")
    if changed:
        raise ReproductionError(f"{from_root(folder)} holds a run with other settings ({'; '.join(changed)}): move it away")
    return bool(total == settings.total_steps <= min(steps, saved_steps(folder)))


def has_begun(folder: pathlib.Path) -> bool:
    """Whether the run has saved and reported at least once.

    Raises:
      DamageError: as `last_metrics`.
    """
    return latest_checkpoint(folder) is not None and last_metrics(folder) is not None


def latest_checkpoint(folder: pathlib.Path) -> int | None:
    """The number of the run's last complete checkpoint."""
    numbers = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(numbers, default=None)


def saved_steps(folder: pathlib.Path) -> int:
    """Agent steps at the last complete checkpoint, 0 without one."""
    meta = records.read_json(folder / "checkpoints" / str(latest_checkpoint(folder)) / "meta" / "metadata")
    try:
        return int(meta["content"]["counters"]["steps"])
    except (TypeError, KeyError, ValueError):
        return 0


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; empty without the file.

    Raises:
      DamageError: if a line is damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        return list(read_lines(path)) if path.exists() else []
    except SettingsError as error:
        raise DamageError(str(error)) from error


def last_metrics(folder: pathlib.Path) -> dict[str, Any] | None:
    """The last complete line of metrics.jsonl; None without one. Only the end of the file is read, since it may be large.

    Raises:
      DamageError: if the line is damaged.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]  # the rest is empty or a line that is being written
    if not lines:
        return None
    try:
        return read_line(lines[-1], f"the last line of {from_root(path)}")
    except SettingsError as error:
        raise DamageError(str(error)) from error


def from_root(path: pathlib.Path) -> str:
    """A path for messages: relative to the project's root if it is inside."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
