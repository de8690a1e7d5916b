"""First layers: shapes, scaling, and the messages for observations that do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.networks.torsos import Convolutions, Dense, build_torso, torso_problem
from tests.networks import builders
from tests.oracles import convolutions as oracle

FLOAT32 = jnp.dtype("float32")
PAPER = NetworkSettings()
GRID = NetworkSettings(conv_features=(16, 32), conv_kernels=(3, 3), conv_strides=(1, 1))
VECTORS = NetworkSettings(torso=Torso.DENSE, dense_features=(6, 5))


@pytest.mark.parametrize("dtype", [FLOAT32, jnp.dtype("bfloat16")])
@pytest.mark.parametrize(
    ("settings", "shape", "size"),
    [
        (PAPER, (84, 84, 1), 7 * 7 * 64),
        (GRID, (15, 15, 3), 11 * 11 * 32),
        (GRID, (5, 5, 3), 1 * 1 * 32),
        (GRID, (9, 6, 3), 5 * 2 * 32),
        (VECTORS, (8,), 5),
    ],
)
def test_features_are_flat_for_any_leading_axes(settings: NetworkSettings, shape: tuple[int, ...], size: int, dtype: jnp.dtype) -> None:
    torso = build_torso(settings, dtype)
    shown = builders.spec(*shape).observation_dtype
    parameters = jax.eval_shape(torso.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), shown))
    assert builders.dtypes_of(parameters) == {FLOAT32}
    for leading in ((), (3,), (2, 3, 4)):
        features = jax.eval_shape(torso.apply, parameters, jax.ShapeDtypeStruct((*leading, *shape), shown))
        assert features.shape == (*leading, size) and features.dtype == dtype


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


def test_dense_layers_by_hand() -> None:
    """Vectors are taken as they are."""
    torso = Dense((6, 5), FLOAT32)
    vectors = 100 * builders.observations(builders.spec(8), 2, 3)
    parameters = builders.with_biases(jax.jit(torso.init)(jax.random.key(0), vectors))
    x = np.asarray(vectors, np.float64)
    for i in range(2):
        layer = parameters["params"][f"Dense_{i}"]
        x = np.maximum(x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64), 0.0)
    builders.assert_close(jax.jit(torso.apply)(parameters, vectors), x, rtol=1e-4, atol=1e-4)


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
