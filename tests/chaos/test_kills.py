"""SIGKILL at random instants of a real training, and the same command again: nothing that was saved is lost, nothing piles up.

    make chaos                # 60 kills, about a quarter of an hour; AGENT57_KILLS=N for another number

Two kinds of instants take turns: a random time after the start (imports, compilation, restoring or training), and some milliseconds after
the folder of an unfinished checkpoint has appeared.
"""

import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from agent57_jax.training.checkpoint import Checkpoints
from tests.test_command_line import ROOT, environment

KILLS = int(os.environ.get("AGENT57_KILLS", "60"))
COMMAND = (
    "--config=configs/random_coin.py:smoke",
    "--config.total_steps=1000000000",
    "--config.logging.period_seconds=0.5",
    "--config.logging.tensorboard=False",
    "--config.checkpoint.period_seconds=1",
)


def start(folder: pathlib.Path, *more: str) -> subprocess.Popen[bytes]:
    with (folder.parent / "log.txt").open("ab") as log:
        command = [sys.executable, "-u", "train.py", *COMMAND, *more, f"--workdir={folder}"]
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT)


def unfinished(folder: pathlib.Path) -> set[str]:
    """Names of what is in the folder of checkpoints and is none."""
    places = (folder / "checkpoints").glob("*") if (folder / "checkpoints").is_dir() else ()
    return {path.name for path in places if not path.name.isdecimal()}


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def kill_while_saving(process: subprocess.Popen[bytes], folder: pathlib.Path, delay: float) -> bool:
    """Kills so many seconds after an unfinished checkpoint has appeared that was not there; False if none did in a minute."""
    before, deadline = unfinished(folder), time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if unfinished(folder) - before:
            kill_after(process, delay)
            return True
        time.sleep(0.001)
    kill_after(process, 0)
    return False


def newest(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Number and counters of the newest complete checkpoint; 0 and nothing without one."""
    found = Checkpoints(folder / "checkpoints", 2, read_only=True)
    step = found.latest()
    return (0, {}) if step is None else (step, found.meta(step)["counters"])


@pytest.mark.chaos
def test_kills_at_random_instants(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    chance = random.Random(0)
    number, counters, while_saving = 0, {}, 0
    for kill in range(KILLS):
        process = start(folder)
        try:
            if kill % 2:
                while_saving += kill_while_saving(process, folder, chance.uniform(0.0, 0.05))
            else:
                kill_after(process, chance.uniform(0.5, 20.0))
        finally:
            process.kill()
        before_number, before = number, counters
        number, counters = newest(folder)
        # Never a worse one: not an older number, no counter that runs backwards.
        assert number >= before_number
        assert all(counters[name] >= value for name, value in before.items() if name in ("steps", "updates", "acts", "starts", "frames"))
        steps = Checkpoints(folder / "checkpoints", 2, read_only=True).steps()
        assert len(steps) <= 3, "old checkpoints are not removed"
        assert len(unfinished(folder)) <= 2, f"left-over folders pile up: {unfinished(folder)}"
    assert while_saving >= KILLS // 2 - 2, "too few kills met a checkpoint that was being written"

    # The same command goes on from the newest one, and a run that ends by itself leaves nothing unfinished.
    done = start(folder, f"--config.total_steps={counters['steps'] + 2_000}")
    assert done.wait(timeout=300) == 0
    last, after = newest(folder)
    assert last > number
    assert after["steps"] > counters["steps"]
    assert not unfinished(folder)
    # Metrics never run backwards: what was written after the checkpoint that a start resumed from has been cut off.
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(a["steps"] <= b["steps"] for a, b in itertools.pairwise(lines))
    log = (tmp_path / "log.txt").read_text(errors="replace")
    assert "Traceback" not in log
    assert log.count("resumed from checkpoint") > KILLS // 3
