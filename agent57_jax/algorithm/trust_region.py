"""The trust region around the target network (Kapturowski et al. 2022, MEME: form from two unofficial implementations and recollection)."""

import jax
import jax.numpy as jnp


def leaves_trust_region(value: jax.Array, anchor: jax.Array, target: jax.Array, radius: jax.Array) -> jax.Array:
    """Whether learning would move a value that is outside its trust region further out. All arguments have one shape.

    A gradient step on 1/2 (Q - G)^2 moves Q by -(Q - G) times a positive number, and so |Q - Q^-| grows if and only if Q - Q^- and G - Q
    have one sign, which is to say that Q - Q^- and Q - G have opposite signs.

    Args:
      value: Q, of the online network.
      anchor: Q^-, of the target network.
      target: G, what Q is learnt towards.
      radius: alpha sigma >= 0; an infinite one holds nothing.

    Returns:
      bool; False for what is not a number, so that it is not hidden.
    """
    drift = value - anchor
    return (jnp.abs(drift) > radius) & (drift * (target - value) > 0.0)
