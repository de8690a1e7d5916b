"""How much arithmetic the networks are: floating-point operations counted from their sizes, two for each multiply-add.

Elementwise work is left out: it is a few per cent.
"""

import itertools
import math
from typing import NamedTuple

from agent57_jax.config import Embedding, IntrinsicReward, NetworkSettings, Settings, Torso
from agent57_jax.types import EnvironmentSpec


class Forward(NamedTuple):
    """Operations of one network for one observation."""

    first: int  # the first layer, through which no gradient has to go on
    rest: int

    @property
    def total(self) -> int:
        """Of the forward pass."""
        return self.first + self.rest

    @property
    def with_gradient(self) -> int:
        """Forward pass, gradient of the parameters and, but for the first layer, gradient of the inputs."""
        return 2 * self.first + 3 * self.rest


def torso(network: NetworkSettings, spec: EnvironmentSpec) -> tuple[list[int], int]:
    """Operations of each layer and the number of features."""
    if network.torso is Torso.DENSE:
        sizes = [spec.observation_shape[0], *network.dense_features]
        return [2 * a * b for a, b in itertools.pairwise(sizes)], sizes[-1]
    height, width, channels = spec.observation_shape
    layers = []
    for features, kernel, stride in zip(network.conv_features, network.conv_kernels, network.conv_strides, strict=True):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        layers.append(2 * height * width * features * kernel * kernel * channels)
        channels = features
    return layers, height * width * channels


def q_network(settings: Settings, spec: EnvironmentSpec) -> Forward:
    """One Q-network: torso, dense, LSTM, duelling heads, of all value functions and policies where they share it."""
    network = settings.network
    layers, features = torso(network, spec)
    rewards = 1 if settings.novelty.reward is IntrinsicReward.NONE else 2
    shares, num_policies = network.policy_heads, settings.policy.num_policies
    values, outputs = (settings.num_values, num_policies) if shares else (1, 1)
    has_policy = settings.learner.distil_policy
    context = spec.num_actions + rewards + (0 if shares else num_policies)
    further = (
        features * network.torso_size
        + (network.torso_size + context + network.lstm_size) * 4 * network.lstm_size
        + (2 * values + has_policy) * network.lstm_size * network.head_size
        + outputs * network.head_size * (values * (1 + spec.num_actions) + has_policy * spec.num_actions)
    )
    return Forward(layers[0], sum(layers[1:]) + 2 * further)


def embedding(settings: Settings, spec: EnvironmentSpec) -> Forward:
    """The embedding of controllable states; without the head that guesses actions."""
    layers, features = torso(settings.network, spec)
    return Forward(layers[0], sum(layers[1:]) + 2 * features * settings.novelty.embedding_size)


def inverse_dynamics(settings: Settings, spec: EnvironmentSpec) -> int:
    """The head that guesses an action, for one transition."""
    hidden = settings.novelty.inverse_hidden_size
    return 2 * (2 * settings.novelty.embedding_size * hidden + hidden * spec.num_actions)


def distillation(settings: Settings, spec: EnvironmentSpec) -> Forward:
    """The random network, or its predictor."""
    layers, features = torso(settings.network, spec)
    return Forward(layers[0], sum(layers[1:]) + 2 * features * settings.novelty.distillation_size)


class Work(NamedTuple):
    """Operations by the precision that they are done in."""

    compute: int  # in `precision.compute`: the Q-networks
    float32: int  # the networks of novelty

    @property
    def total(self) -> int:
        """Of both."""
        return self.compute + self.float32

    def rate(self, compute: float, float32: float) -> float:
        """How often a second it can be done at these operations a second."""
        return 1 / (self.compute / compute + self.float32 / float32)


def act(settings: Settings, spec: EnvironmentSpec) -> Work:
    """One act of one environment, but for the episodic memory."""
    novelty = 0
    if settings.novelty.reward is not IntrinsicReward.NONE:
        novelty += 2 * distillation(settings, spec).total
    if settings.novelty.reward is IntrinsicReward.NGU:
        # A learnt one by two generations of parameters.
        novelty += (1 + (settings.novelty.embedding is Embedding.LEARNT)) * embedding(settings, spec).total
    return Work(settings.num_networks * q_network(settings, spec).total, novelty)


def update(settings: Settings, spec: EnvironmentSpec) -> Work:
    """One update of every part."""
    batch, network = settings.learner.batch_size, q_network(settings, spec)
    learnt, warmed = settings.replay.trace + 1, settings.replay.burn_in
    values = settings.num_networks * batch * (learnt * (network.with_gradient + network.total) + warmed * 2 * network.total)
    last, novelty = settings.novelty.train_timesteps, 0
    if settings.novelty.reward is not IntrinsicReward.NONE:
        one = distillation(settings, spec)
        novelty += batch * last * (one.with_gradient + one.total)
    if settings.novelty.reward is IntrinsicReward.NGU and settings.novelty.embedding is Embedding.LEARNT:
        novelty += batch * ((last + 1) * embedding(settings, spec).with_gradient + 3 * last * inverse_dynamics(settings, spec))
    return Work(values, novelty)


def stored_bytes_of_frame(spec: EnvironmentSpec) -> int:
    """Bytes of an observation alone."""
    return math.prod(spec.observation_shape) * spec.observation_dtype.itemsize
