"""Sequence priorities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from agent57_jax.algorithm.sequence_priority import one_step_error, sequence_priority
from tests.algorithm.twins import TRANSFORMS, assert_equals_twin, floats, masks
from tests.oracles import sequence_priority as oracle

LENGTH = 7

priority = jax.jit(sequence_priority)


def test_equals_its_twin() -> None:
    assert_equals_twin(sequence_priority, oracle.sequence_priority, floats(-100, 100, LENGTH), masks(LENGTH), st.floats(0, 1, width=32))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_one_step_error_equals_its_twin(name: str) -> None:
    transform, apply, invert = TRANSFORMS[name]
    numbers, discounts = floats(-50, 50, LENGTH), floats(0, 1, LENGTH)
    assert_equals_twin(
        lambda *drawn: one_step_error(*drawn, transform),
        np.vectorize(lambda *drawn: oracle.one_step_error(*drawn, apply, invert)),
        *(numbers, numbers, discounts, numbers),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("content", [np.nan, np.inf, -1e30, 0.0])
def test_invalid_content_has_no_influence(content: float) -> None:
    """Neither in the maximum nor in the mean, nor as one more zero. Also not compiled: XLA turns a product with a mask into a selection."""
    td_errors, valid = jnp.array([content, 2.0, -4.0, content]), jnp.array([False, True, True, False])
    for function in (priority, sequence_priority):
        np.testing.assert_allclose(function(td_errors, valid, 0.5), 3.5, rtol=1e-6)


def test_a_valid_nan_stays_visible() -> None:
    """The floor must not turn a poisoned error into the lowest priority."""
    assert np.isnan(priority(jnp.array([1.0, jnp.nan, 2.0]), jnp.ones((3,), bool), 0.9))
