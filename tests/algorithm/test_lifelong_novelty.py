"""Running moments against a list of everything seen, and the life-long factor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.lifelong_novelty import (
    RunningMoments,
    distillation_reward,
    init_moments,
    lifelong_factor,
    standard_deviation,
    update_moments,
)
from tests.algorithm.twins import floats, masks
from tests.oracles import lifelong_novelty as oracle

BATCH = 6
FAR = 1e7

update = jax.jit(update_moments)
factor = jax.jit(lifelong_factor)
reward = jax.jit(distillation_reward)


def after(*batches: Any) -> RunningMoments:
    """Moments of a stream whose values all count."""
    moments = init_moments()
    for batch in batches:
        values = np.asarray(batch, np.float32)
        moments = update(moments, values, np.ones_like(values), FAR)
    return moments


def assert_equal(moments: RunningMoments, expected: RunningMoments) -> None:
    for actual, wanted in zip(moments, expected, strict=True):
        assert actual.shape == () and actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


def assert_equals_twin(moments: RunningMoments, twin: oracle.RunningMoments, rtol: float = 1e-4) -> None:
    scale = max((abs(value) for value in twin.values), default=0.0)
    np.testing.assert_allclose(moments.weight, twin.count(), rtol=1e-5)
    np.testing.assert_allclose(moments.mean, twin.mean(), rtol=rtol, atol=1e-5 * scale)
    np.testing.assert_allclose(standard_deviation(moments), twin.standard_deviation(), rtol=rtol, atol=1e-5 * scale)


@settings(max_examples=40)
@given(batches=st.lists(st.tuples(floats(-100, 100, BATCH), masks(BATCH)), max_size=8), horizon=st.sampled_from([4.0, 10.0, FAR]))
def test_equals_its_twin(batches: list[tuple[np.ndarray, np.ndarray]], horizon: float) -> None:
    """Old values fade beyond the horizon, of which one is smaller than a batch."""
    moments, twin = init_moments(), oracle.RunningMoments(horizon)
    assert_equals_twin(moments, twin)
    for values, counts in batches:
        moments = update(moments, values, counts.astype(np.float32), horizon)
        twin.update(list(values), list(counts))
        assert_equals_twin(moments, twin)
        assert moments.squares >= 0


@pytest.mark.parametrize("content", [np.nan, np.inf, -np.inf, 3e38])
def test_content_without_weight_has_no_influence(content: float) -> None:
    start = after([1.0, 4.0])
    values, weights = np.array([content, 2.0, content, 9.0], np.float32), np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    assert_equal(update(start, values, weights, FAR), after([1.0, 4.0], [2.0, 9.0]))
    for moments in (start, init_moments()):
        assert_equal(update(moments, np.full_like(values, content), np.zeros_like(values), FAR), moments)


def test_spread_of_large_nearly_constant_values() -> None:
    """Mean of squares less square of mean would be wrong by more than the spread itself, or negative."""
    batches = (1e5 + np.random.default_rng(1).integers(0, 2, (50, 64))).astype(np.float32)
    moments = after(*batches)
    assert moments.squares >= 0
    np.testing.assert_allclose(standard_deviation(moments), batches.astype(np.float64).std(), rtol=1e-2)
    np.testing.assert_allclose(moments.mean, batches.astype(np.float64).mean(), rtol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 64, 1000])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1.0 / 3.0, 1e-6, 123.456, 1e6 + 0.1])
def test_a_constant_or_empty_stream_has_no_spread(constant: float, size: int) -> None:
    """Rounding noise is no scale to divide by: alpha stays 1 and the reward 0, whatever the error."""
    moments = after(*[np.full(size, constant)] * 20) if size else init_moments()
    np.testing.assert_allclose(moments.mean, np.float32(constant) if size else 0.0, rtol=1e-6)
    errors = np.array([constant, 2 * constant + 5], np.float32)
    np.testing.assert_array_equal(factor(errors, moments), [1.0, 1.0])
    np.testing.assert_array_equal(reward(errors, moments), [0.0, 0.0])


def test_factor_and_reward_equal_their_twins() -> None:
    mean, deviation = 5.0, np.sqrt(32 / 3)
    moments = after([1.0, 5.0, 9.0])
    error = np.array([[0.0, 5.0, 5.0 + deviation], [5.0 - deviation, deviation, 100.0]], np.float32)
    alpha, paid = factor(error, moments), reward(error, moments)
    np.testing.assert_allclose(alpha, np.vectorize(oracle.lifelong_factor)(error, mean, deviation), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(paid, np.vectorize(oracle.distillation_reward)(error, deviation), rtol=1e-5)


@pytest.mark.parametrize("function", [factor, reward], ids=["factor", "reward"])
def test_errors_of_any_scale_are_told_apart(function: Any) -> None:
    """Errors of 1e-6 as well as errors of 1e3."""
    values = np.random.default_rng(2).uniform(1, 3, 200).astype(np.float32)
    reference = function(values, after(values))
    assert np.std(reference) > 0.9
    for scale in (2.0**-20, 2.0**10):
        np.testing.assert_allclose(function(scale * values, after(scale * values)), reference, rtol=1e-4, atol=1e-5)
