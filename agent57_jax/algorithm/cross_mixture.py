"""Cross-mixture training: every sequence may train every policy (Kapturowski et al. 2022, MEME; second-hand).

MEME's loss is eta L_j + (1 - eta) / (N - 1) sum_{j' != j} L_j'. Retrace makes this valid: the replay stores the action's probability under
the policy that acted, and the rewards do not depend on the policy.
"""

import jax
import jax.numpy as jnp


def mixture_shares(policy: jax.Array, num_policies: int, share: float) -> jax.Array:
    """Weights [N, B, T] of the losses: eta = 1 - share for `policy` [B, T], which acted, (1 - eta) / (N - 1) for each other one."""
    own = jnp.arange(num_policies)[:, None, None] == policy[None]
    return jnp.where(own, 1.0 - share, share / (num_policies - 1)) if num_policies > 1 else jnp.ones(own.shape)


def mixed_policies(key: jax.Array, policy: jax.Array, num_policies: int, share: float) -> jax.Array:
    """Draws the policies that the sequences train, [B, T] int32: a cheap mixture in expectation.

    All policies of a sequence, `policy` [B, T], are moved by one offset modulo N, which is 0 with probability eta = 1 - share.
    """
    if num_policies == 1:
        return policy
    key_other, key_offset = jax.random.split(key)
    batch = policy.shape[0]
    other = jax.random.uniform(key_other, (batch, 1)) < share
    offset = jax.random.randint(key_offset, (batch, 1), 1, num_policies)
    return jnp.where(other, (policy + offset) % num_policies, policy)
