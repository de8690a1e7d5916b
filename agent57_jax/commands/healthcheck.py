"""Whether the training in this container is alive: python -m agent57_jax healthcheck, which Docker and Kubernetes run every minute.

Exit code 0 and a line that says why if it is, 1 if it is not. Imports nothing but the standard library: it costs the training some
hundredths of a second.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Sequence

# Longest silence of a healthy run: compiling at the start, saving a large replay, and the last evaluation, which writes no metrics.
LIMIT_SECONDS = 1800.0


def age_of_process(process: int) -> float:
    """Seconds since a process was started."""
    # Field 22 of the file, in ticks since the machine's start; the name of the program, in parentheses, may hold spaces.
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def folder_of(command: Sequence[str]) -> str | None:
    """What --workdir of a command line says, the last one as for absl; None without one."""
    found = None
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        name, is_given, value = argument.lstrip("-").partition("=")
        if name == "workdir" and argument.startswith("-"):
            found = value if is_given else following
    return found


def age_of_metrics(folders: Sequence[pathlib.Path], now: float) -> float | None:
    """Seconds since the newest metrics.jsonl in one of the folders was written; None if there is none."""
    times = [file.stat().st_mtime for folder in folders if (file := folder / "metrics.jsonl").exists()]
    return max(0.0, now - max(times)) if times else None


def verdict(command: Sequence[str], age: float, runs: pathlib.Path, limit: float, now: float) -> tuple[bool, str]:
    """Whether a process is healthy, and why.

    Args:
      command: its command line. A process that does not train is healthy.
      age: seconds since it was started.
      runs: where its run is looked for, up to two folders deep, if the command line has no --workdir.
      limit: longest silence in seconds.
      now: seconds since 1970.
    """
    if not any(argument == "train" or argument.endswith("train.py") for argument in command):
        return True, "this container does not train"
    folder = folder_of(command)
    folders = [_path(folder)] if folder is not None else [*runs.glob("*/"), *runs.glob("*/*/")]
    silence = age_of_metrics(folders, now)
    if silence is not None and silence <= limit:
        return True, f"metrics were written {silence:.0f} s ago"
    if age <= limit:
        return True, f"started {age:.0f} s ago, no metrics yet"
    return False, "no metrics.jsonl" if silence is None else f"no metrics were written for {silence:.0f} s (limit {limit:.0f} s)"


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(os.path.expanduser(text))


def main() -> None:
    """Prints the verdict on a process."""
    parser = argparse.ArgumentParser(prog="python -m agent57_jax healthcheck", description="Whether a training writes metrics.")
    parser.add_argument("--runs", type=_path, default=pathlib.Path("/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS, help="longest silence (%(default)s)")
    parser.add_argument("--process", type=int, default=1, help="the training's process (%(default)s)")
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
