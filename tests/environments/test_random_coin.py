"""The coin room against its plain twin, and where its episodes start."""

import jax
import numpy as np
import pytest

from agent57_jax.environments.random_coin import RandomCoin, RandomCoinState
from agent57_jax.types import FIRST, LAST, MID, TimeStep
from tests.oracles.random_coin import RandomCoinTwin

E = 10


def row(timestep: TimeStep, index: int) -> TimeStep:
    return jax.tree.map(lambda x: x[index], timestep)


def assert_same(got: TimeStep, expected: TimeStep) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (name, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=str(name))


def start_of(state: RandomCoinState, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return tuple(state.agent[index].tolist()), tuple(state.coin[index].tolist())


@pytest.mark.parametrize(("size", "max_episode_steps"), [(5, 30), (15, 200)])
def test_follows_its_twin_under_random_actions(size: int, max_episode_steps: int) -> None:
    env = RandomCoin(size, max_episode_steps)
    init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
    rng = np.random.default_rng(7)
    state, timestep = jax.device_get(init(jax.random.split(jax.random.key(1), E)))
    twins = [RandomCoinTwin(size, max_episode_steps) for _ in range(E)]
    for index, twin in enumerate(twins):
        assert_same(row(timestep, index), twin.reset(*start_of(state, index)))
    seen = {"reached": 0, "truncated": 0, "first": 0}
    for t in range(250):
        was_last = timestep.step_type == LAST
        actions = rng.integers(0, 4, E).astype(np.int32)
        state, timestep = jax.device_get(step(jax.random.split(jax.random.key(1000 + t), E), state, actions))
        for index, twin in enumerate(twins):
            expected = twin.reset(*start_of(state, index)) if was_last[index] else twin.step(int(actions[index]))
            assert_same(row(timestep, index), expected)
        last = timestep.step_type == LAST
        seen["reached"] += int(np.sum(last & (timestep.discount == 0)))
        seen["truncated"] += int(np.sum(last & (timestep.discount == 1)))
        seen["first"] += int(np.sum(timestep.step_type == FIRST))
    assert min(seen.values()) > 5, seen


def test_reaching_the_coin_at_the_limit_terminates() -> None:
    env = RandomCoin(5, max_episode_steps=1)
    _, timestep = env.init(jax.random.key(0))
    state = RandomCoinState(
        agent=np.array([2, 2], np.int32),
        coin=np.array([2, 3], np.int32),
        step_type=np.int32(FIRST),
        episode_return=np.float32(0),
        episode_length=np.int32(0),
    )
    _, timestep = env.step(jax.random.key(0), state, np.int32(1))
    assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (LAST, 0, 1)
    _, timestep = env.step(jax.random.key(0), state, np.int32(3))
    assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (LAST, 1, 0)


def test_many_environments_do_what_one_does() -> None:
    env = RandomCoin(5)
    keys = jax.random.split(jax.random.key(3), 64)
    actions = np.arange(64, dtype=np.int32) % 4
    states, timesteps = jax.jit(jax.vmap(env.init))(keys)
    one_init, one_step, many_step = jax.jit(env.init), jax.jit(env.step), jax.jit(jax.vmap(env.step))
    singles = [one_init(key) for key in keys]
    for _ in range(3):
        for index, (_, timestep) in enumerate(singles):
            assert_same(row(timesteps, index), timestep)
        states, timesteps = many_step(keys, states, actions)
        singles = [one_step(key, state, action) for key, (state, _), action in zip(keys, singles, actions, strict=True)]


def test_randomness_comes_from_the_key_alone() -> None:
    env = RandomCoin(5)
    first, second, other = (jax.device_get(env.init(jax.random.key(seed))[0]) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.agent, second.agent)
    np.testing.assert_array_equal(first.coin, second.coin)
    assert (first.agent.tolist(), first.coin.tolist()) != (other.agent.tolist(), other.coin.tolist())


def test_starts_are_uniform_over_pairs_of_distinct_cells() -> None:
    size, count = 3, 36_000
    env = RandomCoin(size)
    states, timesteps = jax.device_get(jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(0), count)))
    assert np.all(timesteps.step_type == FIRST)
    agent, coin = (cells @ np.array([size, 1]) for cells in (states.agent, states.coin))
    counts = np.zeros((9, 9), int)
    np.add.at(counts, (agent, coin), 1)
    assert np.all(np.diag(counts) == 0)
    expected = count / 72
    others = counts[~np.eye(9, dtype=bool)]
    assert np.sum((others - expected) ** 2 / expected) < 71 + 5 * np.sqrt(2 * 71)  # chi-square with 71 degrees of freedom


def test_spec_describes_timesteps() -> None:
    env = RandomCoin()
    state, timestep = env.init(jax.random.key(0))
    assert timestep.observation.shape == env.spec.observation_shape == (15, 15, 3)
    assert timestep.observation.dtype == env.spec.observation_dtype
    assert env.spec.num_actions == len(env.spec.action_names) == 4
    assert env.max_episode_steps == 200
    _, timestep = env.step(jax.random.key(1), state, np.int32(0))
    assert int(timestep.step_type) in (MID, LAST)
    assert timestep.extras == {} and env.spec.extras == ()


@pytest.mark.parametrize(("size", "steps"), [(1, 10), (5, 0)])
def test_impossible_rooms_are_refused(size: int, steps: int) -> None:
    with pytest.raises(ValueError, match="Random Coin needs"):
        RandomCoin(size, steps)
