"""The invertible value transform h, and the combination of extrinsic and intrinsic action values.

Sources: NGU App. E (h from Pohlen et al. 2018), Agent57 §3.1 and App. B.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class ValueTransform(NamedTuple):
    """A strictly increasing, odd function of the reals and its inverse."""

    apply: Callable[[jax.Array], jax.Array]
    invert: Callable[[jax.Array], jax.Array]


def squash(x: jax.Array, eps: float = 1e-3) -> jax.Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x, without cancellation near 0. Any shape; returns -> squashed values."""
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + eps * x


def unsquash(x: jax.Array, eps: float = 1e-3) -> jax.Array:
    """h^-1, the inverse of `squash`, without cancellation (relative error below 5e-7 in float32)."""
    magnitude = jnp.abs(x)
    b = 1.0 + 2.0 * eps
    # Multiplied by x, not by its sign and magnitude, so that the gradient at 0 is right.
    slope = 2.0 / (b + jnp.sqrt(b * b + 4.0 * eps * magnitude))
    return x * slope * (magnitude * slope + 2.0)


def _identity(x: jax.Array) -> jax.Array:
    return x


SQUASHED = ValueTransform(squash, unsquash)
IDENTITY = ValueTransform(_identity, _identity)


def combine_action_values(
    extrinsic: jax.Array, intrinsic: jax.Array, beta: jax.Array, transform: ValueTransform | None = None
) -> jax.Array:
    """Q = Q^e + beta Q^i, or h(h^-1(Q^e) + beta h^-1(Q^i)) with a transform, of values [..., A] and beta [...] (Agent57 §3.1, App. B)."""
    beta = jnp.broadcast_to(beta, extrinsic.shape[:-1])[..., None]
    if transform is None:
        return extrinsic + beta * intrinsic
    return transform.apply(transform.invert(extrinsic) + beta * transform.invert(intrinsic))
