"""Checks whether the run in this container is alive: python -m agent57_jax healthcheck, for Docker and Kubernetes.

Prints a reason; the exit code is 0 if it is alive, else 1. Imports only the standard library, which takes hundredths of a second.
"""

import argparse
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

LIMIT_SECONDS = 1800.0  # without metrics: compilation, saving a large replay, the last evaluation


def age_of_process(process: int) -> float:
    """Seconds since a process was started."""
    # Field 22, in ticks since the machine's start; the program's name, in parentheses, may contain spaces.
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def folder_of(command: Sequence[str]) -> str | None:
    """The last --workdir in a command line, as for absl; None without one."""
    found = None
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        name, is_given, value = argument.lstrip("-").partition("=")
        if name == "workdir" and argument.startswith("-"):
            found = value if is_given else following
    return found


def verdict(command: Sequence[str], age: float, runs: pathlib.Path, limit: float, now: float) -> tuple[bool, str]:
    """Whether a process with this command line, started `age` seconds ago, is healthy, and why. One that does not train is.

    Without --workdir its run is searched for in the folder `runs`, up to two levels deep. `limit` is the longest time without metrics in
    seconds, `now` the time in seconds since 1970.
    """
    if not any(argument == "train" or argument.endswith("train.py") for argument in command):
        return True, "this container does not train"
    folder = folder_of(command)
    folders = [_path(folder)] if folder is not None else [*runs.glob("*/"), *runs.glob("*/*/")]
    times = [file.stat().st_mtime for folder in folders if (file := folder / "metrics.jsonl").exists()]
    silence = max(0.0, now - max(times)) if times else math.inf
    if silence <= limit:
        return True, f"metrics were written {silence:.0f} s ago"
    if age <= limit:
        return True, f"started {age:.0f} s ago, no metrics yet"
    return False, f"no metrics were written for {silence:.0f} s (limit {limit:.0f} s)" if times else "no metrics.jsonl"


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(os.path.expanduser(text))


def main() -> None:
    """Prints the verdict on a process."""
    parser = argparse.ArgumentParser(prog="python -m agent57_jax healthcheck", description="Checks whether a run writes metrics.")
    parser.add_argument("--runs", type=_path, default=pathlib.Path("/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS, help="longest time without metrics (%(default)s)")
    parser.add_argument("--process", type=int, default=1, help="number of the process that trains (%(default)s)")
    flags = parser.parse_args()
    try:
        command = pathlib.Path(f"/proc/{flags.process}/cmdline").read_text().split("\0")
        is_healthy, why = verdict(command, age_of_process(flags.process), flags.runs, flags.seconds, time.time())
    except OSError as error:
        is_healthy, why = False, str(error)
    print(f"{'healthy' if is_healthy else 'unhealthy'}: {why}")
    sys.exit(not is_healthy)


if __name__ == "__main__":
    main()
