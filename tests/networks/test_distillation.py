"""Random network distillation: the error, and who learns from it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.distillation import DistillationNetwork
from tests.networks import builders
from tests.oracles import q_network as oracle

NETWORKS = {
    "vector": DistillationNetwork(builders.VECTOR_SETTINGS, NoveltySettings(distillation_size=5), builders.VECTOR),
    "grid": DistillationNetwork(builders.GRID_SETTINGS, NoveltySettings(distillation_size=5), builders.GRID),
}
PAPER = DistillationNetwork(NetworkSettings(), NoveltySettings(), builders.ATARI)


@functools.cache
def case(kind: str) -> tuple[Any, Any, np.ndarray]:
    """Predictor, target and observations [3, 4, ...]."""
    network = NETWORKS[kind]
    predictor, target = (jax.device_get(jax.jit(network.init)(jax.random.key(seed))) for seed in range(2))
    return predictor, target, builders.observations(network.spec, 3, 4)


@functools.cache
def errors_and_gradients(kind: str) -> Any:
    """A program: predictor, target, observations -> ((sum, errors), gradients of both networks)."""

    def total(predictor: Any, target: Any, observations: np.ndarray) -> tuple[jax.Array, jax.Array]:
        errors = NETWORKS[kind].error(predictor, target, observations)
        return jnp.sum(errors), errors

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


def test_equals_the_formula() -> None:
    predictor, target, observations = case("vector")
    (_, errors), _ = errors_and_gradients("vector")(predictor, target, observations)
    for index in np.ndindex(3, 4):
        guess, wanted = (oracle.dense(p["Dense_0"], oracle.torso(p["Dense_1"], observations[index])) for p in (predictor, target))
        np.testing.assert_allclose(errors[index], np.sum((guess - wanted) ** 2), rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_error_is_one_number_an_observation_in_float32(kind: str) -> None:
    predictor, target, observations = case(kind)
    error = jax.jit(NETWORKS[kind].error)
    errors = np.asarray(error(predictor, target, observations))
    assert errors.shape == (3, 4) and errors.dtype == jnp.float32 and np.all(errors > 0)
    np.testing.assert_allclose(error(predictor, target, observations[:, 2]), errors[:, 2], rtol=1e-4)
    np.testing.assert_allclose(error(target, predictor, observations), errors, rtol=1e-5)
    assert "bf16" not in str(jax.make_jaxpr(NETWORKS[kind].error)(predictor, target, observations))


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_the_predictor_learns_until_it_makes_no_error(kind: str) -> None:
    predictor, target, observations = case(kind)
    program = errors_and_gradients(kind)
    (error, _), (to_predictor, to_target) = program(predictor, target, observations)
    assert error > 0.1
    builders.assert_learns(to_predictor)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_target))
    (error, _), gradients = program(target, target, observations)
    assert error == 0.0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_sizes_of_the_paper() -> None:
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    assert builders.size_of(parameters) == builders.PAPER_CONVOLUTIONS + 3136 * 128 + 128
    frames = jax.ShapeDtypeStruct((64, 5, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.error, parameters, parameters, frames).shape == (64, 5)
