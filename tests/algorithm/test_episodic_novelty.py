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


def filled(fills: list[int], capacity: int) -> EpisodicMemory:
    """Memories with `fills[e]` embeddings of one number each, the i-th of environment e being 1000 e + i; slots beyond hold NaN."""
    embeddings = np.full((len(fills), capacity, 1), np.nan, np.float32)
    for environment, fill in enumerate(fills):
        for i in range(fill):
            embeddings[environment, i % capacity] = 1000 * environment + i
    return EpisodicMemory(jnp.asarray(embeddings), jnp.asarray(fills, jnp.int32))


def padded(distances: list[float], num_neighbours: int) -> list[float]:
    return distances + [np.inf] * (num_neighbours - len(distances))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    resets=st.lists(st.tuples(*[st.integers(0, 9)] * E), min_size=1, max_size=30),
    block_size=st.sampled_from([1, 2, 3, 7, 512]),
)
def test_equals_a_list_under_any_operations(seed: int, resets: list[tuple[int, ...]], block_size: int) -> None:
    """Inserts with wrap-around, and resets of some environments at 1 in 10 steps, so that the fills differ."""
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
        expected = [padded(twin.nearest_squared_distances(x, K), K) for twin, x in zip(twins, embedding, strict=True)]
        np.testing.assert_array_equal(nearest(memory, embedding, K, block_size), expected)
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


# Capacities that blocks divide and that they don't, blocks of one slot and blocks beyond the capacity.
@pytest.mark.parametrize(("capacity", "block_size"), [(12, 4), (11, 4), (9, 4), (5, 5), (5, 8), (6, 1), (7, 6)])
def test_every_fill_finds_every_memory_once(capacity: int, block_size: int) -> None:
    """As many neighbours as slots, so that a slot missed or counted twice shows; fills at and next to every block edge, and wrapped."""
    fills = list(range(capacity + 4))
    memory = filled(fills, capacity)
    query = np.array([[1000.0 * environment - 1] for environment in range(len(fills))], np.float32)
    # Memories are i = fill - capacity..fill - 1 at most, at distances i + 1.
    expected = [padded([(i + 1.0) ** 2 for i in range(max(0, fill - capacity), fill)], capacity + 1) for fill in fills]
    np.testing.assert_array_equal(nearest(memory, query, capacity + 1, block_size), expected)
    for row in range(len(fills)):  # alone too, where the fullest memory is its own
        one = slice(row, row + 1)
        alone = nearest(EpisodicMemory(memory.embeddings[one], memory.inserted[one]), query[one], 3, block_size)
        np.testing.assert_array_equal(alone[0], expected[row][:3])


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

    memory = filled(fills, 14)
    monkeypatch.setattr(jax.lax, "while_loop", counting_loop)
    nearest_squared_distances(memory, jnp.zeros((2, 1)), 2, 4)
    assert turns == visits


@pytest.mark.parametrize("kernel_epsilon", [1e-4, 1e-2])
def test_reward_equals_its_twin(kernel_epsilon: float) -> None:
    """Neighbours are missing behind any number of them."""

    def reward(distances: jax.Array, count: int, mean: float) -> jax.Array:
        return episodic_reward(jnp.where(jnp.arange(5) < count, jnp.sort(distances), NO_NEIGHBOUR), mean, kernel_epsilon)

    def twin(distances: np.ndarray, count: int, mean: float) -> float:
        return oracle.episodic_reward(sorted(distances)[:count], mean, kernel_epsilon)

    means = st.floats(np.float32(1e-3), 1000, width=32)
    assert_equals_twin(reward, twin, floats(0, 1000, 5), st.integers(0, 5), means, rtol=1e-4)


@pytest.mark.parametrize(
    ("distances", "mean", "similarity"),
    [
        ([0.0] * 10, 1.0, np.sqrt(10)),  # as familiar as it gets
        ([0.0] + [np.inf] * 9, 1.0, 1.0),  # a single memory, revisited
        ([1e4] * 10, 1.0, np.sqrt(10 / (1 + 1e8 - 80))),
        ([0.0159] * 3, 2.0, np.sqrt(3)),  # within a cluster: 0.0159 / 2 < 0.008
        ([0.0165] * 3, 2.0, np.sqrt(3 / 3.5)),  # beyond it by 2.5 epsilons
        ([0.0, 0.0], 0.0, np.sqrt(2)),  # no scale yet, every distance being 0: familiar, and no division by zero
        ([0.0, np.inf], 0.0, 1.0),
        ([0.0] * 63, 1.0, np.sqrt(63)),
        ([0.0] * 64, 1.0, np.inf),  # above the largest similarity of 8
    ],
)
def test_reward_at_the_ends(distances: list[float], mean: float, similarity: float) -> None:
    np.testing.assert_allclose(episodic_reward(jnp.array(distances), mean), 1 / (similarity + 1e-3), rtol=1e-4)


def test_constants_of_the_reward_may_be_others() -> None:
    arguments = (1.0, 1e-4, 8e-3, 0.5)
    assert episodic_reward(jnp.zeros(4), *arguments, 2.4) == 0
    np.testing.assert_allclose(episodic_reward(jnp.zeros(4), *arguments, 2.6), 0.4, rtol=1e-6)
