"""The trust region around the target network (Kapturowski et al. 2022, MEME: form from two unofficial implementations and recollection)."""

import jax
import jax.numpy as jnp


def leaves_trust_region(value: jax.Array, anchor: jax.Array, target: jax.Array, radius: jax.Array) -> jax.Array:
    """Whether learning would move a value outside its trust region further away; bool, False for NaN. All arguments have one shape.

    A gradient step on 1/2 (Q - G)^2 moves Q towards G, so |Q - Q^-| grows if and only if Q - Q^- and G - Q have the same sign.

    Value and anchor are Q of the online and Q^- of the target network, the target is G, the radius alpha sigma >= 0; an infinite radius
    holds nothing.
    """
    drift = value - anchor
    return (jnp.abs(drift) > radius) & (drift * (target - value) > 0.0)
