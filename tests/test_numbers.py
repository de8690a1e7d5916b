"""Numbers that are not finite, each put in once: the run stops with the name and the step, and nothing of it is kept."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.agent.learner import Learner
from agent57_jax.config import EnvironmentKind, Settings, Torso
from agent57_jax.environments import factory
from agent57_jax.training.checkpoint import Checkpoints
from agent57_jax.training.trainer import Trainer, TrainingError
from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep
from tests import tiny
from tests.trainings import Make, assert_equal, is_finite, learn, metrics_of


def vectors() -> Settings:
    """The tiny settings with vector observations, which may hold what is not a number."""
    settings = tiny.coin_settings()
    settings.environment.kind = EnvironmentKind.SHIFTING_CORRIDOR
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (8,)
    return settings


class Numbers(NamedTuple):
    """What an environment gives. They are a part of its state, so that all environments are one program."""

    even_reward: Any = 1.0
    odd_reward: Any = 1.0
    length: Any = 20
    shift: Any = 0.0  # of the observation
    motion: Any = 1.0  # its factor; 0: the observation is constant
    bad_extrinsic_reward_step: Any = -1
    bad_observation_step: Any = -1
    bad_value: Any = np.nan


NEVER = 2**30


class Given:
    """An environment of numbers as a test wants them; steps are those in the episode."""

    spec = EnvironmentSpec((3,), np.dtype("float32"), 2, ("LEFT", "RIGHT"), 1)

    def __init__(self, **numbers: float) -> None:
        self._numbers = Numbers(**numbers)

    def _timestep(self, step: jax.Array, total: jax.Array, reward: jax.Array, numbers: Numbers) -> TimeStep:
        ends = step >= numbers.length
        step_type = jnp.where(step == 0, FIRST, jnp.where(ends, LAST, MID)).astype(jnp.int32)
        moving = numbers.shift + numbers.motion * jnp.stack([jnp.sin(step / 3.0), jnp.cos(step / 3.0), step / 10.0])
        observation = jnp.where(step == numbers.bad_observation_step, numbers.bad_value, moving)
        return TimeStep(observation, reward, jnp.where(ends, 0.0, 1.0).astype(jnp.float32), step_type, total, step, extras={})

    def init(self, key: jax.Array) -> tuple[Any, TimeStep]:
        del key
        zero, numbers = jnp.float32(0), jax.tree.map(jnp.asarray, self._numbers)
        return (jnp.int32(0), zero, numbers), self._timestep(jnp.int32(0), zero, zero, numbers)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        del key, action
        step, total, numbers = state
        was_last = step >= numbers.length
        step = jnp.where(was_last, 0, step + 1)
        reward = jnp.where(step % 2 == 0, numbers.even_reward, numbers.odd_reward)
        reward = jnp.where(step == numbers.bad_extrinsic_reward_step, numbers.bad_value, reward)
        reward = jnp.where(was_last, 0.0, reward)
        total = jnp.where(was_last, 0.0, total + reward)
        return (step, total, numbers), self._timestep(step, total, reward, numbers)


def expect_stop(training: Trainer, pattern: str) -> None:
    """It stops with that message, and no checkpoint and no priority holds what it stopped for."""
    folder = training.workdir / "checkpoints"
    before = Checkpoints(folder, 2, read_only=True).steps()
    with pytest.raises(TrainingError, match=pattern):
        training.run()
    assert Checkpoints(folder, 2, read_only=True).steps() == before
    assert is_finite(training.replay.priority)


@pytest.mark.parametrize(
    ("name", "step", "value"),
    [("observation", 5, np.nan), ("observation", 5, -np.inf), ("extrinsic_reward", 7, np.nan), ("extrinsic_reward", 7, np.inf)],
)
def test_what_an_environment_gives(
    name: str, step: int, value: float, make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {f"bad_{name}_step": step, "bad_value": value}
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: Given(**bad))
    training = make(vectors(), tmp_path)
    # Eight environments step together: timestep 8 * step is the first of those that are bad.
    expect_stop(training, rf"^{name}\b.* not finite at timestep {8 * step} of this run\. Last good checkpoint: None")
    assert is_finite(training.learner.parameters)


def poisoned(tree: Any, path: str) -> Any:
    """The tree with one NaN in its leaf of that path."""
    found = []

    def replace(where: Any, leaf: jax.Array) -> jax.Array:
        if jax.tree_util.keystr(where, simple=True, separator="/") != path:
            return leaf
        found.append(where)
        return jax.device_put(leaf.at[(0,) * leaf.ndim].set(np.nan), leaf.sharding)

    result = jax.tree_util.tree_map_with_path(replace, tree)
    assert found, f"no {path}"
    return result


@pytest.mark.parametrize(
    ("where", "path", "name"),
    [
        ("learner", "parameters/q/heads/Dense_0/bias", "action_values"),
        ("learner", "random_target/Dense_0/bias", "novelty_statistics|intrinsic_reward"),
        ("embeddings", "new/Dense_0/bias", "novelty_statistics|intrinsic_reward"),
        ("statistics", "distillation_error/mean", "novelty_statistics"),
        ("statistics", "squared_distance/mean", "novelty_statistics"),
        ("replay", "experience/extrinsic_reward", "loss/extrinsic"),
        ("replay", "experience/intrinsic_reward", "loss/"),
        ("replay", "recurrent_state/hidden", "loss/extrinsic"),
        ("learner", "target_q/heads/Dense_0/bias", "loss/extrinsic"),
    ],
)
def test_what_a_run_holds(where: str, path: str, name: str, make: Make, shared_programs: None, tmp_path: pathlib.Path) -> None:
    """Parameters, running statistics and the replay, after a checkpoint that is good."""
    training = make(tiny.coin_settings(), tmp_path)
    learn(training, 3)
    training._save()
    training.checkpoints.wait()
    if where in ("statistics", "embeddings"):
        shared = training.driver.shared
        training.driver.shared = shared._replace(**{where: poisoned(getattr(shared, where), path)})
    elif where == "replay":
        # Everything that can be drawn: one number among thousands would wait for its turn.
        leaf = training.replay
        for part in path.split("/"):
            leaf = getattr(leaf, part)
        first, second = path.split("/")
        bad = jax.device_put(jnp.full_like(leaf, np.nan), leaf.sharding)
        training.replay = training.replay._replace(**{first: getattr(training.replay, first)._replace(**{second: bad})})
    else:
        training.learner = poisoned(training.learner, path)
        training.acting = training._current_parameters()
    expect_stop(training, rf"({name}).*Last good checkpoint: 1 in ")
    assert is_finite(training.learner) == (where != "learner")


def test_a_gradient_of_a_loss_that_is_finite(make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of 0 is 0, its slope is not a number."""
    usual = Learner._distillation_loss

    def steep(self: Learner, predictor: Any, *rest: Any) -> jax.Array:
        return usual(self, predictor, *rest) + jnp.sqrt(0 * jax.tree.leaves(predictor)[0]).sum()

    monkeypatch.setattr(Learner, "_distillation_loss", steep)
    training = make(tiny.coin_settings(), tmp_path)
    expect_stop(training, r"^update 0 was not finite in gradient_norm/distillation; .*Last good checkpoint: None")
    assert is_finite(training.learner)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_priority_among_many(value: float, make: Make, shared_programs: None, tmp_path: pathlib.Path) -> None:
    """It would be drawn never, or always; nothing of an update would show it."""
    training = make(tiny.coin_settings(), tmp_path)
    learn(training, 3)
    before = jax.device_get(training.learner.parameters)
    training.replay = training.replay._replace(priority=training.replay.priority.at[0, 3, 0].set(value))
    with pytest.raises(TrainingError, match=r"update 3 was not finite in replay/priority_sum; .*Last good checkpoint: None"):
        training.run()
    assert_equal(training.learner.parameters, before)


@pytest.mark.parametrize(
    "numbers",
    [
        {"even_reward": 1e6, "odd_reward": 1e6},
        {"even_reward": 1e-6, "odd_reward": 1e-6},
        {"even_reward": 1e6, "odd_reward": -1e6},
        {"length": 1},
        {"length": NEVER},
        {"length": 1, "motion": 0.0},
        {"length": NEVER, "motion": 0.0, "shift": 1e6},
    ],
    ids=str,
)
def test_odd_environments_train_without_a_number_that_is_not_finite(
    numbers: dict[str, float], make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: Given(**numbers))
    settings = vectors()
    settings.total_steps = 1_000
    settings.evaluation.greedy_episodes = 1
    settings.logging.period_seconds = 0.2
    training = make(settings, tmp_path)
    training.run()
    assert ("there is no score" in capsys.readouterr().out) == (numbers.get("length") == NEVER)
    expect_finite(training)


def expect_finite(training: Trainer) -> None:
    """All that the run has written and all that it has learnt."""
    assert training.counters.updates > 20
    assert all(value is None or np.isfinite(value) for line in metrics_of(training.workdir) for value in line.values())
    assert is_finite(training.learner)


@pytest.mark.slow
def test_an_episode_of_half_an_hour(make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """27,000 steps, the longest that Atari has, with a memory that holds all of them and rewards that never stop."""
    length = 27_000
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: Given(length=length))
    settings = vectors()
    settings.environment.max_episode_steps = length
    settings.novelty.memory_capacity = 30_000
    settings.actor.acts_per_dispatch = 100
    settings.evaluation.period_acts = 1
    settings.evaluation.greedy_episodes = 1
    settings.replay.samples_per_insert = 0.1
    settings.total_steps = settings.environment.num_envs * (length + 1_000)
    training = make(settings, tmp_path)
    training.run()
    assert training.counters.episodes >= settings.environment.num_envs
    expect_finite(training)
