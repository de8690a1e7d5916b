"""The ladders of the policy family and its epsilon-greedy policies."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.algorithm import policy_family
from tests.algorithm.twins import assert_equals_twin, choices, floats
from tests.oracles import policy_family as oracle

SIZES = (*range(1, 65), 218, 255)  # up to the most that a replay can name


class Ladder(NamedTuple):
    ours: Callable[..., np.ndarray]  # of N and further arguments
    twin: Callable[..., float]  # of j as well
    arguments: tuple[float, ...]
    direction: int
    first: float
    last: float
    alone: float  # of a family of one


LADDERS = {
    "betas": Ladder(policy_family.intrinsic_betas, oracle.intrinsic_beta, (0.3,), 1, 0.0, 0.3, 0.3),
    "large betas": Ladder(policy_family.intrinsic_betas, oracle.intrinsic_beta, (3.0,), 1, 0.0, 3.0, 3.0),
    "no betas": Ladder(policy_family.intrinsic_betas, oracle.intrinsic_beta, (0.0,), 1, 0.0, 0.0, 0.0),
    "agent57": Ladder(policy_family.agent57_discounts, oracle.agent57_discount, (), -1, 0.9999, 0.99, 0.9999),
    "agent57, short": Ladder(policy_family.agent57_discounts, oracle.agent57_discount, (0.99, 0.97, 0.9), -1, 0.99, 0.9, 0.99),
    "ngu": Ladder(policy_family.ngu_discounts, oracle.ngu_discount, (), -1, 0.997, 0.99, 0.997),
    "ngu, short": Ladder(policy_family.ngu_discounts, oracle.ngu_discount, (0.9, 0.5), -1, 0.9, 0.5, 0.9),
}


@pytest.mark.parametrize("name", LADDERS)
def test_ladders_equal_their_twins_from_end_to_end(name: str) -> None:
    ladder = LADDERS[name]
    for number in SIZES:
        found = ladder.ours(number, *ladder.arguments)
        assert found.shape == (number,) and found.dtype == np.float64
        expected = np.array([ladder.twin(j, number, *ladder.arguments) for j in range(number)])
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=f"N = {number}")
        np.testing.assert_allclose(1 - found, 1 - expected, rtol=1e-9, err_msg=f"N = {number}")
        assert np.all(np.diff(found) * ladder.direction >= 0)
        ends = [ladder.first, ladder.last] if number > 1 else [ladder.alone] * 2
        np.testing.assert_allclose(found[[0, -1]], ends, rtol=1e-12)


@pytest.mark.parametrize(("number", "arguments"), [*((number, ()) for number in (1, 2, 3, 8, 256, 1000)), (12, (0.5, 3.0))])
def test_actor_epsilons(number: int, arguments: tuple[float, ...]) -> None:
    epsilons = policy_family.actor_epsilons(jnp.arange(number), number, *arguments)
    assert epsilons.dtype == jnp.float32
    np.testing.assert_allclose(epsilons, [oracle.actor_epsilon(actor, number, *arguments) for actor in range(number)], rtol=2e-6)
    if not arguments:
        np.testing.assert_allclose(epsilons[jnp.array([0, -1])], [0.4, 0.4**9 if number > 1 else 0.4], rtol=2e-6)
    # A shard of the fleet asks for its own actors and gets the same rates.
    np.testing.assert_array_equal(policy_family.actor_epsilons(jnp.arange(number)[6:9], number, *arguments), epsilons[6:9])


@pytest.mark.parametrize("shape", [(4,), (1,), (4, 1)], ids=["one a row", "one", "broadcast"])
@pytest.mark.parametrize("num_actions", [1, 5])
def test_epsilon_greedy_equals_its_twin(num_actions: int, shape: tuple[int, ...]) -> None:
    """Few distinct values, so that ties are common: they go to the first."""
    rows = (4, 2) if len(shape) == 2 else (4,)
    twin = np.vectorize(lambda *row: np.array(oracle.epsilon_greedy_row(*row)), signature="(a),()->(a)")
    assert_equals_twin(
        policy_family.epsilon_greedy_probabilities,
        twin,
        *(choices([-1e6, -1.5, 0.0, 0.25, 3e5], *rows, num_actions), floats(0, 1, *shape)),
        atol=1e-6,
        examples=40,
    )
