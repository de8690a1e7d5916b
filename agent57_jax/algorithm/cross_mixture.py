"""Every sequence may train every policy of the family (Kapturowski et al. 2022, MEME: cross-mixture training; second hand).

MEME's loss is eta L_j + (1 - eta) / (N - 1) sum_{j' != j} L_j'. Retrace makes it sound: the action's probability under the policy that
acted is stored, and neither reward depends on the policy.
"""

import jax
import jax.numpy as jnp


def mixture_shares(policy: jax.Array, num_policies: int, share: float) -> jax.Array:
    """What each policy's loss at a transition counts, where one pass of the networks gives the values of all.

    Args:
      policy: [B, T] int32, the policies that acted.
      num_policies: N; with one there is nothing to mix.
      share: 1 - eta, in [0, 1].

    Returns:
      [N, B, T]: eta for the policy that acted, (1 - eta) / (N - 1) for each other one.
    """
    own = jnp.arange(num_policies)[:, None, None] == policy[None]
    return jnp.where(own, 1.0 - share, share / (num_policies - 1)) if num_policies > 1 else jnp.ones(own.shape)


def mixed_policies(key: jax.Array, policy: jax.Array, num_policies: int, share: float) -> jax.Array:
    """Policies that the sequences of a batch train.

    Each trains one, another one than its own with probability 1 - eta: the expectation is the mixture's, at the cost of no mixture at all.

    Args:
      key: of this batch.
      policy: [B, T] int32, the policies that acted; they change where an episode ends.
      num_policies: N; with one there is nothing to mix.
      share: 1 - eta, in [0, 1].

    Returns:
      [B, T] int32; all of a sequence's policies are moved by one offset modulo N, which is 0 with probability eta.
    """
    if num_policies == 1:
        return policy
    key_other, key_offset = jax.random.split(key)
    batch = policy.shape[0]
    other = jax.random.uniform(key_other, (batch, 1)) < share
    offset = jax.random.randint(key_offset, (batch, 1), 1, num_policies)
    return jnp.where(other, (policy + offset) % num_policies, policy)
