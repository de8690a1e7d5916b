"""Two trainings cannot write to one folder; one that is gone holds nothing, however it ended."""

import pathlib
import subprocess
import sys

import pytest

from agent57_jax.training import folder_lock
from tests import tiny
from tests.trainings import Make

HOLD = """
import pathlib, sys, time
from agent57_jax.training import folder_lock
file = folder_lock.hold(pathlib.Path(sys.argv[1]), print, lambda: False)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0.1)


def test_a_process_holds_a_folder_until_it_is_killed(tmp_path: pathlib.Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said: list[str] = []
        with pytest.raises(
            folder_lock.FolderInUseError, match=rf"process {other.pid} of \S+ trains in \S+: stop it first, or choose another --workdir"
        ):
            folder_lock.hold(tmp_path, said.append, lambda: False)
        assert len(said) == 1 and "waiting up to" in said[0]
        other.kill()
        other.wait()
        with folder_lock.hold(tmp_path, said.append, lambda: False):
            assert len(said) == 1


def test_who_comes_while_another_ends_waits_for_it_or_for_a_signal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 60.0)
    first = folder_lock.hold(tmp_path, print, lambda: False)
    with pytest.raises(folder_lock.FolderInUseError, match="stop it first"):
        folder_lock.hold(tmp_path, print, lambda: True)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        first.close()

    with folder_lock.hold(tmp_path, hear, lambda: False):
        assert len(said) == 1 and "waiting up to 60 s" in said[0]


def test_a_file_system_without_locks_is_taken_as_it_is(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Function not implemented")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    folder_lock.hold(tmp_path, print, lambda: False).close()


def test_a_trainer_holds_its_folder_until_it_is_closed(make: Make, tmp_path: pathlib.Path) -> None:
    training = make(tiny.coin_settings(), tmp_path)
    with pytest.raises(folder_lock.FolderInUseError, match="trains in"):
        make(training.settings, tmp_path)
    training.close()
    folder_lock.hold(tmp_path, print, lambda: False).close()
