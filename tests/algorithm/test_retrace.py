"""Targets with traces against their twin, and what their coefficients must do; test_returns.py has what they share with n-step targets."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.retrace import soft_watkins_coefficients, transformed_trace_targets
from tests.algorithm.streams import RETRACE, assert_equals_twin, make_stream
from tests.algorithm.twins import TRANSFORMS
from tests.oracles import retrace as oracle


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("trace_lambda", [0.0, 0.5, 0.95, 1.0])
def test_equals_the_double_sum(name: str, trace_lambda: float) -> None:
    for seed in range(6):
        assert_equals_twin(RETRACE, make_stream(seed), trace_lambda, TRANSFORMS[name])


# Soft Watkins

soft_watkins = jax.jit(soft_watkins_coefficients)
trace_targets = jax.jit(transformed_trace_targets, static_argnames="transform")


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), trace_lambda=st.floats(0, 1, width=32), tolerance=st.floats(0, 2, width=32))
def test_soft_watkins_equals_its_twin(seed: int, trace_lambda: float, tolerance: float) -> None:
    """Coefficients, and targets with them, on streams with borders; values of both signs."""
    stream = make_stream(seed)
    given_to_both = stream.online, stream.policy, stream.actions, trace_lambda, tolerance
    found, expected = soft_watkins(*given_to_both), oracle.soft_watkins_coefficients(*given_to_both)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    (ours, *twins), state = TRANSFORMS["squashed"], (stream.values, stream.policy, stream.actions)
    wanted = oracle.trace_targets(*state, expected, *stream[5:], *twins)
    np.testing.assert_allclose(trace_targets(*state, found, *stream[5:], ours), wanted, rtol=2e-5, atol=2e-5)


def test_soft_watkins_goes_on_behind_an_action_that_is_nearly_greedy() -> None:
    """At kappa 0.01 a value of 0.995 beside 1, or of -1.005 beside -1, is good enough; 0.98 and -1.02 are not."""
    values = np.array([[1.0, 0.995], [1.0, 0.98], [-1.0, -1.005], [-1.0, -1.02]], np.float32)
    policy, actions = np.tile(np.array([1.0, 0.0], np.float32), (4, 1)), np.ones(4, np.int32)
    np.testing.assert_allclose(soft_watkins(values, policy, actions, 1.0, 0.01), [1, 0, 1, 0])
