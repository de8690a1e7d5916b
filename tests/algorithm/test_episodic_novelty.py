"""The episodic memory against a list, and the reward that its distances give."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent57_jax.algorithm.episodic_novelty import (
    NO_NEIGHBOUR,
    EpisodicMemory,
    episodic_reward,
    init_memory,
    insert,
    nearest_squared_distances,
    reset_memory,
)
from agent57_jax.algorithm.lifelong_novelty import init_moments, update_moments
from tests.oracles import episodic_novelty as oracle
from tests.oracles import lifelong_novelty as moments_oracle

E, M, D, K = 3, 7, 2, 4

insert_one = jax.jit(insert)
nearest = jax.jit(nearest_squared_distances, static_argnames=("num_neighbours", "block_size"))
reward = jax.jit(episodic_reward)


def filled(fills: list[int], capacity: int, embedding_size: int = 1, content: Callable[[int, int], float] | None = None) -> EpisodicMemory:
    """Memories with `fills[e]` embeddings each, the i-th of environment e being all 1000 e + i unless told; slots beyond hold NaN."""
    content = content or (lambda environment, i: 1000.0 * environment + i)
    embeddings = np.full((len(fills), capacity, embedding_size), np.nan, np.float32)
    for environment, fill in enumerate(fills):
        for i in range(fill):
            embeddings[environment, i % capacity] = content(environment, i)
    return EpisodicMemory(jnp.asarray(embeddings), jnp.asarray(fills, jnp.int32))


def padded(distances: list[float], num_neighbours: int) -> list[float]:
    return distances + [np.inf] * (num_neighbours - len(distances))


@settings(max_examples=25, deadline=None, derandomize=True)
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


def test_a_new_memory_is_empty() -> None:
    memory = init_memory(E, M, D)
    assert memory.embeddings.shape == (E, M, D) and memory.embeddings.dtype == jnp.float32
    assert memory.inserted.shape == (E,) and memory.inserted.dtype == jnp.int32
    distances = nearest(memory, np.zeros((E, D), np.float32), K)
    assert distances.shape == (E, K) and distances.dtype == jnp.float32
    np.testing.assert_array_equal(distances, np.full((E, K), NO_NEIGHBOUR))
    np.testing.assert_array_equal(reward(distances, 0.0), np.zeros(E))
    np.testing.assert_array_equal(reward(distances, 1.0), np.zeros(E))


def test_a_full_ring_forgets_its_oldest() -> None:
    memory = init_memory(2, 3, 1)
    for i in range(5):
        memory = insert_one(memory, np.array([[float(i)], [1000.0 + i]], np.float32))
    np.testing.assert_array_equal(memory.inserted, [5, 5])
    # 0 and 1 are gone, 2, 3 and 4 are held.
    np.testing.assert_array_equal(nearest(memory, np.array([[0.0], [1000.0]], np.float32), 4), [[4.0, 9.0, 16.0, np.inf]] * 2)


def test_reset_forgets_without_clearing() -> None:
    memory = filled([5, 5, 2], M)
    memory = reset_memory(memory, jnp.array([True, False, True]))
    np.testing.assert_array_equal(memory.inserted, [0, 5, 0])
    query = np.array([[0.0], [1000.0], [2000.0]], np.float32)
    np.testing.assert_array_equal(nearest(memory, query, 2), [[np.inf, np.inf], [0.0, 1.0], [np.inf, np.inf]])
    # One memory of the new episode; those of the old one lie right behind it.
    memory = insert_one(memory, query + 10)
    np.testing.assert_array_equal(nearest(memory, query, 2), [[100.0, np.inf], [0.0, 1.0], [100.0, np.inf]])


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
        alone = nearest(
            EpisodicMemory(memory.embeddings[row : row + 1], memory.inserted[row : row + 1]), query[row : row + 1], 3, block_size
        )
        np.testing.assert_array_equal(alone[0], expected[row][:3])


def test_different_fills_in_one_batch_do_not_mix() -> None:
    """Every environment looks for an embedding that only its neighbour holds."""
    memory = filled([1, 6, 3], M)
    query = np.array([[1003.0], [2002.0], [0.0]], np.float32)
    np.testing.assert_array_equal(nearest(memory, query, 2, 2), [[1003.0**2, np.inf], [997.0**2, 998.0**2], [2000.0**2, 2001.0**2]])


def test_neighbours_come_from_all_blocks_in_order() -> None:
    content = [50.0, 3.0, 9.0, 1.0, 7.0, 2.0, 40.0, 5.0]
    memory = filled([8], 8, content=lambda _, i: content[i])
    np.testing.assert_array_equal(nearest(memory, np.zeros((1, 1), np.float32), 5, 3), [[1.0, 4.0, 9.0, 25.0, 49.0]])


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


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 0.0])
def test_slots_beyond_the_fill_have_no_influence(rubbish: float) -> None:
    memory = filled([3, 0, 6], M)
    beyond = np.isnan(np.asarray(memory.embeddings))
    rubbish_memory = memory._replace(embeddings=jnp.where(beyond, rubbish, memory.embeddings))
    query = np.array([[0.0], [0.0], [2003.0]], np.float32)
    np.testing.assert_array_equal(
        nearest(rubbish_memory, query, K, 2),
        [[0.0, 1.0, 4.0, np.inf], [np.inf] * 4, [0.0, 1.0, 1.0, 4.0]],
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    distances=hnp.arrays(np.float32, (2, 5), elements=st.floats(0, 1000, width=32)),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    mean=st.floats(np.float32(1e-3), 1000, width=32),
    kernel_epsilon=st.sampled_from([1e-4, 1e-2]),
)
def test_reward_equals_its_twin(distances: np.ndarray, counts: tuple[int, int], mean: float, kernel_epsilon: float) -> None:
    distances = np.sort(distances, axis=-1)
    for row, count in enumerate(counts):
        distances[row, count:] = NO_NEIGHBOUR
    actual = np.asarray(reward(distances, mean, kernel_epsilon))
    expected = [oracle.episodic_reward(row[:count], mean, kernel_epsilon) for row, count in zip(distances, counts, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    assert np.all(np.isfinite(actual)) and np.all(actual >= 0)


def test_reward_at_the_ends() -> None:
    """Ten neighbours at 0 are as familiar as it gets; far ones approach 1 / (sqrt(K eps m / d) + c)."""
    np.testing.assert_allclose(reward(jnp.zeros(10), 1.0), 1 / (np.sqrt(10) + 1e-3), rtol=1e-6)
    np.testing.assert_allclose(reward(jnp.full(10, 1e4), 1.0), 1 / (np.sqrt(10 * 1e-8) + 1e-3), rtol=1e-3)
    # A single memory, revisited: K = 1.
    np.testing.assert_allclose(reward(jnp.array([0.0] + [np.inf] * 9), 1.0), 1 / 1.001, rtol=1e-6)


def test_distances_within_a_cluster_count_as_zero() -> None:
    same = reward(jnp.zeros(3), 2.0)
    np.testing.assert_allclose(reward(jnp.full(3, 0.0159), 2.0), same, rtol=1e-6)  # 0.0159 / 2 < 0.008
    assert reward(jnp.full(3, 0.0165), 2.0) > 1.2 * same


def test_reward_has_no_scale_of_its_own() -> None:
    distances = jnp.array([[0.1, 0.5, 2.0], [0.0, 3.0, np.inf]])
    np.testing.assert_allclose(reward(1024 * distances, 1024.0), reward(distances, 1.0), rtol=1e-6)


def test_reward_without_a_scale() -> None:
    """Every distance so far was 0: familiar, not novel, and no division by zero."""
    np.testing.assert_allclose(reward(jnp.array([[0.0, 0.0], [0.0, np.inf]]), 0.0), [1 / (np.sqrt(2) + 1e-3), 1 / 1.001], rtol=1e-6)


def test_largest_similarity() -> None:
    """Above it the reward is 0; with all distances 0 the similarity is sqrt(K) + c."""
    np.testing.assert_allclose(reward(jnp.zeros(63), 1.0), 1 / (np.sqrt(63) + 1e-3), rtol=1e-6)
    assert reward(jnp.zeros(64), 1.0) == 0
    arguments = (1.0, 1e-4, 8e-3, 0.5)
    assert reward(jnp.zeros(4), *arguments, 2.4) == 0
    np.testing.assert_allclose(reward(jnp.zeros(4), *arguments, 2.6), 0.4, rtol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    distances=hnp.arrays(np.float32, (1, 5), elements=st.floats(0, 100, width=32)),
    farther=hnp.arrays(np.float32, (1, 5), elements=st.floats(0, 100, width=32)),
)
def test_farther_states_are_never_less_novel(distances: np.ndarray, farther: np.ndarray) -> None:
    near, far = reward(distances, 1.0)[0], reward(distances + farther, 1.0)[0]
    assert far >= near * (1 - 1e-6)


def test_an_episode_step_by_step() -> None:
    """Algorithm 1 as a whole: distances, their running mean over all environments, reward, insertion; environment 0 starts anew."""
    rng = np.random.default_rng(1)
    memory, moments = init_memory(E, M, D), init_moments()
    twins, running = [oracle.EpisodicMemory(M) for _ in range(E)], moments_oracle.RunningMoments()
    update = jax.jit(update_moments, static_argnames="horizon")
    for step in range(20):
        if step == 9:
            memory = reset_memory(memory, jnp.array([True, False, False]))
            twins[0].reset()
        embedding = rng.standard_normal((E, D)).astype(np.float32)
        embedding[1] = embedding[1].round()  # comes back to the same states
        distances = nearest(memory, embedding, K, 3)
        moments = update(moments, distances, jnp.isfinite(distances).astype(jnp.float32), 1e7)
        actual = reward(distances, moments.mean)
        memory = insert_one(memory, embedding)

        lists = [twin.nearest_squared_distances(x, K) for twin, x in zip(twins, embedding, strict=True)]
        together = [distance for distances_of_one in lists for distance in distances_of_one]
        running.update(together, [True] * len(together))
        expected = [oracle.episodic_reward(distances_of_one, running.mean()) for distances_of_one in lists]
        np.testing.assert_allclose(actual, expected, rtol=1e-3)
        for twin, x in zip(twins, embedding, strict=True):
            twin.insert(x)
