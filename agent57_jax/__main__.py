"""Command-line entry point, also of the container: python -m agent57_jax COMMAND [FLAGS]."""

import difflib
import importlib.util
import runpy
import signal
import sys
from typing import NoReturn

# Command -> module to run, and flags to add.
WORDS = {
    "train": ("agent57_jax.commands.train",),
    "evaluate": ("agent57_jax.commands.evaluate",),
    "doctor": ("agent57_jax.commands.train", "--doctor"),
    "scoreboard": ("agent57_jax.scoreboard",),
    "watch": ("agent57_jax.commands.watch",),
    "export": ("agent57_jax.commands.export",),
    "pack": ("agent57_jax.commands.pack",),
    "healthcheck": ("agent57_jax.commands.healthcheck",),
    "tensorboard": ("tensorboard.main",),
}
USAGE = f"usage: python -m agent57_jax {{{','.join(WORDS)}}} [FLAGS], each with --help"


def _fail(message: str) -> NoReturn:
    from agent57_jax.commands import command_line  # not at the top: a health check must stay light

    command_line.fail(message)


def main() -> None:
    """Runs a command in this process, which receives the container's signals."""
    word, *flags = sys.argv[1:] or ["--help"]
    if word in ("--help", "-h"):
        print(USAGE)
        return
    if word not in WORDS:
        nearest = difflib.get_close_matches(word, WORDS, n=1, cutoff=0.0)[0]
        _fail(f"no command '{word}'. Did you mean {nearest}? Commands: {', '.join(WORDS)}")
    target, *own = WORDS[word]
    # Process 1 of a container ignores SIGTERM without a handler; the trainer's replaces this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.argv = [target, *own, *flags]
    if not (importlib.util.find_spec(target.split(".")[0]) and importlib.util.find_spec(target)):
        _fail(f"{word} needs {target}, which is not installed here")
    runpy.run_module(target, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
