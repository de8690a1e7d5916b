"""Returns with traces under an invertible value transform, for one stream of transitions.

Retrace(lambda) (NGU App. E; Munos et al. 2016) and soft Watkins' Q(lambda) (Kapturowski et al. 2022, MEME; second-hand) differ only in the
trace coefficient c_t.
"""

import chex
import jax
import jax.numpy as jnp

from agent57_jax.algorithm.value_transform import ValueTransform


def retrace_coefficients(
    target_policy: jax.Array, actions: jax.Array, behaviour_probabilities: jax.Array, trace_lambda: float
) -> jax.Array:
    """c_t = lambda min(1, pi(a_t|x_t) / mu_t), [T], for pi [T + 1, A] or [T, A], actions [T] and their probabilities mu [T]."""
    chex.assert_rank([target_policy, actions, behaviour_probabilities], [2, 1, 1])
    pi_a = jnp.take_along_axis(target_policy[: actions.shape[0]], actions[:, None], axis=-1)[:, 0]
    return trace_lambda * jnp.minimum(1.0, pi_a / behaviour_probabilities)


def soft_watkins_coefficients(
    action_values: jax.Array, target_policy: jax.Array, actions: jax.Array, trace_lambda: float, tolerance: float
) -> jax.Array:
    """c_t = lambda sum_a pi(a|x_t) 1[Q(x_t, a_t) >= Q(x_t, a) - kappa |Q(x_t, a)|], [T] (MEME; formula and kappa second-hand).

    A nearly greedy action does not end the return, as it does with Retrace if pi is almost greedy and action values are close. kappa = 0
    is Watkins' Q(lambda) with ties; kappa -> infinity never cuts.

    Action values Q(x_t, .) and the target policy pi(.|x_t) are [T + 1, A] or [T, A], actions [T] int32; `tolerance` is kappa >= 0.
    """
    chex.assert_rank([action_values, target_policy, actions], [2, 2, 1])
    action_values, target_policy = action_values[: actions.shape[0]], target_policy[: actions.shape[0]]
    taken = jnp.take_along_axis(action_values, actions[:, None], axis=-1)
    good_enough = taken >= action_values - tolerance * jnp.abs(action_values)
    return trace_lambda * jnp.sum(jnp.where(good_enough, target_policy, 0.0), axis=-1)


def transformed_trace_targets(
    target_action_values: jax.Array,
    target_policy: jax.Array,
    actions: jax.Array,
    coefficients: jax.Array,
    rewards: jax.Array,
    discounts: jax.Array,
    valid: jax.Array,
    transform: ValueTransform,
) -> jax.Array:
    """Targets y_t of one stream, t = 0..T-1.

    delta_t = r_{t+1} + gamma d_{t+1} sum_a pi(a|x_{t+1}) q(x_{t+1}, a) - q(x_t, a_t),   q = h^-1(Q) of the target network
    y_t = h(q(x_t, a_t) + sum_{s >= t} gamma^{s-t} (prod_{i=t+1..s} d_i c_i) delta_s)

    Args:
      target_action_values: [T + 1, A] squashed values of the target network at x_0..x_T.
      target_policy: [T + 1, A] pi(.|x_t).
      actions, coefficients: [T] int32 a_0..a_{T-1} and c_0..c_{T-1}, which is ignored at border transitions.
      rewards, discounts: [T] r_1..r_T and gamma_j d_1..gamma_j d_T.
      valid: [T] bool; False for LAST -> FIRST, whose delta is 0 and through which no trace passes.
      transform: h and its inverse.

    Returns [T] squashed targets, without gradient; where `valid` is False the target is the value itself.
    """
    chex.assert_rank([target_action_values, target_policy], 2)
    chex.assert_rank([actions, coefficients, rewards, discounts, valid], 1)
    values = transform.invert(target_action_values)  # [T + 1, A]
    q_a = jnp.take_along_axis(values[:-1], actions[:, None], axis=-1)[:, 0]
    expected = jnp.sum(target_policy[1:] * values[1:], axis=-1)
    # Not multiplied: values at a border must not reach the sum, even if NaN.
    delta = jnp.where(valid, rewards + discounts * expected - q_a, 0.0)
    trace = jnp.where(valid, coefficients, 0.0)

    def backward(correction_t: jax.Array, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # correction_t is G_t - q_t of the next step, reached through its discount and trace.
        delta_tm1, discount_t, trace_t = inputs
        correction_tm1 = delta_tm1 + discount_t * trace_t * correction_t
        return correction_tm1, correction_tm1

    discount_inside = jnp.where(valid, discounts, 0.0)
    next_trace = jnp.concatenate([trace[1:], jnp.zeros_like(trace[:1])])
    # Unrolled: on a GPU an iteration is a few small launches.
    _, correction = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, discount_inside, next_trace), reverse=True, unroll=8)
    return jax.lax.stop_gradient(transform.apply(q_a + correction))
