"""The recurrent duelling Q-networks, one per value function, with their parameters stacked on a leading axis V (Agent57 App. F, R2D2).

The first layers, the torso, are separate too, or one for all value functions (`network.shared_torso`): they are most of the arithmetic.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from agent57_jax.config import NetworkSettings, Precision, RewardInputs
from agent57_jax.networks import lstm
from agent57_jax.networks.torsos import Convolutions, build_torso
from agent57_jax.types import EnvironmentSpec, RecurrentState

Parameters = Any
TORSO = "torso"  # key of the shared torso in the parameters; there only if there is one


class QInputs(NamedTuple):
    """What the Q-networks see along B streams of T timesteps."""

    observation: jax.Array  # [B, T, *observation_shape]
    previous_action: jax.Array  # [B, T] int32, a_{t-1}; ignored at FIRST
    extrinsic_reward: jax.Array  # [B, T] float32, r^e_t; ignored at FIRST
    intrinsic_reward: jax.Array | None  # [B, T] float32, r^i_t; ignored at FIRST; None for an agent without
    policy: jax.Array  # [B, T] int32, j
    is_first: jax.Array  # [B, T] bool; the recurrent state is reset before such a timestep


class _Encoder(nn.Module):
    """Observation and context to the input part of the LSTM's gates. [..., 4 * lstm_size].

    `features` [..., F] stands for what the torso makes of the observations, where that has been computed already.
    """

    settings: NetworkSettings
    num_actions: int
    num_policies: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: QInputs, features: jax.Array | None = None) -> jax.Array:
        if features is None:
            features = build_torso(self.settings, self.dtype)(inputs.observation)
        features = nn.relu(nn.Dense(self.settings.torso_size, dtype=self.dtype)(features))
        follows = ~inputs.is_first[..., None]
        rewards = [reward[..., None] for reward in (inputs.extrinsic_reward, inputs.intrinsic_reward) if reward is not None]
        if self.settings.reward_inputs is RewardInputs.LOGARITHMIC:
            rewards = [jnp.sign(reward) * jnp.log1p(jnp.abs(reward)) for reward in rewards]
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
        init = nn.initializers.variance_scaling(self.settings.output_scale**2, "fan_in", "truncated_normal")
        value = nn.Dense(1, kernel_init=init)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        advantage = nn.Dense(self.num_actions, kernel_init=init)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """V networks of one form.

    Parameters are a dictionary whose every leaf has the leading axis V; only those under `TORSO`, which are there for a shared torso
    alone, have not.
    """

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
    def _torso(self) -> nn.Module:
        return build_torso(self.settings, self._dtype)

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
        shared, features = {}, None
        if self.settings.shared_torso:
            shared[TORSO] = self._torso.init(jax.random.fold_in(key, 0), observation).get("params", {})
            features = self._torso.apply({"params": shared[TORSO]}, observation)

        def init_one(key: jax.Array) -> Parameters:
            encoder, recurrent, heads = jax.random.split(key, 3)
            return {
                "encoder": self._encoder.init(encoder, inputs, features)["params"],
                # Not orthogonal: its decomposition, batched over value functions, can deadlock in the CPU backend's thread pool.
                "recurrent": nn.initializers.lecun_normal()(recurrent, (size, 4 * size)),
                "heads": self._heads.init(heads, jnp.zeros((1, 1, size)))["params"],
            }

        return shared | jax.vmap(init_one)(jax.random.split(key, self.num_values))

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
        (values,), hidden, cell = self._unroll((parameters,), state, inputs)
        return values, hidden[0], cell[0]

    def unroll_online_and_target(
        self, online: Parameters, target: Parameters, state: RecurrentState, inputs: QInputs, burn_in: int
    ) -> tuple[jax.Array, jax.Array]:
        """Runs online and target networks side by side, both from the same state, each through a burn-in of its own (R2D2 §3).

        Args:
          burn_in: so many timesteps only bring the recurrent states up to date; no gradient flows through them.

        Returns:
          Squashed action values [V, B, T - burn_in, A] of the online networks, which gradients reach, and of the target networks.
        """
        pair = (online, jax.lax.stop_gradient(target))
        states = None
        if burn_in:
            before, inputs = (
                jax.tree.map(lambda leaf, part=part: leaf[:, part], inputs) for part in (slice(burn_in), slice(burn_in, None))
            )
            _, hidden, cell = self._unroll(*jax.lax.stop_gradient((pair, state, before)))
            states = hidden, cell
        (online_values, target_values), _, _ = self._unroll(pair, state, inputs, states)
        return online_values, target_values

    def _unroll(
        self,
        sets: Sequence[Parameters],
        state: RecurrentState,
        inputs: QInputs,
        states: tuple[Sequence[jax.Array], Sequence[jax.Array]] | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Runs sets of V networks together; gradients reach the first set.

        Args:
          state: of every set, unless `states` holds hidden and cell states [B, V, H] of each.

        Returns:
          For each set values [V, B, T, A], hidden and cell state [B, V, H].
        """
        V = self.num_values
        hidden, cell = states or ([state.hidden] * len(sets), [state.cell] * len(sets))
        # Timesteps first, as one axis with the streams: what the recurrence reads and writes then needs no transposition.
        shape = inputs.is_first.shape[::-1]  # T, B
        flat: QInputs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), inputs)
        features = self._features(sets, flat.observation)
        axis = None if self.settings.shared_torso else 0
        encode = jax.vmap(lambda parameters, seen: self._encoder.apply({"params": parameters}, flat, seen), in_axes=(0, axis))
        parts = tuple(
            lstm.Part(
                encode(tree["encoder"], seen).reshape(V, *shape, -1),
                tree["recurrent"].astype(self._dtype),
                jnp.swapaxes(hidden, 0, 1),
                jnp.swapaxes(cell, 0, 1),
            )
            for tree, seen, hidden, cell in zip(sets, features, hidden, cell, strict=True)
        )
        unrolled = lstm.unroll(parts, ~jnp.swapaxes(inputs.is_first, 0, 1), V)
        apply_heads = jax.vmap(lambda parameters, x: self._heads.apply({"params": parameters}, x))
        values = []
        for i, (tree, part) in enumerate(zip(sets, unrolled, strict=True)):
            outputs = part.outputs if i == 0 else jax.lax.stop_gradient(part.outputs)
            of_set = apply_heads(tree["heads"], outputs.reshape(V, shape[0] * shape[1], -1)).reshape(V, *shape, -1)
            values.append(jnp.swapaxes(of_set, 1, 2))
        return values, [jnp.swapaxes(part.hidden, 0, 1) for part in unrolled], [jnp.swapaxes(part.cell, 0, 1) for part in unrolled]

    def _features(self, sets: Sequence[Parameters], observation: jax.Array) -> list[jax.Array | None]:
        """What the torsos of each set make of the observations [n, ...]: [V, n, F], or [n, F] of a shared one; None: encoders find out."""
        torso, is_shared = self._torso, self.settings.shared_torso
        if not isinstance(torso, Convolutions):
            return [torso.apply({"params": tree[TORSO]}, observation) if is_shared else None for tree in sets]
        number = 1 if is_shared else self.num_values
        layers = [
            torso.layers_of(tree[TORSO] if is_shared else jax.tree.map(lambda leaf, v=v: leaf[v], tree["encoder"]["Convolutions_0"]))
            for tree in sets
            for v in range(number)
        ]
        trained, others = torso.of_networks(layers, observation, number)
        # What the other sets give is constant: else its gradient would be computed all the way, only to be dropped.
        features = [trained, *jax.lax.stop_gradient(others).reshape(len(sets) - 1, *trained.shape)]
        return [seen[0] for seen in features] if is_shared else list(features)
