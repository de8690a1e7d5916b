"""The embedding of controllable states and its inverse-dynamics head."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, NoveltySettings, Torso
from agent57_jax.networks.embedding import EmbeddingNetwork
from agent57_jax.types import EnvironmentSpec
from tests.oracles import q_network as oracle

B, T, A, D = 3, 5, 4, 6
NOVELTY = NoveltySettings(embedding_size=D, inverse_hidden_size=7)
VECTOR = EmbeddingNetwork(
    NetworkSettings(torso=Torso.DENSE, dense_features=(9, 8)), NOVELTY, EnvironmentSpec((3,), np.dtype("float32"), A, ("noop",) * A, 1)
)
GRID = EmbeddingNetwork(
    NetworkSettings(conv_features=(4, 6), conv_kernels=(3, 3), conv_strides=(1, 1)),
    NOVELTY,
    EnvironmentSpec((15, 15, 3), np.dtype("uint8"), A, ("noop",) * A, 1),
)
PAPER = EmbeddingNetwork(NetworkSettings(), NoveltySettings(), EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, ("noop",) * 18, 4))


NETWORKS = {"vector": VECTOR, "grid": GRID}


@functools.cache
def parameters_of(kind: str) -> Any:
    """Parameters with biases that are not zero."""
    rng = np.random.default_rng(0)
    parameters = jax.jit(NETWORKS[kind].init)(jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), parameters)


def observations_of(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (B, T + 1, *NETWORKS[kind].spec.observation_shape)
    return rng.integers(0, 256, shape).astype(np.uint8) if kind == "grid" else rng.normal(size=shape).astype(np.float32)


@functools.cache
def embed(kind: str) -> Any:
    return jax.jit(NETWORKS[kind].embed)


@functools.cache
def action_logits(kind: str) -> Any:
    return jax.jit(NETWORKS[kind].action_logits)


def test_equals_the_formula() -> None:
    """f: torso, dense, ReLU; the head sees f(x_t) and f(x_{t+1}) side by side, in this order."""
    parameters, observations = parameters_of("vector"), observations_of("vector")
    embeddings = embed("vector")(parameters["embedding"], observations)
    logits = np.asarray(action_logits("vector")(parameters, observations))
    expected = np.zeros((B, T + 1, D))
    for b in range(B):
        for t in range(T + 1):
            features = oracle.torso(parameters["embedding"]["Dense_1"], observations[b, t])
            expected[b, t] = oracle.relu(oracle.dense(parameters["embedding"]["Dense_0"], features))
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    for b in range(B):
        for t in range(T):
            pair = np.concatenate([expected[b, t], expected[b, t + 1]])
            hidden = oracle.relu(oracle.dense(parameters["inverse"]["Dense_0"], pair))
            np.testing.assert_allclose(logits[b, t], oracle.dense(parameters["inverse"]["Dense_1"], hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vector", "grid"])
def test_shapes_and_float32(kind: str) -> None:
    parameters, observations = parameters_of(kind), observations_of(kind)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {np.dtype("float32")}
    embeddings = np.asarray(embed(kind)(parameters["embedding"], observations))
    assert embeddings.shape == (B, T + 1, D) and embeddings.dtype == jnp.float32
    assert np.all(embeddings >= 0) and np.ptp(embeddings) > 0.1
    # One timestep of all environments, as the actor embeds.
    np.testing.assert_allclose(embed(kind)(parameters["embedding"], observations[:, 2]), embeddings[:, 2], rtol=1e-5, atol=1e-6)
    logits = action_logits(kind)(parameters, observations)
    assert logits.shape == (B, T, A) and logits.dtype == jnp.float32
    assert "bf16" not in str(jax.make_jaxpr(NETWORKS[kind].action_logits)(parameters, observations))


def test_logits_see_the_two_embeddings_of_their_transition_and_no_other() -> None:
    parameters, observations = parameters_of("grid"), observations_of("grid")
    logits = action_logits("grid")(parameters, observations)
    changed = observations.copy()
    changed[1, 3] = 255 - changed[1, 3]
    differs = np.any(action_logits("grid")(parameters, changed) != logits, axis=-1)
    expected = np.zeros((B, T), bool)
    expected[1, [2, 3]] = True
    np.testing.assert_array_equal(differs, expected)


def test_the_likelihood_of_actions_trains_embedding_and_head() -> None:
    parameters, observations = parameters_of("grid"), observations_of("grid")

    def loss(parameters: Any) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(GRID.action_logits(parameters, observations))[..., 1])

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(parameters)):
        assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), path


def test_sizes_of_the_paper() -> None:
    """By hand, for 84x84x1 frames and 18 actions: the papers' convolutions, 32 controllable units, 128 hidden ones."""
    parameters = jax.eval_shape(PAPER.init, jax.random.key(0))
    convolutions = (8 * 8 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters["embedding"])) == convolutions + 3136 * 32 + 32
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters["inverse"])) == (32 + 32) * 128 + 128 + 128 * 18 + 18
    frames = jax.ShapeDtypeStruct((64, 6, 84, 84, 1), jnp.uint8)
    assert jax.eval_shape(PAPER.embed, parameters["embedding"], frames).shape == (64, 6, 32)
    assert jax.eval_shape(PAPER.action_logits, parameters, frames).shape == (64, 5, 18)
