"""Random network distillation: a fixed random network g and its predictor (Burda et al. 2018; NGU §2, Agent57 App. F)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, NoveltySettings
from agent57_jax.networks.torsos import Convolutions, build_torso
from agent57_jax.types import EnvironmentSpec

Parameters = Any


class _Features(nn.Module):
    network: NetworkSettings
    size: int

    @nn.compact
    def __call__(self, observation: jax.Array, features: jax.Array | None = None) -> jax.Array:
        """`features`: of the torso, if already computed."""
        last = nn.Dense(self.size)  # before the torso: this order defines parameter names, and so checkpoints
        if features is None:
            features = build_torso(self.network, jnp.dtype("float32"))(observation)
        return last(features)


@dataclasses.dataclass(frozen=True)
class DistillationNetwork:
    """The common architecture of g and its predictor."""

    network: NetworkSettings
    novelty: NoveltySettings
    spec: EnvironmentSpec

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters of one network."""
        observation = jnp.zeros((1, *self.spec.observation_shape), self.spec.observation_dtype)
        return _Features(self.network, self.novelty.distillation_size).init(key, observation)["params"]

    def error(self, predictor: Parameters, target: Parameters, observation: jax.Array) -> jax.Array:
        """err(x) = ||g^(x) - g(x)||^2: [..., *observation_shape] -> [...]. The random network gets no gradient."""
        module = _Features(self.network, self.novelty.distillation_size)
        torso = build_torso(self.network, jnp.dtype("float32"))
        seen: Sequence[jax.Array | None] = (None, None)
        if isinstance(torso, Convolutions):  # both see the same image
            layers = [torso.layers_of(parameters["Convolutions_0"]) for parameters in (predictor, target)]
            seen = [part[0] for part in torso.of_networks(layers, observation, num_trained=1)]
        wanted = jax.lax.stop_gradient(module.apply({"params": target}, observation, seen[1]))
        return jnp.sum(jnp.square(module.apply({"params": predictor}, observation, seen[0]) - wanted), axis=-1)
