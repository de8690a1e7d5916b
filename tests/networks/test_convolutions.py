"""Convolutions by patches against loops in float64 and against XLA's, with their gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.networks import convolutions
from agent57_jax.networks.convolutions import Layer, Layers
from tests.oracles import convolutions as oracle

V = 3


class Form(NamedTuple):
    """An image and the layers over it."""

    shape: tuple[int, int, int]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    features: tuple[int, ...]


FORMS = {
    "papers": Form((84, 84, 1), (8, 4, 3), (4, 2, 1), (4, 5, 6)),
    "grid": Form((9, 7, 3), (3, 3), (1, 1), (4, 6)),
    "one layer": Form((7, 7, 2), (3,), (2,), (5,)),
    "kernel is no multiple of the stride, and pixels are left over": Form((20, 21, 2), (5, 3), (3, 2), (5, 4)),
    "kernel is its stride": Form((9, 8, 3), (2, 2), (2, 2), (3, 4)),
    "pixels between the windows": Form((9, 10, 2), (2,), (3,), (3,)),
}


@functools.cache
def layers_of(name: str) -> Layers:
    rng = np.random.default_rng(0)
    form = FORMS[name]
    channels, layers = form.shape[-1], []
    for features, kernel in zip(form.features, form.kernels, strict=True):
        scale = 1 / (kernel * np.sqrt(channels))
        weights = rng.normal(size=(V, kernel, kernel, channels, features)) * scale
        layers.append(Layer(weights.astype(np.float32), 0.3 * rng.normal(size=(V, features)).astype(np.float32)))
        channels = features
    return tuple(layers)


def images_of(name: str, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *FORMS[name].shape)).astype(np.uint8)


def twin(layers: Layers, images: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """[V, n, features]."""
    return np.array(
        [
            [oracle.torso([layer.kernel[v] for layer in layers], [layer.bias[v] for layer in layers], strides, image) for image in images]
            for v in range(V)
        ]
    )


def by_patches(*arguments: Any, **named: Any) -> jax.Array:
    """Of the trained networks and of the others: [V, n, features]."""
    return jnp.concatenate(convolutions.by_patches(*arguments, **named))


def by_convolutions(*arguments: Any) -> jax.Array:
    """The same, the other way."""
    return jnp.concatenate(convolutions.by_convolutions(*arguments))


@pytest.mark.parametrize("name", FORMS)
def test_both_ways_equal_the_twin(name: str) -> None:
    layers, images, strides = layers_of(name), images_of(name, 2), FORMS[name].strides
    expected = twin(layers, images, strides)
    assert np.mean(expected > 0) > 0.2
    for function in (by_patches, by_convolutions):
        for trained in (1, V):
            got = jax.jit(function, static_argnums=(2, 3))(layers, images, strides, trained)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("count", "block"), [(5, 8), (5, 2), (4, 2)])
def test_gradients_equal_those_of_xla_and_stop_at_networks_that_are_not_trained(name: str, count: int, block: int) -> None:
    layers, images, strides, trained = layers_of(name), images_of(name, count), FORMS[name].strides, 2
    features = jax.eval_shape(lambda: by_convolutions(layers, images, strides, trained)).shape
    weights = jnp.asarray(np.random.default_rng(2).normal(size=features), jnp.float32)
    ways = functools.partial(by_patches, block=block), by_convolutions
    got, expected = (jax.jit(jax.grad(lambda x, way=way: jnp.sum(way(x, images, strides, trained) * weights)))(layers) for way in ways)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert float(jnp.max(jnp.abs(theirs[:trained]))) > 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(theirs))))
        assert not np.any(ours[trained:])


def test_half_precision_loses_no_more_than_its_digits_over_many_blocks() -> None:
    """A block adds little beside what hundreds before it have: the sum has more digits than the numbers."""
    layers, images = layers_of("grid"), images_of("grid", 512)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), layers)
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), half)

    def total(layers: Layers) -> jax.Array:
        return jnp.sum(by_patches(layers, images, FORMS["grid"].strides, V, 1).astype(jnp.float32))

    program = jax.jit(jax.grad(total))
    for got, expected in zip(jax.tree.leaves(program(half)), jax.tree.leaves(program(wide)), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=0.02, atol=0.01 * float(jnp.max(jnp.abs(expected))))


def test_networks_without_gradient_keep_nothing_for_a_backward_pass() -> None:
    layers, images = layers_of("grid"), images_of("grid", 3)

    def total(layers: Layers) -> jax.Array:
        return jnp.sum(by_patches(jax.lax.stop_gradient(layers), images, FORMS["grid"].strides, V))

    products = str(jax.make_jaxpr(total)(layers)).count("dot_general")
    assert products > 0
    assert str(jax.make_jaxpr(jax.grad(total))(layers)).count("dot_general") == products
