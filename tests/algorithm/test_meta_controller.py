"""The bandit against a deque, and what it must do by chance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.meta_controller import (
    BanditState,
    arm_statistics,
    greedy_arm,
    init_bandit,
    pooled_arm_statistics,
    record_returns,
    reliable_arm,
    select_arms,
)
from tests.algorithm.twins import choices, masks
from tests.oracles import meta_controller as oracle

N, M, W = 4, 3, 6  # arms, actors of one bandit, window

statistics = jax.jit(arm_statistics, static_argnames="num_arms")
greedy = jax.jit(greedy_arm, static_argnames="num_arms")
select = jax.jit(select_arms, static_argnames="num_arms")
record = jax.jit(record_returns)
pool = jax.jit(pooled_arm_statistics, static_argnames="num_arms")

KEY = jax.random.key(0)
ONE = jnp.ones((1,), bool)


def played(episodes: list[tuple[int, float]]) -> BanditState:
    """A bandit after these episodes, recorded one at a time; its sweep is long over."""
    bandit = init_bandit(W)
    for arm, episode_return in episodes:
        bandit = record(bandit, ONE, jnp.array([arm], jnp.int32), jnp.array([episode_return], jnp.float32))
    return bandit._replace(started=jnp.int32(1000))


def assert_equals_twin(bandit: BanditState, twin: oracle.Bandit) -> None:
    arms = range(twin.num_arms)
    counts, means = statistics(bandit, twin.num_arms)
    np.testing.assert_array_equal(counts, [len(twin.returns_of(arm)) for arm in arms])
    np.testing.assert_allclose(means, [twin.mean(arm) for arm in arms], rtol=1e-6, atol=1e-5)
    assert bandit.recorded >= len(twin.episodes)
    assert bandit.started == twin.started
    chosen = greedy(bandit, twin.num_arms)
    assert chosen.dtype == jnp.int32
    if chosen != twin.greedy_arm():  # only rounding may turn a tie
        assert math.isclose(twin.mean(int(chosen)), twin.mean(twin.greedy_arm()), rel_tol=1e-6, abs_tol=1e-5)
        assert twin.returns_of(int(chosen))


@pytest.mark.parametrize(("num_arms", "window"), [(N, W), (N, M), (1, W)])
@settings(max_examples=30)
@given(
    first_arm=st.integers(0, N - 1),
    ucb_bonus=st.sampled_from([0.0, 1.0, 25.0]),
    calls=st.lists(st.tuples(masks(M), masks(M), choices(list(range(-20, 21)), M)), max_size=12),
)
def test_equals_its_twin(
    num_arms: int, window: int, first_arm: int, ucb_bonus: float, calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> None:
    """Shared by three actors, also with a window of no more: any of them start and finish in each call. Nothing is left to chance."""
    bandit, twin = init_bandit(window), oracle.Bandit(window, num_arms)
    arms_of, first_arm = np.zeros(M, np.int32), first_arm % num_arms
    assert_equals_twin(bandit, twin)
    for starting, finished, returns in calls:
        arms, bandit = select(KEY, bandit, starting, jnp.int32(first_arm), num_arms, 0.0, ucb_bonus)
        assert arms.shape == (M,) and arms.dtype == jnp.int32
        for actor in np.flatnonzero(starting):
            expected, arms_of[actor] = twin.start_episode(first_arm, ucb_bonus), int(arms[actor])
            if arms_of[actor] != expected:  # only rounding may turn a tie
                assert twin.started > num_arms
                bounds = [twin.upper_bound(arm, ucb_bonus) for arm in (arms_of[actor], expected)]
                assert math.isclose(*bounds, rel_tol=1e-6, abs_tol=1e-5)
        # What others hold has no influence.
        bandit = record(bandit, finished, np.where(finished, arms_of, 99), np.where(finished, returns, np.nan))
        for actor in np.flatnonzero(finished):
            twin.record(arms_of[actor], returns[actor])
        assert_equals_twin(bandit, twin)


def together(bandits: list[BanditState]) -> BanditState:
    """Several bandits as one record, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bandits)


@settings(max_examples=40)
@given(
    windows=st.lists(st.lists(st.tuples(st.integers(0, N - 1), st.integers(-20, 20)), max_size=10), min_size=6, max_size=6),
    far=st.sampled_from([0.0, 1e5]),
)
def test_pooled_arms_equal_their_twin(windows: list[list[tuple[int, int]]], far: float) -> None:
    """Six bandits, with windows that are empty, full and overfull; also where deviations are small beside the returns."""
    episodes_of = [[(arm, far + episode_return) for arm, episode_return in episodes] for episodes in windows]
    twins = [oracle.Bandit(W, N) for _ in windows]
    for one, episodes in zip(twins, episodes_of, strict=True):
        for arm, episode_return in episodes:
            one.record(arm, episode_return)
    twin = oracle.Pool(twins, N)
    pooled = pool(together([played(episodes) for episodes in episodes_of]), N)
    np.testing.assert_array_equal(pooled.counts, [len(returns) for returns in twin.returns])
    np.testing.assert_allclose(pooled.means, [twin.mean(arm) for arm in range(N)], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(pooled.deviation, twin.deviation(), rtol=1e-4, atol=1e-7 * far)
    chosen = reliable_arm(pooled)
    assert chosen.dtype == jnp.int32
    if int(chosen) != twin.reliable_arm():  # only rounding may turn a tie
        assert twin.returns[int(chosen)]
        assert math.isclose(twin.lower_bound(int(chosen)), twin.lower_bound(twin.reliable_arm()), rel_tol=1e-6, abs_tol=1e-4)


@pytest.mark.parametrize(
    ("episodes", "greedy_one", "next_one"),
    [
        ([(3, 4.0), (1, 4.0), (2, 1.0), (0, 0.0)], 1, 1),  # the first of equals
        ([(3, 1.0), (2, 1.0)], 2, 0),  # an arm without a pull is unbounded, but not the best
        ([(2, -7.0), (3, -2.0), (1, -9.0)], 3, 0),  # not even if the others are below what it reads, 0
        ([(0, -5.0), *[(arm, 50.0) for arm in (1, 2, 3)] * 2], 1, 0),  # it has left the window
    ],
)
def test_equal_and_unknown_arms(episodes: list[tuple[int, float]], greedy_one: int, next_one: int) -> None:
    bandit = played(episodes)
    assert greedy(bandit, N) == greedy_one
    assert select(KEY, bandit, ONE, jnp.int32(0), N, 0.0)[0][0] == next_one


def test_share_of_exploration() -> None:
    """Independent among the actors of one call, and uniform over all arms."""
    draws = 4000
    bandit = played([(0, 1.0), (1, 2.0), (2, 50.0), (3, 4.0)])

    def shares(arms: jax.Array) -> np.ndarray:
        return np.bincount(np.asarray(arms), minlength=N) / draws

    none, half, always = (select(KEY, bandit, jnp.ones((draws,), bool), jnp.int32(0), N, share)[0] for share in (0.0, 0.5, 1.0))
    keys = jax.random.split(jax.random.key(1), draws)
    in_many_calls = jax.vmap(lambda key: select_arms(key, bandit, ONE, jnp.int32(0), N, 0.5)[0][0])(keys)
    for arms in (half, in_many_calls):
        # Four standard deviations of a binomial share are 0.032 at most.
        np.testing.assert_allclose(shares(arms), [0.125, 0.125, 0.625, 0.125], atol=0.032)
    np.testing.assert_allclose(shares(always), [0.25] * 4, atol=0.032)
    np.testing.assert_array_equal(none, np.full(draws, 2))
