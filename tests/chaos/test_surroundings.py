"""A full disk, and no network: what a run's surroundings may do to it."""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from agent57_jax.monitoring.video import recordings
from agent57_jax.training.checkpoint import Checkpoints
from tests.test_command_line import ROOT, environment, run
from tests.test_video import read

pytestmark = pytest.mark.slow
COIN = ("--config=configs/random_coin.py:smoke", "--config.logging.period_seconds=1", "--config.logging.tensorboard=False")


def can(*command: str) -> bool:
    """Whether this user may run the command here."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int) -> Iterator[pathlib.Path]:
    """A file system in memory that holds so much."""
    folder.mkdir()
    if not can("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)):
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def complete(folder: pathlib.Path) -> list[int]:
    return Checkpoints(folder / "checkpoints", 2, read_only=True).steps()


def test_a_run_that_cannot_be_written_to_is_judged_all_the_same(tmp_path: pathlib.Path) -> None:
    with small_disk(tmp_path / "disk", 200) as disk:
        assert run("train.py", *COIN, "--config.total_steps=2000", f"--workdir={disk}/run").returncode == 0
        assert can("mount", "-o", "remount,ro", str(disk))
        judge = "evaluate.py", f"--workdir={disk}/run", "--episodes=3"
        done = run(*judge)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "over 3 greedy episodes (not written)" in done.stdout
        before, after = done.stderr.splitlines()
        assert before.endswith("evaluation.json cannot be written, the score will only be shown: Read-only file system")
        assert after.startswith("error: the score above is valid, but could not be written: [Errno 30] Read-only file system")
        videos = run(*judge, f"--video={disk}/best.mp4")
        assert videos.returncode == 2 and videos.stderr == f"error: {disk}/best.mp4 cannot be written: Read-only file system\n"


def test_a_full_disk_ends_in_words_with_the_last_checkpoint_intact(tmp_path: pathlib.Path) -> None:
    """Meanwhile every episode of an evaluator is recorded: what the disk does not take is lost, and what is kept is whole."""
    command = ["-u", "train.py", *COIN, "--config.total_steps=100000000", "--config.checkpoint.period_seconds=2"]
    command += ["--config.video.period_episodes=1", "--config.video.keep=1000"]
    with small_disk(tmp_path / "disk", 200) as disk:
        folder = disk / "run"
        log = tmp_path / "log.txt"
        with log.open("wb") as out:
            started = [sys.executable, *command, f"--workdir={folder}"]
            process = subprocess.Popen(started, cwd=ROOT, env=environment(), stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 180
            while not complete(folder) or not recordings(folder / "videos"):
                assert time.monotonic() < deadline and process.poll() is None, log.read_text()
                time.sleep(0.1)
            with (disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(2**16))
                    ballast.flush()
            assert process.wait(timeout=120) == 1
        finally:
            process.kill()
        text = log.read_text()
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "No space left on device" in errors[0], text
        assert "Traceback" not in text
        kept, videos = complete(folder), recordings(folder / "videos")
        assert kept and videos
        for path in videos:
            frames, _ = read(path)
            assert len(frames) > 1, path
        assert not (folder / "videos" / "recording.tmp").exists()

        (disk / "ballast").unlink()
        again = run(*command, "--config.total_steps=1", f"--workdir={folder}")
        assert again.returncode == 0, again.stderr
        assert f"resumed from checkpoint {kept[-1]} " in again.stdout


def test_nothing_needs_a_network(tmp_path: pathlib.Path) -> None:
    alone = ("unshare", "--map-root-user", "--net")
    if not can(*alone, "true"):
        pytest.skip("a process without a network needs user namespaces")
    for config in ("configs/random_coin.py:smoke", "configs/zaxxon.py:smoke"):
        folder = tmp_path / pathlib.Path(config).name
        command = [*alone, sys.executable, "train.py", f"--config={config}", "--config.total_steps=4000", f"--workdir={folder}"]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        judged = [*alone, sys.executable, "evaluate.py", f"--workdir={folder}", "--episodes=1"]
        assert subprocess.run(judged, cwd=ROOT, env=environment(), capture_output=True, check=False, timeout=600).returncode == 0
        shutil.rmtree(folder)
