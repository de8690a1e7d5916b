"""The update: losses of value functions, inverse dynamics and distillation (Agent57 §3.1; NGU §2, App. E; R2D2 §2.3)."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agent57_jax import parallel
from agent57_jax.agent import adam
from agent57_jax.agent.value_loss import Metrics, Parameters, ValueLoss
from agent57_jax.algorithm.policy_family import PolicyFamily
from agent57_jax.config import Embedding, LearnerSettings, NoveltySettings
from agent57_jax.networks.distillation import DistillationNetwork
from agent57_jax.networks.embedding import EmbeddingNetwork
from agent57_jax.networks.q_network import TORSO, QNetwork
from agent57_jax.types import FIRST, ActingParameters, Batch


class Trainable(NamedTuple):
    """Trainable parameters."""

    q: Parameters  # leading axis W, except a shared torso
    embedding: Parameters  # None if no embedding is learnt
    predictor: Parameters  # None without life-long novelty


class LearnerState(NamedTuple):
    """The state of the learner, equal on every device."""

    parameters: Trainable
    optimiser: Trainable  # one Adam state per part
    target_q: Parameters
    random_target: Parameters  # the fixed network of the distillation; None without it
    acting_embedding: Parameters  # for new episodes: the learnt embedding, or a fixed random one; None without
    average_q: Parameters  # running average of the Q-networks for the evaluator; None if it plays the newest
    error_variance: jax.Array | None  # [L, N] running variance of TD errors; None if they are not normalised
    updates: jax.Array  # scalar int32


class UpdateOutput(NamedTuple):
    """Result of one update."""

    state: LearnerState
    priorities: jax.Array  # [B], of this device's sequences
    metrics: Metrics  # scalars, over all devices; each key must be declared in metrics.py


@dataclasses.dataclass(frozen=True)
class Learner:
    """Networks, policies and settings of the update."""

    settings: LearnerSettings
    novelty: NoveltySettings
    total_updates: float  # of a whole run, for the schedule of learning rates
    value_loss: ValueLoss
    embedding: EmbeddingNetwork | None  # None without episodic novelty
    distillation: DistillationNetwork | None  # None without life-long novelty

    @property
    def q_network(self) -> QNetwork:
        """The Q-networks."""
        return self.value_loss.q_network

    @property
    def family(self) -> PolicyFamily:
        """The N policies."""
        return self.value_loss.family

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the V value functions in metrics."""
        return self.value_loss.value_names

    @property
    def network_names(self) -> tuple[str, ...]:
        """Names of the W Q-networks in metrics."""
        return self.value_names if self.q_network.num_networks == self.q_network.num_values else ("all_values",)

    def _optimiser(self, learning_rate: float) -> adam.Optimiser:
        s = self.settings
        return adam.Optimiser(learning_rate, s.adam_b1, s.adam_b2, s.adam_epsilon, s.max_gradient_norm, s.weight_decay)

    def init(self, key: jax.Array) -> LearnerState:
        """Random parameters, equal targets, fresh optimisers."""
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
            error_variance=jnp.zeros((len(self.value_loss.loss_names), len(self.family.betas))) if self.value_loss.normalises else None,
            updates=jnp.zeros((), jnp.int32),
        )

    def update(self, state: LearnerState, batch: Batch) -> UpdateOutput:
        """One gradient step of every part. A non-finite loss or gradient changes nothing, sets `finite` to 0 and invalidates priorities."""
        gradients, (priorities, metrics, error_variance) = jax.grad(self.loss, has_aux=True)(state.parameters, state, batch)
        gradients, metrics = parallel.sum_over_devices((gradients, metrics))
        q_norms = jax.vmap(optax.tree.norm)(_separate(gradients.q))
        norms = {f"gradient_norm/{name}": q_norms[v] for v, name in enumerate(self.network_names)}
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

        if self.settings.target_rate:
            target_q = _mixed(state.target_q, parameters.q, jnp.where(finite, 1.0 - self.settings.target_rate, 1.0))
        else:
            target_q = every(self.settings.target_period_updates, parameters.q, state.target_q)
        new = LearnerState(
            parameters=parameters,
            optimiser=optimiser,
            target_q=target_q,
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
        """One Adam per network, with the leading axis W, and one for a shared torso."""
        init = self._optimiser(self.settings.learning_rate).init
        separate = jax.vmap(init)(_separate(q))
        return {"separate": separate, TORSO: init(q[TORSO])} if TORSO in q else separate

    def _rate_factor(self, updates: jax.Array) -> jax.Array | float:
        """Factor of the learning rates, which falls linearly from 1 to `final_rate_share`."""
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
        """The running average after an update; early on its decay is smaller, so that the start is forgotten."""
        decay = jnp.where(finite, jnp.minimum(self.settings.average_decay, updates / (updates + 10.0)), 1.0)
        return _mixed(average, q, decay)

    @property
    def _learns_embedding(self) -> bool:
        return self.embedding is not None and self.novelty.embedding is Embedding.LEARNT

    def loss(
        self, parameters: Trainable, state: LearnerState, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, Metrics, jax.Array | None]]:
        """This device's loss, priorities [B], metrics, running variance of TD errors. Losses add up to the batch's mean over devices."""
        loss, (priorities, metrics, error_variance) = self.value_loss(parameters.q, state.target_q, state.error_variance, batch)
        if self._learns_embedding:
            embedding_loss, metrics["novelty/inverse_accuracy"] = self._embedding_loss(parameters.embedding, batch)
            metrics["loss/embedding"] = embedding_loss
            loss += embedding_loss
        if self.distillation is not None:
            distillation_loss = self._distillation_loss(parameters.predictor, state.random_target, batch)
            metrics["loss/distillation"] = distillation_loss
            loss += distillation_loss
        return loss, (priorities, metrics, error_variance)

    def _embedding_loss(self, embedding: Parameters, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Cross entropy of the last transitions' actions plus the L2 term, and the accuracy."""
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


def _mixed(average: Parameters, newest: Parameters, decay: jax.Array) -> Parameters:
    """The moving average decay * average + (1 - decay) * newest."""
    return jax.tree.map(lambda kept, new: decay * kept + (1.0 - decay) * new, average, newest)


def _separate(q: Parameters) -> Parameters:
    """The parameters with the leading axis W: all but a shared torso."""
    return {name: part for name, part in q.items() if name != TORSO}


def acting_parameters(state: LearnerState) -> ActingParameters:
    """The actors' parameters."""
    parameters = state.parameters
    return ActingParameters(parameters.q, state.acting_embedding, parameters.predictor, state.random_target, state.error_variance)


def evaluation_parameters(state: LearnerState) -> ActingParameters:
    """The evaluator's parameters: those of the actors, with averaged Q-networks if there are any."""
    parameters = acting_parameters(state)
    return parameters if state.average_q is None else parameters._replace(q=state.average_q)
