"""Checkpoints that were damaged after they were written: the one before serves, in words, and nothing is begun anew by itself."""

import gc
import pathlib
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from agent57_jax.config import SettingsError
from agent57_jax.training import judging
from agent57_jax.training.checkpoint import CheckpointError, Checkpoints, DamagedCheckpointError
from agent57_jax.training.trainer import Trainer
from tests import tiny
from tests.trainings import Make, open_training, share_programs

pytestmark = pytest.mark.usefixtures("shared_programs")


def save_after(training: Trainer) -> None:
    for _ in range(6):
        training._act_and_learn()
    training._save()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        training = open_training(tiny.coin_settings(), folder)
    for _ in range(2):
        save_after(training)
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
    damage: Callable[[pathlib.Path], None], item: str, run: pathlib.Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "checkpoints" / "2" / item)
    training = make(tiny.coin_settings(), run)
    gc.collect()
    assert (training.counters.checkpoints, training.counters.starts) == (1, 2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "checkpoint 2 in" in shown and f"'{item}'" in shown and "it is now 2.damaged" in shown
    assert "resumed from checkpoint 1" in shown
    # It goes on, under the number that is free again, and what was damaged stays for whoever wants to look at it.
    save_after(training)
    training.close()
    assert training.checkpoints.steps() == [1, 2]
    assert (run / "checkpoints" / "2.damaged").is_dir()
    assert make(tiny.coin_settings(), run).counters.checkpoints == 2


class Planted:
    """What runs when a pickle of it is read."""

    def __init__(self, marker: pathlib.Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return pathlib.Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_a_checkpoint_is_never_code(protocol: int, run: pathlib.Path, make: Make, tmp_path: pathlib.Path) -> None:
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
    assert make(tiny.coin_settings(), run).counters.checkpoints == 1
    assert not marker.exists()


def test_when_none_can_be_read_nothing_is_begun_anew(run: pathlib.Path, make: Make) -> None:
    for step in (1, 2):
        halve(run / "checkpoints" / str(step) / "learner")
    with pytest.raises(CheckpointError, match=r"^no checkpoint can be read: .*checkpoint 2 .*To start a new run choose another --workdir$"):
        make(tiny.coin_settings(), run)
    assert Checkpoints(run / "checkpoints", 2, read_only=True).steps() == [1, 2]  # both are still where they were


def test_evaluate_says_what_is_damaged(run: pathlib.Path) -> None:
    halve(run / "checkpoints" / "2" / "learner")
    with pytest.raises(DamagedCheckpointError, match=r"^item 'learner' of checkpoint 2 in \S+ cannot be read: "):
        judging.evaluate(run, episodes=1, seed=0)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is damaged, it is not JSON"), ("[]", r"is damaged: it holds \[\]"), ("", "not JSON")]
)
def test_a_damaged_config_is_one_line(content: str, message: str, run: pathlib.Path, make: Make) -> None:
    (run / "config.json").write_text(content)
    for use in (lambda: make(tiny.coin_settings(), run), lambda: judging.evaluate(run, episodes=1, seed=0)):
        with pytest.raises(SettingsError, match=message):
            use()


def test_settings_of_another_version_are_one_line(run: pathlib.Path) -> None:
    (run / "config.json").write_text('{"novel_idea": 1}')
    with pytest.raises(SettingsError, match=r"^config.json does not fit this version of agent57_jax: .*, novel_idea, .*$"):
        judging.evaluate(run, episodes=1, seed=0)
