"""The intrinsic reward: episodic novelty modulated by life-long novelty (NGU Eq. 1)."""

import jax
import jax.numpy as jnp


def intrinsic_reward(episodic: jax.Array, alpha: jax.Array, max_factor: float) -> jax.Array:
    """r^i = r^episodic clip(alpha, 1, L), [...]; alpha is the life-long factor, and max_factor L = 1 switches it off."""
    return episodic * jnp.clip(alpha, 1.0, max_factor)


def rewards_of_values(extrinsic: jax.Array, intrinsic: jax.Array | None, beta: jax.Array, num_values: int) -> jax.Array:
    """Rewards of the value functions, [V, ...], from r^e, r^i (or None) and beta, [...] (Agent57 §3.1; NGU §3 for one network).

    Two functions have one reward each, a single one has r^e + beta r^i.
    """
    if intrinsic is None:
        return extrinsic[None]
    return jnp.stack([extrinsic, intrinsic]) if num_values == 2 else (extrinsic + beta * intrinsic)[None]


def return_discounts(gamma: jax.Array, discount: jax.Array, num_values: int, ends_with_episode: bool) -> jax.Array:
    """Discounts of the value functions at a transition, [V, ...].

    At termination, where `discount` [...] is 0, both returns end (NGU). With `ends_with_episode` False the intrinsic one of two continues,
    so that reaching a goal does not cost the novelty that would have followed (Burda et al. 2018, §2.3).
    """
    ends = gamma * discount
    return jnp.stack([ends if v == 0 or ends_with_episode else jnp.broadcast_to(gamma, ends.shape) for v in range(num_values)])
