"""Runs that take minutes: real training, kills, learning."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.test_command_line import ROOT, run, started, wait_for
from tests.trainings import metrics_of

pytestmark = pytest.mark.slow


def test_an_agent_plays_in_a_terminal() -> None:
    # `script` makes a terminal.
    watch = f"{sys.executable} -m agent57_jax watch --workdir=agents/boxing --episodes=1 --speed=8"
    played = subprocess.run(
        ["script", "--quiet", "--return", "--command", watch, "/dev/null"],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "DISPLAY": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert played.returncode == 0 and "▀" in played.stdout and "Boxing-v5: return" in played.stdout


SMALL = ("--config=configs/zaxxon.py:smoke", "--config.replay.capacity=4000")
PARTS = "--parts=environments,acting,learner,together"


@pytest.mark.parametrize(
    "command",
    [
        ("benchmarks.throughput", *SMALL, "--repeats=1", "--seconds=0", "--updates_per_run=1", PARTS),
        ("benchmarks.precision", *SMALL, "--updates=1", "--batches=1"),
        ("benchmarks.plan", "--config=configs/zaxxon.py", "--gpus=8"),
    ],
    ids=lambda command: command[0],
)
def test_a_benchmark_runs(command: tuple[str, ...]) -> None:
    done = run("-m", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_trainer_learns_a_small_coin_room(tmp_path: pathlib.Path) -> None:
    done = run("train.py", "--config=configs/random_coin.py:smoke", "--config.total_steps=200000", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run("evaluate.py", f"--workdir={tmp_path}", "--episodes=200").returncode == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["mean"] >= 0.95


@pytest.mark.parametrize(
    "config",
    [
        *(f"{game}.py:smoke" for game in ("zaxxon", "boxing", "montezuma_revenge", "pitfall", "atari", "coinrun", "lunar_lander")),
        *(f"{task}.py:smoke" for task in ("disco_maze", "shifting_corridor", "minigrid", "cartpole", "gymnasium")),
        "zaxxon.py:smoke,r2d2",  # a game without novelty
        "lunar_lander.py:r2d2_bandit,smoke",
    ],
)
def test_every_config_trains(config: str, tmp_path: pathlib.Path) -> None:
    done = run("train.py", f"--config=configs/{config}", "--config.total_steps=3500", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    last = metrics_of(tmp_path)[-1]
    assert last["updates"] > 0 and None not in [value for key, value in last.items() if key.startswith("loss/")]


def test_make_trains_on_a_machine_without_a_gpu(tmp_path: pathlib.Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("an NVIDIA driver is here")
    with started("make", "train", f"WORKDIR={tmp_path}") as process:
        wait_for(process, "laptop profile")
        wait_for(process, r"updates [1-9]")
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.parametrize("figure", ["meta_controller", "random_coin", "controllable_states", "disco_maze", "lunar_lander", "atari"])
def test_every_figure_can_be_made(figure: str, tmp_path: pathlib.Path) -> None:
    """From training to picture, in a copy of the project: its runs lie beside its code."""
    for name in ("agent57_jax", "configs", "reproductions", "train.py", "evaluate.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    done = run("-m", f"reproductions.{figure}", "--profile=smoke", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "reproductions" / "results" / f"{figure}_smoke.json").read_text())
    assert record["expectations"] or figure == "atari"
    assert (tmp_path / "reproductions" / "results" / f"{figure}_smoke.png").stat().st_size > 10_000
