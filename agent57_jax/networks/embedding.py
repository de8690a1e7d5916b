"""The embedding of controllable states, and the inverse dynamics that train it (NGU §2, Agent57 App. F)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.torsos import build_torso
from agent57_jax.types import EnvironmentSpec

Parameters = Any


class _Embedding(nn.Module):
    network: NetworkSettings
    size: int

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(self.size)(build_torso(self.network, jnp.dtype("float32"))(observation)))


class _InverseDynamics(nn.Module):
    hidden_size: int
    num_actions: int

    @nn.compact
    def __call__(self, embedding: jax.Array, next_embedding: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.hidden_size)(jnp.concatenate([embedding, next_embedding], axis=-1)))
        return nn.Dense(self.num_actions)(x)


@dataclasses.dataclass(frozen=True)
class EmbeddingNetwork:
    """f and the head h that predicts the action between two embeddings. Always float32, for accurate distances."""

    network: NetworkSettings
    novelty: NoveltySettings
    spec: EnvironmentSpec

    @property
    def _embedding(self) -> _Embedding:
        return _Embedding(self.network, self.novelty.embedding_size)

    @property
    def _inverse(self) -> _InverseDynamics:
        return _InverseDynamics(self.novelty.inverse_hidden_size, self.spec.num_actions)

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters {"embedding", "inverse"}; embedding needs only the first."""
        key_embedding, key_inverse = jax.random.split(key)
        observation = jnp.zeros((1, *self.spec.observation_shape), self.spec.observation_dtype)
        embedding = jnp.zeros((1, self.novelty.embedding_size))
        return {
            "embedding": self._embedding.init(key_embedding, observation)["params"],
            "inverse": self._inverse.init(key_inverse, embedding, embedding)["params"],
        }

    def embed(self, embedding_parameters: Parameters, observation: jax.Array) -> jax.Array:
        """Controllable state f(x): [..., *observation_shape] -> [..., D], from the parameters "embedding"."""
        return self._embedding.apply({"params": embedding_parameters}, observation)

    def action_logits(self, parameters: Parameters, observations: jax.Array) -> jax.Array:
        """Logits of p(a_t | x_t, x_{t+1}) along a stream: [B, T + 1, ...] -> [B, T, A]."""
        embeddings = self.embed(parameters["embedding"], observations)
        return self._inverse.apply({"params": parameters["inverse"]}, embeddings[:, :-1], embeddings[:, 1:])
