"""TD errors of an actor, and the priority of a sequence from its TD errors (Ape-X; R2D2 §2.3)."""

import jax
import jax.numpy as jnp

from agent57_jax.algorithm.value_transform import ValueTransform

PRIORITY_FLOOR = 1e-6  # a priority of 0 would mean that there is no sequence


def one_step_error(
    value_tm1: jax.Array, reward_t: jax.Array, discount_t: jax.Array, greedy_value_t: jax.Array, transform: ValueTransform
) -> jax.Array:
    """e_{t-1} = h(r_t + gamma_j d_t h^-1(max_a Q(x_t, a))) - Q(x_{t-1}, a_{t-1}), with arguments of one shape and squashed values Q."""
    return transform.apply(reward_t + discount_t * transform.invert(greedy_value_t)) - value_tm1


def mixed_errors(errors: jax.Array, beta: jax.Array) -> jax.Array:
    """e = e^extrinsic + beta_j e^intrinsic, [...], from errors [V, ...] and beta [...]; V = 1 changes nothing (Agent57 §3.1)."""
    return errors[0] + beta * errors[1] if errors.shape[0] == 2 else errors[0]


def sequence_priority(td_errors: jax.Array, valid: jax.Array, eta: float) -> jax.Array:
    """eta max_t |e_t| + (1 - eta) mean_t |e_t| over valid t [T] of errors [T] from `mixed_errors`; at least `PRIORITY_FLOOR`."""
    magnitude = jnp.where(valid, jnp.abs(td_errors), 0.0)
    mean = jnp.sum(magnitude) / jnp.maximum(jnp.sum(valid), 1)
    return jnp.maximum(eta * jnp.max(magnitude) + (1.0 - eta) * mean, PRIORITY_FLOOR)
