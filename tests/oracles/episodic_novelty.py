"""Twin of the episodic novelty: the memory of one environment is a list (NGU §2, Alg. 1)."""

import math
from collections.abc import Sequence

import numpy as np


class EpisodicMemory:
    """The newest `capacity` embeddings of one episode of one environment."""

    def __init__(self, capacity: int) -> None:
        """An empty memory."""
        self.capacity = capacity
        self.embeddings: list[list[float]] = []

    def reset(self) -> None:
        """Forgets the episode."""
        self.embeddings = []

    def insert(self, embedding: np.ndarray) -> None:
        """Appends an embedding [D]; the oldest falls out of a full memory."""
        self.embeddings.append([float(x) for x in embedding])
        if len(self.embeddings) > self.capacity:
            self.embeddings.pop(0)

    def nearest_squared_distances(self, query: np.ndarray, num_neighbours: int) -> list[float]:
        """The K smallest squared distances, ascending, or all if there are fewer."""
        distances = []
        for embedding in self.embeddings:
            distances.append(sum((float(x) - y) ** 2 for x, y in zip(query, embedding, strict=True)))
        return sorted(distances)[:num_neighbours]


def episodic_reward(
    squared_distances: Sequence[float],
    mean_squared_distance: float,
    kernel_epsilon: float = 1e-4,
    cluster_distance: float = 8e-3,
    pseudo_count: float = 1e-3,
    max_similarity: float = 8.0,
) -> float:
    """r^episodic from the distances to those neighbours that there are; 0 with an empty memory.

    A running mean of 0 means that every distance so far was 0, so these are 0 too and their ratio is taken as 0.
    """
    if len(squared_distances) == 0:
        return 0.0
    total = 0.0
    for squared_distance in squared_distances:
        ratio = squared_distance / mean_squared_distance if mean_squared_distance > 0 else squared_distance
        total += kernel_epsilon / (max(ratio - cluster_distance, 0.0) + kernel_epsilon)
    similarity = math.sqrt(total) + pseudo_count
    return 0.0 if similarity > max_similarity else 1.0 / similarity
