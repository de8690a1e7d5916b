"""A packed agent plays like the run that it comes from, and is small."""

import json
import pathlib

import pytest

from agent57_jax import config
from agent57_jax.commands import pack
from agent57_jax.config import SettingsError
from agent57_jax.training import judging, trainer
from agent57_jax.training.checkpoint import CheckpointError
from tests import tiny
from tests.test_trainer import Stop


@pytest.mark.parametrize("decay", [0.0, 0.99], ids=["newest", "average"])
def test_a_packed_agent_plays_like_its_run(decay: float, tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.learner.average_decay = decay
    run, agent = tmp_path / "run", tmp_path / "agents/coin"
    trainer.Trainer(config.finalise(settings), run, Stop()).run()
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
        trainer.Trainer(config.finalise(settings), agent, Stop()).run()
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
