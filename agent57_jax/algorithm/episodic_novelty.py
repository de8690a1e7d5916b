"""Episodic novelty: the memory of an episode's controllable states, and its reward (NGU §2, Alg. 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NO_NEIGHBOUR = jnp.inf  # distance of a missing neighbour


class EpisodicMemory(NamedTuple):
    """A ring of embeddings per environment, of which the first min(inserted, M) slots are valid."""

    embeddings: jax.Array  # [E, M, D] float32
    inserted: jax.Array  # [E] int32, embeddings inserted in this episode


def init_memory(num_envs: int, capacity: int, embedding_size: int) -> EpisodicMemory:
    """Empty memories."""
    return EpisodicMemory(jnp.zeros((num_envs, capacity, embedding_size), jnp.float32), jnp.zeros((num_envs,), jnp.int32))


def reset_memory(memory: EpisodicMemory, where: jax.Array) -> EpisodicMemory:
    """Empties the memories of environments `where` [E] bool; slots are overwritten later."""
    return memory._replace(inserted=jnp.where(where, 0, memory.inserted))


def insert(memory: EpisodicMemory, embedding: jax.Array) -> EpisodicMemory:
    """Appends an embedding [E, D] to every memory; a full ring loses its oldest one."""
    num_envs, capacity, _ = memory.embeddings.shape
    embeddings = memory.embeddings.at[jnp.arange(num_envs), memory.inserted % capacity].set(embedding)
    return EpisodicMemory(embeddings, memory.inserted + 1)


def insert_and_compare(
    memory: EpisodicMemory, embedding: jax.Array, num_neighbours: int, block_size: int | None = None
) -> tuple[EpisodicMemory, jax.Array]:
    """Appends an embedding [E, D] to every memory; also returns distances [E, K] as from `nearest_squared_distances`.

    In this order a compiled act can update the memory in place; comparing first would need a copy.
    """
    own_slot = memory.inserted % memory.embeddings.shape[1]
    memory = insert(memory, embedding)
    return memory, nearest_squared_distances(memory, embedding, num_neighbours, block_size, own_slot)


def nearest_squared_distances(
    memory: EpisodicMemory, query: jax.Array, num_neighbours: int, block_size: int | None = None, left_out: jax.Array | None = None
) -> jax.Array:
    """Squared Euclidean distances of each query to its nearest memories, [E, K] ascending; NO_NEIGHBOUR where there are fewer than K.

    The cost grows with the fullest memory, not with the capacity: only blocks of slots in use are visited; their size is that which suits
    the device if `block_size` is None. `left_out` [E] int32 is a slot of each memory that is not compared.
    """
    num_envs, capacity, _ = memory.embeddings.shape
    # A block fits a CPU's cache; on a GPU every iteration costs some launches.
    block = min(block_size or (512 if jax.default_backend() == "cpu" else 8_192), capacity)
    fill = jnp.minimum(memory.inserted, capacity)

    def visit(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        index, nearest = carry
        # The last block ends at the capacity; slots that it shares with the block before are masked.
        start = jnp.minimum(index * block, capacity - block)
        slots = start + jnp.arange(block, dtype=jnp.int32)
        candidates = jax.lax.dynamic_slice_in_dim(memory.embeddings, start, block, axis=1)
        # Not the expanded square: a revisited state must give exactly 0.
        distances = jnp.sum(jnp.square(candidates - query[:, None, :]), axis=-1)
        held = (slots[None, :] < fill[:, None]) & (slots >= index * block)[None, :]
        if left_out is not None:
            held &= slots[None, :] != left_out[:, None]
        distances = jnp.where(held, distances, NO_NEIGHBOUR)
        merged = jnp.concatenate([nearest, distances], axis=1)
        return index + 1, -jax.lax.top_k(-merged, num_neighbours)[0]

    def more(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        return carry[0] * block < jnp.max(fill)

    nothing = jnp.full((num_envs, num_neighbours), NO_NEIGHBOUR, query.dtype)
    return jax.lax.while_loop(more, visit, (jnp.int32(0), nothing))[1]


def episodic_reward(
    squared_distances: jax.Array,
    mean_squared_distance: jax.Array,
    kernel_epsilon: float = 1e-4,
    cluster_distance: float = 8e-3,
    pseudo_count: float = 1e-3,
    max_similarity: float = 8.0,
) -> jax.Array:
    """r^episodic = 1/s, s = sqrt(sum_i K_i) + c, [...] >= 0; 0 if s > max_similarity or the memory is empty.

    d_n = max(d_i^2 / d_m^2 - xi, 0),  K_i = eps / (d_n + eps).

    The distances d_i^2 [..., K] are those of `nearest_squared_distances`, without missing neighbours, and d_m^2 is their running mean.
    kernel_epsilon, cluster_distance and pseudo_count are eps, xi and c.
    """
    present = squared_distances != NO_NEIGHBOUR  # True for NaN, which must not be hidden
    distances = jnp.where(present, squared_distances, 0.0)
    # While all distances are 0 any scale will do: equal states are similar at every scale.
    scale = jnp.where(mean_squared_distance > 0, mean_squared_distance, 1.0)
    normalised = jnp.maximum(distances / scale - cluster_distance, 0.0)
    kernel = jnp.where(present, kernel_epsilon / (normalised + kernel_epsilon), 0.0)
    similarity = jnp.sqrt(jnp.sum(kernel, axis=-1)) + pseudo_count
    novel = (similarity <= max_similarity) & jnp.any(present, axis=-1)
    return jnp.where(novel, 1.0 / similarity, 0.0)
