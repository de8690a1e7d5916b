"""The first layers of every network, from an observation to a flat feature vector (Agent57 App. F)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, Torso
from agent57_jax.networks.convolutions import Layer, Layers, Outputs, convolutions
from agent57_jax.types import EnvironmentSpec


class _Convolution(nn.Module):
    """The parameters of one convolution."""

    shape: tuple[int, int, int, int]  # k, k, channels in, channels out

    @nn.compact
    def __call__(self) -> Layer:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        return Layer(kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:]))


class Convolutions(nn.Module):
    """Unpadded convolutions with ReLU over images [..., H, W, channels] uint8, divided by 255; returns [..., features] flat."""

    features: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, observation: jax.Array) -> jax.Array:
        layers = []
        channels = observation.shape[-1]
        for i, (features, kernel) in enumerate(zip(self.features, self.kernels, strict=True)):
            layers.append(_Convolution((kernel, kernel, channels, features), name=f"Conv_{i}")())
            channels = features
        return self.of_networks([tuple(layers)], observation, num_trained=1)[0][0]

    def of_networks(self, networks: Sequence[Layers], observation: jax.Array, num_trained: int) -> Outputs:
        """Features [V, ..., features] of the first `num_trained` networks, which get gradients, and of the others.

        All see the same images [..., H, W, channels]; `networks` are the `layers_of` each.
        """
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        images = observation.reshape((-1, *observation.shape[-3:]))
        trained, others = (
            part.reshape(part.shape[0], *observation.shape[:-3], part.shape[-1])
            for part in convolutions(stacked, images, self.strides, self.dtype, num_trained)
        )
        return trained, others

    @staticmethod
    def layers_of(parameters: Any) -> Layers:
        """The layers of one network, from its parameters."""
        return tuple(Layer(**parameters[f"Conv_{i}"]) for i in range(len(parameters)))


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
    """A sentence if the torso does not fit the environment's observations, else None."""
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
