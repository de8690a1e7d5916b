"""The bandit against a deque, and what it must do by chance."""

import math
from collections.abc import Callable

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
from tests.oracles import meta_controller as oracle

N, M, W = 4, 3, 6  # arms, actors of one bandit, window

statistics = jax.jit(arm_statistics, static_argnames="num_arms")
greedy = jax.jit(greedy_arm, static_argnames="num_arms")
select = jax.jit(select_arms, static_argnames="num_arms")
record = jax.jit(record_returns)
pool = jax.jit(pooled_arm_statistics, static_argnames="num_arms")

KEY = jax.random.key(0)
ONE = jnp.ones((1,), bool)


def played(episodes: list[tuple[int, float]], window: int = W, started: int | None = None) -> BanditState:
    """A bandit after these episodes, recorded one at a time; unless told, its sweep is long over."""
    bandit = init_bandit(window)
    for arm, episode_return in episodes:
        bandit = record(bandit, ONE, jnp.array([arm], jnp.int32), jnp.array([episode_return], jnp.float32))
    return bandit._replace(started=jnp.int32(1000 if started is None else started))


def assert_equals_twin(bandit: BanditState, twin: oracle.Bandit) -> None:
    counts, means = statistics(bandit, N)
    np.testing.assert_array_equal(counts, [len(twin.returns_of(arm)) for arm in range(N)])
    np.testing.assert_allclose(means, [twin.mean(arm) for arm in range(N)], rtol=1e-6, atol=1e-5)
    assert bandit.recorded >= len(twin.episodes)
    assert bandit.started == twin.started
    chosen = int(greedy(bandit, N))
    if chosen != twin.greedy_arm():  # only rounding may turn a tie
        assert math.isclose(twin.mean(chosen), twin.mean(twin.greedy_arm()), rel_tol=1e-6, abs_tol=1e-5)
        assert twin.returns_of(chosen)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    first_arm=st.integers(0, N - 1),
    ucb_bonus=st.sampled_from([0.0, 1.0, 25.0]),
    calls=st.lists(
        st.tuples(
            st.lists(st.booleans(), min_size=M, max_size=M),
            st.lists(st.booleans(), min_size=M, max_size=M),
            st.lists(st.integers(-20, 20), min_size=M, max_size=M),
        ),
        max_size=12,
    ),
)
def test_equals_its_twin(first_arm: int, ucb_bonus: float, calls: list[tuple[list[bool], list[bool], list[int]]]) -> None:
    """Shared by three actors: any of them start and finish in each call. Without exploration nothing is left to chance."""
    bandit, twin = init_bandit(W), oracle.Bandit(W, N)
    arms_of = np.zeros(M, np.int32)
    for starting, finished, returns in calls:
        arms, bandit = select(KEY, bandit, jnp.array(starting), jnp.int32(first_arm), N, 0.0, ucb_bonus)
        assert arms.shape == (M,) and arms.dtype == jnp.int32
        for actor in range(M):
            if starting[actor]:
                expected, arms_of[actor] = twin.start_episode(first_arm, ucb_bonus), int(arms[actor])
                if arms_of[actor] != expected:  # only rounding may turn a tie
                    assert twin.started > N
                    bounds = [twin.upper_bound(arm, ucb_bonus) for arm in (arms_of[actor], expected)]
                    assert math.isclose(*bounds, rel_tol=1e-6, abs_tol=1e-5)
        bandit = record(bandit, jnp.array(finished), arms_of, jnp.array(returns, jnp.float32))
        for actor in range(M):
            if finished[actor]:
                twin.record(arms_of[actor], returns[actor])
        assert_equals_twin(bandit, twin)


def together(bandits: list[BanditState]) -> BanditState:
    """Several bandits as one record, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bandits)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    windows=st.lists(st.lists(st.tuples(st.integers(0, N - 1), st.integers(-20, 20)), max_size=10), min_size=6, max_size=6),
    far=st.sampled_from([0.0, 1e5]),
)
def test_pooled_arms_equal_their_twin(windows: list[list[tuple[int, int]]], far: float) -> None:
    """Six bandits, with windows that are empty, full and overfull; also where deviations are small beside the returns."""
    twins = [oracle.Bandit(W, N) for _ in windows]
    for twin, episodes in zip(twins, windows, strict=True):
        for arm, episode_return in episodes:
            twin.record(arm, far + episode_return)
    twin = oracle.Pool(twins, N)
    pooled = pool(together([played([(arm, far + r) for arm, r in episodes]) for episodes in windows]), N)
    np.testing.assert_array_equal(pooled.counts, [len(returns) for returns in twin.returns])
    np.testing.assert_allclose(pooled.means, [twin.mean(arm) for arm in range(N)], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(pooled.deviation, twin.deviation(), rtol=1e-4, atol=1e-7 * far)
    chosen = reliable_arm(pooled)
    assert chosen.dtype == jnp.int32
    if int(chosen) != twin.reliable_arm():  # only rounding may turn a tie
        assert twin.returns[int(chosen)]
        assert math.isclose(twin.lower_bound(int(chosen)), twin.lower_bound(twin.reliable_arm()), rel_tol=1e-6, abs_tol=1e-4)


def test_a_lucky_episode_does_not_beat_a_mean_of_many() -> None:
    """Bounds: 3 - 1.26 / sqrt(12) = 2.64 for arm 1 and 3.5 - 1.26 = 2.24 for arm 2, which has the larger mean."""
    bandits = [played([(0, 0.0), (1, 3.0), (1, 3.0), (1, 3.0), (1, 3.0)]) for _ in range(3)] + [played([(2, 3.5)])]
    pooled = pool(together(bandits), N)
    np.testing.assert_array_equal(pooled.counts, [3, 12, 1, 0])
    assert int(jnp.argmax(pooled.means)) == 2
    assert reliable_arm(pooled) == 1


def test_pooled_returns_are_told_apart_by_their_arms_alone() -> None:
    """Every bandit prefers arm 0, of which each has seen little; together they know better."""
    bandits = [played([(0, 9.0)]), *[played([(0, -7.0), (3, -5.0), (3, -6.0)]) for _ in range(3)]]
    pooled = pool(together(bandits), N)
    np.testing.assert_allclose(pooled.means, [-3.0, 0.0, 0.0, -5.5])
    assert greedy(bandits[0], N) == 0 and greedy(bandits[1], N) == 3
    assert reliable_arm(pooled) == 0 and pooled.counts[1] == 0  # arms without a pull read 0, which would be the best


def test_a_pool_that_has_seen_nothing() -> None:
    pooled = pool(together([init_bandit(W)] * 2), N)
    assert not any(np.any(leaf) for leaf in pooled)
    assert reliable_arm(pooled) == 0


@pytest.mark.parametrize("first_arm", [0, 1, 3])
def test_first_episodes_sweep_the_arms(first_arm: int) -> None:
    """Even where exploration is certain, and whatever the returns."""
    bandit = init_bandit(W)
    for episode in range(N):
        arms, bandit = select(jax.random.key(episode), bandit, ONE, jnp.int32(first_arm), N, 1.0)
        assert int(arms[0]) == (first_arm + episode) % N
        bandit = record(bandit, ONE, arms, jnp.array([100.0 - episode]))
    assert bandit.started == N and bandit.recorded == N


def test_actors_that_start_together_sweep_together() -> None:
    bandit = init_bandit(W)
    arms, bandit = select(KEY, bandit, jnp.array([True, False, True]), jnp.int32(3), N, 0.0)
    assert (int(arms[0]), int(arms[2])) == (3, 0)
    assert bandit.started == 2
    arms, bandit = select(KEY, bandit, jnp.zeros((3,), bool), jnp.int32(3), N, 0.0)
    assert bandit.started == 2
    # Two arms are left of the sweep; the third actor gets what the bounds say, and nothing was recorded yet.
    arms, bandit = select(KEY, bandit, jnp.ones((3,), bool), jnp.int32(3), N, 0.0)
    np.testing.assert_array_equal(arms, [1, 2, 0])
    assert bandit.started == 5


def test_fleet_covers_all_arms_at_once() -> None:
    bandits = jax.vmap(lambda _: init_bandit(W))(jnp.arange(N))
    keys = jax.random.split(KEY, N)
    arms, _ = jax.vmap(lambda key, bandit, first: select_arms(key, bandit, ONE, first, N, 0.5))(keys, bandits, jnp.arange(N))
    np.testing.assert_array_equal(np.sort(arms[:, 0]), np.arange(N))


def test_window_slides() -> None:
    bandit = played([(0, 100.0), (1, 2.0), (1, 4.0), (2, 7.0), (3, 1.0), (3, 2.0), (3, 6.0)])  # one more than the window
    counts, means = statistics(bandit, N)
    np.testing.assert_array_equal(counts, [0, 2, 1, 3])
    np.testing.assert_allclose(means, [0.0, 3.0, 7.0, 3.0], rtol=1e-6)
    assert bandit.recorded == 7
    assert greedy(bandit, N) == 2


def test_an_arm_that_left_the_window_is_unbounded() -> None:
    episodes = [(0, -5.0)] + [(arm, 50.0) for arm in (1, 2, 3)] * 2
    within = played(episodes[:6])
    assert select(KEY, within, ONE, jnp.int32(0), N, 0.0)[0][0] == 3  # played once, the others of equal mean twice
    outside = played(episodes)
    assert select(KEY, outside, ONE, jnp.int32(0), N, 0.0)[0][0] == 0


@pytest.mark.parametrize(("ucb_bonus", "expected"), [(0.0, 1), (2.0, 1), (2.7, 2)])
def test_bound_weighs_mean_against_count(ucb_bonus: float, expected: int) -> None:
    """Bounds: 3 + b / sqrt(3) for arm 1 and 2 + b for arm 2, which meet at b = 2.37."""
    bandit = played([(0, 0.0), (1, 3.0), (1, 3.0), (1, 3.0), (2, 2.0), (0, 0.0)])
    assert select(KEY, bandit, ONE, jnp.int32(0), 3, 0.0, ucb_bonus)[0][0] == expected


def test_share_of_exploration() -> None:
    """Independent among the actors of one call, and uniform over all arms."""
    draws = 4000
    bandit = played([(0, 1.0), (1, 2.0), (2, 50.0), (3, 4.0)])
    in_one_call = select(KEY, bandit, jnp.ones((draws,), bool), jnp.int32(0), N, 0.5)[0]
    keys = jax.random.split(jax.random.key(1), draws)
    in_many_calls = jax.vmap(lambda key: select_arms(key, bandit, ONE, jnp.int32(0), N, 0.5)[0][0])(keys)
    for arms in (in_one_call, in_many_calls):
        shares = np.bincount(np.asarray(arms), minlength=N) / draws
        # Four standard deviations of a binomial share are 0.032 at most.
        np.testing.assert_allclose(shares, [0.125, 0.125, 0.625, 0.125], atol=0.032)
    always = np.bincount(np.asarray(select(KEY, bandit, jnp.ones((draws,), bool), jnp.int32(0), N, 1.0)[0]), minlength=N) / draws
    np.testing.assert_allclose(always, [0.25] * 4, atol=0.032)
    assert np.all(select(KEY, bandit, jnp.ones((draws,), bool), jnp.int32(0), N, 0.0)[0] == 2)


def test_several_episodes_end_in_one_call_across_the_end_of_the_ring() -> None:
    bandit = played([(0, 1.0), (0, 2.0), (0, 3.0), (0, 4.0), (0, 5.0)])
    finished = jnp.array([True, False, True, True])
    arms, returns = jnp.array([1, 3, 2, 1], jnp.int32), jnp.array([10.0, 999.0, 30.0, 40.0])
    bandit = record(bandit, finished, arms, returns)
    assert bandit.recorded == 8
    # 10 fills the last slot; 30 and 40 take the place of 1 and 2.
    np.testing.assert_array_equal(bandit.arms, [2, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(bandit.returns, [30.0, 40.0, 3.0, 4.0, 5.0, 10.0])
    counts, means = statistics(bandit, N)
    np.testing.assert_array_equal(counts, [3, 2, 1, 0])
    np.testing.assert_allclose(means, [4.0, 25.0, 30.0, 0.0], rtol=1e-6)


def test_as_many_actors_as_the_window_replace_all_of_it() -> None:
    bandit = played([(0, 1.0)] * 4)
    bandit = record(bandit, jnp.ones((W,), bool), jnp.array([0, 1, 1, 2, 2, 2], jnp.int32), jnp.arange(W, dtype=jnp.float32))
    counts, means = statistics(bandit, N)
    np.testing.assert_array_equal(counts, [1, 2, 3, 0])
    np.testing.assert_allclose(means, [0.0, 1.5, 4.0, 0.0], rtol=1e-6)


def test_what_did_not_finish_has_no_influence() -> None:
    before = played([(1, 3.0), (2, 5.0)])
    nothing = record(before, jnp.zeros((2,), bool), jnp.array([0, 99], jnp.int32), jnp.array([np.nan, np.inf]))
    for actual, expected in zip(nothing, before, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_bandit_that_has_seen_nothing() -> None:
    bandit = init_bandit(W)
    counts, means = statistics(bandit, N)
    np.testing.assert_array_equal(counts, np.zeros(N))
    np.testing.assert_array_equal(means, np.zeros(N))
    assert greedy(bandit, N) == 0
    assert greedy(bandit, N).dtype == jnp.int32


def test_greedy_arm_is_a_pulled_one() -> None:
    """Means of unpulled arms read 0, which beats only negative returns; they don't count."""
    assert greedy(played([(2, -7.0), (3, -2.0), (1, -9.0)]), N) == 3
    assert greedy(played([(3, 4.0), (1, 4.0), (2, 1.0)]), N) == 1  # the first of equals
    assert greedy(played([(1, 10.0), (2, 6.0), (1, 0.0)]), N) == 2  # the mean, not the sum or the best


def test_one_arm() -> None:
    bandit = init_bandit(W)
    for _ in range(3):
        arms, bandit = select(KEY, bandit, jnp.ones((2,), bool), jnp.int32(0), 1, 0.5)
        np.testing.assert_array_equal(arms, [0, 0])
        bandit = record(bandit, jnp.ones((2,), bool), arms, jnp.array([1.0, 2.0]))
    assert greedy(bandit, 1) == 0


def test_selection_does_not_touch_the_window() -> None:
    before = played([(1, 3.0), (2, 5.0)])
    after = select(KEY, before, jnp.ones((2,), bool), jnp.int32(0), N, 0.5)[1]
    np.testing.assert_array_equal(after.arms, before.arms)
    np.testing.assert_array_equal(after.returns, before.returns)
    assert after.recorded == before.recorded


def by_loop(function: Callable[..., tuple[jax.Array, ...]], *arguments: tuple[jax.Array, ...] | jax.Array) -> list[tuple[jax.Array, ...]]:
    """The function for one bandit after the other."""
    size = jax.tree.leaves(arguments)[0].shape[0]
    return [function(*jax.tree.map(lambda leaf, i=i: leaf[i], arguments)) for i in range(size)]


def test_vmap_over_shared_bandits_equals_the_loop() -> None:
    """Five bandits of three actors each, over several rounds."""
    size, rounds = 5, 8
    rng = np.random.default_rng(0)
    bandits = jax.vmap(lambda _: init_bandit(W))(jnp.arange(size))
    first_arms = jnp.arange(size, dtype=jnp.int32)

    def one_round(
        key: jax.Array, bandit: BanditState, starting: jax.Array, first_arm: jax.Array, finished: jax.Array, returns: jax.Array
    ) -> tuple[jax.Array, ...]:
        arms, bandit = select_arms(key, bandit, starting, first_arm, N, 0.5)
        return arms, *record_returns(bandit, finished, arms, returns), greedy_arm(bandit, N)

    batched, single = jax.jit(jax.vmap(one_round)), jax.jit(one_round)
    for step in range(rounds):
        keys = jax.random.split(jax.random.key(step), size)
        starting, finished = jnp.asarray(rng.uniform(size=(size, M)) < 0.7), jnp.asarray(rng.uniform(size=(size, M)) < 0.7)
        returns = jnp.asarray(1000.0 * np.arange(size)[:, None] + rng.integers(0, 9, (size, M)), jnp.float32)
        arguments = (keys, bandits, starting, first_arms, finished, returns)
        together = batched(*arguments)
        for row, alone in enumerate(by_loop(single, *arguments)):
            for actual, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(actual[row], expected)
        bandits = BanditState(*together[1:-1])
    held = np.arange(W) < np.asarray(bandits.recorded)[:, None]
    for row in range(size):  # no return strayed to another bandit
        assert np.all(np.asarray(bandits.returns)[row][held[row]] // 1000 == row)
