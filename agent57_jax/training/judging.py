"""The score of a trained agent: greedy episodes from a run's folder (Agent57 App. D, E)."""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from agent57_jax import parallel, paths
from agent57_jax.agent import programs
from agent57_jax.agent.learner import LearnerState, evaluation_parameters
from agent57_jax.agent.novelty import NoveltyStatistics
from agent57_jax.algorithm.meta_controller import BanditState, PooledArms, pooled_arm_statistics
from agent57_jax.config import EnvironmentKind, Settings, SettingsError
from agent57_jax.environments import atari57, factory
from agent57_jax.monitoring.video import Spectator
from agent57_jax.training import evaluator, run_folder
from agent57_jax.training.checkpoint import Checkpoints

MAX_ENVIRONMENTS = 32
FILE = "evaluation.json"  # of a run's folder


class Restored(NamedTuple):
    """A run's last checkpoint, on one device."""

    settings: Settings
    environment: Any  # a HostEnvironment or JaxEnvironment of the run's task
    parts: programs.Parts
    learner: LearnerState
    statistics: NoveltyStatistics | None  # None without intrinsic reward
    bandit: BanditState | None  # the evaluator's; None if it has none
    pooled: PooledArms | None  # statistics of the actors' bandits; None where greedy episodes do not use them
    step: int  # number of the checkpoint
    meta: dict[str, Any]  # counters


def restore(folder: str | os.PathLike[str], make_environment: Callable[[Settings], Any]) -> Restored:
    """Reads the last checkpoint of a run; `make_environment` makes its environment from the settings.

    Raises SettingsError if the folder holds no run or no checkpoint, RunError if it cannot be read or there is no device.
    """
    folder = pathlib.Path(folder)
    settings = run_folder.read_settings(folder)
    mesh = parallel.make_mesh(1)
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint.keep, read_only=True)
    step = checkpoints.latest()
    if step is None:
        raise SettingsError(f"{folder} holds no complete checkpoint yet")
    environment = make_environment(settings)
    parts = programs.build(settings, environment.spec)
    shapes = {
        "learner": jax.eval_shape(parts.learner.init, root_key(0)),
        "shared": jax.eval_shape(lambda: programs.init_shared(parts)),
    }
    bandit = jax.eval_shape(parts.evaluation_actor.init_state, jax.ShapeDtypeStruct((settings.evaluation.num_envs,), np.int32)).bandit
    if bandit is not None:
        shapes["evaluator_bandit"] = bandit
        if settings.asks_actors:
            pool = functools.partial(pooled_arm_statistics, num_arms=settings.policy.num_policies)
            shapes["pooled_arms"] = jax.eval_shape(pool, bandit)
    sharding = jax.sharding.NamedSharding(mesh, parallel.REPLICATED)
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    arrays, meta = checkpoints.restore(step, targets)
    return Restored(
        settings=settings,
        environment=environment,
        parts=parts,
        learner=arrays["learner"],
        statistics=arrays["shared"].statistics,
        bandit=arrays.get("evaluator_bandit"),
        pooled=arrays.get("pooled_arms"),
        step=step,
        meta=meta,
    )


def root_key(seed: int) -> np.ndarray:
    """The root key of an evaluation or a run, as raw data."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def quotas(episodes: int) -> np.ndarray:
    """Episodes per environment, [E] int. Fixed numbers, so that short episodes are not preferred over long ones."""
    num_envs = min(episodes, MAX_ENVIRONMENTS)
    return np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)


def open_run(workdir: str | os.PathLike[str], num_envs: int, seed: int, is_watched: bool) -> Restored:
    """A run's last checkpoint with evaluation environments, which render frames if `is_watched`. Raises the errors of `restore`."""

    def make_environment(settings: Settings) -> Any:
        if settings.is_host_environment:
            mode = "rgb_array" if is_watched else None
            return factory.make_host_environment(settings.environment, num_envs, seed, "judging", render_mode=mode)
        return factory.make_jax_environment(settings.environment)

    return restore(workdir, make_environment)


def play(run: Restored, quota: np.ndarray, seed: int, spectator: Spectator | None = None) -> Iterator[evaluator.Episode]:
    """Plays `quota[e]` greedy episodes in environment e. A spectator sees environment 0."""
    with contextlib.closing(acts(run, quota, seed, spectator)) as played:
        for ended in played:
            yield from ended


def acts(run: Restored, quota: np.ndarray, seed: int, spectator: Spectator | None = None) -> Generator[list[evaluator.Episode], None, None]:
    """Like `play`, but yields a list of the finished episodes after each act."""
    left = quota.copy()
    root = parallel.upload(parallel.make_mesh(1), parallel.REPLICATED, root_key(seed))
    actor = evaluator.greedy_only(run.parts.evaluation_actor, len(left))
    judge = evaluator.Evaluator(actor, run.environment, len(left), root, spectator=spectator)
    judge.state = judge.state._replace(bandit=run.bandit)
    parameters = evaluation_parameters(run.learner)
    try:
        while left.any():
            ended = [episode for episode in judge.step(parameters, run.statistics, run.pooled) if left[episode.environment]]
            for episode in ended:  # at most one per environment
                left[episode.environment] -= 1
            yield ended
    finally:
        judge.close()


def game_name(settings: Settings) -> str:
    """A short name of the task."""
    return settings.environment.task_id if settings.is_host_environment else settings.environment.kind.value


def evaluate(
    workdir: str | os.PathLike[str], episodes: int, seed: int, make_spectator: Callable[[str, int], Spectator] | None = None
) -> dict[str, Any]:
    """Plays greedy episodes with the last checkpoint and writes evaluation.json, as `interface.Run.evaluate` describes."""
    folder = pathlib.Path(workdir)
    quota = quotas(episodes)
    run = open_run(folder, len(quota), seed, is_watched=make_spectator is not None)
    game = game_name(run.settings)
    spectator = None if make_spectator is None else make_spectator(game, int(quota[0]))
    played = list(play(run, quota, seed, spectator))

    returns = [episode.episode_return for episode in played]
    mean = float(np.mean(returns))
    result: dict[str, Any] = {
        "game": game,
        "episodes": len(returns),
        "returns": returns,
        "lengths": [episode.length for episode in played],
        "mean": mean,
        "median": float(np.median(returns)),
        "hns": atari57.human_normalised_score(game, mean) if run.settings.environment.kind is EnvironmentKind.ENVPOOL else None,
        "arm": played[0].policy,
        "frames_trained": run.meta["counters"]["frames"],
        "updates_trained": run.meta["counters"]["updates"],
        "checkpoint": run.step,
        "seed": seed,
    }
    try:
        with paths.replaced(folder / FILE) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        return result | {"path": None, "problem": str(error)}
    return result | {"path": str(folder / FILE)}
