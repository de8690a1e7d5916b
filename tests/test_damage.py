"""Checkpoints that were damaged after they were written: the one before serves, in words, and nothing is begun anew by itself."""

import gc
import json
import pathlib
import pickle
import runpy
import shutil
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.training import judging, shutdown
from agent57_jax.training.checkpoint import CheckpointError, Checkpoints, DamagedCheckpointError
from agent57_jax.training.trainer import Trainer
from tests import tiny
from tests.test_command_line import ROOT


def opened(folder: pathlib.Path) -> Trainer:
    return Trainer(config.finalise(tiny.coin_settings()), folder, lambda: False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    training = opened(folder)
    for _ in range(2):
        for _ in range(6):
            training._act_and_learn()
        training._save()
    training.close()
    assert Checkpoints(folder / "checkpoints", 2, read_only=True).steps() == [1, 2]
    return folder


@pytest.fixture
def run(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "run"))


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def halve(folder: pathlib.Path) -> None:
    """Every file of the item ends in the middle."""
    for path in files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder: pathlib.Path) -> None:
    """Every file of the item is empty."""
    for path in files(folder):
        path.write_bytes(b"")


def lose_data(folder: pathlib.Path) -> None:
    """The arrays are gone, what describes them is there."""
    for path in files(folder):
        if "ocdbt" in str(path) or path.parent.name == "d":
            path.unlink()


def remove(folder: pathlib.Path) -> None:
    """The item is gone."""
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "item"),
    [
        (halve, "learner"),
        *(pytest.param(halve, item, marks=pytest.mark.slow) for item in ("shared", "actors", "evaluator_bandit", "replay", "meta")),
        pytest.param(empty, "learner", marks=pytest.mark.slow),
        pytest.param(empty, "meta", marks=pytest.mark.slow),
        (lose_data, "replay"),
        pytest.param(remove, "learner", marks=pytest.mark.slow),
        pytest.param(remove, "meta", marks=pytest.mark.slow),
    ],
)
# Of several arrays that cannot be read, TensorStore raises one; the others' errors come up when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_checkpoint_before_serves(
    damage: Callable[[pathlib.Path], None], item: str, run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "checkpoints" / "2" / item)
    training = opened(run)
    gc.collect()
    assert (training.counters.checkpoints, training.counters.starts) == (1, 2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "checkpoint 2 in" in shown and f"'{item}'" in shown and "it is now 2.damaged" in shown
    assert "resumed from checkpoint 1" in shown
    # It goes on, under the number that is free again, and what was damaged stays for whoever wants to look at it.
    for _ in range(6):
        training._act_and_learn()
    training._save()
    training.close()
    assert training.checkpoints.steps() == [1, 2]
    assert (run / "checkpoints" / "2.damaged").is_dir()
    again = opened(run)
    assert again.counters.checkpoints == 2
    again.close()


class Planted:
    """What runs when a pickle of it is read."""

    def __init__(self, marker: pathlib.Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return pathlib.Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_a_checkpoint_is_never_code(protocol: int, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A pickle in the place of every file, and beside each: none is executed, by the trainer or by the judge."""
    marker = tmp_path / "executed"
    code = pickle.dumps(Planted(marker), protocol)
    pickle.loads(code)  # it would be seen
    assert marker.exists()
    marker.unlink()
    for path in files(run / "checkpoints" / "2"):
        path.write_bytes(code)
        for name in ("checkpoint.pkl", "data.pickle", "state.npy", f"{path.name}.pkl"):
            path.with_name(name).write_bytes(code)
    with pytest.raises(CheckpointError):
        judging.evaluate(run, episodes=1, seed=0)
    training = opened(run)
    assert training.counters.checkpoints == 1
    training.close()
    assert not marker.exists()


def test_when_none_can_be_read_nothing_is_begun_anew(run: pathlib.Path) -> None:
    for step in (1, 2):
        halve(run / "checkpoints" / str(step) / "learner")
    with pytest.raises(CheckpointError, match=r"^no checkpoint can be read: .*checkpoint 2 .*To start a new run choose another --workdir$"):
        opened(run)
    assert Checkpoints(run / "checkpoints", 2, read_only=True).steps() == [1, 2]  # both are still where they were


def test_evaluate_says_what_is_damaged(run: pathlib.Path) -> None:
    halve(run / "checkpoints" / "2" / "learner")
    with pytest.raises(DamagedCheckpointError, match=r"^item 'learner' of checkpoint 2 in \S+ cannot be read: "):
        judging.evaluate(run, episodes=1, seed=0)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is damaged, it is not JSON"), ("[]", r"is damaged: it holds \[\]"), ("", "not JSON")]
)
def test_a_damaged_config_is_one_line(content: str, message: str, run: pathlib.Path) -> None:
    (run / "config.json").write_text(content)
    for use in (opened, lambda folder: judging.evaluate(folder, episodes=1, seed=0)):
        with pytest.raises(config.SettingsError, match=message):
            use(run)


@pytest.fixture
def no_flags() -> Iterator[None]:
    """None of the flags that a training defines, which other programs that this process has imported define too."""
    names = ("config", "workdir", "doctor", "distributed", "coordinator", "num_processes", "process_id", "stopped_exit_code")
    before = {name: flags.FLAGS[name] for name in names if name in flags.FLAGS}
    for name in before:
        delattr(flags.FLAGS, name)
    yield
    for name in names:
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
        if name in before:
            flags.FLAGS[name] = before[name]


def test_a_damaged_line_of_metrics_is_one_line(
    run: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_flags: None
) -> None:
    path = run / "metrics.jsonl"
    before = '{"steps": 1}\n' + "\0" * 40 + '\n{"steps": 2}\n'
    path.write_text(before)
    main = runpy.run_path(str(ROOT / "agent57_jax/commands/train.py"))["main"]
    values = {"_DOCTOR": False, "_WORKDIR": str(run), "_CONFIG": tiny.coin_settings(), "_DISTRIBUTED": False, "_STOPPED": 0}
    values |= dict.fromkeys(("_COORDINATOR", "_NUM_PROCESSES", "_PROCESS_ID"))
    for name, value in values.items():
        monkeypatch.setitem(main.__globals__, name, types.SimpleNamespace(value=value))
    monkeypatch.setattr(command_line, "prepare_jax", lambda **_: None)
    monkeypatch.setattr(shutdown, "Shutdown", lambda: lambda: False)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: line 2 of {path} is not a line of metrics; fix or remove the line, or move the file away: ")
    assert path.read_text() == before


def test_settings_of_another_version_are_one_line(run: pathlib.Path) -> None:
    values: dict[str, Any] = json.loads((run / "config.json").read_text())
    values["replay"]["novel_idea"] = 1
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(config.SettingsError, match=r"^config.json does not fit this version of agent57_jax: replay.novel_idea$"):
        judging.evaluate(run, episodes=1, seed=0)
