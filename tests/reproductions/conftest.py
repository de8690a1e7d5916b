"""Fake programs: in this process, or in one of their own that a signal stops."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from reproductions import common
from tests.reproductions.fakes import programs


class Outcome(NamedTuple):
    code: int
    output: str
    errors: str


@pytest.fixture
def program(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a program by its name, with arguments and environment variables; its folders lie in `tmp_path`."""

    def run(name: str, *arguments: str, **environment: str) -> Outcome:
        code = 0
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            try:
                programs.main(name, tmp_path, list(arguments))
            except SystemExit as end:
                code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def stopped_program(tmp_path: pathlib.Path) -> Callable[..., Outcome]:
    """Starts a program whose trainings last, sends the signal when all of the logs show training, and waits for its end."""

    def run(number: signal.Signals, logs: Sequence[pathlib.Path], meanwhile: Callable[[], None], name: str, *arguments: str) -> Outcome:
        environment = {**os.environ, "FAKE_HOME": str(tmp_path), "FAKE_SLOW": "1", "PYTHONPATH": str(common.ROOT)}
        command = [sys.executable, programs.__file__, name, *arguments]
        with subprocess.Popen(
            command, env=environment, cwd=common.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                deadline = time.monotonic() + 60
                while not all(log.exists() and "training" in log.read_text() for log in logs):
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.05)
                meanwhile()
                process.send_signal(number)
                output, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        return Outcome(process.returncode, output, errors)

    return run
