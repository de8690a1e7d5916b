"""Bad input, as a person would give it: one line that says what to do, exit code 2, and nothing is started or lost."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

import agent57_jax
from tests.test_command_line import ROOT, ZAXXON, environment, run

COIN = "--config=configs/random_coin.py:smoke"


def expect_refusal(done: subprocess.CompletedProcess[str], message: str, problems: int = 1) -> None:
    """Exit code 2 and nothing but lines of error, one for each problem, the message among them."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == problems, done.stderr
    assert all(line.startswith("error: ") for line in lines), done.stderr
    assert any(message in line for line in lines), done.stderr


# Command lines: (arguments, part of the message).
COMMAND_LINES = [
    ([], "--config is missing"),
    (["--config="], "--config is missing"),
    (["--config=configs/zaxxo.py"], "no config file configs/zaxxo.py"),
    (["--config=configs"], "configs"),
    ([f"{ZAXXON}:big"], "no profile or agent 'big', did you mean "),
    ([f"{ZAXXON}:ngu,r2d2"], "'ngu,r2d2' names two of a kind"),
    ([f"{ZAXXON}:ngu,laptop", "--config.replay.period=200"], "replay.period 200 is larger than replay.trace 10: timesteps would be lost"),
    ([f"{ZAXXON}:r2d2", "--config.learner.cross_mixture=0.5"], "learner.cross_mixture is 0.5, but must be 0 with one policy"),
    ([ZAXXON, "runs/zaxxon"], "'runs/zaxxon' is not understood"),
    ([ZAXXON, "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    ([ZAXXON, "config.seed=3"], "'config.seed=3' must begin with two dashes: --config.seed=3"),
    ([ZAXXON, "--config.seed"], "seed"),
]

# What a value in `--config.NAME=VALUE` may not be. tests/test_config.py has all that the settings themselves refuse.
OVERRIDES = [
    ("replay.capcity=5", "no setting 'replay.capcity'. Did you mean replay.capacity?"),
    ("environment=5", "environment"),
    ("seed=1e6", "invalid literal for int() with base 10: '1e6'"),
    ("seed=99999999999999999999", "seed is 99999999999999999999, but must lie in [0, 4294967295]"),
    ("network.conv_features=(32,64,99999999999)", "network.conv_features is [32, 64, 99999999999], but must be at most 2147483647"),
    ("network.conv_kernels=large", "conv_kernels"),
    ("environment.kind=atari", "value should be one of <envpool|"),
    ("policy.separate_networks=perhaps", "perhaps"),
    ("logging.period_seconds=nan", "logging.period_seconds is nan"),
]
# What only the task or the machine can tell: (preset, setting, value, part of the message).
TASKS = [
    ("zaxxon", "environment.task_id", "Zaxon-v5", "EnvPool has no task 'Zaxon-v5'; did you mean Zaxxon-v5"),
    ("zaxxon", "environment.task_id", "Pendulum-v1", "Pendulum-v1"),
    ("zaxxon", "num_devices", 64, "num_devices is 64, but JAX sees only"),
    ("zaxxon", "network.torso", "dense", "needs vector observations"),
    ("zaxxon", "network.conv_kernels", [80, 40, 30], "network.conv_"),
    ("zaxxon", "replay.capacity", "1000000000000", "timesteps fit"),
    ("lunar_lander", "network.torso", "convolutions", "set network.torso=dense"),
    ("gymnasium", "environment.task_id", "CartPoll-v1", "Gymnasium has no environment 'CartPoll-v1'; did you mean CartPole-v1"),
    ("gymnasium", "environment.task_id", "corridr:Corridor", "corridr:Corridor needs module 'corridr'"),
    ("gymnasium", "environment.task_id", "tests.environments.toys:Picture", "network.torso=dense needs vector observations"),
]

# Config files of somebody's own: (text, part of the message).
CONFIG_FILES = [
    ("x = 1\n", "get_config"),
    ("def get_config(:\n", "SyntaxError"),
    ("\x00\x01", "null bytes"),
    ("def get_config():\n    return {}\n", "does not return agent57_jax.config.Settings"),
    ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError"),
    (
        "from agent57_jax.config import Settings\ndef get_config():\n    s = Settings()\n    s.sede = 1\n    return s\n",
        "Settings has no setting 'sede'. Did you mean seed?",
    ),
    ("import there_is_no_such_module\n", "there_is_no_such_module"),
]

# Half of what several processes need.
TWO = ["--coordinator=127.0.0.1:1", "--num_processes=2"]
PROCESSES = [
    (TWO[:1], "--coordinator, --num_processes and --process_id belong together"),
    (["--num_processes=2", "--process_id=0"], "belong together: give all three"),
    ([*TWO, "--process_id=2"], "--process_id 2 must be below --num_processes 2"),
    ([*TWO, "--process_id=0", "--distributed"], "--distributed asks the scheduler"),
]

# All of them as whole command lines, and those of other programs.
LINES = [
    *((["train.py", *arguments], message) for arguments, message in COMMAND_LINES),
    *((["train.py", ZAXXON, f"--config.{override}"], message) for override, message in OVERRIDES),
    *((["train.py", f"--config=FOLDER/own{number}.py"], message) for number, (_, message) in enumerate(CONFIG_FILES)),
    *((["train.py", COIN, *arguments], message) for arguments, message in PROCESSES),
    *((["evaluate.py", number], number) for number in ("--seed=4294967296", "--seed=99999999999999999999", "--seed=-1")),
    (["evaluate.py", "--episodes=2147483648"], "--episodes=2147483648"),
    (["evaluate.py", "--video=x.gif"], "x.gif must end in .mp4"),
    (["evaluate.py", "--contact_sheet=nowhere/x.png"], "there is no folder nowhere for x.png"),
    (["-m", "agent57_jax", "watch", "--seed=4294967296"], "--seed=4294967296"),
    (["-m", "agent57_jax", "watch"], "there is neither a window nor a terminal to play in: python evaluate.py --workdir="),
]

# Each command line in a fork of one process that has loaded what all of them need: most of a refusal's time is Python's start.
FORKS = """
import json, os, runpy, sys, tempfile, traceback
from agent57_jax.commands import doctor
ended = []
for line in json.load(sys.stdin):
    with tempfile.TemporaryFile() as errors:
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.dup2(errors.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.argv = line[line[0] == "-m":]
                run = runpy.run_module if line[0] == "-m" else runpy.run_path
                run(sys.argv[0], run_name="__main__")
            except SystemExit as end:
                code = end.code
                if "jax" in sys.modules:
                    print("it waits for JAX", file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        ended.append((code, errors.read().decode()))
print(json.dumps(ended))
"""


def run_all(lines: Sequence[Sequence[str]]) -> list[subprocess.CompletedProcess[str]]:
    """How each command line ends: a file or -m and a module, and arguments with which it ends before JAX is loaded."""
    command, given = [sys.executable, "-c", FORKS], json.dumps(lines)
    variables = environment() | {"DISPLAY": ""}
    done = subprocess.run(command, cwd=ROOT, env=variables, input=given, capture_output=True, text=True, timeout=300, check=True)
    return [subprocess.CompletedProcess("", code, stderr=stderr) for code, stderr in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """How all of `LINES` ended, of which none has made a run's folder."""
    folder = tmp_path_factory.mktemp("refused")
    for number, (text, _) in enumerate(CONFIG_FILES):
        (folder / f"own{number}.py").write_text(text)
    found = run_all([[*(word.replace("FOLDER", str(folder)) for word in line), f"--workdir={folder}/run"] for line, _ in LINES])
    assert not (folder / "run").exists()
    return found


@pytest.mark.parametrize("number", range(len(LINES)), ids=[" ".join(line) for line, _ in LINES])
def test_a_command_line_that_cannot_work(number: int, ended: list[subprocess.CompletedProcess[str]]) -> None:
    expect_refusal(ended[number], LINES[number][1])


@pytest.mark.parametrize(("preset", "name", "value", "message"), TASKS)
def test_what_only_the_task_or_the_machine_can_tell(preset: str, name: str, value: Any, message: str, tmp_path: pathlib.Path) -> None:
    settings = agent57_jax.settings(f"{preset}:smoke", {"num_devices": 1, name: value})
    with pytest.raises((agent57_jax.SettingsError, agent57_jax.RunError), match=re.escape(message)) as raised:
        agent57_jax.train(settings, tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("preset", "name", "value", "message"), [TASKS[0], TASKS[2]])
def test_a_program_says_it_in_a_line(preset: str, name: str, value: Any, message: str, tmp_path: pathlib.Path) -> None:
    done = run("train.py", f"--config=configs/{preset}.py:smoke", f"--config.{name}={value}", f"--workdir={tmp_path}/run")
    expect_refusal(done, message)


def test_several_problems_are_a_line_each() -> None:
    done = run("train.py", ZAXXON, "--config.seed=-1", "--config.replay.eta=2", "--config.checkpoint.keep=0")
    expect_refusal(done, "replay.eta is 2", problems=3)


@pytest.mark.parametrize("platforms", ["cuda", "gpo"])
def test_devices_that_are_not_here(platforms: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    expect_refusal(run("train.py", COIN, f"--workdir={tmp_path}/run"), f"JAX finds no device: JAX_PLATFORMS={platforms} is not available")
    assert not (tmp_path / "run").exists()


def test_a_backslash_in_the_name_of_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(agent57_jax.RunError, match="has a backslash in its name"):
        agent57_jax.train(agent57_jax.settings("random_coin:smoke"), f"{tmp_path}/a\\b")
    assert not list(tmp_path.iterdir())
