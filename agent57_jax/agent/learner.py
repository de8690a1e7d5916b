"""Losses and the update: value functions, inverse dynamics, distillation (Agent57 §3.1; NGU §2, App. E; R2D2 §2.3).

The functions work on one device's share of the batch, inside a sharded program; gradients and metrics are summed over devices.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agent57_jax import parallel
from agent57_jax.agent import adam
from agent57_jax.algorithm.error_scale import error_scale, error_sums, update_variance
from agent57_jax.algorithm.intrinsic_reward import return_discounts, rewards_of_values
from agent57_jax.algorithm.n_step import transformed_n_step_targets
from agent57_jax.algorithm.policy_family import PolicyFamily, epsilon_greedy_probabilities
from agent57_jax.algorithm.retrace import retrace_coefficients, soft_watkins_coefficients, transformed_trace_targets
from agent57_jax.algorithm.sequence_priority import mixed_errors, sequence_priority
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform, combine_action_values
from agent57_jax.config import Combination, Embedding, LearnerSettings, NormalisedErrors, NoveltySettings, Targets, Transform
from agent57_jax.networks.distillation import DistillationNetwork
from agent57_jax.networks.embedding import EmbeddingNetwork
from agent57_jax.networks.q_network import TORSO, QInputs, QNetwork
from agent57_jax.types import FIRST, ActingParameters, Batch, Experience

Parameters = Any
Metrics = dict[str, jax.Array]


class Trainable(NamedTuple):
    """Parameters that gradients change."""

    q: Parameters  # leading axis V, except a shared torso
    embedding: Parameters  # None where none is learnt
    predictor: Parameters  # None without life-long novelty


class LearnerState(NamedTuple):
    """Everything that an update reads and writes; the same on every device."""

    parameters: Trainable
    optimiser: Trainable  # state of each part's own Adam
    target_q: Parameters
    random_target: Parameters  # the fixed network of the distillation; None without it
    acting_embedding: Parameters  # what episodes take up that begin now: the learnt one, or an untrained one that stays; None without
    average_q: Parameters  # running average of the Q-networks, which the evaluator plays; None where it plays the newest
    error_variance: jax.Array | None  # [V, N] running variance of TD errors; None where they are not normalised
    updates: jax.Array  # scalar int32


class UpdateOutput(NamedTuple):
    """Result of one update. Every key of the metrics is reported: a further one needs a declaration in metrics.py and nothing else."""

    state: LearnerState
    priorities: jax.Array  # [B], of this device's sequences
    metrics: Metrics  # scalars, over all devices


@dataclasses.dataclass(frozen=True)
class Learner:
    """Networks, family and settings of the update."""

    settings: LearnerSettings
    novelty: NoveltySettings
    combination: Combination
    eta: float
    total_updates: float  # of a whole run, in which learning rates fall if they do
    burn_in: int  # timesteps before the T transitions that only bring the recurrent state up to date
    family: PolicyFamily
    q_network: QNetwork
    embedding: EmbeddingNetwork | None  # None for an agent without episodic novelty
    distillation: DistillationNetwork | None  # None for an agent without life-long novelty

    @property
    def _transform(self) -> ValueTransform:
        return SQUASHED if self.settings.transform is Transform.SQUASHED else IDENTITY

    def _optimiser(self, learning_rate: float) -> adam.Optimiser:
        s = self.settings
        return adam.Optimiser(learning_rate, s.adam_b1, s.adam_b2, s.adam_epsilon, s.max_gradient_norm)

    def init(self, key: jax.Array) -> LearnerState:
        """Random parameters, targets equal to them, empty optimisers."""
        key_q, key_embedding, key_predictor, key_random = jax.random.split(key, 4)
        embedding = None if self.embedding is None else self.embedding.init(key_embedding)
        predictor = None if self.distillation is None else self.distillation.init(key_predictor)
        parameters = Trainable(self.q_network.init(key_q), embedding if self._learns_embedding else None, predictor)
        novelty_optimiser = self._optimiser(self.settings.novelty_learning_rate)
        return LearnerState(
            parameters=parameters,
            optimiser=Trainable(
                self._init_q_optimiser(parameters.q),
                None if parameters.embedding is None else novelty_optimiser.init(parameters.embedding),
                None if parameters.predictor is None else novelty_optimiser.init(parameters.predictor),
            ),
            target_q=parameters.q,
            random_target=None if self.distillation is None else self.distillation.init(key_random),
            acting_embedding=None if embedding is None else embedding["embedding"],
            average_q=parameters.q if self.settings.average_decay else None,
            error_variance=jnp.zeros((self.q_network.num_values, len(self.family.betas))) if self._normalises else None,
            updates=jnp.zeros((), jnp.int32),
        )

    def update(self, state: LearnerState, batch: Batch) -> UpdateOutput:
        """One gradient step of every part.

        A non-finite loss or gradient leaves parameters, optimisers and targets as they were and sets the metric `finite` to 0; priorities
        are then not to be used.
        """
        gradients, (priorities, metrics, error_variance) = jax.grad(self.loss, has_aux=True)(state.parameters, state, batch)
        gradients, metrics = parallel.sum_over_devices((gradients, metrics))
        q_norms = jax.vmap(optax.tree.norm)(_separate(gradients.q))
        norms = {f"gradient_norm/{name}": q_norms[v] for v, name in enumerate(self.value_names)}
        if TORSO in gradients.q:
            norms["gradient_norm/torso"] = optax.tree.norm(gradients.q[TORSO])
        if self._learns_embedding:
            norms["gradient_norm/embedding"] = optax.tree.norm(gradients.embedding)
        if self.distillation is not None:
            norms["gradient_norm/distillation"] = optax.tree.norm(gradients.predictor)
        metrics = metrics | norms
        finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))

        factor = self._rate_factor(state.updates)
        step_q = functools.partial(self._step_q, finite=finite, factor=factor)
        step_novelty = functools.partial(self._optimiser(self.settings.novelty_learning_rate).step, finite=finite, factor=factor)
        stepped = [
            None if gradient is None else step(gradient, optimiser, old)
            for step, gradient, optimiser, old in zip(
                (step_q, step_novelty, step_novelty), gradients, state.optimiser, state.parameters, strict=True
            )
        ]
        parameters, optimiser = (Trainable(*(None if part is None else part[i] for part in stepped)) for i in range(2))
        if state.error_variance is not None:
            error_variance = jnp.where(finite, error_variance, state.error_variance)
        updates = state.updates + finite

        def every(period: int, fresh: Parameters, old: Parameters) -> Parameters:
            return jax.tree.map(lambda new, kept: jnp.where(finite & (updates % period == 0), new, kept), fresh, old)

        new = LearnerState(
            parameters=parameters,
            optimiser=optimiser,
            target_q=every(self.settings.target_period_updates, parameters.q, state.target_q),
            random_target=state.random_target,
            acting_embedding=every(1, parameters.embedding["embedding"], state.acting_embedding)
            if self._learns_embedding
            else state.acting_embedding,
            average_q=None if state.average_q is None else self._average(state.average_q, parameters.q, updates, finite),
            error_variance=error_variance,
            updates=updates,
        )
        return UpdateOutput(new, priorities, metrics | {"finite": finite.astype(jnp.float32)})

    def _init_q_optimiser(self, q: Parameters) -> Any:
        """One Adam a value function, its state with the leading axis V; with a shared torso another one for that."""
        init = self._optimiser(self.settings.learning_rate).init
        separate = jax.vmap(init)(_separate(q))
        return {"separate": separate, TORSO: init(q[TORSO])} if TORSO in q else separate

    def _rate_factor(self, updates: jax.Array) -> jax.Array | float:
        """What learning rates are multiplied by after so many updates: from 1 down to `final_rate_share` in a straight line."""
        last = self.settings.final_rate_share
        return 1.0 if last == 1 else 1.0 - (1.0 - last) * jnp.minimum(updates / self.total_updates, 1.0)

    def _step_q(
        self, gradients: Parameters, state: Any, q: Parameters, finite: jax.Array, factor: jax.Array | float
    ) -> tuple[Parameters, Any]:
        """The Q-networks and their optimisers after a step; each clips its own gradient."""
        step = functools.partial(self._optimiser(self.settings.learning_rate).step, finite=finite, factor=factor)
        if TORSO not in q:
            return jax.vmap(step)(gradients, state, q)
        separate, separate_state = jax.vmap(step)(_separate(gradients), state["separate"], _separate(q))
        torso, torso_state = step(gradients[TORSO], state[TORSO], q[TORSO])
        return separate | {TORSO: torso}, {"separate": separate_state, TORSO: torso_state}

    def _average(self, average: Parameters, q: Parameters, updates: jax.Array, finite: jax.Array) -> Parameters:
        """The running average with the newest parameters; at first it keeps less, so that it soon forgets where it began."""
        decay = jnp.where(finite, jnp.minimum(self.settings.average_decay, updates / (updates + 10.0)), 1.0)
        return jax.tree.map(lambda kept, new: decay * kept + (1.0 - decay) * new, average, q)

    @property
    def _normalises(self) -> bool:
        return self.settings.normalise_errors is not NormalisedErrors.NOWHERE

    @property
    def _learns_embedding(self) -> bool:
        return self.embedding is not None and self.novelty.embedding is Embedding.LEARNT

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the V value functions in metrics."""
        return ("extrinsic", "intrinsic") if self.q_network.num_values == 2 else ("extrinsic",)

    def loss(
        self, parameters: Trainable, state: LearnerState, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, Metrics, jax.Array | None]]:
        """Sum of all losses of this device's share; summed over devices it is the mean over the whole batch.

        Returns:
          loss, (priorities [B], metrics, running variance of TD errors); no term shares parameters with another, so the sum trains each by
          itself.
        """
        loss, priorities, metrics, error_variance = self._q_loss(parameters.q, state.target_q, state.error_variance, batch)
        if self._learns_embedding:
            embedding_loss, metrics["novelty/inverse_accuracy"] = self._embedding_loss(parameters.embedding, batch)
            metrics["loss/embedding"] = embedding_loss
            loss += embedding_loss
        if self.distillation is not None:
            distillation_loss = self._distillation_loss(parameters.predictor, state.random_target, batch)
            metrics["loss/distillation"] = distillation_loss
            loss += distillation_loss
        return loss, (priorities, metrics, error_variance)

    def _q_loss(
        self, q: Parameters, target_q: Parameters, error_variance: jax.Array | None, batch: Batch
    ) -> tuple[jax.Array, jax.Array, Metrics, jax.Array | None]:
        """Loss of all value functions, priorities [B], metrics, running variance of TD errors."""
        x = batch.experience
        previous = jnp.concatenate([batch.recurrent_state.previous_action[:, None], x.action[:, :-1]], axis=1)
        inputs = QInputs(x.observation, previous, x.extrinsic_reward, x.intrinsic_reward, x.policy, x.step_type == FIRST)
        # [V, B, T + 1, A] each
        online, target = self.q_network.unroll_online_and_target(q, target_q, batch.recurrent_state, inputs, self.burn_in)
        x = jax.tree.map(lambda leaf: leaf[:, self.burn_in :], x)
        is_first = x.step_type == FIRST

        # A transition into FIRST is not experience, whatever came before it: LAST, or an episode that an interruption cut off.
        valid = ~is_first[:, 1:]  # [B, T]
        beta = jnp.asarray(self.family.betas)[x.policy]  # [B, T + 1]
        gamma = jnp.asarray(self.family.gammas)[x.policy[:, :-1]]  # [B, T]
        combined = online[0]
        if self.q_network.num_values == 2:
            mix = SQUASHED if self.combination is Combination.SQUASHED else None
            combined = combine_action_values(online[0], online[1], beta, mix)
        intrinsic = None if x.intrinsic_reward is None else x.intrinsic_reward[:, 1:]
        rewards = rewards_of_values(x.extrinsic_reward[:, 1:], intrinsic, beta[:, :-1], self.q_network.num_values)
        discounts = return_discounts(gamma, x.discount[:, 1:], self.q_network.num_values, self.novelty.ends_with_episode)
        combined = jax.lax.stop_gradient(combined)
        policy = epsilon_greedy_probabilities(combined, jnp.float32(self.settings.target_epsilon))  # [B, T + 1, A], learnt about
        coefficients = self._trace_coefficients(combined, policy, x)  # [B, T]
        targets = self._targets(target, combined, policy, coefficients, rewards, discounts, valid, x)  # [V, B, T]

        taken = jnp.take_along_axis(online[:, :, :-1], x.action[None, :, :-1, None], axis=-1)[..., 0]
        errors = jnp.where(valid[None], targets - taken, 0.0)  # [V, B, T]
        size = batch.importance_weight.shape[0] * jax.lax.axis_size(parallel.AXIS)
        scale, error_variance = self._error_scale(jax.lax.stop_gradient(errors), valid, x.policy[:, :-1], error_variance)
        scaled = errors if scale is None else errors / scale
        learnt = scaled if self.settings.normalise_errors is NormalisedErrors.EVERYWHERE else errors
        losses = jnp.sum(0.5 * jnp.sum(jnp.square(learnt), axis=-1) * batch.importance_weight[None], axis=-1) / size  # [V]

        errors, scaled = jax.lax.stop_gradient((errors, scaled))
        priorities = jax.vmap(sequence_priority, in_axes=(0, 0, None))(mixed_errors(scaled, beta[:, :-1]), valid, self.eta)
        count = jnp.maximum(parallel.sum_over_devices(jnp.sum(valid)), 1)
        greedy = valid & (jnp.argmax(combined[:, :-1], axis=-1) == x.action[:, :-1])
        metrics = {
            "learner/valid_share": jnp.sum(valid) / (size * valid.shape[1]),
            "learner/priority": jnp.sum(priorities) / size,
            "learner/on_policy_share": jnp.sum(greedy) / count,
        }
        if coefficients is not None:
            metrics["learner/trace"] = jnp.sum(jnp.where(valid, coefficients, 0.0)) / count
        for v, name in enumerate(self.value_names):
            metrics[f"loss/{name}"] = losses[v]
            metrics[f"learner/value_{name}"] = jnp.sum(jnp.where(valid, taken[v], 0.0)) / count
            metrics[f"learner/td_error_{name}"] = jnp.sum(jnp.abs(errors[v])) / count
            if scale is not None:
                metrics[f"learner/error_scale_{name}"] = jnp.sum(jnp.where(valid, scale[v], 0.0)) / count
        return jnp.sum(losses), priorities, metrics, error_variance

    def _error_scale(
        self, errors: jax.Array, valid: jax.Array, policy: jax.Array, variance: jax.Array | None
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """What the errors [V, B, T] are divided by, [V, B, T], and the running variance [V, N] with them; None if they are not."""
        if variance is None:
            return None, None
        sums = parallel.sum_over_devices(error_sums(errors, valid, policy, len(self.family.betas)))
        return error_scale(variance, sums)[:, policy], update_variance(variance, sums)

    def _trace_coefficients(self, combined: jax.Array, policy: jax.Array, x: Experience) -> jax.Array | None:
        """How much of a return goes on behind each transition, c_t [B, T]; None for n-step targets."""
        s = self.settings
        if s.targets is Targets.N_STEP:
            return None
        action = x.action[:, :-1]
        if s.targets is Targets.SOFT_WATKINS:
            soft = functools.partial(soft_watkins_coefficients, trace_lambda=s.trace_lambda, tolerance=s.trace_tolerance)
            return jax.vmap(soft)(combined, policy, action)
        retrace = functools.partial(retrace_coefficients, trace_lambda=s.trace_lambda)
        return jax.vmap(retrace)(policy, action, x.behaviour_probability[:, :-1])

    def _targets(
        self,
        target: jax.Array,
        combined: jax.Array,
        policy: jax.Array,
        coefficients: jax.Array | None,
        rewards: jax.Array,
        discounts: jax.Array,
        valid: jax.Array,
        x: Experience,
    ) -> jax.Array:
        """Targets [V, B, T] of all value functions.

        Args:
          target: [V, B, T + 1, A] values of the target network.
          combined: [B, T + 1, A] online values, whose greedy action n-step targets take.
          policy: [B, T + 1, A], which traces learn about.
          coefficients: [B, T] of the traces; None for n-step targets.
          rewards: [V, B, T] of x_1..x_T.
          discounts: [V, B, T] gamma d.
          valid: [B, T].
          x: every field [B, T + 1, ...].
        """
        if coefficients is None:
            n_step = functools.partial(transformed_n_step_targets, n_step=self.settings.n_step, transform=self._transform)
            over_streams = jax.vmap(n_step)
            return jax.vmap(over_streams, in_axes=(0, None, 0, 0, None))(target, combined, rewards, discounts, valid)
        traced = jax.vmap(functools.partial(transformed_trace_targets, transform=self._transform))
        shared = (policy, x.action[:, :-1], coefficients)
        return jax.vmap(traced, in_axes=(0, None, None, None, 0, 0, None))(target, *shared, rewards, discounts, valid)

    def _embedding_loss(self, embedding: Parameters, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Negative log-likelihood of the actions of the last transitions with the L2 term, and the accuracy of the best guess."""
        assert self.embedding is not None
        count = self.novelty.train_timesteps
        x = batch.experience
        logits = self.embedding.action_logits(embedding, x.observation[:, -(count + 1) :])
        action = x.action[:, -(count + 1) : -1]
        valid = (x.step_type[:, -count:] != FIRST).astype(jnp.float32)
        total = jnp.maximum(parallel.sum_over_devices(jnp.sum(valid)), 1.0)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, action)
        hits = (jnp.argmax(logits, axis=-1) == action).astype(jnp.float32)
        l2 = 0.5 * self.settings.embedding_l2 * optax.tree.norm(embedding, squared=True) / jax.lax.axis_size(parallel.AXIS)
        return jnp.sum(jnp.where(valid > 0, losses, 0.0)) / total + l2, jnp.sum(hits * valid) / total

    def _distillation_loss(self, predictor: Parameters, random_target: Parameters, batch: Batch) -> jax.Array:
        """Mean squared distillation error of the last timesteps."""
        assert self.distillation is not None
        observation = batch.experience.observation[:, -self.novelty.train_timesteps :]
        errors = self.distillation.error(predictor, random_target, observation)
        return jnp.sum(errors) / (errors.size * jax.lax.axis_size(parallel.AXIS))


def _separate(q: Parameters) -> Parameters:
    """The parameters of the Q-networks that every value function has for itself: the leaves with the leading axis V."""
    return {name: part for name, part in q.items() if name != TORSO}


def acting_parameters(state: LearnerState) -> ActingParameters:
    """What actors need of the learner's state."""
    return ActingParameters(
        state.parameters.q, state.acting_embedding, state.parameters.predictor, state.random_target, state.error_variance
    )


def evaluation_parameters(state: LearnerState) -> ActingParameters:
    """What the evaluator needs: as the actors, but with the averaged Q-networks, where there are such."""
    parameters = acting_parameters(state)
    return parameters if state.average_q is None else parameters._replace(q=state.average_q)
