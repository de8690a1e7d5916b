"""The scale of TD errors, by which losses and priorities divide them (Kapturowski et al. 2022, MEME; constants known second-hand).

Without it the larger errors of intrinsic values and of exploratory policies would dominate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MIN_SCALE = 0.01
DECAY = 0.99  # of the running variance per update


class ErrorSums(NamedTuple):
    """Sums over the valid transitions of a batch; they may be added over devices."""

    number: jax.Array  # [N] transitions of each policy
    total: jax.Array  # [V, N] of errors
    squares: jax.Array  # [V, N] of squared errors


def error_sums(errors: jax.Array, valid: jax.Array, policy: jax.Array, num_policies: int) -> ErrorSums:
    """Sums by policy of errors [V, B, T] where `valid` [B, T]; `policy` [B, T] is j."""
    belongs = jax.nn.one_hot(policy, num_policies) * valid[..., None]  # [B, T, N]
    errors = jnp.where(valid[None], errors, 0.0)
    return ErrorSums(
        jnp.sum(belongs, axis=(0, 1)),
        jnp.einsum("vbt,btn->vn", errors, belongs),
        jnp.einsum("vbt,btn->vn", jnp.square(errors), belongs),
    )


def batch_variance(sums: ErrorSums) -> jax.Array:
    """[V, N] population variance of each policy's errors, 0 without any."""
    count = jnp.maximum(sums.number, 1.0)[None]
    return jnp.maximum(sums.squares / count - jnp.square(sums.total / count), 0.0)


def update_variance(running: jax.Array, sums: ErrorSums) -> jax.Array:
    """[V, N] running variance after a batch. A policy's first batch initialises it; without transitions it stays."""
    batch = batch_variance(sums)
    mixed = jnp.where(running > 0, DECAY * running + (1.0 - DECAY) * batch, batch)
    return jnp.where(sums.number[None] > 0, mixed, running)


def error_scale(running: jax.Array, sums: ErrorSums) -> jax.Array:
    """sigma = max(running deviation, deviation in the batch, 0.01), [V, N]. A running variance of 0 means none yet."""
    return jnp.maximum(jnp.sqrt(jnp.maximum(running, batch_variance(sums))), MIN_SCALE)


def acting_scale(running: jax.Array) -> jax.Array:
    """[V, N] sigma for actors, without a batch: the running deviation, at least 0.01; 1 before the first update."""
    return jnp.where(running > 0, jnp.maximum(jnp.sqrt(running), MIN_SCALE), 1.0)
