"""Two processes on loopback train one model: the same as one process does, and what happens when one of them is gone."""

import contextlib
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from agent57_jax import config, parallel
from agent57_jax.monitoring.video import recordings
from agent57_jax.training import judging
from agent57_jax.training.checkpoint import Checkpoints
from agent57_jax.training.trainer import Trainer
from tests import test_command_line as command_line
from tests import tiny
from tests.trainings import all_that_actors_know, assert_equal, is_finite, learn, metrics_of, open_training

ROOT = pathlib.Path(__file__).parents[1]
COIN = ("--config=configs/random_coin.py:smoke", "--config.logging.tensorboard=False", "--config.logging.period_seconds=1")
ZAXXON = ("--config=configs/zaxxon.py:smoke", "--config.logging.tensorboard=False", "--config.logging.period_seconds=1")
ENDLESS = ("--config.total_steps=1000000000", "--config.checkpoint.period_seconds=3")


class Pair:
    """Two processes of one run, and what they print."""

    def __init__(self, folder: pathlib.Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder = folder
        self.logs = [folder.parent / f"{folder.name}.{number}.log" for number in range(2)]
        self.processes = []
        for number, log in enumerate(self.logs):
            several = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}")
            command = [sys.executable, "-u", "train.py", *arguments, f"--workdir={folder}", *several]
            with log.open("wb") as out:
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=command_line.environment(), stdout=out, stderr=subprocess.STDOUT)
                )

    def text(self, number: int) -> str:
        return self.logs[number].read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Until the first process has printed it."""
        deadline = time.monotonic() + seconds
        while text not in self.text(0):
            assert time.monotonic() < deadline and self.processes[0].poll() is None, self.text(0) + self.text(1)
            time.sleep(0.1)

    def end(self, seconds: float = 300) -> list[int]:
        return [process.wait(timeout=seconds) for process in self.processes]


@contextlib.contextmanager
def pair(folder: pathlib.Path, *arguments: str) -> Iterator[Pair]:
    both = Pair(folder, *arguments)
    try:
        yield both
    finally:
        for process in both.processes:
            process.kill()
            process.wait()


def opened(folder: pathlib.Path, num_devices: int) -> Trainer:
    """A run's last checkpoint, in this process."""
    settings = config.from_dict(json.loads((folder / "config.json").read_text()))
    settings = config.changed(settings, {"num_devices": num_devices, "logging.tensorboard": False})
    return Trainer(settings, folder, lambda: False)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path: pathlib.Path) -> None:
    """The same environments on two devices, of one process or of two: every gradient adds up to the same parameters, bit for bit."""
    size = "--config.total_steps=3000"
    environment = command_line.environment() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "train.py", *COIN, size, f"--workdir={tmp_path / 'one'}"]
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=600).returncode == 0
    with pair(tmp_path / "two", *COIN, size) as both:
        assert both.end() == [0, 0], both.text(0) + both.text(1)
        assert "finished; saved checkpoint" in both.text(0)
        assert "saved checkpoint" not in both.text(1)  # the others are silent
    one, two = opened(tmp_path / "one", 2), opened(tmp_path / "two", 2)
    assert vars(one.counters) | {"seconds": 0} == vars(two.counters) | {"seconds": 0} and two.counters.updates > 50
    assert_equal(two._state(), one._state())
    one.close()
    two.close()
    assert judging.evaluate(tmp_path / "two", episodes=3, seed=1) == judging.evaluate(tmp_path / "one", episodes=3, seed=1) | {
        "path": str(tmp_path / "two" / "evaluation.json")
    }


@pytest.mark.slow
def test_two_processes_train_on_a_game_and_one_goes_on(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    quick = ("--config.evaluation.greedy_episodes=1", "--config.environment.max_episode_steps=100")
    with pair(folder, *ZAXXON, *quick, "--config.total_steps=4000") as both:
        assert both.end() == [0, 0], both.text(0) + both.text(1)
    line = metrics_of(folder)[-1]
    assert line["updates"] > 0 and line["steps"] >= 4000
    assert line["frames"] == 4 * line["steps"]
    assert any("evaluation/return" in line for line in metrics_of(folder))
    shares = [value for name, value in line.items() if name.startswith("throughput/share_")]
    assert len(shares) == 6 and sum(shares) == pytest.approx(1.0, abs=0.05)  # of the first process's time
    assert recordings(folder / "videos")
    # What both wrote is whole: one process on one device goes on, and judges.
    done = command_line.run("train.py", *ZAXXON, *quick, "--config.total_steps=4500", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "resumed from checkpoint" in done.stdout
    assert metrics_of(folder)[-1]["updates"] > line["updates"]
    assert command_line.run("evaluate.py", f"--workdir={folder}", "--episodes=2").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_signal_to_one_of_them_stops_both(number: int, tmp_path: pathlib.Path) -> None:
    with pair(tmp_path / "run", *COIN, *ENDLESS) as both:
        both.wait_for("saving checkpoint")
        sent = time.monotonic()
        both.processes[number].send_signal(signal.SIGTERM)
        assert both.end(30) == [0, 0], both.text(0) + both.text(1)
        assert time.monotonic() - sent < 30
        assert "stopped by signal; saved checkpoint" in both.text(0)


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_when_one_dies_or_hangs_the_other_ends_in_words_and_both_resume(lost: int, number: signal.Signals, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    with pair(folder, *COIN, *ENDLESS) as both:
        both.wait_for("saving checkpoint")
        time.sleep(4)
        both.processes[lost].send_signal(number)
        assert both.processes[1 - lost].wait(timeout=60 if number == signal.SIGKILL else 2 * parallel.LOST_SECONDS) == 1
        errors = [line for line in both.text(1 - lost).splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Start all processes again" in errors[0], both.text(1 - lost)
    last = Checkpoints(folder / "checkpoints", 2, read_only=True).latest()
    assert last is not None
    with pair(folder, *COIN, *ENDLESS) as both:
        both.wait_for(f"resumed from checkpoint {last} ")
        both.wait_for("saving checkpoint")
        both.processes[0].send_signal(signal.SIGTERM)
        assert both.end(60) == [0, 0]


def test_processes_that_do_not_find_each_other_end_in_words(tmp_path: pathlib.Path) -> None:
    done = command_line.run("train.py", *COIN, "--distributed", f"--workdir={tmp_path}")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "the processes of this run did not find each other" in errors[0]
    assert "Traceback" not in done.stderr


# One checkpoint, any number of devices ----------------------------------------------------------------------------------------------

DEVICES = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=DEVICES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Trainer]:
    """A short run on so many devices, with a checkpoint that holds everything."""
    folder, settings = tmp_path_factory.mktemp("devices") / "run", all_that_actors_know(tiny.coin_settings())
    training = open_training(config.changed(settings, {"num_devices": request.param}), folder)
    learn(training, 5)
    training._save()
    training.close()
    return folder, training


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
def test_checkpoints_move_between_numbers_of_devices(trained: tuple[pathlib.Path, Trainer], target: int, tmp_path: pathlib.Path) -> None:
    saved, training = trained
    moved = opened(pathlib.Path(shutil.copytree(saved, tmp_path / "run")), target)
    assert moved.mesh.size == target
    assert_equal(moved._state(), training._state())
    learn(moved, moved.counters.updates + 3)
    assert is_finite(moved.learner)
    moved.close()


def test_one_process_adds_nothing_up() -> None:
    mesh = parallel.make_mesh(2)
    assert parallel.is_first_process()
    assert parallel.start_sum(mesh, [3, True, 0])() == [3, 1, 0]
    assert parallel.least_bytes(12_345) == 12_345
    tree = {"a": np.zeros(2)}
    assert parallel.from_first_process(mesh, tree) is tree


def test_what_the_runtime_says_when_a_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    lost, own = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), ValueError("shapes do not match")
    assert not parallel.may_have_lost_a_process(lost)  # one process has no other
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    assert parallel.may_have_lost_a_process(lost)
    assert not parallel.may_have_lost_a_process(own)
    assert parallel.may_have_lost_a_process(jax.errors.JaxRuntimeError("INTERNAL: anything"))


def test_several_processes_use_all_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    with pytest.raises(parallel.DeviceError, match=r"num_devices is 2, but the processes have \d+"):
        parallel.make_mesh(2)
