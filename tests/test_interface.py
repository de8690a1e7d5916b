"""What `import agent57_jax` gives: the lines of README.md, run once in miniature, and what each name says of bad input."""

import os
import pathlib
import re
import shutil
import signal
import zipfile
from typing import Any

import numpy as np
import pytest

import agent57_jax as a57
from agent57_jax import config, presets
from agent57_jax.training import trainer
from agent57_jax.training.checkpoint import CheckpointError
from tests import tiny
from tests.test_command_line import ROOT, run


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is defined after the lines of README.md, with settings for a run of seconds and in a folder of its own."""
    (lines,) = re.findall(r"```python\n(import agent57_jax.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 10
    small = config.flatten(config.to_dict(tiny.coin_settings()))
    small |= {"seed": 1, "total_steps": 400, "logging.tensorboard": False, "evaluation.greedy_episodes": 1}
    assert '{"seed": 1}' in lines
    folder, before = tmp_path_factory.mktemp("readme"), os.getcwd()
    printed: list[tuple[Any, ...]] = []
    defined: dict[str, Any] = {"print": lambda *values: printed.append(values)}
    os.chdir(folder)
    try:
        exec(lines.replace('{"seed": 1}', repr(small)), defined)
        defined["run"] = a57.open_run(folder / "runs/coin")
    finally:
        os.chdir(before)
    return defined | {"printed": printed}


def test_the_lines_of_the_readme_train_read_evaluate_and_play(names: dict[str, Any]) -> None:
    (steps, updates), (mean,), *moments = names["printed"]
    assert names["settings"].seed == 1 and steps >= 400 and updates > 0 and mean >= 0
    assert [moment[0] for moment in moments] == list(range(len(moments))) and 1 < len(moments) <= 21
    last = names["moment"]
    assert last.ends and last.screen.ndim == 3 and last.screen.dtype == np.uint8
    assert (names["run"].workdir / "evaluation.json").exists()


def test_metrics_are_columns_of_one_length(names: dict[str, Any]) -> None:
    table = names["run"].metrics()
    assert list(table)[:5] == ["frames", "steps", "updates", "episodes", "seconds"]
    assert len({column.shape for column in table.values()}) == 1 and table["steps"].ndim == 1
    assert table["steps"].dtype == np.int64 and {column.dtype.kind for column in table.values()} == {"i", "f"}
    assert set(names["run"].metrics("loss/*")) == {*list(table)[:5], *(key for key in table if key.startswith("loss/"))}


def test_an_evaluation_is_repeated_by_its_seed_and_play_shows_an_episode_of_it(names: dict[str, Any]) -> None:
    finished = names["run"]
    once = finished.evaluate(episodes=1, seed=3)
    assert once["returns"] == finished.evaluate(episodes=1, seed=3)["returns"]
    moments = list(finished.play(seed=3))
    assert (moments[-1].step, moments[-1].score) == (once["lengths"][0], once["returns"][0])
    begun = finished.play(episodes=1000)
    assert next(begun).starts
    begun.close()


def test_a_stopped_training_is_not_finished_and_goes_on_with_its_settings_only(names: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert a57.train(names["settings"], tmp_path, should_stop=lambda: True) is False
    assert a57.open_run(tmp_path).settings == names["settings"]
    with pytest.raises(a57.SettingsError, match="holds a run with other settings"):
        a57.train(a57.settings("random_coin:smoke"), tmp_path)


def test_what_ends_a_training_is_a_run_error(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: trainer.Trainer) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(trainer.Trainer, "__init__", lambda *_: None)
    monkeypatch.setattr(trainer.Trainer, "run", fail)
    with pytest.raises(a57.TrainingError, match="the disk is full") as raised:
        a57.train(a57.settings("random_coin:smoke"), tmp_path)
    assert isinstance(raised.value, a57.RunError)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("random_con", {}, r"^no config file random_con. Available names: atari, boxing, cartpole, "),
        ("random_coin:smoke", {"sed": 1}, r"^no setting 'sed'. Did you mean seed\?$"),
        ("random_coin:smoke", {"seed": -1}, "^seed is -1, but must"),
        ("random_coin:smoke", {"seed": "1"}, "^seed is '1', but must be of type int$"),
        ("random_coin:smoke", {"learner.targets": "fast"}, "^learner.targets is 'fast', but must be one of .*retrace"),
    ],
)
def test_settings_that_cannot_work_are_a_line(preset: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(a57.SettingsError, match=message) as raised:
        a57.settings(preset, overrides)
    assert isinstance(raised.value, ValueError) and len(str(raised.value).splitlines()) == 1


def test_settings_are_those_of_the_file_with_the_overrides() -> None:
    found = a57.settings("cartpole:smoke,ngu", {"learner.targets": "soft_watkins", "network.dense_features": [32], "learner.adam_b1": 0})
    assert found.learner.targets is config.Targets.SOFT_WATKINS and found.network.dense_features == (32,)
    assert found.environment.task_id == "CartPole-v1" and not found.policy.separate_networks
    assert a57.settings(str(ROOT / "configs/cartpole.py:smoke")) == a57.settings("cartpole:smoke")
    with pytest.raises(a57.SettingsError, match="frozen"):
        found.seed = 2


def test_folders_and_numbers_that_cannot_work_are_a_line(names: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_text(config.to_json(names["settings"]))
    finished, begun = names["run"], a57.open_run(tmp_path / "begun")
    for use, message in (
        (lambda: a57.open_run(tmp_path), "holds no run: there is no config"),
        (lambda: finished.evaluate(episodes=0), "episodes is 0, but must be at least 1"),
        (lambda: next(finished.play(seed=-1)), "seed is -1, but must be at least 0"),
        (begun.metrics, "has no metrics yet"),
        (lambda: begun.evaluate(episodes=1), "holds no complete checkpoint yet"),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_handlers_of_signals_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with a57.Shutdown() as shutdown:
        assert not shutdown()
        signal.raise_signal(signal.SIGTERM)
        assert shutdown()
    assert {number: signal.getsignal(number) for number in before} == before


def test_names_come_when_they_are_used_and_jax_only_then() -> None:
    lines = (
        "import sys, agent57_jax as a57",
        "assert not {'jax', 'absl', 'numpy'} & set(sys.modules)",
        "assert set(a57.__all__) <= set(dir(a57)) and not hasattr(a57, 'nothing')",
        "a57.settings('cartpole:smoke'), a57.SettingsError",
        "assert 'jax' not in sys.modules",
        "a57.Run, a57.RunError",
        "import os, jax",
        "assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false' and not jax.config.jax_enable_x64",
    )
    done = run("-c", "\n".join(lines), JAX_ENABLE_X64="false")
    assert done.returncode == 0, done.stderr
    assert all(hasattr(a57, name) for name in a57.__all__)


def test_a_wheel_has_the_configs_and_the_commands(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("setuptools")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    copy = tmp_path / "copy"  # the build leaves files behind
    for name in ("agent57_jax", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    done = run("-c", build, folder=copy)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    installed = str(tmp_path / "installed")
    misspelt = ("train", "--config=coinrun:smoke", "--config.sed=1")
    done = run("-m", "agent57_jax", *misspelt, folder=tmp_path, PYTHONPATH=installed)
    assert (done.returncode, done.stderr) == (2, "error: no setting 'sed'. Did you mean seed?\n")
    show = "import agent57_jax as a57; print(a57.settings('coinrun:smoke').environment.task_id, a57.__file__)"
    done = run("-c", show, folder=tmp_path, PYTHONPATH=installed)
    assert done.stdout.split() == ["CoinrunEasy-v0", f"{installed}/agent57_jax/__init__.py"], done.stderr
    assert presets.FOLDER == ROOT / "configs"
