"""Many games in a row: with fake trainings, and once for real."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agent57_jax.environments import atari57 as scores
from reproductions import atari57, common, folders
from reproductions.jobs import Job, JobError, Supervisor
from tests.test_command_line import run

GAMES = ("--games", "Pong-v5", "Boxing-v5", "--profile=smoke")
PONG = ("--games", "Pong-v5", "--profile=smoke")


@pytest.fixture
def suite(program: Callable[..., Any], tmp_path: pathlib.Path) -> Callable[..., Any]:
    return lambda *arguments, **environment: program("suite", f"--runs={tmp_path}", "--episodes=3", *arguments, **environment)


def test_it_goes_on_after_a_failure_and_then_does_what_is_missing(suite: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    choice = (*GAMES, "--seeds", "0", "1")
    failed = suite(*choice, FAKE_FAIL="Pong-v5")
    assert failed.code == 1 and "Pong-0 failed (exit code 1)" in failed.errors and "the loss was not finite" in failed.errors
    assert "2 of 8 commands failed" in failed.errors
    assert re.findall(r"(\S+): to be trained", failed.output) == ["Pong-0", "Boxing-0", "Pong-1", "Boxing-1"]
    # Each run is evaluated when it is trained, not when all are.
    assert failed.output.index("evaluation of Boxing-0 starts") < failed.output.index("Pong-1 starts")
    assert {path.parent.name for path in tmp_path.glob("*/evaluation.json")} == {"Boxing-0", "Boxing-1"}
    (tmp_path / "Boxing-1" / "evaluation.json").unlink()
    done = suite(*choice)
    assert done.code == 0, done.errors
    assert "Boxing-0: trained and evaluated already" in done.output and "Boxing-1: trained, to be evaluated" in done.output
    assert "all 4 runs are trained and evaluated" in done.output and f"agent57_jax.scoreboard {tmp_path}" in done.output
    assert all((tmp_path / name / "evaluation.json").exists() for name in ("Pong-0", "Pong-1", "Boxing-0", "Boxing-1"))
    assert (tmp_path / "Boxing-0" / "starts.txt").read_text().count("\n") == 1
    assert "[" not in suite(*choice).output  # nothing is left to run


def test_damaged_metrics_are_the_failure_of_their_run_alone(suite: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    assert suite(*PONG).code == 0
    with (tmp_path / "Pong-0" / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 80\n')
    done = suite(*GAMES)
    assert done.code == 1 and done.errors.startswith(f"error: Pong-0: the last line of {tmp_path}/Pong-0/metrics.jsonl is not")
    assert (tmp_path / "Boxing-0" / "evaluation.json").exists()


def test_metrics_that_a_training_leaves_damaged_are_its_failure_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = atari57._training("Pong-v5", 0, "smoke", {})

    def is_done() -> bool:
        raise folders.DamageError("metrics.jsonl is damaged")

    job = dataclasses.replace(common.training_job(training, tmp_path, is_done), command=[sys.executable, "-c", ""])
    other = Job("other", [sys.executable, "-c", ""], tmp_path / "other.log", lambda: True)
    with Supervisor(1, tmp_path) as supervisor, pytest.raises(JobError, match="1 of 2 commands failed\nPong-0 failed"):
        supervisor.run([job, other])
    output = capsys.readouterr().out
    assert "Pong-0: metrics.jsonl is damaged" in output and "other finished" in output


def test_more_steps_let_a_finished_run_go_on(suite: Callable[..., Any]) -> None:
    assert suite(*PONG).code == 0
    longer = suite(*PONG, "--config.total_steps=16000")
    assert longer.code == 0 and "Pong-0: resumes after 8,000 steps" in longer.output
    other = suite(*PONG, "--config.policy.beta_max=0.5")
    assert other.code == 2 and "other settings (policy.beta_max was 0.01, is 0.5" in other.errors and other.errors.count("\n") == 1


def test_a_signal_stops_the_children_and_the_same_command_goes_on(
    suite: Callable[..., Any], stopped_program: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    """A figure's test sends the other signal."""

    def start_another() -> None:
        second = suite(*PONG)
        assert second.code == 2 and "another process is at work" in second.errors and "--partial" not in second.errors

    logs = [tmp_path / "Pong-0" / "train.log"]
    stopped = stopped_program(signal.SIGTERM, logs, start_another, "suite", f"--runs={tmp_path}", "--episodes=3", *GAMES)
    assert stopped.code == 128 + signal.SIGTERM, stopped.errors
    assert stopped.output.splitlines()[-1] == "stopped by SIGTERM; the same command resumes"
    assert folders.saved_steps(tmp_path / "Pong-0") == 4_000 and not (tmp_path / "Boxing-0").exists()
    assert not (tmp_path / "Pong-0" / "evaluation.json").exists()
    done = suite(*GAMES)
    assert done.code == 0 and "Pong-0: resumes after 4,000 steps" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--games", "Pong-v5", "Boxng-v5"), "no game 'Boxng-v5'. Did you mean Boxing-v5?"),
        (("--games", "pong"), "no game 'pong'. Did you mean Pong-v5?"),
        (("--games", "Pong-v5", "--profile=smal"), "no profile or agent 'smal', did you mean smoke?"),
        (("--games", "Pong-v5", "--config.policy.beta=1"), "beta"),
        (("--games", "Pong-v5", "--config.total_steps=1e6"), "total_steps is 1000000.0"),
        (("--game", "Pong-v5"), "'--game' is not understood"),
        (("--seeds", "-1"), "--seeds"),
        (("--workers=0",), "--workers"),
    ],
)
def test_mistakes_end_in_one_line(arguments: tuple[str, ...], message: str, suite: Callable[..., Any]) -> None:
    done = suite(*arguments)
    assert done.code == 2 and done.errors.startswith("error: ") and done.errors.count("\n") == 1, done.errors
    assert message in done.errors


def test_overrides_have_the_types_of_the_command_line() -> None:
    texts = ("total_steps=7", "logging.tensorboard=false", "replay.capacity=200_000", "precision.compute=bfloat16")
    values = {"total_steps": 7, "logging.tensorboard": False, "replay.capacity": 200_000, "precision.compute": "bfloat16"}
    assert atari57.read_overrides([f"--config.{text}" for text in texts]) == values


def test_all_57_games_are_planned_without_being_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainings = [atari57._training(game, 2, "laptop", {}) for game in scores.SCORES]
    jobs, failures = atari57.plan(trainings, tmp_path, 5)
    assert failures == []
    assert len(jobs) == 57 and all(job.then is not None for job in jobs)
    assert "--config.environment.task_id=Alien-v5" in jobs[0].command and "--config.seed=2" in jobs[0].command
    assert capsys.readouterr().out.count("to be trained") == 57


@pytest.mark.parametrize(
    ("visible", "platforms", "expected"),
    [(None, None, ["0", "1"]), ("3,5", None, ["3", "5"]), ("", None, []), (None, "cpu", [])],
)
def test_gpus_are_those_that_the_user_lets_see(
    visible: str | None, platforms: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: y)'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("JAX_PLATFORMS", platforms)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert atari57.visible_gpus() == expected


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at a time need two cores")
def test_each_worker_has_a_gpu_of_its_own(suite: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    several = {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "3,5"}
    done = suite(*GAMES, **several)
    assert done.code == 0, done.errors
    own = os.environ.get("XLA_CLIENT_MEM_FRACTION")  # a GPU that is not shared has all of its memory
    assert all(f"GPU {gpu} {own}\n" in (tmp_path / run / "train.log").read_text() for run, gpu in (("Pong-0", 3), ("Boxing-0", 5)))
    many = suite(*GAMES, "--workers=3", **several)
    assert many.code == 2 and many.errors == "error: --workers=3, but there are 2 GPUs\n"


@pytest.mark.slow
def test_two_games_are_trained_evaluated_and_judged(tmp_path: pathlib.Path) -> None:
    command = ("-m", "reproductions.atari57", *GAMES, "--episodes=2", f"--runs={tmp_path / 'runs'}")
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    judged = run("-m", "agent57_jax.scoreboard", str(tmp_path / "runs"), f"--out={tmp_path / 'board'}")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert [entry["game"] for entry in record["games"]] == ["Boxing-v5", "Pong-v5"]
    assert all(found["source"] == "evaluation" and found["episodes"] == 2 and found["frames"] >= 32_000 for found in record["runs"])
    assert all(found["bandit"] is not None for found in record["runs"])
    again = run(*command)
    assert again.returncode == 0 and again.stdout.count("trained and evaluated already") == 2
