"""A packed agent plays like the run that it comes from, and is small."""

import json
import pathlib

import pytest

from agent57_jax import config
from agent57_jax.commands import pack
from agent57_jax.config import SettingsError
from agent57_jax.training import judging
from agent57_jax.training.checkpoint import CheckpointError
from agent57_jax.training.trainer import Trainer
from tests import tiny
from tests.trainings import Make


@pytest.fixture(scope="module")
def averaging_run(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that evaluates the average of its parameters."""
    settings = config.changed(tiny.coin_settings(), {"learner.average_decay": 0.99})
    training = Trainer(settings, tmp_path_factory.mktemp("averaging") / "run", lambda: False)
    training.run()
    return training


@pytest.mark.parametrize("source", ["coin_run", "averaging_run"])
def test_a_packed_agent_plays_like_its_run(source: str, make: Make, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    training: Trainer = request.getfixturevalue(source)
    run, agent = training.workdir, tmp_path / "agents/coin"
    expected = judging.evaluate(run, episodes=8, seed=3)
    size = pack.pack(run, agent)
    assert not list(agent.rglob("commit_success.txt"))  # it would name this machine's folders
    assert size < 0.6 * sum(path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file())
    assert json.loads((agent / "evaluation.json").read_text())["returns"] == expected["returns"]
    found = judging.evaluate(agent, episodes=8, seed=3)
    assert found["returns"] == expected["returns"] and found["frames_trained"] == expected["frames_trained"]
    last = (agent / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["steps"] == json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["steps"]
    # It is no run to go on with, and a try leaves it as it was.
    with pytest.raises(CheckpointError, match="no item 'actors'"):
        make(training.settings, agent)
    assert judging.evaluate(agent, episodes=8, seed=3)["returns"] == expected["returns"]


def test_a_folder_without_a_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SettingsError, match="holds no run"):
        pack.pack(tmp_path, tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


AGENTS = sorted(path.parent for path in (pathlib.Path(__file__).parents[1] / "agents").glob("*/config.json"))


@pytest.mark.parametrize("folder", AGENTS, ids=lambda folder: folder.name)
def test_agents_of_the_repository_fit_this_version(folder: pathlib.Path) -> None:
    run = judging.open_run(folder, 1, 0, is_watched=False)
    run.environment.close()
    score = json.loads((folder / "evaluation.json").read_text())
    assert score["checkpoint"] == run.step and score["episodes"] == 100
    shown = f"{score['mean']:.{1 if score['mean'] > 1 else 2}f}"
    assert f"| `{folder.name}` | {shown} " in (folder.parent / "README.md").read_text()
