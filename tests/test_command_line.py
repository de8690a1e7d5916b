"""The programs as a person starts them: mistakes end in one line, signals end in a checkpoint."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """One device and the library's own defaults, whatever the tests around run with."""
    return {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")}


def run(*arguments: str, folder: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False)


ZAXXON = "--config=configs/zaxxon.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ZAXXON, "--config.replay.capcity=5"], "no setting 'replay.capcity'. Did you mean replay.capacity?"),
        ([ZAXXON, "--config.replay.period=200"], "replay.period 200 is larger than replay.trace 160: timesteps would be lost"),
        ([ZAXXON, "--config.seed=1e6"], "invalid literal for int() with base 10: '1e6'"),
        ([ZAXXON, "config.seed=3"], "'config.seed=3' must begin with two dashes: --config.seed=3"),
        ([ZAXXON, "runs/zaxxon"], "'runs/zaxxon' is not understood"),
        ([ZAXXON, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ([ZAXXON + ":big"], "no profile or agent 'big', did you mean "),
        ([ZAXXON + ":laptop,smoke"], "'laptop,smoke' names two of a kind; one profile (paper, laptop, smoke)"),
        (
            [ZAXXON + ":ngu,laptop", "--config.replay.period=200"],
            "replay.period 200 is larger than replay.trace 20: timesteps would be lost",
        ),
        (
            [ZAXXON + ":r2d2", "--config.policy.separate_networks=True"],
            "policy.separate_networks must be false without an intrinsic reward",
        ),
        (["--config=configs/zaxxo.py"], "no config file configs/zaxxo.py"),
        ([], "--config is missing"),
        ([ZAXXON, "--config.replay.capacity=many"], "replay.capacity is 'many', but must be a whole number of timesteps or 'auto'"),
        ([ZAXXON, "--config.replay.capacity=5"], "replay.capacity 5 cannot hold replay.min_sequences 6250"),
        ([ZAXXON, "--config.environment.num_groups=3"], "is not divisible by environment.num_groups 3"),
        ([ZAXXON, "--config.environment.noop_max=0"], "environment.noop_max is 0, but must be at least 1"),
        ([ZAXXON, "--config.policy.discounts=fast"], "value should be one of <agent57|ngu>"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_starts(arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    done = run("train.py", *arguments, f"--workdir={tmp_path}/run")
    assert time.monotonic() - start < 5
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ZAXXON + ":smoke", "--config.environment.task_id=Zaxon-v5"], "Zaxxon-v5"),
        ([ZAXXON + ":smoke", "--config.num_devices=64"], "num_devices is 64, but JAX sees only"),
        ([ZAXXON + ":smoke", "--config.network.torso=dense"], "needs vector observations"),
        (["--config=configs/lunar_lander.py:smoke", "--config.network.torso=convolutions"], "set network.torso=dense"),
    ],
)
def test_what_only_the_machine_or_the_task_can_tell_is_one_line_too(arguments: list[str], message: str, tmp_path: pathlib.Path) -> None:
    done = run("train.py", *arguments, f"--workdir={tmp_path}/run")
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_evaluate_says_what_it_misses(tmp_path: pathlib.Path) -> None:
    assert "--workdir is missing" in run("evaluate.py").stderr
    done = run("evaluate.py", f"--workdir={tmp_path}")
    assert done.returncode == 2 and "holds no run" in done.stderr


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose output can be read; it is gone at the end."""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def training(folder: pathlib.Path, *overrides: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return started(sys.executable, "-u", "train.py", *overrides, f"--workdir={folder}")


def wait_for(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Reads the output until a line matches."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        found = re.search(pattern, line)
        if found:
            return found
    raise AssertionError(f"no line matches {pattern!r} in:\n{''.join(seen)}")


COIN = ("--config=configs/random_coin.py:smoke", "--config.total_steps=10000000", "--config.logging.period_seconds=1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_resumes(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    with training(tmp_path, *COIN) as process:
        wait_for(process, r"updates [1-9]")
        sent = time.monotonic()
        process.send_signal(number)
        saved = wait_for(process, r"stopped by signal; saved checkpoint \S+/checkpoints/(\d+)")
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - sent < 30
    with training(tmp_path, *COIN) as again:
        resumed = wait_for(again, r"resumed from checkpoint (\d+) .*: (\d+) updates")
    assert resumed.group(1) == saved.group(1) and int(resumed.group(2)) > 0
