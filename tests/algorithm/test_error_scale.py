"""The scale of TD errors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm import error_scale as scale
from tests.algorithm.twins import assert_equals_twin, choices, floats, masks
from tests.oracles import error_scale as oracle

V, B, T, N = 2, 3, 5, 3


def both(running: jax.Array, errors: jax.Array, valid: jax.Array, policy: jax.Array) -> jax.Array:
    """The scale and the new running variance, [2, V, N]."""
    sums = scale.error_sums(errors, valid, policy, N)
    return jnp.stack([scale.error_scale(running, sums), scale.update_variance(running, sums)])


@pytest.mark.parametrize(
    ("index", "twin", "atol"),
    # The variance as a difference of means keeps an error of the size of the squares' rounding.
    [(0, oracle.error_scale, 2e-2), (1, oracle.update_variance, 1e-3)],
    ids=["scale", "variance"],
)
def test_equals_its_twin(index: int, twin: Callable[..., np.ndarray], atol: float) -> None:
    policies = hnp.arrays(np.int32, (B, T), elements=st.integers(0, N - 1))
    arguments = choices([0.0, 1e-3, 1.0, 400.0], V, N), floats(-50, 50, V, B, T), masks(B, T), policies
    assert_equals_twin(lambda *drawn: both(*drawn)[index], lambda *drawn: twin(*drawn, N), *arguments, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("content", [np.nan, np.inf, -1e30])
def test_what_is_no_experience_does_not_count(content: float) -> None:
    errors = np.arange(V * B * T, dtype=np.float32).reshape(V, B, T)
    policy, running = np.zeros((B, T), np.int32), np.zeros((V, N), np.float32)
    valid = np.arange(B * T).reshape(B, T) % 3 > 0
    odd = np.where(valid[None], errors, np.float32(content))
    np.testing.assert_array_equal(both(running, odd, valid, policy), both(running, errors, valid, policy))


def test_actors_divide_by_the_running_deviation_and_by_one_before_there_is_any() -> None:
    found = scale.acting_scale(jnp.array([[4.0, 0.0, 1e-12]]))
    np.testing.assert_allclose(found, [[2.0, 1.0, scale.MIN_SCALE]], rtol=1e-6)
