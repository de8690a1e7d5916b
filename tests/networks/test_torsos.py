"""First layers: shapes, scaling, and the messages for observations that do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.networks.torsos import Convolutions, torso_problem
from tests.networks import builders
from tests.oracles import convolutions as oracle

FLOAT32 = jnp.dtype("float32")
PAPER = NetworkSettings()
GRID = NetworkSettings(conv_features=(16, 32), conv_kernels=(3, 3), conv_strides=(1, 1))
VECTORS = NetworkSettings(torso=Torso.DENSE, dense_features=(6, 5))


def test_convolutions_by_hand() -> None:
    """Bytes over 255, no padding, the strides as given, row by row and channels last when flat."""
    torso = Convolutions((2, 3), (3, 2), (2, 1), FLOAT32)
    images = builders.observations(builders.spec(8, 7, 3), 2, 2)
    parameters = builders.with_biases(jax.jit(torso.init)(jax.random.key(0), images))
    features = np.asarray(jax.jit(torso.apply)(parameters, images))
    layers = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters["params"][f"Conv_{i}"]) for i in range(2)]
    for b, t in np.ndindex(2, 2):
        expected = oracle.torso([layer["kernel"] for layer in layers], [layer["bias"] for layer in layers], (2, 1), images[b, t])
        builders.assert_close(features[b, t], expected, rtol=1e-4)
    assert np.any(features == 0) and np.any(features > 0.1)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        *((settings, shape, None) for settings, shape in ((PAPER, (84, 84, 1)), (PAPER, (36, 36, 1)), (GRID, (5, 5, 3)), (VECTORS, (1,)))),
        (VECTORS, (84, 84, 1), r"network\.torso=dense needs vector observations, this task has shape \(84, 84, 1\)"),
        (PAPER, (8,), r"needs images, this task has observations of shape \(8,\): set network\.torso=dense"),
        (PAPER, (84, 84), r"needs images, this task has observations of shape \(84, 84\)"),
        (PAPER, (15, 15, 3), r"conv_kernels \(8, 4, 3\) and conv_strides leave nothing of a 15x15 image"),
        (PAPER, (35, 84, 1), r"leave nothing of a 35x84 image"),
        (PAPER, (84, 35, 1), r"leave nothing of a 84x35 image"),
        (GRID, (4, 5, 3), r"leave nothing of a 4x5 image"),
    ],
)
def test_a_torso_that_does_not_fit_says_so(settings: NetworkSettings, shape: tuple[int, ...], message: str | None) -> None:
    problem = torso_problem(settings, builders.spec(*shape))
    if message is None:
        assert problem is None
    else:
        assert problem is not None and re.search(message, problem) and "\n" not in problem
