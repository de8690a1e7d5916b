"""Exports metrics.jsonl as CSV: python -m agent57_jax export RUN [--csv=FILE] [--keys=GLOB]."""

import csv
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from agent57_jax import paths
from agent57_jax.commands import command_line
from agent57_jax.monitoring.metric_lines import read_lines
from agent57_jax.monitoring.metrics import columns


def write_csv(path: pathlib.Path, file: TextIO, pattern: str = "*") -> int:
    """Writes a row per line of metrics and returns the number of rows; cells are empty where a value is missing or not finite.

    The file is read twice, so that it need not fit in memory. Raises ValueError for a damaged line.
    """
    writer = csv.DictWriter(file, columns(read_lines(path), pattern), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = 0
    for line in read_lines(path):
        writer.writerow(line)
        rows += 1
    return rows


def main(arguments: Sequence[str]) -> None:
    """Exports a run's metrics."""
    parser = command_line.Parser(prog="python -m agent57_jax export", description="metrics.jsonl of a run as CSV, one column per key")
    parser.add_argument("run", metavar="RUN", type=paths.path, help="the run's folder")
    parser.add_argument("--csv", type=paths.local, metavar="FILE", help='output file; "-": standard output; default: RUN/metrics.csv')
    parser.add_argument("--keys", metavar="GLOB", default="*", help='keys besides the counters, such as "evaluation/*"; default: all')
    given = parser.parse_args(arguments)
    command_line.open_standard_files()
    source = given.run / "metrics.jsonl"
    if not source.exists():
        command_line.fail(f"{given.run} holds no run: there is no metrics.jsonl in it")
    try:
        if given.csv == "-":
            write_csv(source, sys.stdout, given.keys)
            sys.stdout.flush()
            return
        target = pathlib.Path(given.csv or given.run / "metrics.csv")
        with paths.replaced(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            rows = write_csv(source, file, given.keys)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at exit
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        command_line.fail(str(error))
    print(f"wrote {rows} rows to {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
