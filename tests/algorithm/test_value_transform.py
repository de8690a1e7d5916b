"""The squashing of values and the mixes of extrinsic and intrinsic values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm import value_transform
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, combine_action_values, squash, unsquash
from tests.oracles import value_transform as oracle

_MAGNITUDES = np.logspace(-6, 6, 2401).astype(np.float32)
GRID = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])

FUNCTIONS = {"squash": (squash, oracle.squash), "unsquash": (unsquash, oracle.unsquash)}
COMPILE: dict[str, Callable[[Callable], Callable]] = {"eager": lambda function: function, "jit": jax.jit}


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(actual, np.float64) / expected - 1.0)))


@pytest.mark.parametrize("how", COMPILE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_accurate_over_twelve_decades(name: str, how: str) -> None:
    function, twin = FUNCTIONS[name]
    actual = COMPILE[how](function)(GRID)
    assert actual.dtype == jnp.float32 and actual.shape == GRID.shape
    assert relative_error(actual, np.array([twin(float(x)) for x in GRID])) < 5e-7


@pytest.mark.parametrize("how", COMPILE)
def test_inverse_undoes_the_transform(how: str) -> None:
    there_and_back = COMPILE[how](lambda x: unsquash(squash(x)))(GRID)
    assert relative_error(there_and_back, GRID.astype(np.float64)) < 1e-6
    back_and_there = COMPILE[how](lambda x: squash(unsquash(x)))(GRID)
    assert relative_error(back_and_there, GRID.astype(np.float64)) < 1e-6


@settings(max_examples=30, deadline=None, derandomize=True)
@given(hnp.arrays(np.float32, (64,), elements=st.floats(np.float32(1e-6), np.float32(1e6), width=32)))
def test_inverse_undoes_the_transform_anywhere(x: np.ndarray) -> None:
    for signed in (x, -x):
        assert relative_error(unsquash(squash(signed)), signed.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_odd_and_strictly_increasing(name: str) -> None:
    function = jax.jit(FUNCTIONS[name][0])
    np.testing.assert_array_equal(function(-GRID), -function(GRID))
    assert np.all(np.diff(np.asarray(function(GRID))) > 0)
    assert function(jnp.float32(0)) == 0


def test_known_values() -> None:
    np.testing.assert_allclose(squash(jnp.array([0.0, 3.0, 8.0, -3.0, 99.0])), [0.0, 1.003, 2.008, -1.003, 9.099], rtol=1e-6)
    np.testing.assert_allclose(unsquash(jnp.array([0.0, 1.003, 2.008, -1.003, 9.099])), [0.0, 3.0, 8.0, -3.0, 99.0], rtol=1e-6)
    np.testing.assert_allclose(squash(jnp.array([3.0, -8.0]), eps=0.01), [1.03, -2.08], rtol=1e-6)
    np.testing.assert_allclose(unsquash(jnp.array([1.03, -2.08]), eps=0.01), [3.0, -8.0], rtol=1e-6)


@pytest.mark.parametrize("x", [-50.0, -1e-3, 1e-3, 0.7, 1234.0])
def test_gradients_are_those_of_the_formulas(x: float) -> None:
    slope = 0.5 / np.sqrt(abs(x) + 1.0) + 1e-3
    np.testing.assert_allclose(jax.grad(squash)(jnp.float32(x)), slope, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(unsquash)(squash(jnp.float32(x))), 1.0 / slope, rtol=1e-5)


def test_gradient_of_the_transform_at_zero() -> None:
    np.testing.assert_allclose(jax.grad(squash)(0.0), 0.501, rtol=1e-6)


def test_twins_agree_with_themselves() -> None:
    """The two textbook forms are each other's inverse, so that neither can be wrong alone."""
    for x in (-1e6, -3.7, -1e-6, 0.0, 1e-6, 0.5, 42.0, 1e6):
        np.testing.assert_allclose(oracle.unsquash(oracle.squash(x)), x, rtol=1e-12)


def test_pairs() -> None:
    x = jnp.array([-4.0, 0.0, 2.5])
    np.testing.assert_array_equal(IDENTITY.apply(x), x)
    np.testing.assert_array_equal(IDENTITY.invert(x), x)
    np.testing.assert_array_equal(SQUASHED.apply(x), squash(x))
    np.testing.assert_array_equal(SQUASHED.invert(x), unsquash(x))


def random_values(seed: int, *shape: int) -> np.ndarray:
    return (10.0 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_mix_without_intrinsic_weight_is_extrinsic() -> None:
    extrinsic, intrinsic = random_values(0, 6, 4), random_values(1, 6, 4)
    np.testing.assert_array_equal(combine_action_values(extrinsic, intrinsic, 0.0), extrinsic)
    mixed = combine_action_values(extrinsic, intrinsic, 0.0, SQUASHED)
    assert relative_error(mixed, extrinsic.astype(np.float64)) < 1e-6


@pytest.mark.parametrize("transformed", [False, True])
def test_mix_equals_its_twin(transformed: bool) -> None:
    extrinsic, intrinsic = random_values(2, 5, 3), random_values(3, 5, 3)
    beta = np.array([0.0, 0.01, 0.3, 1.0, 7.0], np.float32)  # one a row
    mixed = combine_action_values(extrinsic, intrinsic, beta, SQUASHED if transformed else None)
    twin = oracle.combine_unsquashed if transformed else oracle.combine
    expected = [[twin(extrinsic[row, a], intrinsic[row, a], beta[row]) for a in range(3)] for row in range(5)]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(value_transform.combine_action_values(extrinsic[0], intrinsic[0], beta[0]), extrinsic[0])


def test_mix_broadcasts_one_beta_over_time() -> None:
    extrinsic, intrinsic = random_values(4, 2, 3, 4), random_values(5, 2, 3, 4)
    beta = np.array([[0.5], [2.0]], np.float32)  # [B, 1] against [B, T]
    np.testing.assert_allclose(combine_action_values(extrinsic, intrinsic, beta)[1], extrinsic[1] + 2 * intrinsic[1], rtol=1e-6)
    np.testing.assert_allclose(combine_action_values(extrinsic, intrinsic, beta)[0], extrinsic[0] + intrinsic[0] / 2, rtol=1e-6)


def test_mixes_with_the_identity_pair_agree() -> None:
    extrinsic, intrinsic = random_values(6, 4, 3), random_values(7, 4, 3)
    np.testing.assert_array_equal(
        combine_action_values(extrinsic, intrinsic, 0.3, IDENTITY), combine_action_values(extrinsic, intrinsic, 0.3)
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    extrinsic=hnp.arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    beta=hnp.arrays(np.float32, (3,), elements=st.floats(0, 5, width=32)),
)
def test_mixes_rise_with_the_intrinsic_value(extrinsic: np.ndarray, beta: np.ndarray) -> None:
    for transform in (None, SQUASHED):
        low = np.asarray(combine_action_values(extrinsic, extrinsic - 1, beta, transform))
        high = np.asarray(combine_action_values(extrinsic, extrinsic + 1, beta, transform))
        assert np.all(high >= low)
        raised = np.broadcast_to(beta[:, None] > 1e-3, high.shape)
        assert np.all(high[raised] > low[raised])
