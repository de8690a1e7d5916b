"""The corridor against its plain twin, when its limit changes, and which discounts are best under each limit."""

import jax
import numpy as np
import pytest

from agent57_jax.algorithm.policy_family import ngu_discounts
from agent57_jax.environments.shifting_corridor import ShiftingCorridor, ShiftingCorridorState
from agent57_jax.types import FIRST, LAST, MID
from configs import shifting_corridor as config
from tests.environments.twins import follow
from tests.oracles import shifting_corridor as oracle
from tests.oracles.shifting_corridor import ShiftingCorridorTwin

ENV = ShiftingCorridor(12, 60, phase_steps=100)
STEP = jax.jit(ENV.step)


def state_at(cell: int, limit: int = 60, clock: int = 0, steps: int = 0) -> ShiftingCorridorState:
    state, _ = ENV.init(jax.random.key(0))
    numbers = {"cell": cell, "clock": clock, "limit": limit, "step_type": MID, "episode_length": steps}
    return state._replace(**{name: np.int32(number) for name, number in numbers.items()})


@pytest.mark.parametrize(("size", "max_episode_steps", "phase_steps"), [(5, 9, 13), (12, 60, 150)])
def test_follows_its_twin_under_random_actions(size: int, max_episode_steps: int, phase_steps: int) -> None:
    played = follow(
        ShiftingCorridor(size, max_episode_steps, phase_steps),
        [ShiftingCorridorTwin(size, max_episode_steps, phase_steps) for _ in range(10)],
        restart=lambda twin, state, _: twin.reset(int(state.cell)),
        advance=lambda twin, action, _: twin.step(action),
        choose=lambda state, rng: rng.integers(0, 2, len(state.cell)),
        num_steps=400,
    )
    last, is_long = played.step_type == LAST, played.extras["long_limit"]
    ends = (played.reward == 0.5, played.reward == 1, played.discount == 1, is_long == 1, is_long == 0)
    for seen in (played.step_type == FIRST, *(last & end for end in ends)):
        assert np.sum(seen) > 5


def test_an_end_at_the_limit_terminates() -> None:
    for cell, action, reward in ((1, 0, 0.5), (10, 1, 1.0)):
        _, timestep = STEP(jax.random.key(0), state_at(cell, limit=6, steps=5), np.int32(action))
        assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (LAST, 0, reward)
        _, timestep = STEP(jax.random.key(0), state_at(cell, limit=6, steps=5), np.int32(1 - action))
        assert (int(timestep.step_type), float(timestep.discount), float(timestep.reward)) == (LAST, 1, 0)


def test_the_limit_of_an_episode_is_that_of_its_start() -> None:
    ended = state_at(5)._replace(step_type=np.int32(LAST))
    for clock, limit in ((0, 60), (98, 60), (99, 6), (198, 6), (199, 60)):
        state, timestep = STEP(jax.random.key(0), ended._replace(clock=np.int32(clock)), np.int32(0))
        assert (int(timestep.step_type), int(state.limit)) == (FIRST, limit), clock
        assert float(timestep.extras["long_limit"]) == (limit == 60)
    state, timestep = STEP(jax.random.key(0), state_at(5, limit=60, clock=99, steps=30), np.int32(0))
    assert (int(state.clock), int(state.limit), int(timestep.step_type)) == (100, 60, MID)


def test_starts_are_where_they_should_be() -> None:
    count = 40_000
    env = ShiftingCorridor(12)
    states, timesteps = jax.device_get(jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.key(0), count)))
    assert np.all(timesteps.step_type == FIRST)
    expected = count * oracle.start_probabilities(12)
    counts = np.bincount(states.cell, minlength=12)
    assert counts[0] == counts[-1] == 0
    inner = slice(1, -1)
    chi_square = np.sum((counts[inner] - expected[inner]) ** 2 / expected[inner])
    assert chi_square < 9 + 5 * np.sqrt(2 * 9)  # 9 degrees of freedom


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_the_best_discount_of_the_config_differs_between_the_phases(epsilon: float) -> None:
    task, policy = config.get_config().environment, config.get_config().policy
    size, limits = task.grid_size, (task.max_episode_steps, task.grid_size // 2)
    gammas = ngu_discounts(policy.num_policies, policy.gamma_1, policy.gamma_2)
    actions = [oracle.best_actions(size, gamma) for gamma in gammas]
    in_long, in_short = ([oracle.expected_return(policy, limit, epsilon) for policy in actions] for limit in limits)
    # Far-sighted policies lose most of their reward under the short limit, short-sighted ones lose nothing.
    far, near = slice(0, 3), slice(4, 8)
    assert min(in_long[far]) > 0.99
    assert max(in_long[3:]) < 0.8
    assert max(in_long[near]) < 0.55
    assert min(in_short[near]) > 0.5
    assert max(in_short[far]) < 0.1
    assert max(in_short[:4]) < 0.3
    # No arm is good all the time, so a chooser that follows the phases beats each, even if it explores half of the time.
    fixed = (np.array(in_long) + in_short) / 2
    follower = (max(in_long) + max(in_short)) / 2
    explorer = 0.5 * follower + 0.5 * np.mean(fixed)
    assert follower > max(fixed) + 0.2
    assert explorer > max(fixed) + 0.1
    for gamma in gammas:  # where most episodes start, the better action is better by more than a network's error
        left, right = oracle.action_values(size, gamma)[1 : size // 5 + 1].T
        assert np.min(np.abs(left - right)) > 0.02, gamma


@pytest.mark.parametrize("gamma", [0.5, 0.8, 0.92, 0.98])
def test_values_are_the_better_of_two_walks(gamma: float) -> None:
    """The twin's value iteration against the closed form."""
    cells = np.arange(1, 11)
    walks = np.maximum(0.5 * gamma ** (cells - 1.0), gamma ** (10.0 - cells))
    np.testing.assert_allclose(oracle.action_values(12, gamma)[1:-1].max(axis=1), walks, rtol=1e-12)


def test_exact_returns_are_what_episodes_give() -> None:
    env = ShiftingCorridor(12, 60, phase_steps=400)
    actions = jax.numpy.asarray(oracle.best_actions(12, 0.92))
    num_envs = 200

    def once(carry, key):
        state, timestep = carry
        state, timestep = jax.vmap(env.step)(jax.random.split(key, num_envs), state, actions[state.cell])
        return (state, timestep), (timestep.step_type == LAST, timestep.episode_return, timestep.extras["long_limit"])

    start = jax.vmap(env.init)(jax.random.split(jax.random.key(1), num_envs))
    _, (ended, returns, long) = jax.device_get(jax.jit(lambda: jax.lax.scan(once, start, jax.random.split(jax.random.key(2), 800)))())
    for limit, is_phase in ((60, long == 1), (6, long == 0)):
        got = returns[ended & is_phase]
        assert abs(got.mean() - oracle.expected_return(np.asarray(actions), limit)) < 5 * got.std() / np.sqrt(got.size), limit
