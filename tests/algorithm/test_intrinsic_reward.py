"""The intrinsic reward as the product of its two novelties."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm.intrinsic_reward import intrinsic_reward, return_discounts
from tests.oracles import intrinsic_reward as oracle

reward = jax.jit(intrinsic_reward)


# XLA takes numbers below the smallest normal one for 0 on CPUs; a novelty is never that small.
@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    episodic=hnp.arrays(np.float32, (6,), elements=st.floats(0, 1000, width=32, allow_subnormal=False)),
    alpha=hnp.arrays(np.float32, (6,), elements=st.floats(-50, 50, width=32, allow_subnormal=False)),
    max_factor=st.floats(1, 20, width=32),
)
def test_equals_its_twin_within_its_bounds(episodic: np.ndarray, alpha: np.ndarray, max_factor: float) -> None:
    actual = np.asarray(reward(episodic, alpha, max_factor))
    expected = [oracle.intrinsic_reward(float(r), float(a), max_factor) for r, a in zip(episodic, alpha, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert np.all(actual >= episodic) and np.all(actual <= episodic * np.float32(max_factor) * (1 + 1e-6))


def test_the_factor_is_clipped_on_both_sides() -> None:
    episodic = jnp.array([2.0, 3.0, 5.0, 7.0])
    alpha = jnp.array([-4.0, 1.0, 2.5, 90.0])
    np.testing.assert_allclose(reward(episodic, alpha, 5.0), [2.0, 3.0, 12.5, 35.0], rtol=1e-6)


def test_a_largest_factor_of_one_switches_distillation_off() -> None:
    episodic, alpha = jnp.array([0.0, 0.5, 2.0, 11.0]), jnp.array([1e9, -3.0, 4.0, 1.5])
    np.testing.assert_array_equal(reward(episodic, alpha, 1.0), episodic)


def test_life_long_novelty_cannot_pay_without_episodic_novelty() -> None:
    np.testing.assert_array_equal(reward(jnp.zeros(3), jnp.array([0.0, 3.0, 100.0]), 5.0), np.zeros(3))


def test_returns_end_where_the_episode_terminates_and_the_intrinsic_one_may_go_on() -> None:
    gamma, discount = jnp.array([0.9, 0.9, 0.5]), jnp.array([1.0, 0.0, 0.0])
    both = np.asarray(return_discounts(gamma, discount, 2, ends_with_episode=True))
    np.testing.assert_allclose(both, [[0.9, 0.0, 0.0]] * 2)
    extrinsic, intrinsic = np.asarray(return_discounts(gamma, discount, 2, ends_with_episode=False))
    np.testing.assert_allclose(extrinsic, [0.9, 0.0, 0.0])
    np.testing.assert_allclose(intrinsic, [0.9, 0.9, 0.5])
    np.testing.assert_allclose(return_discounts(gamma, discount, 1, ends_with_episode=False), [[0.9, 0.0, 0.0]])
