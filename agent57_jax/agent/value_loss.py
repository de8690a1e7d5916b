"""The loss of the value functions on replayed sequences (Agent57 §3.1, App. E; NGU App. E; R2D2 §2.3; parts of MEME)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from agent57_jax import parallel
from agent57_jax.algorithm.cross_mixture import mixture_shares
from agent57_jax.algorithm.error_scale import error_scale, error_sums, update_variance
from agent57_jax.algorithm.intrinsic_reward import return_discounts, rewards_of_values
from agent57_jax.algorithm.n_step import transformed_n_step_targets
from agent57_jax.algorithm.policy_distillation import distillation_losses, tempered_policy
from agent57_jax.algorithm.policy_family import PolicyFamily, epsilon_greedy_probabilities
from agent57_jax.algorithm.retrace import retrace_coefficients, soft_watkins_coefficients, transformed_trace_targets
from agent57_jax.algorithm.sequence_priority import mixed_errors, sequence_priority
from agent57_jax.algorithm.trust_region import leaves_trust_region
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform, combine_action_values
from agent57_jax.config import Bootstrap, Combination, LearnerSettings, NormalisedErrors, Targets, Transform
from agent57_jax.networks.q_network import QInputs, QNetwork
from agent57_jax.types import FIRST, Batch, Experience

Parameters = Any
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ValueLoss:
    """Networks, policies and settings of the loss."""

    settings: LearnerSettings
    combination: Combination
    ends_with_episode: bool  # whether termination also ends the intrinsic return
    eta: float  # of the priorities
    burn_in: int  # timesteps before the T transitions that only update the recurrent state
    family: PolicyFamily
    q_network: QNetwork

    @property
    def normalises(self) -> bool:
        """Whether TD errors are normalised anywhere."""
        return self.settings.normalise_errors is not NormalisedErrors.NOWHERE

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the V value functions in metrics."""
        return ("extrinsic", "intrinsic") if self.q_network.num_values == 2 else ("extrinsic",)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the L values that have a loss."""
        return ("combined",) if self.settings.combined_loss and self.q_network.num_values == 2 else self.value_names

    @property
    def _mixes_in_full(self) -> bool:
        """Whether every sequence trains all policies; without policy heads `Programs` draws the policies instead."""
        return self.settings.cross_mixture > 0 and self.q_network.settings.policy_heads

    @property
    def _transform(self) -> ValueTransform:
        return SQUASHED if self.settings.transform is Transform.SQUASHED else IDENTITY

    def __call__(
        self, q: Parameters, target_q: Parameters, error_variance: jax.Array | None, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, Metrics, jax.Array | None]]:
        """Loss of all values and of the policy; priorities [B], metrics, running variance of TD errors.

        If every sequence trains all policies, there is a row for each pair of policy and sequence: N * B instead of B.
        """
        x = batch.experience
        previous = jnp.concatenate([batch.recurrent_state.previous_action[:, None], x.action[:, :-1]], axis=1)
        inputs = QInputs(x.observation, previous, x.extrinsic_reward, x.intrinsic_reward, x.policy, x.step_type == FIRST)
        online, target = self.q_network.unroll_online_and_target(q, target_q, batch.recurrent_state, inputs, self.burn_in)
        x = jax.tree.map(lambda leaf: leaf[:, self.burn_in :], x)
        acted, num_rows, shares = x.policy, batch.importance_weight.shape[0], None
        size = num_rows * jax.lax.axis_size(parallel.AXIS)
        weight = batch.importance_weight
        if self._mixes_in_full:
            N = len(self.family.betas)
            shares = mixture_shares(acted[:, :-1], N, self.settings.cross_mixture).reshape(N * num_rows, -1)  # [N * B, T]
            online, target = (_of_all_policies(outputs) for outputs in (online, target))
            x, weight = _for_all_policies(x, N), jnp.tile(weight, N)
        else:
            online, target = (self.q_network.of_policy(outputs, x.policy) for outputs in (online, target))
        logits = None
        if self.q_network.has_policy:
            logits, online, target = (online[-1], target[-1]), online[:-1], target[:-1]  # [B, T + 1, A] of both networks
        is_first = x.step_type == FIRST  # values are [V, B, T + 1, A]

        # A transition into FIRST is not experience, whether it follows LAST or an interrupted episode.
        valid = ~is_first[:, 1:]  # [B, T]
        beta = jnp.asarray(self.family.betas)[x.policy]  # [B, T + 1]
        gamma = jnp.asarray(self.family.gammas)[x.policy[:, :-1]]  # [B, T]
        combined = self._combined(online, beta)
        if self.settings.combined_loss:
            online, target = combined[None], self._combined(target, beta)[None]
        intrinsic = None if x.intrinsic_reward is None else x.intrinsic_reward[:, 1:]
        rewards = rewards_of_values(x.extrinsic_reward[:, 1:], intrinsic, beta[:, :-1], len(self.loss_names))
        discounts = return_discounts(gamma, x.discount[:, 1:], len(self.loss_names), self.ends_with_episode)
        combined = jax.lax.stop_gradient(combined)
        policy = self._target_policy(combined, logits)  # [B, T + 1, A], of the target policy
        coefficients = self._trace_coefficients(combined, policy, x)  # [B, T]
        bootstrap = jax.lax.stop_gradient(online) if self.settings.bootstrap is Bootstrap.ONLINE else target
        targets = self._targets(bootstrap, combined, policy, coefficients, rewards, discounts, valid, x)  # [L, B, T]

        taken = _at_actions(online, x)
        errors = jnp.where(valid[None], targets - taken, 0.0)  # [L, B, T]
        scale = held = None
        if error_variance is not None:
            policies = x.policy[:, :-1]
            sums = parallel.sum_over_devices(error_sums(jax.lax.stop_gradient(errors), valid, policies, len(self.family.betas)))
            scale, error_variance = error_scale(error_variance, sums)[:, policies], update_variance(error_variance, sums)
        scaled = errors if scale is None else errors / scale
        learnt = scaled if self.settings.normalise_errors is NormalisedErrors.EVERYWHERE else errors
        if scale is not None and self.settings.trust_region:
            held = valid[None] & leaves_trust_region(taken, _at_actions(target, x), targets, self.settings.trust_region * scale)
            learnt = jnp.where(held, 0.0, learnt)
        squares = jnp.square(learnt) if shares is None else shares[None] * jnp.square(learnt)
        losses = jnp.sum(0.5 * jnp.sum(squares, axis=-1) * weight[None], axis=-1) / size  # [L]

        errors, scaled = jax.lax.stop_gradient((errors, scaled))
        priorities = self._priorities(scaled, valid, beta[:, :-1], None if shares is None else acted[:, :-1])
        count = jnp.maximum(parallel.sum_over_devices(jnp.sum(valid)), 1)
        greedy = valid & (jnp.argmax((combined if logits is None else logits[0])[:, :-1], axis=-1) == x.action[:, :-1])
        metrics = {
            "learner/valid_share": jnp.sum(valid) / (valid.size * jax.lax.axis_size(parallel.AXIS)),
            "learner/priority": jnp.sum(priorities) / size,
            "learner/on_policy_share": jnp.sum(greedy) / count,
        }
        if coefficients is not None:
            metrics["learner/trace"] = jnp.sum(jnp.where(valid, coefficients, 0.0)) / count
        for v, name in enumerate(self.loss_names):
            metrics[f"loss/{name}"] = losses[v]
            metrics[f"learner/value_{name}"] = jnp.sum(jnp.where(valid, taken[v], 0.0)) / count
            metrics[f"learner/td_error_{name}"] = jnp.sum(jnp.abs(errors[v])) / count
            if scale is not None:
                metrics[f"learner/error_scale_{name}"] = jnp.sum(jnp.where(valid, scale[v], 0.0)) / count
            if held is not None:
                metrics[f"learner/held_{name}"] = jnp.sum(held[v]) / count
        if len(losses) == 2 and self.settings.intrinsic_loss_weight != 1:
            losses = losses * jnp.asarray((1.0, self.settings.intrinsic_loss_weight), losses.dtype)
        loss = jnp.sum(losses)
        if logits is not None:
            own, fixed = (one[:, :-1] for one in logits)
            policy_losses, is_near = distillation_losses(
                own, fixed, combined[:, :-1], self.settings.policy_epsilon, self.settings.policy_kl_limit
            )
            policy_losses = jnp.where(valid, policy_losses if shares is None else shares * policy_losses, 0.0)
            metrics["loss/policy"] = jnp.sum(jnp.sum(policy_losses, axis=-1) * weight) / size
            metrics["learner/distilled_share"] = jnp.sum(valid & is_near) / count
            loss += metrics["loss/policy"]
        return loss, (priorities, metrics, error_variance)

    def _combined(self, values: jax.Array, beta: jax.Array) -> jax.Array:
        """[V, B, T + 1, A] -> [B, T + 1, A], the values that policies maximise."""
        if self.q_network.num_values == 1:
            return values[0]
        mix = SQUASHED if self.combination is Combination.SQUASHED else None
        return combine_action_values(values[0], values[1], beta, mix)

    def _target_policy(self, combined: jax.Array, logits: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Probabilities [B, T + 1, A] of the target policy, without gradient."""
        if logits is None:
            return epsilon_greedy_probabilities(combined, jnp.float32(self.settings.target_epsilon))
        return jax.lax.stop_gradient(tempered_policy(logits[0], self.settings.policy_temperature))

    def _priorities(self, errors: jax.Array, valid: jax.Array, beta: jax.Array, acted: jax.Array | None) -> jax.Array:
        """[B] from errors [L, B, T]. With rows for all policies, those of the policies `acted` [B, T] count."""
        if acted is not None:
            pairs = len(self.family.betas), acted.shape[0]
            errors = jnp.take_along_axis(errors.reshape(-1, *pairs, acted.shape[1]), acted[None, None], axis=1)[:, 0]
            valid, beta = valid[: pairs[1]], jnp.asarray(self.family.betas)[acted]
        return jax.vmap(sequence_priority, in_axes=(0, 0, None))(mixed_errors(errors, beta), valid, self.eta)

    def _trace_coefficients(self, combined: jax.Array, policy: jax.Array, x: Experience) -> jax.Array | None:
        """Trace coefficients c_t [B, T]; None for n-step targets."""
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

        Values `target` [V, B, T + 1, A] bootstrap returns. n-step targets take the greedy actions of `combined` [B, T + 1, A], traces the
        target policy [B, T + 1, A] and coefficients [B, T]. Rewards and discounts are [V, B, T], of x_1..x_T.
        """
        if coefficients is None:
            n_step = functools.partial(transformed_n_step_targets, n_step=self.settings.n_step, transform=self._transform)
            over_streams = jax.vmap(n_step)
            return jax.vmap(over_streams, in_axes=(0, None, 0, 0, None))(target, combined, rewards, discounts, valid)
        traced = jax.vmap(functools.partial(transformed_trace_targets, transform=self._transform))
        shared = (policy, x.action[:, :-1], coefficients)
        return jax.vmap(traced, in_axes=(0, None, None, None, 0, 0, None))(target, *shared, rewards, discounts, valid)


def _of_all_policies(outputs: jax.Array) -> jax.Array:
    """Outputs [R, B, T, N, A] -> [R, N * B, T, A]."""
    rows = jnp.moveaxis(outputs, 3, 1)
    return rows.reshape(rows.shape[0], -1, *rows.shape[3:])


def _for_all_policies(x: Experience, num_policies: int) -> Experience:
    """Every field [B, T + 1] -> [N * B, T + 1] as experience of each policy; observations are replaced by placeholders."""
    rows: Experience = jax.tree.map(lambda leaf: jnp.tile(leaf, (num_policies, 1)), x._replace(observation=x.action))
    return rows._replace(policy=jnp.broadcast_to(jnp.repeat(jnp.arange(num_policies), x.policy.shape[0])[:, None], rows.policy.shape))


def _at_actions(values: jax.Array, x: Experience) -> jax.Array:
    """[V, B, T + 1, A] -> [V, B, T] of the actions taken."""
    return jnp.take_along_axis(values[:, :, :-1], x.action[None, :, :-1, None], axis=-1)[..., 0]
