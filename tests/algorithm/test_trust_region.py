"""The trust region around the target network."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm.trust_region import leaves_trust_region
from tests.oracles import trust_region as oracle

leaves = jax.jit(leaves_trust_region)
numbers = hnp.arrays(np.float32, (20,), elements=st.integers(-40, 40).map(lambda n: n / 8))  # so that differences are exact, and often 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=numbers, anchor=numbers, target=numbers, radius=numbers.map(np.abs))
def test_equals_its_twin(value: np.ndarray, anchor: np.ndarray, target: np.ndarray, radius: np.ndarray) -> None:
    expected = [oracle.leaves_trust_region(*map(float, row)) for row in zip(value, anchor, target, radius, strict=True)]
    np.testing.assert_array_equal(leaves(value, anchor, target, radius), expected)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_on_both_sides_a_step_outwards_is_held_and_a_step_back_is_not(side: float) -> None:
    anchor, radius = 0.5, 1.0
    outside, inside = anchor + 2.0 * side, anchor + 0.9 * side
    assert leaves(outside, anchor, outside + 3.0 * side, radius)
    assert not leaves(outside, anchor, outside - 3.0 * side, radius)
    assert not leaves(outside, anchor, outside, radius)
    for target in (-9.0, anchor, 9.0):
        assert not leaves(inside, anchor, target, radius)


def test_what_is_held_is_what_a_gradient_step_would_take_further_away() -> None:
    rng = np.random.default_rng(0)
    value, anchor, target = rng.normal(size=(3, 400)).astype(np.float32)
    radius = np.float32(0.5)
    stepped = value - 1e-3 * np.asarray(jax.grad(lambda q: 0.5 * ((q - target) ** 2).sum())(value))
    further = np.abs(stepped - anchor) > np.abs(value - anchor)
    held = np.asarray(leaves(value, anchor, target, radius))
    np.testing.assert_array_equal(held, further & (np.abs(value - anchor) > radius))
    assert 50 < held.sum() < 200


def test_an_infinite_radius_holds_nothing_and_what_is_no_number_is_not_hidden() -> None:
    assert not leaves(1e30, -1e30, 1e30, np.inf)
    for arguments in np.where(np.eye(4, dtype=bool), np.nan, np.array([2.0, 0.0, 9.0, 1.0])):
        assert not leaves(*arguments)
