"""First layers: shapes, scaling, and the messages for observations that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.networks.torsos import Convolutions, Dense, build_torso, torso_problem
from agent57_jax.types import EnvironmentSpec
from tests.oracles import convolutions as oracle

FLOAT32 = jnp.dtype("float32")
GRID = NetworkSettings(conv_features=(16, 32), conv_kernels=(3, 3), conv_strides=(1, 1))
VECTORS = NetworkSettings(torso=Torso.DENSE, dense_features=(6, 5))


def spec(*shape: int) -> EnvironmentSpec:
    return EnvironmentSpec(shape, np.dtype("uint8" if len(shape) == 3 else "float32"), 4, ("noop",) * 4, 1)


@pytest.mark.parametrize(
    ("settings", "shape", "size"),
    [
        (NetworkSettings(), (84, 84, 1), 7 * 7 * 64),  # the papers'
        (GRID, (15, 15, 3), 11 * 11 * 32),
        (GRID, (5, 5, 3), 1 * 1 * 32),
        (GRID, (9, 6, 3), 5 * 2 * 32),
        (VECTORS, (8,), 5),
    ],
)
def test_features_are_flat_for_any_leading_axes(settings: NetworkSettings, shape: tuple[int, ...], size: int) -> None:
    torso = build_torso(settings, FLOAT32)
    dtype = jnp.uint8 if len(shape) == 3 else jnp.float32
    parameters = jax.eval_shape(torso.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), dtype))
    for leading in ((), (3,), (2, 5), (2, 3, 4)):
        features = jax.eval_shape(torso.apply, parameters, jax.ShapeDtypeStruct((*leading, *shape), dtype))
        assert features.shape == (*leading, size) and features.dtype == jnp.float32


def test_convolutions_by_hand() -> None:
    """Bytes over 255, no padding, the strides as given, row by row and channels last when flat."""
    torso = Convolutions((2, 3), (3, 2), (2, 1), FLOAT32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, 8, 7, 3)).astype(np.uint8)
    parameters = jax.jit(torso.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {FLOAT32}
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), parameters)
    features = np.asarray(jax.jit(torso.apply)(parameters, images))
    layers = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters["params"][f"Conv_{i}"]) for i in range(2)]
    for b in range(2):
        for t in range(2):
            expected = oracle.torso([layer["kernel"] for layer in layers], [layer["bias"] for layer in layers], (2, 1), images[b, t])
            np.testing.assert_allclose(features[b, t], expected, rtol=1e-4, atol=1e-5)
    assert np.any(features == 0) and np.any(features > 0.1)


def test_dense_layers_by_hand() -> None:
    """Vectors are taken as they are."""
    torso = Dense((6, 5), FLOAT32)
    rng = np.random.default_rng(0)
    vectors = (100 * rng.normal(size=(2, 3, 8))).astype(np.float32)
    parameters = jax.jit(torso.init)(jax.random.key(0), vectors)
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), parameters)
    x = np.asarray(vectors, np.float64)
    for i in range(2):
        layer = parameters["params"][f"Dense_{i}"]
        x = np.maximum(x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64), 0.0)
    np.testing.assert_allclose(jax.jit(torso.apply)(parameters, vectors), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [GRID, VECTORS])
def test_bfloat16_features_keep_float32_parameters(settings: NetworkSettings) -> None:
    shape, dtype = ((9, 9, 3), jnp.uint8) if settings is GRID else ((8,), jnp.float32)
    torso = build_torso(settings, jnp.dtype("bfloat16"))
    observation = jax.ShapeDtypeStruct((2, *shape), dtype)
    parameters = jax.eval_shape(torso.init, jax.random.key(0), observation)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {FLOAT32}
    assert jax.eval_shape(torso.apply, parameters, observation).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "shape"), [(NetworkSettings(), (84, 84, 1)), (NetworkSettings(), (36, 36, 1)), (GRID, (5, 5, 3)), (VECTORS, (1,))]
)
def test_a_torso_that_fits_has_no_problem(settings: NetworkSettings, shape: tuple[int, ...]) -> None:
    assert torso_problem(settings, spec(*shape)) is None


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (VECTORS, (84, 84, 1), r"network\.torso=dense needs vector observations, this task has shape \(84, 84, 1\)"),
        (NetworkSettings(), (8,), r"needs images, this task has observations of shape \(8,\): set network\.torso=dense"),
        (NetworkSettings(), (84, 84), r"needs images, this task has observations of shape \(84, 84\)"),
        (NetworkSettings(), (15, 15, 3), r"conv_kernels \(8, 4, 3\) and conv_strides leave nothing of a 15x15 image"),
        (NetworkSettings(), (35, 84, 1), r"leave nothing of a 35x84 image"),
        (NetworkSettings(), (84, 35, 1), r"leave nothing of a 84x35 image"),
        (GRID, (4, 5, 3), r"leave nothing of a 4x5 image"),
    ],
)
def test_a_torso_that_does_not_fit_says_so(settings: NetworkSettings, shape: tuple[int, ...], message: str) -> None:
    problem = torso_problem(settings, spec(*shape))
    assert problem is not None and "\n" not in problem
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)
