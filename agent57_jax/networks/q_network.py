"""The recurrent duelling Q-networks, one per value function, with their parameters stacked on a leading axis V (Agent57 App. F, R2D2)."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, Precision
from agent57_jax.networks.torsos import build_torso
from agent57_jax.types import EnvironmentSpec, RecurrentState

Parameters = Any


class QInputs(NamedTuple):
    """What the Q-networks see along B streams of T timesteps."""

    observation: jax.Array  # [B, T, *observation_shape]
    previous_action: jax.Array  # [B, T] int32, a_{t-1}; ignored at FIRST
    extrinsic_reward: jax.Array  # [B, T] float32, r^e_t; ignored at FIRST
    intrinsic_reward: jax.Array | None  # [B, T] float32, r^i_t; ignored at FIRST; None for an agent without
    policy: jax.Array  # [B, T] int32, j
    is_first: jax.Array  # [B, T] bool; the recurrent state is reset before such a timestep


class _Encoder(nn.Module):
    """Observation and context to the input part of the LSTM's gates. [..., 4 * lstm_size]."""

    settings: NetworkSettings
    num_actions: int
    num_policies: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: QInputs) -> jax.Array:
        features = build_torso(self.settings, self.dtype)(inputs.observation)
        features = nn.relu(nn.Dense(self.settings.torso_size, dtype=self.dtype)(features))
        follows = ~inputs.is_first[..., None]
        rewards = [reward[..., None] for reward in (inputs.extrinsic_reward, inputs.intrinsic_reward) if reward is not None]
        context = [
            # Selected, not multiplied: what stands at FIRST is no experience and must not matter, not even a NaN.
            jnp.where(follows, jax.nn.one_hot(inputs.previous_action, self.num_actions), 0.0),
            *(jnp.where(follows, reward, 0.0) for reward in rewards),
            jax.nn.one_hot(inputs.policy, self.num_policies),
        ]
        x = jnp.concatenate([features, *(part.astype(features.dtype) for part in context)], axis=-1)
        return nn.Dense(4 * self.settings.lstm_size, dtype=self.dtype)(x)


class _DuellingHeads(nn.Module):
    """LSTM output to action values, Q = V + A - mean(A), in float32. [..., A]."""

    settings: NetworkSettings
    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        value = nn.Dense(1)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        advantage = nn.Dense(self.num_actions)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


def _lstm_gates(gates: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hidden and cell state from gate pre-activations [..., 4H] and the former cell [..., H]."""
    update, forget, candidate, output = jnp.split(gates, 4, axis=-1)
    # The forget gate starts open (Jozefowicz et al. 2015), so that gradients reach far back from the beginning.
    cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(update) * jnp.tanh(candidate)
    return jax.nn.sigmoid(output) * jnp.tanh(cell), cell


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """V networks of one form. Parameters are a tree whose every leaf has the leading axis V."""

    settings: NetworkSettings
    spec: EnvironmentSpec
    num_policies: int
    num_values: int
    precision: Precision = Precision.FLOAT32
    has_intrinsic_reward: bool = True

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.precision.value)

    @property
    def _encoder(self) -> _Encoder:
        return _Encoder(self.settings, self.spec.num_actions, self.num_policies, self._dtype)

    @property
    def _heads(self) -> _DuellingHeads:
        return _DuellingHeads(self.settings, self.spec.num_actions)

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters, independent for each value function."""
        zeros = jnp.zeros((1, 1), jnp.float32)
        observation = jnp.zeros((1, 1, *self.spec.observation_shape), self.spec.observation_dtype)
        indices = zeros.astype(jnp.int32)
        reward = zeros if self.has_intrinsic_reward else None
        inputs = QInputs(observation, indices, zeros, reward, indices, zeros.astype(bool))
        size = self.settings.lstm_size

        def init_one(key: jax.Array) -> Parameters:
            encoder, recurrent, heads = jax.random.split(key, 3)
            return {
                "encoder": self._encoder.init(encoder, inputs)["params"],
                # Not orthogonal: its decomposition, batched over value functions, can deadlock in the CPU backend's thread pool.
                "recurrent": nn.initializers.lecun_normal()(recurrent, (size, 4 * size)),
                "heads": self._heads.init(heads, jnp.zeros((1, 1, size)))["params"],
            }

        return jax.vmap(init_one)(jax.random.split(key, self.num_values))

    def initial_state(self, num_envs: int) -> RecurrentState:
        """The state before an episode; every field [E, ...]."""
        zeros = jnp.zeros((num_envs, self.num_values, self.settings.lstm_size), jnp.float32)
        return RecurrentState(zeros, zeros, jnp.zeros((num_envs,), jnp.int32))

    def unroll(self, parameters: Parameters, state: RecurrentState, inputs: QInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Runs the networks along T timesteps.

        Args:
          parameters: from `init`.
          state: as it was before the first timestep, [B, ...].
          inputs: [B, T, ...].

        Returns:
          Squashed action values [V, B, T, A] float32; hidden and cell state [B, V, lstm_size] after the last timestep.
        """
        one = [jax.tree.map(lambda leaf, v=v: leaf[v], parameters) for v in range(self.num_values)]
        # One network after the other: a convolution batched over different kernels becomes a grouped one, which is slower.
        projected = jnp.stack([self._encoder.apply({"params": p["encoder"]}, inputs) for p in one])  # [V, B, T, 4H]
        kernel = parameters["recurrent"].astype(self._dtype)  # [V, H, 4H]

        def step(carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            hidden, cell = carry
            gates, is_first = x  # [V, B, 4H], [B]
            keep = ~is_first[None, :, None]
            # Selected, not multiplied: a state that overflowed in the old episode must not leak NaN into the new one.
            hidden, cell = jnp.where(keep, hidden, 0.0), jnp.where(keep, cell, 0.0)
            recurrent = jnp.einsum("vbh,vhg->vbg", hidden.astype(self._dtype), kernel)
            hidden, cell = _lstm_gates((gates + recurrent).astype(jnp.float32), cell)
            return (hidden, cell), hidden

        start = (jnp.swapaxes(state.hidden, 0, 1), jnp.swapaxes(state.cell, 0, 1))
        sequence = (jnp.moveaxis(projected, 2, 0), jnp.swapaxes(inputs.is_first, 0, 1))
        (hidden, cell), outputs = jax.lax.scan(step, start, sequence)
        outputs = jnp.moveaxis(outputs, 0, 2)  # [V, B, T, H]
        values = jax.vmap(lambda p, x: self._heads.apply({"params": p}, x))(parameters["heads"], outputs)
        return values, jnp.swapaxes(hidden, 0, 1), jnp.swapaxes(cell, 0, 1)
