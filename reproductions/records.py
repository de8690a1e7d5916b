"""What a figure leaves behind: a record in JSON of what was measured, with what, and where."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def expectation(expected: str, measured: Any, holds: bool | None) -> dict[str, Any]:
    """One claim and what became of it; `holds` is None while the runs that would decide are missing."""
    return {"expected": expected, "measured": rounded(measured), "holds": holds}


def all_hold(outcomes: Iterable[bool | None]) -> bool | None:
    """Whether all outcomes are true: False if one is false, else None if one is missing."""
    found = list(outcomes)
    return False if False in found else None if None in found or not found else True


def machine(cores_per_run: int | None = None, device: str | None = None) -> dict[str, Any]:
    """What the runs ran on, without a name of host or user.

    Args:
      cores_per_run: cores that each run had for itself.
      device: what JAX computes on, where this process knows it; None asks.
    """
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_per_run": cores_per_run,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": _operating_system(),
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "device": device or _device_kind(),
    }


def git_state(root: pathlib.Path = ROOT) -> dict[str, Any] | None:
    """The commit, and whether files differ from it, results themselves aside; None without git or outside a repository of our own."""
    top, commit = _git(root, "rev-parse", "--show-toplevel"), _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)reproductions/results", ":(exclude)benchmarks/results")
    if top is None or commit is None or changes is None or pathlib.Path(top).resolve() != root.resolve():
        return None
    return {"commit": commit, "dirty": bool(changes)}


def settings_table(runs: Mapping[str, Mapping[str, Any]], flat: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of all runs: once what they share, and with each run what it has of its own.

    Args:
      runs: name -> how the run was started.
      flat: name -> all its settings, dotted name -> value.
    """
    every = list(flat.values())
    shared = (
        {key: value for key, value in every[0].items() if all(key in other and other[key] == value for other in every)} if every else {}
    )
    return {
        "shared": shared,
        "runs": {
            name: {**start, "settings": {key: value for key, value in flat[name].items() if key not in shared}}
            for name, start in runs.items()
        },
    }


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rounded(value: Any) -> Any:
    """Numbers to six significant digits, inside lists and mappings too."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def to_text(record: Any) -> str:
    """JSON with a line for each list of numbers.

    Raises:
      ValueError: for a number that is not finite, which JSON has no word for.
    """
    # A string has no line breaks in JSON, so that what follows changes lists alone.
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n\s+([-+.,\deE\s]+?)\s+\]", lambda found: "[" + ", ".join(re.split(r",\s+", found.group(1))) + "]", text) + "\n"


def write_json(path: pathlib.Path, record: Any) -> None:
    """Writes the file at one stroke."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(to_text(record), encoding="utf-8")
    temporary.replace(path)


def read_json(path: pathlib.Path) -> Any:
    """The file's content; None if there is none or it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _device_kind() -> str | None:
    """What JAX computes on. Asked in a process of its own, which takes no memory of a GPU and gives back what it took."""
    command: Sequence[str] = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else None
