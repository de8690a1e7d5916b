"""Many games in a row: with fake trainings, and once for real."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from agent57_jax.environments import atari57 as scores
from reproductions import atari57, common, folders
from reproductions.jobs import Job, JobError, Supervisor
from tests.test_command_line import run

ROOT = pathlib.Path(__file__).parents[2]
SUITE = [sys.executable, str(ROOT / "tests" / "reproductions" / "fakes" / "suite.py")]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **extra}


def suite(home: pathlib.Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [*SUITE, f"--runs={home}", "--episodes=3", *arguments]
    return subprocess.run(command, env=environment(**extra), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_it_goes_on_after_a_failure_and_then_does_what_is_missing(tmp_path: pathlib.Path) -> None:
    choice = ("--games", "Pong-v5", "Boxing-v5", "--seeds", "0", "1", "--profile=smoke")
    failed = suite(tmp_path, *choice, FAKE_FAIL="Pong-v5")
    assert failed.returncode == 1 and "Pong-0 failed (exit code 1)" in failed.stderr and "the loss was not finite" in failed.stderr
    assert "2 of 8 commands failed" in failed.stderr
    assert re.findall(r"(\S+): to be trained", failed.stdout) == ["Pong-0", "Boxing-0", "Pong-1", "Boxing-1"]
    assert all((tmp_path / f"Boxing-{seed}" / "evaluation.json").exists() for seed in (0, 1))
    assert not (tmp_path / "Pong-0" / "evaluation.json").exists()
    # Each run is evaluated when it is trained, not when all are.
    assert failed.stdout.index("evaluation of Boxing-0 starts") < failed.stdout.index("Pong-1 starts")

    (tmp_path / "Boxing-1" / "evaluation.json").unlink()
    done = suite(tmp_path, *choice)
    assert done.returncode == 0, done.stderr
    assert "Boxing-0: trained and evaluated already" in done.stdout and "Boxing-1: trained, to be evaluated" in done.stdout
    assert "all 4 runs are trained and evaluated" in done.stdout and f"agent57_jax.scoreboard {tmp_path}" in done.stdout
    assert all((tmp_path / f"{game}-{seed}" / "evaluation.json").exists() for game in ("Pong", "Boxing") for seed in (0, 1))
    assert (tmp_path / "Boxing-0" / "starts.txt").read_text().count("\n") == 1
    assert "[" not in suite(tmp_path, *choice).stdout  # nothing is left to run


def test_damaged_metrics_are_the_failure_of_their_run_alone(tmp_path: pathlib.Path) -> None:
    choice = ("--games", "Pong-v5", "Boxing-v5", "--profile=smoke")
    assert suite(tmp_path, "--games", "Pong-v5", "--profile=smoke").returncode == 0
    with (tmp_path / "Pong-0" / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 80\n')
    done = suite(tmp_path, *choice)
    assert done.returncode == 1 and done.stderr.startswith(f"error: Pong-0: the last line of {tmp_path}/Pong-0/metrics.jsonl is not")
    assert "Traceback" not in done.stderr and (tmp_path / "Boxing-0" / "evaluation.json").exists()


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


def test_more_steps_let_a_finished_run_go_on(tmp_path: pathlib.Path) -> None:
    choice = ("--games", "Pong-v5", "--profile=smoke")
    assert suite(tmp_path, *choice).returncode == 0
    longer = suite(tmp_path, *choice, "--config.total_steps=16000")
    assert longer.returncode == 0 and "Pong-0: resumes after 8,000 steps" in longer.stdout
    other = suite(tmp_path, *choice, "--config.policy.beta_max=0.5")
    assert other.returncode == 2 and "other settings (policy.beta_max was 0.01, is 0.5" in other.stderr and other.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_children_and_the_same_command_goes_on(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    command = [*SUITE, f"--runs={tmp_path}", "--episodes=3", "--games", "Pong-v5", "Boxing-v5", "--profile=smoke"]
    with subprocess.Popen(
        command, env=environment(FAKE_SLOW="1"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            log, deadline = tmp_path / "Pong-0" / "train.log", time.monotonic() + 30
            while not (log.exists() and "training" in log.read_text()):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            second = suite(tmp_path, "--games", "Pong-v5", "--profile=smoke")
            assert second.returncode == 2 and "another process is at work" in second.stderr and "--partial" not in second.stderr
            process.send_signal(number)
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + number, errors
    assert output.splitlines()[-1] == f"stopped by {number.name}; the same command resumes"
    assert folders.saved_steps(tmp_path / "Pong-0") == 4_000 and not (tmp_path / "Boxing-0").exists()
    assert not (tmp_path / "Pong-0" / "evaluation.json").exists()
    done = suite(tmp_path, "--games", "Pong-v5", "Boxing-v5", "--profile=smoke")
    assert done.returncode == 0 and "Pong-0: resumes after 4,000 steps" in done.stdout


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
def test_mistakes_end_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: pathlib.Path) -> None:
    done = suite(tmp_path, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_overrides_have_the_types_of_the_command_line() -> None:
    arguments = [
        "--config.total_steps=7",
        "--config.logging.tensorboard=false",
        "--config.replay.capacity=200_000",
        "--config.precision.compute=bfloat16",
    ]
    assert atari57.read_overrides(arguments) == {
        "total_steps": 7,
        "logging.tensorboard": False,
        "replay.capacity": 200_000,
        "precision.compute": "bfloat16",
    }


def test_all_57_games_are_planned_without_being_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainings = [atari57._training(game, 2, "laptop", {}) for game in scores.SCORES]
    jobs, failures = atari57.plan(trainings, tmp_path, 5)
    assert failures == []
    assert len(jobs) == 57 and all(job.then is not None for job in jobs)
    assert "--config.environment.task_id=Alien-v5" in jobs[0].command and "--config.seed=2" in jobs[0].command
    assert capsys.readouterr().out.count("to be trained") == 57


def test_gpus_are_those_that_the_user_lets_see(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: y)'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert atari57.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert atari57.visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert atari57.visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert atari57.visible_gpus() == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at a time need two cores")
def test_each_worker_has_a_gpu_of_its_own(tmp_path: pathlib.Path) -> None:
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ.get('XLA_CLIENT_MEM_FRACTION')); time.sleep(0.5)"
    jobs = [Job(name, [sys.executable, "-c", code], tmp_path / f"{name}.log", lambda: True) for name in "ab"]
    with Supervisor(2, tmp_path, gpus=["3", "5"]) as supervisor:
        supervisor.run(jobs)
    own = os.environ.get("XLA_CLIENT_MEM_FRACTION")
    assert [(tmp_path / f"{name}.log").read_text().splitlines()[1] for name in "ab"] == [f"3 {own}", f"5 {own}"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two runs at a time need two cores")
def test_runs_are_spread_over_the_gpus(tmp_path: pathlib.Path) -> None:
    several = {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "3,5"}
    choice = ("--games", "Pong-v5", "Boxing-v5", "--profile=smoke")
    done = suite(tmp_path, *choice, **several)
    assert done.returncode == 0, done.stderr
    assert ["GPU 3" in (tmp_path / f"{game}-0" / "train.log").read_text() for game in ("Pong", "Boxing")] == [True, False]
    assert "GPU 5" in (tmp_path / "Boxing-0" / "train.log").read_text()
    many = suite(tmp_path, *choice, "--workers=3", **several)
    assert many.returncode == 2 and many.stderr == "error: --workers=3, but there are 2 GPUs\n"


def test_what_follows_a_job_runs_only_where_it_was_done(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    def job(name: str, code: int, then: Job | None = None) -> Job:
        return Job(name, [sys.executable, "-c", f"raise SystemExit({code})"], tmp_path / f"{name}.log", lambda: True, then)

    with Supervisor(1, tmp_path) as supervisor, pytest.raises(JobError, match="1 of 5 commands failed"):
        supervisor.run([job("bad", 1, job("never", 0)), job("good", 0, job("next", 0)), job("last", 0)])
    names = re.findall(r"^(\w+) starts", capsys.readouterr().out, re.MULTILINE)
    assert names == ["bad", "good", "next", "last"]


@pytest.mark.slow
def test_two_games_are_trained_evaluated_and_judged(tmp_path: pathlib.Path) -> None:
    command = ("-m", "reproductions.atari57", "--games", "Pong-v5", "Boxing-v5", "--profile=smoke")
    done = run(*command, "--episodes=2", f"--runs={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = run("-m", "agent57_jax.scoreboard", str(tmp_path / "runs"), f"--out={tmp_path / 'board'}")
    assert judged.returncode == 0, judged.stdout + judged.stderr
    record = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert [entry["game"] for entry in record["games"]] == ["Boxing-v5", "Pong-v5"]
    assert all(found["source"] == "evaluation" and found["episodes"] == 2 and found["frames"] >= 32_000 for found in record["runs"])
    assert all(found["bandit"] is not None for found in record["runs"])
    again = run(*command, "--episodes=2", f"--runs={tmp_path / 'runs'}")
    assert again.returncode == 0 and again.stdout.count("trained and evaluated already") == 2
