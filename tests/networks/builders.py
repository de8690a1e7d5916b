"""Small tasks, observations and parameters for the tests of networks."""

from typing import Any

import jax
import numpy as np

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.types import EnvironmentSpec

A = 4


def spec(*shape: int, num_actions: int = A) -> EnvironmentSpec:
    """Of images or vectors."""
    return EnvironmentSpec(shape, np.dtype("uint8" if len(shape) == 3 else "float32"), num_actions, ("noop",) * num_actions, 1)


VECTOR, GRID, ATARI = spec(3), spec(9, 7, 3), spec(84, 84, 1, num_actions=18)
VECTOR_SETTINGS = NetworkSettings(torso=Torso.DENSE, dense_features=(12, 7))
GRID_SETTINGS = NetworkSettings(conv_features=(4, 6), conv_kernels=(3, 3), conv_strides=(1, 1))
PAPER_CONVOLUTIONS = (8 * 8 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)  # numbers in their parameters


def observations(task: EnvironmentSpec, *leading: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (*leading, *task.observation_shape)
    return rng.integers(0, 256, shape).astype(np.uint8) if len(task.observation_shape) == 3 else rng.normal(size=shape).astype(np.float32)


def with_biases(parameters: Any) -> Any:
    """Biases are zero at first, which would hide a mistake."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), parameters)


def size_of(parameters: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def dtypes_of(parameters: Any) -> set[np.dtype]:
    return {leaf.dtype for leaf in jax.tree.leaves(parameters)}


def assert_close(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Leaf by leaf, with the same number of leaves."""
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def assert_learns(gradients: Any) -> None:
    """Every parameter has a finite gradient that is not all zero."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), path
