"""The family of N policies: intrinsic weights, discounts, exploration rates, and the policies that action values give.

Sources: NGU App. A, Agent57 App. G.1, Ape-X for the actors' epsilons.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PolicyFamily(NamedTuple):
    """What distinguishes the policies: policy j maximises r^e + betas[j] r^i under discount gammas[j]."""

    betas: np.ndarray  # [N] float32
    gammas: np.ndarray  # [N] float32


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def intrinsic_betas(num_policies: int, beta_max: float) -> np.ndarray:
    """Weights of the intrinsic reward, beta_j, from 0 at the exploitative end to `beta_max` (NGU App. A).

    Args:
      num_policies: N >= 1. With N = 1 the only policy is the last rung, beta_max (an agent without intrinsic reward has beta_max 0).
      beta_max: the largest weight, >= 0.

    Returns:
      [N] float64, non-decreasing.
    """
    j = np.arange(num_policies, dtype=np.float64)
    # The inner steps of the ladder exist from N = 3 on; a divisor of 1 keeps N <= 2 defined.
    inner = beta_max * _sigmoid(10.0 * (2.0 * j - (num_policies - 2)) / max(num_policies - 2, 1))
    betas = np.where(j == 0, 0.0, inner)
    betas[-1] = beta_max
    return betas


def agent57_discounts(num_policies: int, gamma_0: float = 0.9999, gamma_1: float = 0.997, gamma_2: float = 0.99) -> np.ndarray:
    """Discounts of Agent57, gamma_j, from far-sighted (j = 0) to short-sighted (Agent57 App. G.1).

    The paper's reading that makes the ladder monotone: policies 1..6 interpolate by a sigmoid from gamma_0 down to gamma_1 at j = 7, the
    others logarithmically from gamma_1 to gamma_2. For N < 10 the formula is undefined; such a family takes N rungs of the paper's 32,
    evenly spaced: rung j is rung round(31 j / (N - 1)) (*Choice*).

    Returns:
      [N] float64, non-increasing.
    """
    if num_policies == 1:
        return np.array([gamma_0])
    if num_policies < 10:
        full = agent57_discounts(32, gamma_0, gamma_1, gamma_2)
        return full[np.round(np.linspace(0, 31, num_policies)).astype(int)]
    j = np.arange(num_policies, dtype=np.float64)
    i = 7.0 - np.minimum(j, 7.0)  # far below 0, where nothing is taken from it, the sigmoid would overflow
    upper = gamma_1 + (gamma_0 - gamma_1) * _sigmoid(10.0 * (2.0 * i - 6.0) / 6.0)
    rungs = num_policies - 9
    fraction = (j - 8.0) / rungs
    lower = 1.0 - np.exp((1.0 - fraction) * np.log(1.0 - gamma_1) + fraction * np.log(1.0 - gamma_2))
    discounts = np.where(j < 7, upper, lower)
    discounts[0] = gamma_0
    discounts[7] = gamma_1
    return discounts


def ngu_discounts(num_policies: int, gamma_max: float = 0.997, gamma_min: float = 0.99) -> np.ndarray:
    """Discounts of NGU, evenly spaced in log(1 - gamma) from `gamma_max` (j = 0) to `gamma_min` (NGU App. A).

    Returns:
      [N] float64, non-increasing; [gamma_max] for N = 1.
    """
    fraction = np.linspace(0.0, 1.0, num_policies)
    return 1.0 - np.exp((1.0 - fraction) * np.log(1.0 - gamma_max) + fraction * np.log(1.0 - gamma_min))


def actor_epsilons(actor_index: jax.Array, num_actors: int, base: float = 0.4, alpha: float = 8.0) -> jax.Array:
    """Exploration rates epsilon_l = base^(1 + alpha l / (L - 1)) of actors l (Ape-X, as in Agent57 App. G.3).

    Args:
      actor_index: [E] int, l in 0..L-1.
      num_actors: L; with L = 1 the rate is `base`.

    Returns:
      [E] float32.
    """
    exponent = 1.0 + alpha * actor_index.astype(jnp.float32) / max(num_actors - 1, 1)
    return jnp.float32(base) ** exponent


def epsilon_greedy_probabilities(action_values: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Probabilities of the epsilon-greedy policy; the first of equal maxima is the greedy action.

    Args:
      action_values: [..., A].
      epsilon: broadcasts against [...]; share of uniform actions.

    Returns:
      [..., A], rows sum to 1.
    """
    num_actions = action_values.shape[-1]
    greedy = jax.nn.one_hot(jnp.argmax(action_values, axis=-1), num_actions, dtype=action_values.dtype)
    epsilon = jnp.broadcast_to(epsilon, action_values.shape[:-1])[..., None]
    return epsilon / num_actions + (1.0 - epsilon) * greedy
