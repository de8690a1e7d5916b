"""Sequence priorities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm.sequence_priority import PRIORITY_FLOOR, mixed_errors, one_step_error, sequence_priority
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform
from tests.oracles import n_step, value_transform
from tests.oracles import sequence_priority as oracle

LENGTH = 7

priority = jax.jit(sequence_priority)
errors = hnp.arrays(np.float32, (LENGTH,), elements=st.floats(-100, 100, width=32))
masks = hnp.arrays(np.bool_, (LENGTH,))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(td_errors=errors, valid=masks, eta=st.floats(0, 1, width=32))
def test_equals_its_twin_between_mean_and_maximum(td_errors: np.ndarray, valid: np.ndarray, eta: float) -> None:
    actual = float(priority(td_errors, valid, eta))
    np.testing.assert_allclose(actual, oracle.sequence_priority(list(td_errors), list(valid), eta, PRIORITY_FLOOR), rtol=1e-5)
    magnitudes = np.abs(td_errors[valid]).astype(np.float64) if valid.any() else np.zeros(1)
    assert max(magnitudes.mean(), PRIORITY_FLOOR) * (1 - 1e-5) <= actual <= max(magnitudes.max(), PRIORITY_FLOOR) * (1 + 1e-5)


def test_ends_of_eta() -> None:
    td_errors, valid = jnp.array([1.0, -5.0, 3.0]), jnp.array([True, True, True])
    np.testing.assert_allclose(priority(td_errors, valid, 1.0), 5.0, rtol=1e-6)
    np.testing.assert_allclose(priority(td_errors, valid, 0.0), 3.0, rtol=1e-6)
    np.testing.assert_allclose(priority(td_errors, valid, 0.9), 4.8, rtol=1e-6)


@pytest.mark.parametrize("content", [np.nan, np.inf, -1e30, 0.0])
def test_invalid_content_has_no_influence(content: float) -> None:
    """Neither in the maximum nor in the mean, nor as one more zero. Also not compiled: XLA turns a product with a mask into a selection."""
    td_errors, valid = jnp.array([content, 2.0, -4.0, content]), jnp.array([False, True, True, False])
    for function in (priority, sequence_priority):
        np.testing.assert_allclose(function(td_errors, valid, 0.5), 3.5, rtol=1e-6)


def test_floor() -> None:
    everything, nothing = jnp.ones((4,), bool), jnp.zeros((4,), bool)
    assert 0 < PRIORITY_FLOOR <= 1e-6
    assert float(priority(jnp.zeros(4), everything, 0.9)) == np.float32(PRIORITY_FLOOR)
    assert float(priority(jnp.full(4, 1e-9), everything, 0.9)) == np.float32(PRIORITY_FLOOR)
    assert float(priority(jnp.full(4, jnp.nan), nothing, 0.9)) == np.float32(PRIORITY_FLOOR)
    assert float(priority(jnp.full(4, 1e-5), everything, 0.9)) > PRIORITY_FLOOR


def test_a_valid_nan_stays_visible() -> None:
    """The floor must not turn a poisoned error into the lowest priority."""
    assert np.isnan(priority(jnp.array([1.0, jnp.nan, 2.0]), jnp.ones((3,), bool), 0.9))


def test_vmap_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    td_errors, valid = rng.standard_normal((5, LENGTH)).astype(np.float32), rng.uniform(size=(5, LENGTH)) < 0.7
    batched = jax.vmap(sequence_priority, in_axes=(0, 0, None))(td_errors, valid, 0.9)
    assert batched.shape == (5,)
    for row in range(5):
        np.testing.assert_allclose(batched[row], priority(td_errors[row], valid[row], 0.9), rtol=1e-6)


numbers = hnp.arrays(np.float32, (LENGTH,), elements=st.floats(-50, 50, width=32))
TRANSFORMS = {
    SQUASHED: (value_transform.squash, value_transform.unsquash),
    IDENTITY: (value_transform.identity, value_transform.identity),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    value=numbers,
    reward=numbers,
    discount=hnp.arrays(np.float32, (LENGTH,), elements=st.floats(0, 1, width=32)),
    greedy=numbers,
    transform=st.sampled_from(list(TRANSFORMS)),
)
def test_a_one_step_error_equals_its_twin_and_a_target_of_one_step(
    value: np.ndarray, reward: np.ndarray, discount: np.ndarray, greedy: np.ndarray, transform: ValueTransform
) -> None:
    apply, invert = TRANSFORMS[transform]
    actual = one_step_error(value, reward, discount, greedy, transform)
    expected = [oracle.one_step_error(*row, apply, invert) for row in zip(*map(np.float64, (value, reward, discount, greedy)), strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    # The best of two actions is the second.
    for i in range(LENGTH):
        pair = np.array([[value[i], 0.0], [greedy[i] - 1.0, greedy[i]]], np.float64)
        target = n_step.n_step_targets(
            pair, pair, np.float64(reward[i : i + 1]), np.float64(discount[i : i + 1]), np.ones(1, bool), 1, apply, invert
        )
        np.testing.assert_allclose(target[0] - np.float64(value[i]), expected[i], atol=1e-9)


def test_errors_of_two_value_functions_are_mixed_by_the_weight_of_their_policy() -> None:
    """Signs count: errors may cancel."""
    pair = jnp.array([[1.0, 2.0, -3.0], [10.0, -20.0, 30.0]])
    np.testing.assert_allclose(mixed_errors(pair, jnp.array([0.0, 0.1, 0.2])), [1.0, 0.0, 3.0], atol=1e-6)
    np.testing.assert_array_equal(mixed_errors(pair[:1], jnp.ones(3)), pair[0])
