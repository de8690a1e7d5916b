"""An hour of real training: memory, file descriptors and threads stay where they were, and nothing is compiled after the start.

make soak                 # an hour on each of an emulated game and a maze in JAX; AGENT57_SOAK_MINUTES=N for another time
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.test_command_line import ROOT, environment

MINUTES = float(os.environ.get("AGENT57_SOAK_MINUTES", "60"))
PERIOD_SECONDS = 5.0
WARM_UP_SECONDS = 90.0
COMPILED = re.compile(r"Finished XLA compilation of (\S+)")
SAVED = b"saving checkpoint"


def status(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Resident memory and its peak so far in MiB, open files, threads."""
    place = pathlib.Path("/proc") / str(process.pid)
    values = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return {
        "resident": int(values["VmRSS"].split()[0]) / 1024,
        "peak": int(values["VmHWM"].split()[0]) / 1024,
        "files": len(list((place / "fd").iterdir())),
        "threads": int(values["Threads"]),
    }


@pytest.mark.soak
@pytest.mark.parametrize("config", ["configs/zaxxon.py:smoke", "configs/disco_maze.py:smoke"])
def test_a_long_run_takes_no_more_than_a_short_one(config: str, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log.txt"
    command = [
        *(sys.executable, "-u", "train.py", f"--config={config}", f"--workdir={tmp_path / 'run'}"),
        *("--config.total_steps=1000000000", "--config.checkpoint.period_seconds=20", "--config.logging.period_seconds=5"),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment() | {"JAX_LOG_COMPILES": "1"}, stdout=out, stderr=out)
    seen: list[dict[str, float]] = []
    compiled_before = 0
    try:
        while SAVED not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < WARM_UP_SECONDS + 60 * MINUTES:
            if now < WARM_UP_SECONDS:
                compiled_before = len(COMPILED.findall(log.read_text()))
            else:
                seen.append(status(process))
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(PERIOD_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    tenth = max(1, len(seen) // 10)
    first, last = seen[:tenth], seen[-tenth:]
    compiled = COMPILED.findall(log.read_text())
    print(f"\n{config}: {MINUTES:g} minutes after {WARM_UP_SECONDS:g} s, {len(compiled)} programs compiled before")
    end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    print(f"  {end['steps']:,} steps, {end['updates']:,} updates, {log.read_bytes().count(SAVED)} checkpoints")
    for name in ("resident", "peak", "files", "threads"):
        low, high = (sorted(sample[name] for sample in part) for part in (first, last))
        most = max(sample[name] for sample in seen)
        print(
            f"  {name}: least and median of the first tenth {low[0]:.0f} and {low[tenth // 2]:.0f}, "
            f"of the last {high[0]:.0f} and {high[tenth // 2]:.0f}; most ever {most:.0f}"
        )
    assert compiled[compiled_before:] == []
    # Emulators and allocators move by some percent; what grows with time would not stop there.
    assert max(sample["peak"] for sample in last) <= 1.05 * max(sample["peak"] for sample in first)
    assert sorted(s["resident"] for s in last)[tenth // 2] <= 1.05 * max(s["resident"] for s in first)
    half = seen[: len(seen) // 2]
    # A save opens files and starts threads for as long as it lasts: what stays is seen between two saves. No file may be added; pools of
    # threads fill when several are wanted at once, which the first half has seen.
    assert min(sample["files"] for sample in last) <= min(sample["files"] for sample in first)
    assert min(sample["threads"] for sample in last) <= max(sample["threads"] for sample in half)
    for name in ("files", "threads"):  # by chance one sample meets more of a save than another; saves that take more and more would show
        assert max(sample[name] for sample in last) <= 1.5 * max(sample[name] for sample in half)
