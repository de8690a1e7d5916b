"""Shifting Corridor, a task whose best discount changes while everything that an agent can learn stays the same."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from agent57_jax.environments.grid import choose, make_spec, make_timestep
from agent57_jax.types import FIRST, LAST, MID, TimeStep

ACTION_NAMES = ("left", "right")
NEAR_REWARD = 0.5  # at the left end
FAR_REWARD = 1.0  # at the right end
ANYWHERE = 0.1  # share of episodes that start anywhere, so that every agent finds the right end
LONG_LIMIT = "long_limit"  # the extra: 1 in an episode with the long limit, else 0


class ShiftingCorridorState(NamedTuple):
    """One corridor; the clock outlives the episode."""

    cell: jax.Array  # int32
    clock: jax.Array  # int32, timesteps since `init`, modulo the length of two phases
    limit: jax.Array  # int32, agent steps until this episode is truncated
    step_type: jax.Array  # int32, of the last timestep
    episode_return: jax.Array  # float32
    episode_length: jax.Array  # int32


class ShiftingCorridor:
    """A corridor with a small reward nearby and a large one far away, under a time limit that changes. A `JaxEnvironment`.

    Both ends terminate: the left one gives 0.5, the right one 1. Nine of ten episodes start on one of the `size // 5` cells beside the
    left end, the others on any inner cell; both draws are uniform. An action moves the agent by one cell.

    An episode keeps the limit that it starts with. That is `max_episode_steps` for `phase_steps` timesteps, then `size // 2` for as many,
    and so on. Under the short limit an agent can walk from those cells to the left end, but not to the right one.

    The limit is not observed, and reaching it is a truncation, from which an agent bootstraps. So the action values of every discount are
    the same in both phases, and so are the best policies. Their returns are not: a large discount prefers the right end, which pays under
    the long limit; a small one prefers the left end, which pays under the short limit.

    The observation is a [size] float32 vector, 1 at the agent's cell and else 0. The extra `long_limit` tells the phase in which the
    episode started.
    """

    def __init__(self, size: int = 12, max_episode_steps: int = 60, phase_steps: int = 10_000) -> None:
        """Args:
          size: cells of the corridor, both ends included; at least 5.
          max_episode_steps: agent steps until an episode is truncated under the long limit; at least `size - 2`, the longest walk.
          phase_steps: timesteps of one environment between two changes of the limit, FIRST included. Environments that start together
            change together.

        Raises:
          ValueError: for sizes under which the two limits do not differ as described.
        """
        if size < 5 or max_episode_steps < size - 2 or phase_steps < 1:
            raise ValueError(
                f"Shifting Corridor needs a size of at least 5, at least size - 2 steps and a phase of at least 1, "
                f"not {size}, {max_episode_steps} and {phase_steps}"
            )
        self.size = size
        self.max_episode_steps = max_episode_steps
        self.short_limit = size // 2
        self.phase_steps = phase_steps
        self.spec = make_spec((size,), ACTION_NAMES, (LONG_LIMIT,))

    def init(self, key: jax.Array) -> tuple[ShiftingCorridorState, TimeStep]:
        """Draws an episode at the start of a phase with the long limit; returns its state and FIRST timestep (scalar fields)."""
        state = self._start(key, jnp.int32(0))
        return state, self._timestep(state, reward=jnp.float32(0), terminated=jnp.bool_(False))

    def step(self, key: jax.Array, state: ShiftingCorridorState, action: jax.Array) -> tuple[ShiftingCorridorState, TimeStep]:
        """Moves the agent; after a LAST timestep ignores the action and starts an episode. Only a start uses `key`.

        The action is an index of `ACTION_NAMES`; the timestep has scalar fields.
        """
        starts = state.step_type == LAST
        clock = (state.clock + 1) % (2 * self.phase_steps)
        cell = state.cell + 2 * action - 1
        is_left, is_right = cell == 0, cell == self.size - 1
        reward = NEAR_REWARD * is_left.astype(jnp.float32) + FAR_REWARD * is_right.astype(jnp.float32)
        length = state.episode_length + 1
        moved = ShiftingCorridorState(
            cell=cell,
            clock=clock,
            limit=state.limit,
            step_type=jnp.where(is_left | is_right | (length >= state.limit), LAST, MID).astype(jnp.int32),
            episode_return=state.episode_return + reward,
            episode_length=length,
        )
        state = choose(starts, self._start(key, clock), moved)
        terminated = (is_left | is_right) & ~starts
        return state, self._timestep(state, reward=jnp.where(starts, 0.0, reward), terminated=terminated)

    def _start(self, key: jax.Array, clock: jax.Array) -> ShiftingCorridorState:
        key_anywhere, key_cell = jax.random.split(key)
        anywhere = jax.random.uniform(key_anywhere) < ANYWHERE
        last = jnp.where(anywhere, self.size - 2, self.size // 5)
        return ShiftingCorridorState(
            cell=jax.random.randint(key_cell, (), 1, last + 1, jnp.int32),
            clock=clock,
            limit=jnp.where(clock < self.phase_steps, self.max_episode_steps, self.short_limit).astype(jnp.int32),
            step_type=jnp.int32(FIRST),
            episode_return=jnp.float32(0),
            episode_length=jnp.int32(0),
        )

    def _timestep(self, state: ShiftingCorridorState, reward: jax.Array, terminated: jax.Array) -> TimeStep:
        observation = jax.nn.one_hot(state.cell, self.size, dtype=jnp.float32)
        extras = {LONG_LIMIT: (state.limit == self.max_episode_steps).astype(jnp.float32)}
        return make_timestep(state, observation, reward, terminated, extras)
