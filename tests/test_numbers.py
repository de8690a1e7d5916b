"""Numbers that are not finite, each put in once: the run stops with the name and the step, and nothing of it is kept."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.agent.learner import Learner
from agent57_jax.config import EnvironmentKind, Settings, Torso
from agent57_jax.environments import factory
from agent57_jax.training.checkpoint import Checkpoints
from agent57_jax.training.trainer import Trainer, TrainingError
from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep
from tests import tiny

MADE: list[Trainer] = []


@pytest.fixture(autouse=True)
def no_trainer_stays_open() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def make(settings: Settings, folder: pathlib.Path) -> Trainer:
    training = Trainer(config.finalise(settings), folder, lambda: False)
    MADE.append(training)
    return training


def vectors() -> Settings:
    """The tiny settings with vector observations, which may hold what is not a number."""
    settings = tiny.coin_settings()
    settings.environment.kind = EnvironmentKind.SHIFTING_CORRIDOR
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (8,)
    return settings


class Made:
    """An environment with whatever rewards, observations and lengths a test wants, as functions of the step in the episode."""

    def __init__(self, reward: Callable[[jax.Array], jax.Array], length: int | None, observe: Callable[[jax.Array], jax.Array]) -> None:
        self.spec = EnvironmentSpec((3,), np.dtype("float32"), 2, ("LEFT", "RIGHT"), 1)
        self._reward, self._length, self._observe = reward, length, observe

    def _timestep(self, step: jax.Array, total: jax.Array, reward: jax.Array) -> TimeStep:
        ends = jnp.bool_(False) if self._length is None else step >= self._length
        step_type = jnp.where(step == 0, FIRST, jnp.where(ends, LAST, MID)).astype(jnp.int32)
        discount = jnp.where(ends, 0.0, 1.0).astype(jnp.float32)
        return TimeStep(self._observe(step), reward, discount, step_type, total, step, extras={})

    def init(self, key: jax.Array) -> tuple[Any, TimeStep]:
        del key
        zero = jnp.float32(0)
        return (jnp.int32(0), zero), self._timestep(jnp.int32(0), zero, zero)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        del key, action
        step, total = state
        was_last = jnp.bool_(False) if self._length is None else step >= self._length
        step = jnp.where(was_last, 0, step + 1)
        reward = jnp.where(was_last, 0.0, self._reward(step)).astype(jnp.float32)
        total = jnp.where(was_last, 0.0, total + reward)
        return (step, total), self._timestep(step, total, reward)


def constant(step: jax.Array) -> jax.Array:
    del step
    return jnp.zeros(3)


def moving(step: jax.Array) -> jax.Array:
    return jnp.stack([jnp.sin(step / 3.0), jnp.cos(step / 3.0), step / 10.0])


def after(bad_step: int, otherwise: Callable[[jax.Array], jax.Array], value: float = np.nan) -> Callable[[jax.Array], jax.Array]:
    return lambda step: jnp.where(step == bad_step, value, otherwise(step))


def one(step: jax.Array) -> jax.Array:
    del step
    return jnp.float32(1)


def expect_stop(training: Trainer, pattern: str, folder: pathlib.Path) -> None:
    """It stops with that message, and no checkpoint, no priority and no parameter holds what it stopped for."""
    before = Checkpoints(folder / "checkpoints", 2, read_only=True).steps()
    with pytest.raises(TrainingError, match=pattern):
        training.run()
    assert Checkpoints(folder / "checkpoints", 2, read_only=True).steps() == before
    assert np.all(np.isfinite(jax.device_get(training.replay.priority)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "step"), [("observation", 5), ("extrinsic_reward", 7)])
def test_what_an_environment_gives(name: str, step: int, value: float, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Made(after(step, one, value), 20, moving) if name == "extrinsic_reward" else Made(one, 20, after(step, moving, value))
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: environment)
    settings = vectors()
    training = make(settings, tmp_path)
    # Eight environments step together: timestep 8 * step is the first of those that are bad.
    expect_stop(training, rf"^{name}\b.* not finite at timestep {8 * step} of this run\. Last good checkpoint: None", tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(training.learner.parameters)))


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
def test_what_a_run_holds(where: str, path: str, name: str, tmp_path: pathlib.Path) -> None:
    """Parameters, running statistics and the replay, after a checkpoint that is good."""
    training = make(tiny.coin_settings(), tmp_path)
    while training.counters.updates < 3:
        training._act_and_learn()
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
    expect_stop(training, rf"({name}).*Last good checkpoint: 1 in ", tmp_path)


def test_a_gradient_of_a_loss_that_is_finite(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of 0 is 0, its slope is not a number."""
    usual = Learner._distillation_loss

    def steep(self: Learner, predictor: Any, *rest: Any) -> jax.Array:
        return usual(self, predictor, *rest) + jnp.sqrt(0 * jax.tree.leaves(predictor)[0]).sum()

    monkeypatch.setattr(Learner, "_distillation_loss", steep)
    training = make(tiny.coin_settings(), tmp_path)
    expect_stop(training, r"^update 0 was not finite in gradient_norm/distillation; .*Last good checkpoint: None", tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(training.learner)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_priority_among_many(value: float, tmp_path: pathlib.Path) -> None:
    """It would be drawn never, or always; nothing of an update would show it."""
    training = make(tiny.coin_settings(), tmp_path)
    while training.counters.updates < 3:
        training._act_and_learn()
    before = jax.device_get(training.learner.parameters)
    training.replay = training.replay._replace(priority=training.replay.priority.at[0, 3, 0].set(value))
    with pytest.raises(TrainingError, match=r"update 3 was not finite in replay/priority_sum; .*Last good checkpoint: None"):
        training.run()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(training.learner.parameters), before)


@pytest.mark.parametrize(
    ("reward", "length", "observe"),
    [
        (lambda step: jnp.float32(1e6), 20, moving),
        (lambda step: jnp.float32(-1e6), 20, moving),
        (lambda step: jnp.float32(1e-6), 20, moving),
        (lambda step: jnp.where(step % 2 == 0, 1e6, -1e6), 20, moving),
        (one, 1, moving),
        (one, None, moving),
        (one, 20, constant),
        (one, 1, constant),
        (one, None, lambda step: jnp.full((3,), 1e6)),
    ],
    ids=["1e6", "-1e6", "1e-6", "alternating", "ends at once", "never ends", "constant", "constant, ends at once", "large observations"],
)
def test_odd_environments_train_without_a_number_that_is_not_finite(
    reward: Any,
    length: int | None,
    observe: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: Made(reward, length, observe))
    settings = vectors()
    settings.total_steps = 2_000
    settings.evaluation.greedy_episodes = 1
    settings.logging.period_seconds = 0.2
    training = make(settings, tmp_path)
    training.run()
    assert ("there is no score" in capsys.readouterr().out) == (length is None)
    expect_finite(training, tmp_path)


def expect_finite(training: Trainer, folder: pathlib.Path) -> None:
    """All that the run has written and all that it has learnt."""
    assert training.counters.updates > 20
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(value is None or np.isfinite(value) for line in lines for value in line.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(training.learner)))


@pytest.mark.slow
def test_an_episode_of_half_an_hour(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """27,000 steps, the longest that Atari has, with a memory that holds all of them and rewards that never stop."""
    length = 27_000
    monkeypatch.setattr(factory, "make_jax_environment", lambda settings: Made(one, length, moving))
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
    expect_finite(training, tmp_path)
