"""The embedding of controllable states and its inverse-dynamics head."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.embedding import EmbeddingNetwork
from tests.networks import builders
from tests.networks.builders import A
from tests.oracles import q_network as oracle

B, T, D = 3, 5, 6
NOVELTY = NoveltySettings(embedding_size=D, inverse_hidden_size=7)
NETWORKS = {
    "vector": EmbeddingNetwork(builders.VECTOR_SETTINGS, NOVELTY, builders.VECTOR),
    "grid": EmbeddingNetwork(builders.GRID_SETTINGS, NOVELTY, builders.GRID),
}
PAPER = EmbeddingNetwork(NetworkSettings(), NoveltySettings(), builders.ATARI)


@functools.cache
def case(kind: str) -> tuple[Any, np.ndarray]:
    """Parameters and observations [B, T + 1, ...]."""
    network = NETWORKS[kind]
    return builders.with_biases(jax.jit(network.init)(jax.random.key(0))), builders.observations(network.spec, B, T + 1)


@functools.cache
def embed(kind: str) -> Any:
    return jax.jit(NETWORKS[kind].embed)


@functools.cache
def action_logits(kind: str) -> Any:
    return jax.jit(NETWORKS[kind].action_logits)


def test_equals_the_formula() -> None:
    """f: torso, dense, ReLU; the head sees f(x_t) and f(x_{t+1}) side by side, in this order."""
    parameters, observations = case("vector")
    expected = np.zeros((B, T + 1, D))
    for b, t in np.ndindex(B, T + 1):
        features = oracle.torso(parameters["embedding"]["Dense_1"], observations[b, t])
        expected[b, t] = oracle.relu(oracle.dense(parameters["embedding"]["Dense_0"], features))
    builders.assert_close(embed("vector")(parameters["embedding"], observations), expected, rtol=1e-4)
    logits = np.asarray(action_logits("vector")(parameters, observations))
    for b, t in np.ndindex(B, T):
        hidden = oracle.relu(oracle.dense(parameters["inverse"]["Dense_0"], np.concatenate([expected[b, t], expected[b, t + 1]])))
        builders.assert_close(logits[b, t], oracle.dense(parameters["inverse"]["Dense_1"], hidden), rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_shapes_and_float32(kind: str) -> None:
    parameters, observations = case(kind)
    assert builders.dtypes_of(parameters) == {np.dtype("float32")}
    embeddings = np.asarray(embed(kind)(parameters["embedding"], observations))
    assert embeddings.shape == (B, T + 1, D) and embeddings.dtype == jnp.float32
    assert np.all(embeddings >= 0) and np.ptp(embeddings) > 0.1
    # One timestep of all environments, as the actor embeds.
    builders.assert_close(embed(kind)(parameters["embedding"], observations[:, 2]), embeddings[:, 2], atol=1e-6)
    logits = action_logits(kind)(parameters, observations)
    assert logits.shape == (B, T, A) and logits.dtype == jnp.float32
    assert "bf16" not in str(jax.make_jaxpr(NETWORKS[kind].action_logits)(parameters, observations))


def test_the_likelihood_of_actions_trains_embedding_and_head() -> None:
    parameters, observations = case("grid")

    def loss(parameters: Any) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(NETWORKS["grid"].action_logits(parameters, observations))[..., 1])

    builders.assert_learns(jax.jit(jax.grad(loss))(parameters))


def test_sizes_of_the_paper() -> None:
    """For 84x84x1 frames and 18 actions: the papers' convolutions, 32 controllable units, 128 hidden ones."""
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    assert builders.size_of(parameters["embedding"]) == builders.PAPER_CONVOLUTIONS + 3136 * 32 + 32
    assert builders.size_of(parameters["inverse"]) == (32 + 32) * 128 + 128 + 128 * 18 + 18
    frames = jax.ShapeDtypeStruct((64, 6, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.embed, parameters["embedding"], frames).shape == (64, 6, 32)
    assert jax.eval_shape(PAPER.action_logits, parameters, frames).shape == (64, 5, 18)
