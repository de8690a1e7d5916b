"""Random network distillation: the error, and who learns from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, NoveltySettings, Torso
from agent57_jax.networks.distillation import DistillationNetwork
from agent57_jax.types import EnvironmentSpec
from tests.oracles import q_network as oracle

VECTOR = DistillationNetwork(
    NetworkSettings(torso=Torso.DENSE, dense_features=(9, 8)),
    NoveltySettings(distillation_size=5),
    EnvironmentSpec((3,), np.dtype("float32"), 4, ("noop",) * 4, 1),
)
GRID = DistillationNetwork(
    NetworkSettings(conv_features=(4, 6), conv_kernels=(3, 3), conv_strides=(1, 1)),
    NoveltySettings(distillation_size=5),
    EnvironmentSpec((15, 15, 3), np.dtype("uint8"), 4, ("noop",) * 4, 1),
)
PAPER = DistillationNetwork(NetworkSettings(), NoveltySettings(), EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, ("noop",) * 18, 4))
NETWORKS = pytest.mark.parametrize("network", [VECTOR, GRID], ids=["vector", "grid"])


def observations_of(network: DistillationNetwork) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (3, 4, *network.spec.observation_shape)
    return rng.integers(0, 256, shape).astype(np.uint8) if network is GRID else rng.normal(size=shape).astype(np.float32)


def pair_of(network: DistillationNetwork) -> tuple[Any, Any]:
    init = jax.jit(network.init)
    predictor, target = jax.device_get((init(jax.random.key(0)), init(jax.random.key(1))))
    return predictor, target


def test_equals_the_formula() -> None:
    predictor, target = pair_of(VECTOR)
    observations = observations_of(VECTOR)
    errors = np.asarray(jax.jit(VECTOR.error)(predictor, target, observations))
    for index in np.ndindex(3, 4):
        guess, wanted = (oracle.dense(p["Dense_0"], oracle.torso(p["Dense_1"], observations[index])) for p in (predictor, target))
        np.testing.assert_allclose(errors[index], np.sum((guess - wanted) ** 2), rtol=1e-4)


@NETWORKS
def test_error_is_one_number_an_observation_in_float32(network: DistillationNetwork) -> None:
    predictor, target = pair_of(network)
    observations = observations_of(network)
    error = jax.jit(network.error)
    errors = np.asarray(error(predictor, target, observations))
    assert errors.shape == (3, 4) and errors.dtype == jnp.float32 and np.all(errors > 0)
    np.testing.assert_allclose(error(predictor, target, observations[:, 2]), errors[:, 2], rtol=1e-4)
    np.testing.assert_allclose(error(target, predictor, observations), errors, rtol=1e-5)
    assert "bf16" not in str(jax.make_jaxpr(network.error)(predictor, target, observations))


@NETWORKS
def test_a_predictor_that_has_learnt_everything_makes_no_error(network: DistillationNetwork) -> None:
    predictor, target = pair_of(network)
    observations = observations_of(network)

    def total(predictor: Any, target: Any) -> jax.Array:
        return jnp.sum(network.error(predictor, target, observations))

    program = jax.jit(jax.value_and_grad(total))
    error, gradients = program(target, target)
    assert error == 0.0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert program(predictor, target)[0] > 0.1


@NETWORKS
def test_only_the_predictor_learns(network: DistillationNetwork) -> None:
    predictor, target = pair_of(network)
    observations = observations_of(network)

    def total(predictor: Any, target: Any) -> jax.Array:
        return jnp.sum(network.error(predictor, target, observations))

    to_predictor, to_target = jax.jit(jax.grad(total, argnums=(0, 1)))(predictor, target)
    for path, leaf in jax.tree_util.tree_leaves_with_path(to_predictor):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), path
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_target))


def test_sizes_of_the_paper() -> None:
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    convolutions = (8 * 8 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters)) == convolutions + 3136 * 128 + 128
    frames = jax.ShapeDtypeStruct((64, 5, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.error, parameters, parameters, frames).shape == (64, 5)
