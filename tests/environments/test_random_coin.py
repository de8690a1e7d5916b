"""The coin room against its plain twin, and where its episodes start."""

import jax
import numpy as np
import pytest

from agent57_jax.environments.random_coin import RandomCoin
from agent57_jax.types import FIRST, LAST
from tests.environments.twins import follow
from tests.oracles.random_coin import RandomCoinTwin


@pytest.mark.parametrize(("size", "max_episode_steps"), [(5, 30), (15, 200)])
def test_follows_its_twin_under_random_actions(size: int, max_episode_steps: int) -> None:
    played = follow(
        RandomCoin(size, max_episode_steps),
        [RandomCoinTwin(size, max_episode_steps) for _ in range(10)],
        restart=lambda twin, state, _: twin.reset(tuple(state.agent.tolist()), tuple(state.coin.tolist())),
        advance=lambda twin, action, _: twin.step(action),
        choose=lambda state, rng: rng.integers(0, 4, len(state.agent)),
        num_steps=250,
    )
    last = played.step_type == LAST
    for seen in (last & (played.discount == 0), last & (played.discount == 1), played.step_type == FIRST):
        assert np.sum(seen) > 5


def test_reaching_the_coin_at_the_limit_terminates() -> None:
    env = RandomCoin(5, max_episode_steps=1)
    state, _ = env.init(jax.random.key(0))
    state = state._replace(agent=np.array([2, 2], np.int32), coin=np.array([2, 3], np.int32))
    for action, discount, reward in ((1, 0, 1), (3, 1, 0)):
        _, timestep = env.step(jax.random.key(0), state, np.int32(action))
        assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (LAST, discount, reward)


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
