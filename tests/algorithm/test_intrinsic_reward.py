"""The intrinsic reward as the product of its two novelties."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from agent57_jax.algorithm.intrinsic_reward import intrinsic_reward, return_discounts
from tests.algorithm.twins import assert_equals_twin, floats
from tests.oracles import intrinsic_reward as oracle


def test_equals_its_twin_within_its_bounds() -> None:
    factors = st.floats(1, 20, width=32)
    assert_equals_twin(intrinsic_reward, np.vectorize(oracle.intrinsic_reward), floats(0, 1000, 6), floats(-50, 50, 6), factors, rtol=1e-6)


def test_returns_end_where_the_episode_terminates_and_the_intrinsic_one_may_go_on() -> None:
    gamma, discount = jnp.array([0.9, 0.9, 0.5]), jnp.array([1.0, 0.0, 0.0])
    for num_values, ends_with_episode, expected in (
        (2, True, [[0.9, 0.0, 0.0], [0.9, 0.0, 0.0]]),
        (2, False, [[0.9, 0.0, 0.0], [0.9, 0.9, 0.5]]),
        (1, False, [[0.9, 0.0, 0.0]]),
    ):
        np.testing.assert_allclose(return_discounts(gamma, discount, num_values, ends_with_episode), expected)
