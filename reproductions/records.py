"""The JSON record of a figure or benchmark: what was measured, with which settings, and where."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from agent57_jax import paths

ROOT = pathlib.Path(__file__).resolve().parents[1]


def expectation(expected: str, measured: Any, holds: bool | None) -> dict[str, Any]:
    """A claim and its outcome; `holds` is None while the runs that would decide it are missing."""
    return {"expected": expected, "measured": rounded(measured), "holds": holds}


def all_hold(outcomes: Iterable[bool | None]) -> bool | None:
    """Whether all outcomes are true: False if one is false, else None if one is missing."""
    found = list(outcomes)
    return False if False in found else None if None in found or not found else True


def machine(cores_per_run: int | None = None, device: str | None = None) -> dict[str, Any]:
    """The hardware and software of the runs, without host or user names.

    Args:
      cores_per_run: cores that each run had to itself.
      device: what JAX computes on, if this process knows it; None asks.
    """
    cpu = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_per_run": cores_per_run,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "device": device or _device_kind(),
    }


def _device_kind() -> str | None:
    """What JAX computes on. A separate process asks, so that this one takes no GPU memory."""
    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    done = subprocess.run(command, env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else None


def git_state(root: pathlib.Path = ROOT) -> dict[str, Any] | None:
    """The commit, and whether files other than results differ from it; None without git or outside our own repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--", ".", ":(exclude)reproductions/results", ":(exclude)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def settings_table(runs: Mapping[str, Mapping[str, Any]], flat: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all runs: the shared ones once, the others with each run.

    Args:
      runs: name -> how the run was started; at least one.
      flat: name -> all its settings, dotted name -> value.
    """
    first, *others = flat.values()
    shared = {key: value for key, value in first.items() if all(other[key] == value for other in others)}
    return {
        "shared": shared,
        "runs": {
            name: {**start, "settings": {key: value for key, value in flat[name].items() if key not in shared}}
            for name, start in runs.items()
        },
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rounded(value: Any) -> Any:
    """Numbers to six significant digits, inside lists and mappings too."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def to_text(record: Any) -> str:
    """JSON with one line for each list of numbers.

    Raises:
      ValueError: for a number that is not finite, which JSON cannot hold.
    """
    # JSON strings contain no line breaks, so this changes lists only.
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n\s+([-+.,\deE\s]+?)\s+\]", lambda found: "[" + ", ".join(re.split(r",\s+", found.group(1))) + "]", text) + "\n"


def write_json(path: pathlib.Path, record: Any) -> None:
    """Writes the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.replaced(path) as temporary:
        temporary.write_text(to_text(record), encoding="utf-8")


def read_json(path: pathlib.Path) -> Any:
    """The file's content; None if it does not exist or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
