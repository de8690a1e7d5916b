"""Random network distillation: the error, and who learns from it; test_actor.py and test_learner.py compare it with the formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.distillation import DistillationNetwork
from tests.networks import builders

NETWORK = DistillationNetwork(builders.GRID_SETTINGS, NoveltySettings(distillation_size=5), builders.GRID)
PAPER = DistillationNetwork(NetworkSettings(), NoveltySettings(), builders.ATARI)


def case() -> tuple[Any, Any, np.ndarray]:
    """Predictor, target and observations [3, 4, ...]."""
    predictor, target = (jax.device_get(jax.jit(NETWORK.init)(jax.random.key(seed))) for seed in range(2))
    return predictor, target, builders.observations(NETWORK.spec, 3, 4)


def test_images_give_one_number_each_in_float32() -> None:
    predictor, target, observations = case()
    errors, one = (np.asarray(jax.jit(NETWORK.error)(predictor, target, x)) for x in (observations, observations[:, 2]))
    assert errors.shape == (3, 4) and errors.dtype == jnp.float32 and np.all(errors > 0)
    np.testing.assert_allclose(one, errors[:, 2], rtol=1e-4)
    assert "bf16" not in str(jax.make_jaxpr(NETWORK.error)(predictor, target, observations))


def test_only_the_predictor_learns_until_it_makes_no_error() -> None:
    predictor, target, observations = case()
    program = jax.jit(jax.value_and_grad(lambda *given: jnp.sum(NETWORK.error(*given)), argnums=(0, 1)))
    error, (to_predictor, to_target) = program(predictor, target, observations)
    assert error > 0.1
    builders.assert_learns(to_predictor)
    error, gradients = program(target, target, observations)
    assert error == 0.0 and not any(np.any(leaf) for leaf in jax.tree.leaves((to_target, gradients)))


def test_sizes_of_the_paper() -> None:
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    assert builders.size_of(parameters) == builders.PAPER_CONVOLUTIONS + 3136 * 128 + 128
    frames = jax.ShapeDtypeStruct((64, 5, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.error, parameters, parameters, frames).shape == (64, 5)
