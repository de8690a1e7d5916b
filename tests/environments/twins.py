"""Grid worlds beside their plain twins."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np

from agent57_jax.types import LAST, JaxEnvironment, TimeStep


def row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def follow(
    env: JaxEnvironment,
    twins: Sequence[Any],
    restart: Callable[[Any, Any, TimeStep], TimeStep],
    advance: Callable[[Any, int, TimeStep], TimeStep],
    choose: Callable[[Any, np.random.Generator], np.ndarray],
    num_steps: int,
    rtol: float = 0.0,
) -> TimeStep:
    """Compares every timestep with that of the twins and returns all, every field [num_steps + 1, E, ...].

    Args:
      restart: twin, state and timestep of an environment -> the twin's FIRST of the same episode.
      advance: twin, action and timestep -> the twin's next timestep.
      choose: states [E] -> actions [E].
    """
    num_envs, rng = len(twins), np.random.default_rng(7)
    init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
    state, timestep = jax.device_get(init(jax.random.split(jax.random.key(1), num_envs)))
    starts, actions = np.ones(num_envs, bool), np.zeros(num_envs, np.int32)
    played = []
    for t in range(num_steps + 1):
        expected = []
        for index, twin in enumerate(twins):
            mine = row(timestep, index)
            expected.append(restart(twin, row(state, index), mine) if starts[index] else advance(twin, int(actions[index]), mine))
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *expected)
        chex.assert_trees_all_equal_shapes_and_dtypes(timestep, stacked)
        chex.assert_trees_all_close(timestep, stacked, rtol=rtol, atol=0.0)
        played.append(timestep)
        starts, actions = timestep.step_type == LAST, choose(state, rng).astype(np.int32)
        state, timestep = jax.device_get(step(jax.random.split(jax.random.key(1000 + t), num_envs), state, actions))
    return jax.tree.map(lambda *rows: np.stack(rows), *played)
