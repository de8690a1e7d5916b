"""A policy distilled from action values, which follows their argmax gradually (Kapturowski et al. 2022, MEME; second-hand)."""

import jax
import jax.numpy as jnp

from agent57_jax.algorithm.policy_family import epsilon_greedy_probabilities


def distillation_losses(
    logits: jax.Array, target_logits: jax.Array, action_values: jax.Array, epsilon: float, kl_limit: float
) -> tuple[jax.Array, jax.Array]:
    """L = -sum_a G(a|x) log pi(a|x) where KL(pi^- || pi) <= limit, else 0; G is the epsilon-greedy policy of the values.

    Logits of pi, with gradient, and of pi^-, the target network's policy, and action values are [..., A]; `epsilon` is that of G,
    `kl_limit` in nats. Returns losses [...] and where they apply; a NaN divergence counts as within the limit, so that it is not hidden.
    """
    log_pi, log_old = jax.nn.log_softmax(logits), jax.nn.log_softmax(jax.lax.stop_gradient(target_logits))
    goal = epsilon_greedy_probabilities(jax.lax.stop_gradient(action_values), jnp.float32(epsilon))
    divergence = jnp.sum(jnp.exp(log_old) * (log_old - log_pi), axis=-1)
    is_near = ~(divergence > kl_limit)
    return jnp.where(is_near, -jnp.sum(goal * log_pi, axis=-1), 0.0), is_near


def tempered_policy(logits: jax.Array, temperature: float) -> jax.Array:
    """softmax(log pi / temperature), [..., A]: below 1 sharper than pi, 1 is pi itself."""
    return jax.nn.softmax(logits / temperature)
