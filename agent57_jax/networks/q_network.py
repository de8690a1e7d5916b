"""The recurrent duelling Q-networks, one per value function, with parameters stacked on a leading axis W (Agent57 App. F, R2D2).

The torso, which takes most of the arithmetic, is separate or shared (`network.shared_torso`). With `network.policy_heads` there is one
network, W = 1, whose torso and LSTM do not depend on the policy, with a head per value function and policy (MEME).
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
TORSO = "torso"  # key of the shared torso's parameters, if there is one
POLICY = "policy"  # key of the policy head's parameters, if there is one


class QInputs(NamedTuple):
    """Inputs of the Q-networks for B streams of T timesteps."""

    observation: jax.Array  # [B, T, *observation_shape]
    previous_action: jax.Array  # [B, T] int32, a_{t-1}; ignored at FIRST
    extrinsic_reward: jax.Array  # [B, T] float32, r^e_t; ignored at FIRST
    intrinsic_reward: jax.Array | None  # [B, T] float32, r^i_t; ignored at FIRST; None without intrinsic reward
    policy: jax.Array  # [B, T] int32, j
    is_first: jax.Array  # [B, T] bool; the recurrent state is reset before such a timestep


class _Encoder(nn.Module):
    """Observation, or torso features [..., F], and context to the input part of the LSTM's gates, [..., 4 * lstm_size]."""

    settings: NetworkSettings
    num_actions: int
    num_policies: int  # size of the policy input; 0 without it
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
            # Not multiplied: values at FIRST carry no information, and may be NaN.
            jnp.where(follows, jax.nn.one_hot(inputs.previous_action, self.num_actions), 0.0),
            *(jnp.where(follows, reward, 0.0) for reward in rewards),
            jax.nn.one_hot(inputs.policy, self.num_policies),
        ]
        x = jnp.concatenate([features, *(part.astype(features.dtype) for part in context)], axis=-1)
        return nn.Dense(4 * self.settings.lstm_size, dtype=self.dtype)(x)


class _DuellingHeads(nn.Module):
    """LSTM output to action values, Q = V + A - mean(A), in float32: [..., A], or [..., N, A] with policy heads."""

    settings: NetworkSettings
    num_actions: int
    num_policies: int | None  # N; None without policy heads

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(self.settings.output_scale**2, "fan_in", "truncated_normal")
        number = self.num_policies or 1
        value = nn.Dense(number, kernel_init=init)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        advantage = nn.Dense(number * self.num_actions, kernel_init=init)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        if self.num_policies is not None:
            value, advantage = value[..., None], advantage.reshape(*x.shape[:-1], number, self.num_actions)
        return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


class _PolicyHead(nn.Module):
    """LSTM output to the logits of a policy, in float32: [..., A], or [..., N, A]."""

    settings: NetworkSettings
    num_actions: int
    num_policies: int | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        logits = nn.Dense((self.num_policies or 1) * self.num_actions)(nn.relu(nn.Dense(self.settings.head_size)(x)))
        return logits if self.num_policies is None else logits.reshape(*x.shape[:-1], self.num_policies, self.num_actions)


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """W networks of the same architecture. Their outputs have R rows: the V value functions and, with a policy head, its logits.

    All parameters have the leading axis W, except those of a shared torso under `TORSO`.
    """

    settings: NetworkSettings
    spec: EnvironmentSpec
    num_policies: int
    num_values: int
    precision: Precision = Precision.FLOAT32
    has_intrinsic_reward: bool = True
    has_policy: bool = False

    @property
    def num_networks(self) -> int:
        """W."""
        return 1 if self.settings.policy_heads else self.num_values

    @property
    def _heads_of(self) -> int | None:
        return self.num_policies if self.settings.policy_heads else None

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self.precision.value)

    @property
    def _encoder(self) -> _Encoder:
        return _Encoder(self.settings, self.spec.num_actions, 0 if self.settings.policy_heads else self.num_policies, self._dtype)

    @property
    def _torso(self) -> nn.Module:
        return build_torso(self.settings, self._dtype)

    @property
    def _heads(self) -> _DuellingHeads:
        return _DuellingHeads(self.settings, self.spec.num_actions, self._heads_of)

    @property
    def _policy_head(self) -> _PolicyHead:
        return _PolicyHead(self.settings, self.spec.num_actions, self._heads_of)

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters, independent per network."""
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
            output = jnp.zeros((1, 1, size))

            def init_heads(key: jax.Array) -> Parameters:
                return self._heads.init(key, output)["params"]

            policy = {POLICY: self._policy_head.init(jax.random.fold_in(key, 0), output)["params"]} if self.has_policy else {}
            return policy | {
                "encoder": self._encoder.init(encoder, inputs, features)["params"],
                # Not orthogonal: a batched decomposition can deadlock in the CPU backend's thread pool.
                "recurrent": nn.initializers.lecun_normal()(recurrent, (size, 4 * size)),
                "heads": jax.vmap(init_heads)(jax.random.split(heads, self.num_values))
                if self.settings.policy_heads
                else init_heads(heads),
            }

        return shared | jax.vmap(init_one)(jax.random.split(key, self.num_networks))

    def initial_state(self, num_envs: int) -> RecurrentState:
        """The state before an episode, every field [E, ...]."""
        zeros = jnp.zeros((num_envs, self.num_networks, self.settings.lstm_size), jnp.float32)
        return RecurrentState(zeros, zeros, jnp.zeros((num_envs,), jnp.int32))

    def unroll(self, parameters: Parameters, state: RecurrentState, inputs: QInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Runs the networks along T timesteps of inputs [B, T, ...], from the state [B, ...] before them.

        Returns outputs [R, B, T, A] float32, or [R, B, T, N, A] with policy heads: squashed action values, then the policy's logits, if
        any; hidden and cell state [B, W, lstm_size] after the last timestep.
        """
        (outputs,), hidden, cell = self._unroll((parameters,), state, inputs)
        return outputs, hidden[0], cell[0]

    def of_policy(self, outputs: jax.Array, policy: jax.Array) -> jax.Array:
        """Outputs [R, B, T, A] of the policies j [B, T] int32."""
        if not self.settings.policy_heads:
            return outputs  # j was an input
        return jnp.take_along_axis(outputs, policy[None, :, :, None, None], axis=-2)[..., 0, :]

    def unroll_online_and_target(
        self, online: Parameters, target: Parameters, state: RecurrentState, inputs: QInputs, burn_in: int
    ) -> tuple[jax.Array, jax.Array]:
        """Runs online and target networks together, from the same state, each with its own burn-in (R2D2 §3).

        The first `burn_in` timesteps of inputs [B, burn-in + T, ...] only update the recurrent states, without gradient. Returns outputs as
        from `unroll` of the T timesteps after them, of the online networks, which get gradients, and of the target networks.
        """
        pair = (online, jax.lax.stop_gradient(target))
        states = None
        if burn_in:
            before, inputs = (
                jax.tree.map(lambda leaf, part=part: leaf[:, part], inputs) for part in (slice(burn_in), slice(burn_in, None))
            )
            _, hidden, cell = self._unroll(*jax.lax.stop_gradient((pair, state, before)))
            states = hidden, cell
        (of_online, of_target), _, _ = self._unroll(pair, state, inputs, states)
        return of_online, of_target

    def _unroll(
        self,
        sets: Sequence[Parameters],
        state: RecurrentState,
        inputs: QInputs,
        states: tuple[Sequence[jax.Array], Sequence[jax.Array]] | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Runs sets of W networks together; only the first set gets gradients.

        All start from `state`, or each from its own hidden and cell states [B, W, H] in `states`. Returns for each set outputs
        [R, B, T, ...], hidden and cell states [B, W, H].
        """
        W = self.num_networks
        hidden, cell = states or ([state.hidden] * len(sets), [state.cell] * len(sets))
        # Time-major, with time and streams as one axis, so that the recurrence needs no transposition.
        shape = inputs.is_first.shape[::-1]  # T, B
        flat: QInputs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), inputs)
        features = self._features(sets, flat.observation)
        axis = None if self.settings.shared_torso else 0
        encode = jax.vmap(lambda parameters, seen: self._encoder.apply({"params": parameters}, flat, seen), in_axes=(0, axis))
        parts = tuple(
            lstm.Part(
                encode(tree["encoder"], seen).reshape(W, *shape, -1),
                tree["recurrent"].astype(self._dtype),
                jnp.swapaxes(hidden, 0, 1),
                jnp.swapaxes(cell, 0, 1),
            )
            for tree, seen, hidden, cell in zip(sets, features, hidden, cell, strict=True)
        )
        keep = ~jnp.swapaxes(inputs.is_first, 0, 1)
        if len(sets) > 1 and lstm.joins_parts():
            (together,) = lstm.unroll(lstm.joined(parts), keep, W)
            unrolled = lstm.separated(together, [W] * len(sets))
        else:
            unrolled = lstm.unroll(parts, keep, W)
        results = []
        for i, (tree, part) in enumerate(zip(sets, unrolled, strict=True)):
            outputs = part.outputs if i == 0 else jax.lax.stop_gradient(part.outputs)
            rows = self._outputs(tree, outputs.reshape(W, shape[0] * shape[1], -1))
            results.append(jnp.swapaxes(rows.reshape(rows.shape[0], *shape, *rows.shape[2:]), 1, 2))
        return results, [jnp.swapaxes(part.hidden, 0, 1) for part in unrolled], [jnp.swapaxes(part.cell, 0, 1) for part in unrolled]

    def _outputs(self, parameters: Parameters, x: jax.Array) -> jax.Array:
        """Outputs [R, n, A], or [R, n, N, A], for outputs [W, n, H] of the LSTMs."""
        heads = parameters["heads"]
        if self.settings.policy_heads:
            heads, x = jax.tree.map(lambda leaf: leaf[0], heads), x[0]
        apply = jax.vmap(lambda one, x: self._heads.apply({"params": one}, x), in_axes=(0, None if self.settings.policy_heads else 0))
        values: jax.Array = apply(heads, x)
        if not self.has_policy:
            return values
        # The policy must not train the layers that it shares with the values.
        x = jax.lax.stop_gradient(x if self.settings.policy_heads else x[0])
        logits = self._policy_head.apply({"params": jax.tree.map(lambda leaf: leaf[0], parameters[POLICY])}, x)
        return jnp.concatenate([values, logits[None]])

    def _features(self, sets: Sequence[Parameters], observation: jax.Array) -> list[jax.Array | None]:
        """Torso features [W, n, F] of each set, or [n, F] of a shared torso, for observations [n, ...]; None: encoders compute them."""
        torso, is_shared = self._torso, self.settings.shared_torso
        if not isinstance(torso, Convolutions):
            return [torso.apply({"params": tree[TORSO]}, observation) if is_shared else None for tree in sets]
        number = 1 if is_shared else self.num_networks
        layers = [
            torso.layers_of(tree[TORSO] if is_shared else jax.tree.map(lambda leaf, v=v: leaf[v], tree["encoder"]["Convolutions_0"]))
            for tree in sets
            for v in range(number)
        ]
        trained, others = torso.of_networks(layers, observation, number)
        # The other sets are constant; otherwise their gradients would be computed and dropped.
        features = [trained, *jax.lax.stop_gradient(others).reshape(len(sets) - 1, *trained.shape)]
        return [seen[0] for seen in features] if is_shared else list(features)
