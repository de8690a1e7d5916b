"""n-step double Q-learning under an invertible value transform (R2D2 §2.3; van Hasselt et al. 2016), for one stream of transitions."""

import chex
import jax
import jax.numpy as jnp

from agent57_jax.algorithm.value_transform import ValueTransform


def transformed_n_step_targets(
    target_action_values: jax.Array,
    online_action_values: jax.Array,
    rewards: jax.Array,
    discounts: jax.Array,
    valid: jax.Array,
    n_step: int,
    transform: ValueTransform,
) -> jax.Array:
    """Targets y_t of one stream, t = 0..T-1.

    v_t = h^-1(Q^-(x_t, argmax_a Q(x_t, a)))
    y_t = h( sum_{k=1..m} gamma^{k-1} (prod_{i=1..k-1} d_{t+i}) r_{t+k} + gamma^m (prod_{i=1..m} d_{t+i}) v_{t+m} )

    m is n, or the number of transitions until the stream or the episode ends: a truncated episode is bootstrapped at LAST, a terminated
    one is not (d = 0).

    Args:
      target_action_values: [T + 1, A] squashed values Q^- of the target network at x_0..x_T.
      online_action_values: [T + 1, A] values Q of the online network, which choose the action (double Q-learning).
      rewards, discounts: [T] r_1..r_T and gamma d_1..gamma d_T.
      valid: [T] bool; False for LAST -> FIRST, which no target crosses.
      n_step: n >= 1.
      transform: h and its inverse.

    Returns [T] squashed targets, without gradient, which are meaningless where `valid` is False.
    """
    chex.assert_rank([target_action_values, online_action_values], 2)
    chex.assert_rank([rewards, discounts, valid], 1)
    greedy = jnp.argmax(online_action_values, axis=-1)
    values = transform.invert(jnp.take_along_axis(target_action_values, greedy[:, None], axis=-1)[:, 0])  # [T + 1]
    returns = values
    for _ in range(n_step):
        # Not multiplied: values at a border must not reach the sum, even if NaN.
        longer = jnp.where(valid, rewards + discounts * returns[1:], values[:-1])
        returns = jnp.concatenate([longer, values[-1:]])
    return jax.lax.stop_gradient(transform.apply(returns[:-1]))
