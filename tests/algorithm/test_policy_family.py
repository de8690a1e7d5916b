"""The ladders of the policy family and its epsilon-greedy policies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm import policy_family
from tests.oracles import policy_family as oracle

SIZES = (*range(1, 65), 218, 255)  # up to the most that a replay can name

epsilon_greedy = jax.jit(policy_family.epsilon_greedy_probabilities)


@pytest.mark.parametrize("num_policies", SIZES)
def test_betas_climb_from_zero_to_the_largest(num_policies: int) -> None:
    betas = policy_family.intrinsic_betas(num_policies, 0.3)
    assert betas.shape == (num_policies,) and betas.dtype == np.float64
    assert np.all(np.diff(betas) >= 0)
    assert betas.min() >= 0 and betas.max() <= 0.3
    assert betas[-1] == 0.3
    if num_policies > 1:
        assert betas[0] == 0 and np.all(betas[1:] > 0)
    np.testing.assert_allclose(betas, [oracle.intrinsic_beta(j, num_policies, 0.3) for j in range(num_policies)], rtol=1e-12)


@pytest.mark.parametrize("num_policies", SIZES)
def test_agent57_discounts_fall_from_far_to_short_sighted(num_policies: int) -> None:
    discounts = policy_family.agent57_discounts(num_policies)
    assert discounts.shape == (num_policies,) and discounts.dtype == np.float64
    assert np.all(np.diff(discounts) <= 0)
    assert discounts.min() >= 0.99 - 1e-12 and discounts.max() <= 0.9999
    assert discounts[0] == 0.9999
    if num_policies > 1:
        np.testing.assert_allclose(discounts[-1], 0.99, rtol=1e-12)
    np.testing.assert_allclose(1 - discounts, [1 - oracle.agent57_discount(j, num_policies) for j in range(num_policies)], rtol=1e-9)


@pytest.mark.parametrize("num_policies", SIZES)
def test_ngu_discounts_fall_evenly_in_the_logarithm(num_policies: int) -> None:
    discounts = policy_family.ngu_discounts(num_policies)
    assert discounts.shape == (num_policies,) and discounts.dtype == np.float64
    assert np.all(np.diff(discounts) < 0)
    assert discounts.min() >= 0.99 - 1e-12 and discounts.max() <= 0.997 + 1e-12
    np.testing.assert_allclose(discounts[0], 0.997, rtol=1e-12)
    if num_policies > 1:
        np.testing.assert_allclose(discounts[-1], 0.99, rtol=1e-12)
        steps = np.diff(np.log(1 - discounts))
        np.testing.assert_allclose(steps, np.log(0.01 / 0.003) / (num_policies - 1), rtol=1e-9)
    np.testing.assert_allclose(1 - discounts, [1 - oracle.ngu_discount(j, num_policies) for j in range(num_policies)], rtol=1e-9)


def test_ladders_of_the_paper() -> None:
    betas = policy_family.intrinsic_betas(32, 0.3)
    assert betas[0] == 0 and betas[31] == 0.3
    # The sigmoid's argument is -28/3 at j = 1, 0 at j = 15 and 10 at j = 30.
    np.testing.assert_allclose(betas[[1, 15, 30]], [0.3 / (1 + math.exp(28 / 3)), 0.15, 0.3 / (1 + math.exp(-10))], rtol=1e-12)

    discounts = policy_family.agent57_discounts(32)
    assert discounts[0] == 0.9999 and discounts[7] == 0.997
    # j = 1 has argument 10, j = 4 the middle of the sigmoid; from j = 8 on log(1 - gamma) is linear.
    np.testing.assert_allclose(discounts[[1, 4]], [0.997 + 0.0029 / (1 + math.exp(-10)), 0.99845], rtol=1e-12)
    np.testing.assert_allclose(discounts[[8, 31]], [0.997, 0.99], rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(1 - discounts[8:])), np.log(0.01 / 0.003) / 23, rtol=1e-9)
    assert len(np.unique(discounts.round(9))) == 31  # only rungs 7 and 8 coincide

    ngu = policy_family.ngu_discounts(32)
    np.testing.assert_allclose(ngu[[0, 31]], [0.997, 0.99], rtol=1e-12)


def test_ladders_of_small_families() -> None:
    np.testing.assert_array_equal(policy_family.intrinsic_betas(1, 0.5), [0.5])
    np.testing.assert_array_equal(policy_family.intrinsic_betas(2, 0.5), [0.0, 0.5])
    np.testing.assert_allclose(policy_family.intrinsic_betas(3, 0.5), [0.0, 0.5 / (1 + math.exp(-10)), 0.5], rtol=1e-12)
    np.testing.assert_array_equal(policy_family.agent57_discounts(1), [0.9999])
    np.testing.assert_allclose(policy_family.agent57_discounts(2), [0.9999, 0.99], rtol=1e-12)
    np.testing.assert_allclose(policy_family.agent57_discounts(10)[[7, 8, 9]], [0.997, 0.997, 0.99], rtol=1e-12)
    np.testing.assert_allclose(policy_family.ngu_discounts(1), [0.997], rtol=1e-12)
    # The middle of three is the geometric mean of the distances to 1.
    np.testing.assert_allclose(policy_family.ngu_discounts(3), [0.997, 1 - math.sqrt(0.003 * 0.01), 0.99], rtol=1e-12)


def test_ladders_follow_their_arguments() -> None:
    assert not policy_family.intrinsic_betas(16, 0.0).any()
    np.testing.assert_allclose(policy_family.intrinsic_betas(16, 3.0), 10 * policy_family.intrinsic_betas(16, 0.3), rtol=1e-12)
    for num_policies in (1, 5, 9, 10, 17):
        discounts = policy_family.agent57_discounts(num_policies, 0.99, 0.97, 0.9)
        expected = [oracle.agent57_discount(j, num_policies, 0.99, 0.97, 0.9) for j in range(num_policies)]
        np.testing.assert_allclose(discounts, expected, rtol=1e-12)
    np.testing.assert_allclose(
        policy_family.ngu_discounts(7, 0.9, 0.5), [oracle.ngu_discount(j, 7, 0.9, 0.5) for j in range(7)], rtol=1e-12
    )


@pytest.mark.parametrize("num_actors", [1, 2, 3, 8, 256, 1000])
def test_actor_epsilons(num_actors: int) -> None:
    epsilons = policy_family.actor_epsilons(jnp.arange(num_actors), num_actors)
    assert epsilons.shape == (num_actors,) and epsilons.dtype == jnp.float32
    np.testing.assert_allclose(epsilons, [oracle.actor_epsilon(actor, num_actors) for actor in range(num_actors)], rtol=2e-6)
    np.testing.assert_allclose(epsilons[0], 0.4, rtol=1e-6)
    if num_actors > 1:
        np.testing.assert_allclose(epsilons[-1], 0.4**9, rtol=2e-6)
        assert np.all(np.diff(epsilons) < 0)


def test_actor_epsilons_are_those_of_the_fleet() -> None:
    """A shard of the fleet asks for its own actors and gets the same rates."""
    whole = policy_family.actor_epsilons(jnp.arange(12), 12, 0.5, 3.0)
    np.testing.assert_array_equal(policy_family.actor_epsilons(jnp.arange(6, 9), 12, 0.5, 3.0), whole[6:9])
    np.testing.assert_allclose(whole, [oracle.actor_epsilon(actor, 12, 0.5, 3.0) for actor in range(12)], rtol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    # Few distinct values, so that ties are common.
    values=hnp.arrays(np.float32, (4, 5), elements=st.sampled_from([-1e6, -1.5, 0.0, 0.25, 3e5])),
    epsilon=hnp.arrays(np.float32, (4,), elements=st.floats(0, 1, width=32)),
)
def test_epsilon_greedy_equals_its_twin(values: np.ndarray, epsilon: np.ndarray) -> None:
    probabilities = np.asarray(epsilon_greedy(values, epsilon))
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, atol=1e-6)
    assert np.all(probabilities >= 0)
    expected = [oracle.epsilon_greedy_row(row, float(e)) for row, e in zip(values, epsilon, strict=True)]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_epsilon_greedy_ties_go_to_the_first() -> None:
    values = jnp.array([[2.0, 5.0, 5.0, 5.0], [7.0, 7.0, 1.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(
        epsilon_greedy(values, 0.2), [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6
    )


def test_epsilon_greedy_ends() -> None:
    values = jnp.array([[[1.0, 3.0, 2.0], [4.0, 0.0, -1.0]]])
    np.testing.assert_array_equal(epsilon_greedy(values, 0.0), [[[0, 1, 0], [1, 0, 0]]])
    np.testing.assert_allclose(epsilon_greedy(values, 1.0), np.full((1, 2, 3), 1 / 3), rtol=1e-6)
    np.testing.assert_array_equal(epsilon_greedy(values[..., :1], 0.3), np.ones((1, 2, 1)))  # one action


def test_epsilon_greedy_broadcasts_epsilon() -> None:
    values = jax.random.normal(jax.random.key(0), (3, 2, 4))
    per_column = epsilon_greedy(values, jnp.array([0.1, 0.9]))
    per_row = epsilon_greedy(values, jnp.array([[0.1], [0.5], [0.9]]))
    for row in range(3):
        for column in range(2):
            expected = oracle.epsilon_greedy_row(np.asarray(values[row, column]).tolist(), (0.1, 0.9)[column])
            np.testing.assert_allclose(per_column[row, column], expected, rtol=1e-6)
            expected = oracle.epsilon_greedy_row(np.asarray(values[row, column]).tolist(), (0.1, 0.5, 0.9)[row])
            np.testing.assert_allclose(per_row[row, column], expected, rtol=1e-6)
