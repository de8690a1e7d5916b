"""The intrinsic reward: episodic novelty modulated by life-long novelty (NGU Eq. 1)."""

import jax
import jax.numpy as jnp


def intrinsic_reward(episodic: jax.Array, alpha: jax.Array, max_factor: float) -> jax.Array:
    """r^i = r^episodic clip(alpha, 1, L).

    Args:
      episodic: [...] episodic novelty.
      alpha: [...] life-long factor.
      max_factor: L >= 1; L = 1 switches life-long novelty off.
    """
    return episodic * jnp.clip(alpha, 1.0, max_factor)
