"""Running moments against a list of everything seen, and the life-long factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm.lifelong_novelty import (
    RunningMoments,
    distillation_reward,
    init_moments,
    lifelong_factor,
    standard_deviation,
    update_moments,
)
from tests.oracles import lifelong_novelty as oracle

BATCH = 6
FAR = 1e7

update = jax.jit(update_moments)
factor = jax.jit(lifelong_factor)
reward = jax.jit(distillation_reward)


def ones(values: np.ndarray) -> np.ndarray:
    return np.ones_like(values, np.float32)


def assert_equals_twin(moments: RunningMoments, twin: oracle.RunningMoments, rtol: float = 1e-4) -> None:
    scale = max((abs(value) for value in twin.values), default=0.0)
    np.testing.assert_allclose(moments.weight, twin.count(), rtol=1e-5)
    np.testing.assert_allclose(moments.mean, twin.mean(), rtol=rtol, atol=1e-5 * scale)
    np.testing.assert_allclose(standard_deviation(moments), twin.standard_deviation(), rtol=rtol, atol=1e-5 * scale)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batches=st.lists(
        st.tuples(hnp.arrays(np.float32, (BATCH,), elements=st.floats(-100, 100, width=32)), hnp.arrays(np.bool_, (BATCH,))), max_size=8
    ),
    horizon=st.sampled_from([4.0, 10.0, FAR]),
)
def test_equals_its_twin(batches: list[tuple[np.ndarray, np.ndarray]], horizon: float) -> None:
    moments, twin = init_moments(), oracle.RunningMoments(horizon)
    assert_equals_twin(moments, twin)
    for values, counts in batches:
        moments = update(moments, values, counts.astype(np.float32), horizon)
        twin.update(list(values), list(counts))
        assert_equals_twin(moments, twin)
        assert moments.squares >= 0


def test_merged_batches_equal_the_whole() -> None:
    values = (5.0 + 3.0 * np.random.default_rng(0).standard_normal(240)).astype(np.float32)
    whole = update(init_moments(), values, ones(values), FAR)
    np.testing.assert_allclose(whole.mean, values.astype(np.float64).mean(), rtol=1e-5)
    np.testing.assert_allclose(standard_deviation(whole), values.astype(np.float64).std(), rtol=1e-5)
    for pieces in (2, 15, 240):
        moments = init_moments()
        for piece in np.split(values, pieces):
            moments = update(moments, piece, ones(piece), FAR)
        for actual, expected in zip(moments, whole, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_shape_of_a_batch_is_free() -> None:
    values = np.arange(24, dtype=np.float32)
    weights = (values % 5 > 0).astype(np.float32)
    flat = update(init_moments(), values, weights, FAR)
    for shape in ((4, 6), (2, 3, 4)):
        for actual, expected in zip(update(init_moments(), values.reshape(shape), weights.reshape(shape), FAR), flat, strict=True):
            assert actual.shape == () and actual.dtype == jnp.float32
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("content", [np.nan, np.inf, -np.inf, 3e38])
def test_content_without_weight_has_no_influence(content: float) -> None:
    start = update(init_moments(), np.array([1.0, 4.0], np.float32), np.ones(2, np.float32), FAR)
    clean = update(start, np.array([2.0, 9.0], np.float32), np.ones(2, np.float32), FAR)
    values, weights = np.array([content, 2.0, content, 9.0], np.float32), np.array([0.0, 1.0, 0.0, 1.0], np.float32)
    for actual, expected in zip(update(start, values, weights, FAR), clean, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_batch_without_weight_changes_nothing() -> None:
    rubbish, nothing = np.full(4, np.nan, np.float32), np.zeros(4, np.float32)
    some = update(init_moments(), np.array([1.0, 2.0, 6.0], np.float32), np.ones(3, np.float32), FAR)
    for start in (init_moments(), some):
        for actual, expected in zip(update(start, rubbish, nothing, FAR), start, strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_an_empty_stream_has_no_opinion() -> None:
    assert standard_deviation(init_moments()) == 0
    np.testing.assert_array_equal(factor(jnp.array([0.0, 5.0]), init_moments()), [1.0, 1.0])
    np.testing.assert_array_equal(reward(jnp.array([0.0, 5.0]), init_moments()), [0.0, 0.0])


def test_spread_of_large_nearly_constant_values() -> None:
    """Mean of squares less square of mean would be wrong by more than the spread itself, or negative."""
    rng = np.random.default_rng(1)
    moments, twin = init_moments(), oracle.RunningMoments()
    for _ in range(50):
        values = (1e5 + rng.integers(0, 2, 64)).astype(np.float32)
        moments = update(moments, values, ones(values), FAR)
        twin.update(list(values), [True] * 64)
        assert moments.squares >= 0
    np.testing.assert_allclose(standard_deviation(moments), twin.standard_deviation(), rtol=1e-2)
    np.testing.assert_allclose(moments.mean, twin.mean(), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 64, 1000])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1.0 / 3.0, 1e-6, 123.456, 1e6 + 0.1])
def test_a_constant_stream_has_no_spread(constant: float, size: int) -> None:
    """Rounding noise is no scale to divide by: alpha stays 1 and the reward 0, whatever the error."""
    values = np.full(size, constant, np.float32)
    moments = init_moments()
    for _ in range(20):
        moments = update(moments, values, ones(values), FAR)
    np.testing.assert_allclose(moments.mean, np.float32(constant), rtol=1e-6)
    errors = np.array([constant, 2 * constant + 5], np.float32)
    np.testing.assert_array_equal(factor(errors, moments), [1.0, 1.0])
    np.testing.assert_array_equal(reward(errors, moments), [0.0, 0.0])


def test_beyond_the_horizon_old_values_fade() -> None:
    """Each batch of n multiplies what was known by h / (h + n)."""
    horizon, size = 100.0, 20
    moments = update(init_moments(), np.full(100, 7.0, np.float32), np.ones(100, np.float32), horizon)
    values = np.full(size, -1.0, np.float32)
    for step in range(1, 30):
        moments = update(moments, values, ones(values), horizon)
        old = (horizon / (horizon + size)) ** step
        np.testing.assert_allclose(moments.weight, horizon, rtol=1e-6)
        np.testing.assert_allclose(moments.mean, -1.0 + 8.0 * old, atol=1e-4)
        np.testing.assert_allclose(standard_deviation(moments), 8.0 * np.sqrt(old * (1 - old)), rtol=1e-3)


def test_within_the_horizon_nothing_fades() -> None:
    moments = init_moments()
    for step in range(10):
        values = np.full(10, float(step), np.float32)
        moments = update(moments, values, ones(values), 100.0)
    np.testing.assert_allclose([moments.weight, moments.mean], [100.0, 4.5], rtol=1e-6)


def test_a_batch_larger_than_the_horizon_is_the_stream() -> None:
    moments = update(init_moments(), np.full(5, 1e3, np.float32), np.ones(5, np.float32), 8.0)
    values = np.tile(np.array([1.0, 3.0], np.float32), 4000)
    moments = update(moments, values, ones(values), 8.0)
    np.testing.assert_allclose(moments.weight, 8.0, rtol=1e-6)
    np.testing.assert_allclose(moments.mean, (5e3 + 16e3) / 8005, rtol=1e-5)


def test_factor_equals_its_twin() -> None:
    moments = update(init_moments(), np.array([1.0, 5.0, 9.0], np.float32), np.ones(3, np.float32), FAR)
    mean, deviation = 5.0, np.sqrt(32 / 3)
    error = np.array([[0.0, 5.0, 5.0 + deviation], [5.0 - deviation, 100.0, 6.0]], np.float32)
    actual = factor(error, moments)
    expected = [[oracle.lifelong_factor(float(x), mean, deviation) for x in row] for row in error]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose([actual[0, 1], actual[0, 2], actual[1, 0]], [1.0, 2.0, 0.0], atol=1e-5)


def test_reward_of_distillation_alone_equals_its_twin() -> None:
    moments = update(init_moments(), np.array([1.0, 5.0, 9.0], np.float32), np.ones(3, np.float32), FAR)
    deviation = np.sqrt(32 / 3)
    error = np.array([[0.0, 5.0, deviation], [1e-6, 100.0, 6.0]], np.float32)
    actual = reward(error, moments)
    expected = [[oracle.distillation_reward(float(x), deviation) for x in row] for row in error]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert actual.dtype == jnp.float32
    # A deviation is worth 1, and unlike alpha it does not matter where the mean is.
    np.testing.assert_allclose([actual[0, 0], actual[0, 2]], [0.0, 1.0], rtol=1e-6)
    shifted = update(init_moments(), np.array([101.0, 105.0, 109.0], np.float32), np.ones(3, np.float32), FAR)
    np.testing.assert_allclose(reward(error, shifted), actual, rtol=1e-5)


def test_reward_of_distillation_alone_has_no_scale_of_its_own() -> None:
    values = np.random.default_rng(2).uniform(1, 3, 200).astype(np.float32)
    reference = reward(values, update(init_moments(), values, ones(values), FAR))
    for scale in (2.0**-20, 2.0**10):
        scaled = (scale * values).astype(np.float32)
        np.testing.assert_allclose(reward(scaled, update(init_moments(), scaled, ones(scaled), FAR)), reference, rtol=1e-4)


def test_factor_has_no_scale_of_its_own() -> None:
    """Errors of 1e-6 are told apart as well as errors of 1e3."""
    values = np.random.default_rng(2).uniform(1, 3, 200).astype(np.float32)
    reference = factor(values, update(init_moments(), values, ones(values), FAR))
    assert np.std(reference) > 0.9
    for scale in (2.0**-20, 2.0**10):
        scaled = (scale * values).astype(np.float32)
        np.testing.assert_allclose(factor(scaled, update(init_moments(), scaled, ones(scaled), FAR)), reference, rtol=1e-4, atol=1e-5)
