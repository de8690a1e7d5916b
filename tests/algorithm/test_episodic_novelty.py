"""The episodic memory against a list, and the reward that its distances give."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.episodic_novelty import (
    NO_NEIGHBOUR,
    EpisodicMemory,
    episodic_reward,
    init_memory,
    insert,
    nearest_squared_distances,
    reset_memory,
)
from tests.algorithm.twins import assert_equals_twin, floats
from tests.oracles import episodic_novelty as oracle

E, M, D, K = 3, 7, 2, 4

insert_one = jax.jit(insert)
nearest = jax.jit(nearest_squared_distances, static_argnames=("num_neighbours", "block_size"))


def padded(distances: list[float], num_neighbours: int) -> list[float]:
    return distances + [np.inf] * (num_neighbours - len(distances))


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    resets=st.lists(st.tuples(*[st.integers(0, 9)] * E), min_size=1, max_size=30),
    block_size=st.sampled_from([1, 2, 3, 7, 512]),
    num_neighbours=st.sampled_from([K, M + 1]),
)
def test_equals_a_list_under_any_operations(seed: int, resets: list[tuple[int, ...]], block_size: int, num_neighbours: int) -> None:
    """Inserts with wrap-around, and resets of some environments at 1 in 10 steps, so that the fills differ.

    Blocks divide the memory or don't; more neighbours than slots show a slot missed or counted twice.
    """
    rng = np.random.default_rng(seed)
    memory = init_memory(E, M, D)
    twins = [oracle.EpisodicMemory(M) for _ in range(E)]
    for draws in resets:
        where = np.array([draw == 0 for draw in draws])
        memory = reset_memory(memory, where)
        # Small integers have exact distances and many revisits.
        embedding = rng.integers(-3, 4, (E, D)).astype(np.float32)
        for environment, twin in enumerate(twins):
            if where[environment]:
                twin.reset()
        expected = [
            padded(twin.nearest_squared_distances(x, num_neighbours), num_neighbours) for twin, x in zip(twins, embedding, strict=True)
        ]
        np.testing.assert_array_equal(nearest(memory, embedding, num_neighbours, block_size), expected)
        memory = insert_one(memory, embedding)
        for twin, x in zip(twins, embedding, strict=True):
            twin.insert(x)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_revisited_state_is_at_distance_zero(scale: float) -> None:
    """Exactly 0: an expanded square would leave rounding noise."""
    rng = np.random.default_rng(0)
    visited = (scale * rng.standard_normal((20, E, 32))).astype(np.float32)
    memory = init_memory(E, 20, 32)
    for embedding in visited:
        memory = insert_one(memory, embedding)
    for i in (0, 7, 19):
        distances = np.asarray(nearest(memory, visited[i], 2, 6))
        np.testing.assert_array_equal(distances[:, 0], np.zeros(E))
        assert np.all(distances[:, 1] > 0)


@pytest.mark.parametrize(
    ("fills", "visits"), [([0, 0], 0), ([1, 0], 1), ([4, 2], 1), ([5, 2], 2), ([2, 11], 3), ([3, 14], 4), ([1, 99], 4)]
)
def test_cost_follows_the_fullest_memory(fills: list[int], visits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 out of 14 slots; counts the loop's turns."""
    turns = 0

    def counting_loop(more: Callable[[Any], Any], visit: Callable[[Any], Any], carry: Any) -> Any:
        nonlocal turns
        while more(carry):
            carry = visit(carry)
            turns += 1
        return carry

    memory = EpisodicMemory(jnp.zeros((2, 14, 1)), jnp.asarray(fills, jnp.int32))
    monkeypatch.setattr(jax.lax, "while_loop", counting_loop)
    nearest_squared_distances(memory, jnp.zeros((2, 1)), 2, 4)
    assert turns == visits


@pytest.mark.parametrize("constants", [(1e-4, 8e-3, 1e-3, 8.0), (1e-2, 0.3, 0.5, 1.8)])
def test_reward_equals_its_twin(constants: tuple[float, ...]) -> None:
    """Neighbours are missing behind any number of them; two similar ones are already too many for the second set of constants."""

    def reward(distances: jax.Array, count: int, mean: float) -> jax.Array:
        return episodic_reward(jnp.where(jnp.arange(5) < count, jnp.sort(distances), NO_NEIGHBOUR), mean, *constants)

    def twin(distances: np.ndarray, count: int, mean: float) -> float:
        return oracle.episodic_reward(sorted(distances)[:count], mean, *constants)

    means = st.floats(np.float32(1e-3), 1000, width=32)
    assert_equals_twin(reward, twin, floats(0, 1000, 5), st.integers(0, 5), means, rtol=1e-4)


def test_equal_states_are_familiar_while_there_is_no_scale() -> None:
    for distances, number in (([0.0, 0.0], 2), ([0.0, np.inf], 1)):
        np.testing.assert_allclose(episodic_reward(jnp.array(distances), 0.0), 1 / (np.sqrt(number) + 1e-3), rtol=1e-4)
