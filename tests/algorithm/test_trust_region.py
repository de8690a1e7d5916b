"""The trust region around the target network."""

import jax
import numpy as np

from agent57_jax.algorithm.trust_region import leaves_trust_region
from tests.algorithm.twins import assert_equals_twin, choices
from tests.oracles import trust_region as oracle

leaves = jax.jit(leaves_trust_region)


def test_equals_its_twin() -> None:
    eighths = [n / 8 for n in range(-40, 41)]  # so that differences are exact, and often 0
    numbers = choices(eighths, 20)
    assert_equals_twin(leaves_trust_region, np.vectorize(oracle.leaves_trust_region), numbers, numbers, numbers, numbers.map(np.abs))


def test_what_is_held_is_what_a_gradient_step_would_take_further_away() -> None:
    value, anchor, target = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
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
