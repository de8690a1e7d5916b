"""Compares runs with published scores: tables, learning curves and bandits of many runs.

python -m agent57_jax.scoreboard RUNS... [--out=FOLDER]

RUNS are folders of runs, or folders that hold them. Writes scoreboard.md, scoreboard.json and scoreboard.html, a page that needs
nothing else, to FOLDER, and prints the first (docs/scoreboard.md).
"""

import io
import json
import pathlib
import sys

from agent57_jax import paths
from agent57_jax.commands import command_line
from agent57_jax.config import SettingsError
from agent57_jax.scoreboard import board, markdown, page, runs


def main() -> None:
    """Reads, computes, writes."""
    parser = command_line.Parser(
        prog="python -m agent57_jax.scoreboard", description="Compares runs with published scores.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=paths.path, metavar="RUNS", help="folders of runs, or folders that hold them")
    parser.add_argument("--out", type=paths.path, default=pathlib.Path("runs/scoreboard"), help="default: runs/scoreboard")
    options = parser.parse_args()
    # A terminal that has no "±" shows a question mark; the files have it.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    found: dict[pathlib.Path, runs.Run] = {}
    unreadable: list[tuple[pathlib.Path, str]] = []
    try:
        for given in options.runs:
            before = len(unreadable)
            folders = list(runs.find(given, unreadable))
            if not folders and len(unreadable) == before:
                command_line.fail(f"{given} holds no run: there is no config.json in it or below it")
            for folder in folders:
                if folder.resolve() in found:
                    continue
                try:
                    found[folder.resolve()] = runs.read(folder)
                except (SettingsError, OSError) as error:
                    unreadable.append((folder, str(error)))
        if not found:
            command_line.fail(f"no run could be read: {unreadable[0][1]}")
        options.out.mkdir(parents=True, exist_ok=True)
        record = board.build(list(found.values()), unreadable, options.out)
        text = markdown.render(record)
        for name, content in {
            "scoreboard.md": text,
            "scoreboard.json": json.dumps(record, allow_nan=False) + "\n",
            "scoreboard.html": page.render(record, options.out),
        }.items():
            with paths.replaced(options.out / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
    except OSError as error:
        command_line.fail(str(error))
    print(text)
    print(f"wrote {options.out / 'scoreboard.html'}, scoreboard.md and scoreboard.json")


if __name__ == "__main__":
    main()
