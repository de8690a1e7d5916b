"""Retrace(lambda) under an invertible value transform (NGU App. E; Munos et al. 2016), for one stream of transitions."""

import chex
import jax
import jax.numpy as jnp

from agent57_jax.algorithm.value_transform import ValueTransform


def transformed_retrace_targets(
    target_action_values: jax.Array,
    target_policy: jax.Array,
    actions: jax.Array,
    behaviour_probabilities: jax.Array,
    rewards: jax.Array,
    discounts: jax.Array,
    valid: jax.Array,
    trace_lambda: float,
    transform: ValueTransform,
) -> jax.Array:
    """Targets y_t of one stream, t = 0..T-1.

    delta_t = r_{t+1} + gamma d_{t+1} sum_a pi(a|x_{t+1}) q(x_{t+1}, a) - q(x_t, a_t),   q = h^-1(Q) of the target network
    c_t = lambda min(1, pi(a_t|x_t) / mu_t)
    y_t = h(q(x_t, a_t) + sum_{s >= t} gamma^{s-t} (prod_{i=t+1..s} d_i c_i) delta_s)

    Args:
      target_action_values: [T + 1, A] squashed values of the target network at x_0..x_T.
      target_policy: [T + 1, A] pi(.|x_t).
      actions: [T] int32 a_0..a_{T-1}.
      behaviour_probabilities: [T] mu_0..mu_{T-1}.
      rewards: [T] r_1..r_T.
      discounts: [T] gamma_j d_1..gamma_j d_T.
      valid: [T] bool; False for LAST -> FIRST, whose delta is 0 and through which no trace passes.
      trace_lambda: lambda in [0, 1].
      transform: h and its inverse.

    Returns:
      [T] squashed targets, without gradient. Where `valid` is False the target is the value itself.
    """
    chex.assert_rank([target_action_values, target_policy], 2)
    chex.assert_rank([actions, behaviour_probabilities, rewards, discounts, valid], 1)
    values = transform.invert(target_action_values)  # [T + 1, A]
    q_a = jnp.take_along_axis(values[:-1], actions[:, None], axis=-1)[:, 0]
    pi_a = jnp.take_along_axis(target_policy[:-1], actions[:, None], axis=-1)[:, 0]
    expected = jnp.sum(target_policy[1:] * values[1:], axis=-1)
    # Selected rather than multiplied away: nothing a border transition contains may reach the sum, not even a NaN.
    delta = jnp.where(valid, rewards + discounts * expected - q_a, 0.0)
    trace = jnp.where(valid, trace_lambda * jnp.minimum(1.0, pi_a / behaviour_probabilities), 0.0)

    def backward(correction_t: jax.Array, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # correction_t is G_t - q_t of the step after; the trace of step t + 1 and the discount that led to it lie in between.
        delta_tm1, discount_t, trace_t = inputs
        correction_tm1 = delta_tm1 + discount_t * trace_t * correction_t
        return correction_tm1, correction_tm1

    discount_inside = jnp.where(valid, discounts, 0.0)
    next_trace = jnp.concatenate([trace[1:], jnp.zeros_like(trace[:1])])
    # Unrolled: on a GPU a step is a few launches of almost no work.
    _, correction = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, discount_inside, next_trace), reverse=True, unroll=8)
    return jax.lax.stop_gradient(transform.apply(q_a + correction))
