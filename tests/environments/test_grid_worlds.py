"""What holds for every grid world in JAX."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

from agent57_jax.environments.disco_maze import DiscoMaze
from agent57_jax.environments.random_coin import RandomCoin
from agent57_jax.environments.shifting_corridor import ShiftingCorridor
from agent57_jax.types import FIRST, JaxEnvironment
from tests.environments.twins import row

E = 16


@pytest.mark.parametrize("env", [RandomCoin(5), DiscoMaze(7), ShiftingCorridor(5, 9, phase_steps=2)], ids=lambda env: type(env).__name__)
def test_many_environments_do_what_one_does(env: JaxEnvironment) -> None:
    keys = jax.random.split(jax.random.key(3), E)
    actions = np.arange(E, dtype=np.int32) % env.spec.num_actions
    init, step, step_all = jax.jit(env.init), jax.jit(env.step), jax.jit(jax.vmap(env.step))
    together, singles = jax.jit(jax.vmap(env.init))(keys), [init(key) for key in keys]
    for _ in range(4):
        for index, single in enumerate(singles):
            chex.assert_trees_all_equal(row(together, index), single)
        together = step_all(keys, together[0], actions)
        singles = [step(key, state, action) for key, (state, _), action in zip(keys, singles, actions, strict=True)]


@pytest.mark.parametrize(
    ("env", "shape", "num_actions", "extras"),
    [
        (RandomCoin(), (15, 15, 3), 4, {}),
        (DiscoMaze(), (21, 21, 3), 4, {"visited_fraction": pytest.approx(1 / 199)}),
        (ShiftingCorridor(), (12,), 2, {"long_limit": 1}),
    ],
)
def test_the_spec_describes_timesteps(env: JaxEnvironment, shape: tuple[int, ...], num_actions: int, extras: dict[str, float]) -> None:
    _, timestep = jax.device_get(jax.jit(env.init)(jax.random.key(0)))
    assert timestep.observation.shape == env.spec.observation_shape == shape
    assert timestep.observation.dtype == env.spec.observation_dtype
    assert env.spec.num_actions == len(env.spec.action_names) == num_actions
    assert timestep.step_type == FIRST and timestep.extras == extras and env.spec.extras == tuple(extras)


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        *((RandomCoin, sizes, "Random Coin needs") for sizes in ((1, 10), (5, 0))),
        *((DiscoMaze, sizes, "Disco Maze needs") for sizes in ((3, 10), (20, 10), (21, 0))),
        *((ShiftingCorridor, sizes, "Shifting Corridor needs") for sizes in ((4, 10, 10), (12, 9, 10), (12, 60, 0))),
    ],
)
def test_impossible_sizes_are_refused(kind: Any, sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*sizes)
