"""Priority of a sequence from its temporal-difference errors (R2D2 §2.3)."""

import jax
import jax.numpy as jnp

PRIORITY_FLOOR = 1e-6  # keeps a stored sequence drawable; 0 is reserved for "no sequence here"


def sequence_priority(td_errors: jax.Array, valid: jax.Array, eta: float) -> jax.Array:
    """eta max_t |e_t| + (1 - eta) mean_t |e_t| over valid t, at least `PRIORITY_FLOOR`.

    Args:
      td_errors: [T], squashed units; for a pair of value functions e = e^extrinsic + beta_j e^intrinsic.
      valid: [T] bool.
      eta: weight of the maximum, in [0, 1].

    Returns:
      Scalar > 0.
    """
    magnitude = jnp.where(valid, jnp.abs(td_errors), 0.0)
    mean = jnp.sum(magnitude) / jnp.maximum(jnp.sum(valid), 1)
    return jnp.maximum(eta * jnp.max(magnitude) + (1.0 - eta) * mean, PRIORITY_FLOOR)
