"""First layers of every network: from an observation to a flat feature vector (Agent57 App. F)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.types import EnvironmentSpec


class Convolutions(nn.Module):
    """Unpadded convolutions with ReLU over images [..., H, W, channels] uint8, divided by 255; returns [..., features] flat."""

    features: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        x = observation.reshape((-1, *observation.shape[-3:])).astype(self.dtype) / 255
        for features, kernel, stride in zip(self.features, self.kernels, self.strides, strict=True):
            x = nn.relu(nn.Conv(features, (kernel, kernel), (stride, stride), padding="VALID", dtype=self.dtype)(x))
        return x.reshape((*observation.shape[:-3], -1))


class Dense(nn.Module):
    """Dense layers with ReLU over vectors [..., size] float32; returns [..., features]."""

    features: Sequence[int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        x = observation.astype(self.dtype)
        for features in self.features:
            x = nn.relu(nn.Dense(features, dtype=self.dtype)(x))
        return x


def build_torso(settings: NetworkSettings, dtype: jnp.dtype) -> nn.Module:
    """The torso that the settings name."""
    if settings.torso is Torso.DENSE:
        return Dense(settings.dense_features, dtype)
    return Convolutions(settings.conv_features, settings.conv_kernels, settings.conv_strides, dtype)


def torso_problem(settings: NetworkSettings, spec: EnvironmentSpec) -> str | None:
    """One sentence when the torso cannot take the environment's observations, else None."""
    shape = spec.observation_shape
    if settings.torso is Torso.DENSE:
        return None if len(shape) == 1 else f"network.torso=dense needs vector observations, this task has shape {shape}"
    if len(shape) != 3:
        return f"network.torso=convolutions needs images, this task has observations of shape {shape}: set network.torso=dense"
    height, width = shape[:2]
    for kernel, stride in zip(settings.conv_kernels, settings.conv_strides, strict=True):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        if min(height, width) < 1:
            return f"network.conv_kernels {settings.conv_kernels} and conv_strides leave nothing of a {shape[0]}x{shape[1]} image"
    return None
