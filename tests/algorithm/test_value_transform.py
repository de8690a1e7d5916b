"""The squashing of values and the mixes of extrinsic and intrinsic values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.algorithm.value_transform import SQUASHED, combine_action_values, squash, unsquash
from tests.algorithm.twins import assert_equals_twin, choices, floats
from tests.oracles import value_transform as oracle

_MAGNITUDES = np.logspace(-6, 6, 601).astype(np.float32)
GRID = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])

FUNCTIONS = {"squash": (squash, oracle.squash), "unsquash": (unsquash, oracle.unsquash)}
COMPILE: dict[str, Callable[[Callable], Callable]] = {"eager": lambda function: function, "jit": jax.jit}


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(actual, np.float64) / expected - 1.0)))


@pytest.mark.parametrize("how", COMPILE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_accurate_over_twelve_decades_odd_and_increasing(name: str, how: str) -> None:
    function, twin = COMPILE[how](FUNCTIONS[name][0]), FUNCTIONS[name][1]
    actual = function(GRID)
    assert actual.dtype == jnp.float32 and actual.shape == GRID.shape
    assert relative_error(actual, np.vectorize(twin)(GRID)) < 5e-7
    np.testing.assert_array_equal(function(-GRID), -actual)
    assert np.all(np.diff(actual) > 0)
    assert function(jnp.float32(0)) == 0
    assert relative_error(FUNCTIONS[name][0](GRID, 1e-2), np.vectorize(twin)(GRID, 1e-2)) < 1e-6


@pytest.mark.parametrize("x", [-50.0, -1e-3, 0.0, 1e-3, 0.7, 1234.0])
def test_gradients_are_those_of_the_formulas(x: float) -> None:
    slope = 0.5 / np.sqrt(abs(x) + 1.0) + 1e-3
    np.testing.assert_allclose(jax.grad(squash)(jnp.float32(x)), slope, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(unsquash)(squash(jnp.float32(x))), 1.0 / slope, rtol=1e-5)


def test_twins_agree_with_themselves() -> None:
    """The two textbook forms are each other's inverse, so that neither can be wrong alone."""
    for x in (-1e6, -3.7, -1e-6, 0.0, 1e-6, 0.5, 42.0, 1e6):
        np.testing.assert_allclose(oracle.unsquash(oracle.squash(x)), x, rtol=1e-12)


@pytest.mark.parametrize("transformed", [False, True])
def test_a_mix_equals_its_twin_and_without_intrinsic_weight_is_extrinsic(transformed: bool) -> None:
    transform = SQUASHED if transformed else None
    twin = np.vectorize(oracle.combine_unsquashed if transformed else oracle.combine)
    betas = choices([0.0, 0.01, 0.3, 1.0, 7.0], 5)
    assert_equals_twin(
        lambda extrinsic, intrinsic, beta: combine_action_values(extrinsic, intrinsic, beta, transform),
        lambda extrinsic, intrinsic, beta: twin(extrinsic, intrinsic, beta[:, None]),  # one a row
        *(floats(-5, 5, 5, 3), floats(-5, 5, 5, 3), betas),
        atol=5e-5,
    )
    extrinsic, intrinsic = GRID[:1200].reshape(100, 12), GRID[2:].reshape(100, 12)
    mixed = combine_action_values(extrinsic, intrinsic, 0.0, transform)
    assert relative_error(mixed, extrinsic.astype(np.float64)) <= (1e-6 if transformed else 0.0)
