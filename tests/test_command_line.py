"""The programs as a person starts them: mistakes end in one line, signals end in a checkpoint."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator

import pytest

from agent57_jax.commands import command_line
from agent57_jax.config import finalise
from agent57_jax.training import judging
from agent57_jax.training.evaluator import Episode
from tests.tiny import coin_settings

ROOT = pathlib.Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """One device and the library's own defaults, whatever the tests around run with."""
    return {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")}


def run(*arguments: str, folder: pathlib.Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments and environment variables."""
    command, environ = [sys.executable, *arguments], environment() | variables
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False)


ZAXXON = "--config=configs/zaxxon.py"


def test_evaluate_says_what_it_misses() -> None:  # tests/test_paths.py has a folder without a run
    done = run("evaluate.py")
    assert done.returncode == 2 and "--workdir is missing" in done.stderr


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


@pytest.mark.slow
def test_a_run_whose_reader_is_gone_trains_on(tmp_path: pathlib.Path) -> None:
    """As `train.py | head -1`."""
    with training(tmp_path, *COIN[:1], "--config.total_steps=3000", *COIN[2:]) as process:
        wait_for(process, "")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=300) == 0
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["steps"] >= 3000
    assert run("evaluate.py", f"--workdir={tmp_path}", "--episodes=1").returncode == 0  # there is a checkpoint


# The quickest agent to compile, in a run that does not end by itself.
COIN = (
    *("--config=configs/random_coin.py:smoke,r2d2", "--config.total_steps=10000000", "--config.logging.period_seconds=0.2"),
    *("--config.logging.tensorboard=False", "--config.video.period_episodes=0"),
)


def test_a_locale_without_utf_8_costs_no_program() -> None:
    script = (
        "import sys; from agent57_jax.commands import command_line; sys.argv = ['x']; command_line.run(lambda: print('\\u2580 \\udcff'))"
    )
    for encoding, printed in (("ascii", "? ?\n"), ("utf-8", "\u2580 ?\n")):
        done = run("-c", script, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stdout) == (0, printed), done.stderr


def test_a_process_that_ends_at_once_needs_no_output() -> None:
    script = "from agent57_jax.commands import command_line; print('not written'); command_line.fail_at_once('lost', 3)"
    variables = environment() | {"PYTHONUNBUFFERED": ""}  # so that what is printed waits in a buffer
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 3 and done.stderr == "error: lost\n"


@pytest.fixture
def hears_hangups() -> Iterator[None]:
    """Children do not inherit from these tests that hang-ups are ignored, as under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# A run whose terminal is closed gets the last one.
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), *(pytest.param(number, 0, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP))],
)
def test_a_signal_saves_and_the_same_command_resumes(
    number: signal.Signals, code: int, tmp_path: pathlib.Path, hears_hangups: None
) -> None:
    with training(tmp_path, *COIN, *([f"--stopped_exit_code={code}"] if code else [])) as process:
        wait_for(process, r"updates [1-9]")
        sent = time.monotonic()
        process.send_signal(number)
        saved = wait_for(process, r"stopped by signal; saved checkpoint \S+/checkpoints/(\d+)")
        assert process.wait(timeout=30) == code
        assert time.monotonic() - sent < 30
    with training(tmp_path, *COIN) as again:
        resumed = wait_for(again, r"resumed from checkpoint (\d+) .*: (\d+) updates")
    assert resumed.group(1) == saved.group(1) and int(resumed.group(2)) > 0


SWITCHES = (
    "from agent57_jax.commands import command_line; command_line.prepare_jax(whole_device=False)\n"
    "import jax, jax.numpy as jnp, numpy as np\n"
    "assert jnp.asarray(np.zeros(1)).dtype == np.float32 and jax.random.key_data(jax.random.key(0)).shape == (2,)\n"
    "assert (jnp.zeros(1, jnp.int32) + jnp.zeros(1)).dtype == np.float32\n"
)


@pytest.mark.parametrize("before", ["", "import jax; jax.config.update('jax_enable_x64', True)\n"], ids=["variables", "a config file"])
def test_switches_of_jax_with_which_nothing_would_work_are_not_heeded(before: str) -> None:
    given = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    done = run("-c", before + SWITCHES, **given)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [f" {name}={value} is ignored" for name, value in given.items()]


def test_switches_that_change_nothing_are_not_mentioned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in command_line._JAX_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    for value in ("", "0", "False", "off"):
        monkeypatch.setenv("JAX_ENABLE_X64", value)
        command_line._fix_switches()
        assert capsys.readouterr().err == "" and os.environ["JAX_ENABLE_X64"] == "false"


def test_a_config_file_that_changes_the_folder_changes_no_path(tmp_path: pathlib.Path) -> None:
    lines = ("import os", "from configs import random_coin", "def get_config():", f"    os.chdir({str(tmp_path)!r})")
    (tmp_path / "own.py").write_text("\n".join((*lines, "    return random_coin.get_config('smoke')\n")))
    code = (
        "import os; from agent57_jax.commands import command_line as c; c.define_config(); "
        "c.parse_flags(['x', '--config=%s']); print(os.getcwd())"
    )
    done = run("-c", code % (tmp_path / "own.py"))
    assert done.stdout.strip() == str(ROOT), done.stderr


def test_a_score_that_cannot_be_written_is_still_a_score(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = [Episode(0, True, 1, 2.5, 7, {}), Episode(1, True, 1, 3.5, 9, {})]
    settings = finalise(coin_settings())
    opened = types.SimpleNamespace(settings=settings, meta={"counters": {"frames": 1, "updates": 2}}, step=3)
    monkeypatch.setattr(judging, "open_run", lambda *arguments, **named: opened)
    monkeypatch.setattr(judging, "play", lambda *arguments: iter(played))
    (tmp_path / "evaluation.json").mkdir()  # which no user can write to, root included
    assert command_line.writing_problem(tmp_path / "evaluation.json") == "it is a folder"
    assert command_line.writing_problem(tmp_path / "other.json") is None
    assert command_line.writing_problem(pathlib.Path("/proc/evaluation.json")) is not None
    result = judging.evaluate(tmp_path, episodes=2, seed=0)
    assert (result["mean"], result["path"]) == (3.0, None) and "Is a directory" in result["problem"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json"]
