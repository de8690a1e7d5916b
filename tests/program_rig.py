"""What tests of the jitted programs share: small settings on several devices, and an environment that counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.programs import Programs
from agent57_jax.agent.replay import Replay
from agent57_jax.config import FirstPriority, Settings
from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep
from tests import tiny

DEVICES = 4
A, N = 3, 3
TRACE, PERIOD, CAPACITY = 4, 2, 12  # of each environment
ACTS_PER_DISPATCH = 3
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1, extras=("twice",))  # twice the episode's length
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT


def make_settings(num_groups: int) -> Settings:
    settings = tiny.vector_settings()
    settings.environment.num_envs, settings.environment.num_groups = 8 * num_groups, num_groups
    settings.policy.num_policies = N
    novelty = settings.novelty
    novelty.num_neighbours, novelty.memory_capacity, novelty.train_timesteps = 3, 10, 2
    settings.actor.acts_per_dispatch = ACTS_PER_DISPATCH
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences = TRACE, PERIOD, 8
    settings.replay.first_priority = FirstPriority.ACTOR
    settings.learner.batch_size = 8
    return config.finalise(settings)


def key_data(seed: int = 0) -> np.ndarray:
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def make_programs(num_groups: int, environment: Any = None) -> tuple[Programs, jax.Array]:
    """Programs on a mesh, and the root key as a run has it."""
    parts = programs.build(make_settings(num_groups), SPEC)
    mesh = parallel.make_mesh(DEVICES)
    made = Programs(parts, mesh, Replay(parts.settings.replay, SPEC, num_groups, 8, CAPACITY), environment)
    return made, parallel.upload(mesh, ALL, key_data())


def assert_close(found: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Two trees of numbers are almost the same."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), jax.device_get(found), jax.device_get(wanted))


class Count(NamedTuple):
    """State of one counting environment."""

    step: jax.Array
    length: jax.Array  # steps of this episode
    episode: jax.Array
    total: jax.Array  # undiscounted return so far


class CountingEnvironment:
    """Counts its steps up to a length that differs between episodes; the observation tells what it was given."""

    spec = SPEC

    def init(self, key: jax.Array) -> tuple[Count, TimeStep]:
        state = Count(jnp.int32(0), jax.random.randint(key, (), 1, 4), jnp.int32(0), jnp.float32(0))
        return state, self._timestep(state, jnp.float32(0), jnp.float32(0))

    def step(self, key: jax.Array, state: Count, action: jax.Array) -> tuple[Count, TimeStep]:
        over = state.step == state.length
        noise = jax.random.uniform(key)
        fresh = Count(jnp.int32(0), state.length % 4 + 1, state.episode + 1, jnp.float32(0))
        reward = jnp.where(over, 0.0, 0.5 * action + state.step)
        moved = state._replace(step=state.step + 1, total=state.total + reward)
        state = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, moved)
        return state, self._timestep(state, reward, noise)

    def _timestep(self, state: Count, reward: jax.Array, noise: jax.Array) -> TimeStep:
        last = state.step == state.length
        return TimeStep(
            observation=jnp.stack([state.episode + 0.1 * state.step, 0.1 * state.length, noise]).astype(jnp.float32),
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(last & (state.episode % 2 == 0), 0.0, 1.0),
            step_type=jnp.where(state.step == 0, FIRST, jnp.where(last, LAST, MID)).astype(jnp.int32),
            episode_return=state.total,
            episode_length=state.step,
            extras={"twice": 2 * state.step.astype(jnp.float32)},
        )
