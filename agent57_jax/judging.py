"""The score of a trained agent: greedy episodes from a run's folder (Agent57 App. D, E)."""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from agent57_jax import config, evaluator, parallel, programs
from agent57_jax.checkpoint import Checkpoints
from agent57_jax.config import SettingsError
from agent57_jax.environments import atari57, factory
from agent57_jax.learner import acting_parameters

MAX_ENVIRONMENTS = 32


def evaluate(workdir: str | os.PathLike[str], episodes: int, seed: int) -> dict[str, Any]:
    """Plays `episodes` greedy episodes with the last checkpoint and writes evaluation.json.

    Every environment plays a fixed number of episodes, so that short episodes are not preferred over long ones.

    Returns:
      The content of evaluation.json and its "path".

    Raises:
      SettingsError: if the folder holds no run; CheckpointError: if its checkpoint cannot be read.
    """
    folder = pathlib.Path(workdir)
    if not (folder / "config.json").exists():
        raise SettingsError(f"{folder} holds no run: there is no config.json in it")
    settings = config.from_dict(json.loads((folder / "config.json").read_text()))
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint.keep, read_only=True)
    step = checkpoints.latest()
    if step is None:
        raise SettingsError(f"{folder} holds no complete checkpoint yet")

    num_envs = min(episodes, MAX_ENVIRONMENTS, settings.evaluation.window_episodes)
    environment: Any = (
        factory.make_host_environment(settings.environment, num_envs, seed, "judging")
        if settings.is_host_environment
        else factory.make_jax_environment(settings.environment)
    )
    parts = programs.build(settings, environment.spec)
    mesh = parallel.make_mesh(1)
    root = parallel.upload(mesh, parallel.REPLICATED, np.asarray(jax.random.key_data(jax.random.key(seed))))
    shapes = {
        "learner": jax.eval_shape(parts.learner.init, root),
        "shared": jax.eval_shape(lambda: programs.Shared(parts.actor.init_statistics(), parts.actor.init_metrics())),
        "evaluator_bandit": jax.eval_shape(
            parts.evaluation_actor.init_state, jax.ShapeDtypeStruct((settings.evaluation.num_envs,), np.int32)
        ).bandit,
    }
    sharding = jax.sharding.NamedSharding(mesh, parallel.REPLICATED)
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    arrays, meta = checkpoints.restore(step, targets)

    judge = evaluator.Evaluator(evaluator.greedy_only(parts.evaluation_actor, num_envs), environment, num_envs, root)
    judge.state = judge.state._replace(bandit=arrays["evaluator_bandit"])
    quota = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    played: list[evaluator.Episode] = []
    parameters = acting_parameters(arrays["learner"])
    while quota.any():
        for episode in judge.step(parameters, arrays["shared"].statistics):
            if quota[episode.environment]:
                quota[episode.environment] -= 1
                played.append(episode)
    judge.close()

    returns = [episode.episode_return for episode in played]
    game = settings.environment.task_id if settings.is_host_environment else settings.environment.kind.value
    mean = float(np.mean(returns))
    result: dict[str, Any] = {
        "game": game,
        "episodes": len(returns),
        "returns": returns,
        "lengths": [episode.length for episode in played],
        "mean": mean,
        "median": float(np.median(returns)),
        "hns": atari57.human_normalised_score(game, mean),
        "arm": played[0].policy,
        "frames_trained": meta["counters"]["frames"],
        "updates_trained": meta["counters"]["updates"],
        "checkpoint": step,
        "seed": seed,
    }
    path = folder / "evaluation.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)
    return result | {"path": str(path)}
