"""What the grid worlds in JAX share: the spec, the timestep of a state, and cells of an image."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.types import EnvironmentSpec, TimeStep

ACTION_NAMES = ("up", "right", "down", "left")
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]], np.int32)  # [A, 2], rows and columns


def make_spec(shape: tuple[int, ...], action_names: Sequence[str], extras: Sequence[str] = ()) -> EnvironmentSpec:
    """The spec of uint8 images or float32 vectors of this shape."""
    dtype = np.dtype(np.uint8 if len(shape) == 3 else np.float32)
    return EnvironmentSpec(shape, dtype, len(action_names), tuple(action_names), frames_per_step=1, extras=tuple(extras))


def make_timestep(state: Any, observation: jax.Array, reward: jax.Array, terminated: jax.Array, extras: dict[str, jax.Array]) -> TimeStep:
    """The timestep (scalar fields) of a state that has its type and length, and its return if there are rewards."""
    return TimeStep(
        observation=observation,
        reward=reward,
        discount=1 - terminated.astype(jnp.float32),
        step_type=state.step_type,
        episode_return=getattr(state, "episode_return", jnp.float32(0)),
        episode_length=state.episode_length,
        extras=extras,
    )


def choose(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """One of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def is_at(cell: jax.Array, size: int) -> jax.Array:
    """[size, size] bool, true at the row and column of `cell`."""
    rows, columns = np.mgrid[:size, :size]
    return (rows == cell[0]) & (columns == cell[1])
