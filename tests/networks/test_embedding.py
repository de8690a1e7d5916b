"""The embedding of controllable states and its inverse-dynamics head; test_actor.py and test_learner.py compare both with the formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.embedding import EmbeddingNetwork
from tests.networks import builders

B, T, D = 3, 5, 6
NOVELTY = NoveltySettings(embedding_size=D, inverse_hidden_size=7)
NETWORK = EmbeddingNetwork(builders.GRID_SETTINGS, NOVELTY, builders.GRID)
PAPER = EmbeddingNetwork(NetworkSettings(), NoveltySettings(), builders.ATARI)


def case() -> tuple[Any, np.ndarray]:
    """Parameters and observations [B, T + 1, ...]."""
    return builders.with_biases(jax.jit(NETWORK.init)(jax.random.key(0))), builders.observations(NETWORK.spec, B, T + 1)


def test_images_of_one_timestep_or_many_are_embedded_in_float32() -> None:
    """As the actor embeds and as the learner does."""
    parameters, observations = case()
    assert builders.dtypes_of(parameters) == {np.dtype("float32")}
    embeddings, one = (np.asarray(jax.jit(NETWORK.embed)(parameters["embedding"], x)) for x in (observations, observations[:, 2]))
    assert embeddings.shape == (B, T + 1, D) and embeddings.dtype == jnp.float32 and np.ptp(embeddings) > 0.1
    builders.assert_close(one, embeddings[:, 2], atol=1e-6)
    assert "bf16" not in str(jax.make_jaxpr(NETWORK.action_logits)(parameters, observations))


def test_the_likelihood_of_actions_trains_embedding_and_head() -> None:
    parameters, observations = case()

    def loss(parameters: Any) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(NETWORK.action_logits(parameters, observations))[..., 1])

    builders.assert_learns(jax.jit(jax.grad(loss))(parameters))


def test_sizes_of_the_paper() -> None:
    """For 84x84x1 frames and 18 actions: the papers' convolutions, 32 controllable units, 128 hidden ones."""
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    assert builders.size_of(parameters["embedding"]) == builders.PAPER_CONVOLUTIONS + 3136 * 32 + 32
    assert builders.size_of(parameters["inverse"]) == (32 + 32) * 128 + 128 + 128 * 18 + 18
    frames = jax.ShapeDtypeStruct((64, 6, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.embed, parameters["embedding"], frames).shape == (64, 6, 32)
    assert jax.eval_shape(PAPER.action_logits, parameters, frames).shape == (64, 5, 18)
