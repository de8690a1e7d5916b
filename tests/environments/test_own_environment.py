"""docs/environments.md, "Bring your own environment": its example is taken from the page and trained on; and one that fails."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from agent57_jax.environments.gymnasium import GymnasiumEnvironment
from agent57_jax.monitoring import pictures
from agent57_jax.training.checkpoint import Checkpoints
from agent57_jax.types import LAST
from tests.environments.playing import start, step
from tests.test_command_line import ROOT, environment, run

PAGE = (ROOT / "docs" / "environments.md").read_text()
FAILING = ("--config=configs/gymnasium.py:smoke", "--config.environment.task_id=tests.environments.toys:Raises")


def block(language: str) -> str:
    """The page's only block of code in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


def test_the_example_is_an_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corridor.py").write_text(block("python"))
    assert sum(bool(line) for line in block("python").splitlines()) == 10
    monkeypatch.syspath_prepend(tmp_path)
    corridor = GymnasiumEnvironment("corridor:Corridor", 2, [1, 2], num_processes=1, max_episode_steps=20)
    timesteps = [start(corridor), *(step(corridor, [1, 0]) for _ in range(7))]
    corridor.close()
    last = timesteps[-1]
    assert (last.step_type[0], last.discount[0], last.episode_return.tolist()) == (LAST, 0, [1.0, 0.0])
    assert [int(t.observation[0].argmax()) for t in timesteps] == list(range(8))


def wrapped(arguments: str) -> str:
    """A module with the page's function of these arguments that wraps an environment."""
    (text,) = re.findall(rf"`(def make\({arguments}\): [^`]*)`", PAGE)
    return "import gymnasium\n" + " ".join(text.split())


def test_the_wrappers_are_environments_and_one_of_them_draws(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain_lake.py").write_text(wrapped(""))
    (tmp_path / "drawn_lake.py").write_text(wrapped("render_mode=None"))
    monkeypatch.syspath_prepend(tmp_path)
    names = "plain_lake:make", "drawn_lake:make"
    plain, drawn = (GymnasiumEnvironment(name, 1, [1], num_processes=1, render_mode="rgb_array") for name in names)
    for lake in (plain, drawn):
        assert start(lake).observation.tolist() == np.eye(1, 16).tolist()
    assert pictures.screen_of(drawn, np.zeros(16)).std() > 0
    with pytest.raises(ValueError, match="plain_lake:make draws no pictures: it was made without render_mode"):
        pictures.screen_of(plain, np.zeros(16))
    plain.close()
    drawn.close()


@pytest.mark.slow
def test_a_wrapper_without_pictures_is_trained_without_videos(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mine.py").write_text(wrapped(""))
    own = FAILING[0], "--config.environment.task_id=mine:make", f"--workdir={tmp_path}/run"
    done = run("train.py", *own, "--config.total_steps=2000", "--config.video.period_episodes=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("warning: no videos: this environment cannot be drawn: ValueError: mine:make draws no pictures") == 1
    assert not list((tmp_path / "run").glob("videos/*"))


@pytest.mark.slow
def test_the_example_is_trained_and_judged_by_the_commands_on_the_page(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "corridor.py").write_text(block("python"))
    train, evaluate = (line.split() for line in block("sh").strip().splitlines())
    assert train[0] == evaluate[0] == "python"
    for command in ([*train[1:], "--config.total_steps=2000"], [*train[1:], "--config.total_steps=3000"], evaluate[1:]):
        done = run(*(f"--workdir={tmp_path}/run" if word.startswith("--workdir=") else word for word in command))
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("resumed from checkpoint 1" in done.stdout) == (command[-1] == "--config.total_steps=3000")
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["game"], len(result["returns"]), result["hns"]) == ("corridor:Corridor", 100, None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["steps"] >= 3000 and lines[-1]["updates"] > 0 and "action/ratio_1" in {key for line in lines for key in line}


@pytest.mark.slow
def test_what_an_environment_does_costs_a_run_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes its folder, takes the signals, and prints where output is closed; the run's folder is relative and has an odd name."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    own = [f"--config={ROOT}/configs/gymnasium.py:smoke", "--config.environment.task_id=tests.environments.toys:Meddles"]
    train = [str(ROOT / "train.py"), *own, "--config.checkpoint.period_seconds=1", "--workdir=run[0]"]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable]

    def checkpoints() -> list[int]:
        return Checkpoints(tmp_path / "run[0]" / "checkpoints", 1, read_only=True).steps()

    with subprocess.Popen([*closed, *train, "--config.total_steps=1000000000"], cwd=tmp_path, env=environment()) as process:
        deadline = time.monotonic() + 600
        while not checkpoints() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
    saved = checkpoints()[-1]
    lines = [json.loads(line) for line in (tmp_path / "run[0]" / "metrics.jsonl").read_text().splitlines()]
    done = run(*train, f"--config.total_steps={lines[-1]['steps'] + 500}", folder=tmp_path)
    assert done.returncode == 0 and f"resumed from checkpoint {saved} of run[0]" in done.stdout, done.stdout + done.stderr
    judge = [*closed, str(ROOT / "evaluate.py"), "--workdir=run[0]", "--episodes=2"]
    assert subprocess.run(judge, cwd=tmp_path, env=environment(), timeout=600, check=False).returncode == 0
    assert json.loads((tmp_path / "run[0]" / "evaluation.json").read_text())["checkpoint"] == checkpoints()[-1] > saved


@pytest.mark.slow
def test_an_environment_that_fails_ends_the_run_in_one_line(tmp_path: pathlib.Path) -> None:
    done = run("train.py", *FAILING, f"--workdir={tmp_path}")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    mistake = r"ZeroDivisionError: a mistake of two lines \(.*toys.py:\d+, in step\)"
    assert re.match(rf"error: tests.environments.toys:Raises failed: {mistake}\. Last good ", line), line
