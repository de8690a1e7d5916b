import os
import pathlib
import subprocess
import sys
import time

import pytest

from agent57_jax.commands import healthcheck

NOW = 1e9
TRAIN = ("python", "-m", "agent57_jax", "train", "--config=configs/zaxxon.py")


def write(folder: pathlib.Path, age: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").touch()
    os.utime(folder / "metrics.jsonl", (NOW - age, NOW - age))


def verdict(command: tuple[str, ...], age: float, runs: pathlib.Path) -> tuple[bool, str]:
    return healthcheck.verdict(command, age, runs, 100.0, NOW)


def test_a_run_that_writes_is_healthy_and_a_silent_one_is_not(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "old", age=5000)
    write(tmp_path / "atari57/zaxxon", age=99)
    assert verdict(TRAIN, 10_000, tmp_path) == (True, "metrics were written 99 s ago")
    write(tmp_path / "atari57/zaxxon", age=101)
    assert verdict(TRAIN, 10_000, tmp_path) == (False, "no metrics were written for 101 s (limit 100 s)")


def test_at_the_start_it_may_compile(tmp_path: pathlib.Path) -> None:
    assert verdict(TRAIN, 99, tmp_path) == (True, "started 99 s ago, no metrics yet")
    assert verdict(TRAIN, 101, tmp_path) == (False, "no metrics.jsonl")
    assert not verdict(("python", "train.py"), 101, tmp_path)[0]
    assert verdict(("python", "-m", "agent57_jax", "tensorboard", "--logdir=/runs"), 101, tmp_path)[0]  # which does not train
    write(tmp_path / "zaxxon", age=5000)  # an earlier start's
    assert verdict(TRAIN, 99, tmp_path)[0]
    assert not verdict(TRAIN, 101, tmp_path)[0]


@pytest.mark.parametrize("flag", [["--workdir={}"], ["-workdir={}"], ["--workdir", "{}"], ["--workdir=/nowhere", "--workdir={}"]])
def test_a_run_is_judged_by_its_own_folder(flag: list[str], tmp_path: pathlib.Path) -> None:
    """Not by what another container writes into the same volume."""
    write(tmp_path / "other", age=1)
    write(tmp_path / "own", age=500)
    command = (*TRAIN, *(part.format(tmp_path / "own") for part in flag))
    assert verdict(command, 10_000, tmp_path) == (False, "no metrics were written for 500 s (limit 100 s)")
    assert healthcheck.folder_of(["train", "workdir=/elsewhere", "--workdirs=/elsewhere"]) is None


def test_the_program_on_a_process(tmp_path: pathlib.Path) -> None:
    """Its command line and age are read from /proc."""
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "train", f"--workdir={tmp_path}"])
    try:
        time.sleep(1.2)
        assert 1 < healthcheck.age_of_process(sleeping.pid) < 30

        def run(seconds: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "agent57_jax", "healthcheck", f"--process={sleeping.pid}", f"--seconds={seconds}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            return done.returncode, done.stdout

        code, words = run("30")
        assert code == 0 and words.startswith("healthy: started ")
        assert run("1") == (1, "unhealthy: no metrics.jsonl\n")
        (tmp_path / "metrics.jsonl").touch()
        assert "healthy: metrics were written" in run("1")[1]
    finally:
        sleeping.kill()
        sleeping.wait()
    assert run("30")[0] == 1  # a process that is gone


def test_it_is_light() -> None:
    code = "import sys, agent57_jax.commands.healthcheck; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "agent57_jax.commands.healthcheck" in loaded and not {"jax", "numpy", "absl", "agent57_jax.config"} & set(loaded)
