"""The family of N policies: intrinsic weights, discounts, exploration rates and epsilon-greedy policies.

Sources: NGU App. A, Agent57 App. G.1, Ape-X for the actors' epsilons.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class PolicyFamily(NamedTuple):
    """Policy j maximises r^e + betas[j] r^i with discount gammas[j]."""

    betas: np.ndarray  # [N] float32
    gammas: np.ndarray  # [N] float32


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def intrinsic_betas(num_policies: int, beta_max: float) -> np.ndarray:
    """Weights of the intrinsic reward, beta_j, from 0 (exploitative) to `beta_max` (NGU App. A): [N] float64, non-decreasing.

    With N = 1 the only weight is beta_max, which is 0 for an agent without intrinsic reward.
    """
    j = np.arange(num_policies, dtype=np.float64)
    # Inner rungs exist only for N >= 3; a divisor of 1 keeps N <= 2 defined.
    inner = beta_max * _sigmoid(10.0 * (2.0 * j - (num_policies - 2)) / max(num_policies - 2, 1))
    betas = np.where(j == 0, 0.0, inner)
    betas[-1] = beta_max
    return betas


def agent57_discounts(num_policies: int, gamma_0: float = 0.9999, gamma_1: float = 0.997, gamma_2: float = 0.99) -> np.ndarray:
    """Discounts of Agent57, gamma_j, from far-sighted (j = 0) to short-sighted (Agent57 App. G.1): [N] float64, non-increasing.

    In the reading of the paper that makes the ladder monotone, policies 1..6 follow a sigmoid from gamma_0 to gamma_1 at j = 7, and the
    others go logarithmically from gamma_1 to gamma_2. The formula is undefined for N < 10: such a family takes evenly spaced rungs of the
    paper's 32, number round(31 j / (N - 1)) (*Choice*).
    """
    if num_policies == 1:
        return np.array([gamma_0])
    if num_policies < 10:
        full = agent57_discounts(32, gamma_0, gamma_1, gamma_2)
        return full[np.round(np.linspace(0, 31, num_policies)).astype(int)]
    j = np.arange(num_policies, dtype=np.float64)
    i = 7.0 - np.minimum(j, 7.0)  # clipped: the sigmoid would overflow
    upper = gamma_1 + (gamma_0 - gamma_1) * _sigmoid(10.0 * (2.0 * i - 6.0) / 6.0)
    rungs = num_policies - 9
    fraction = (j - 8.0) / rungs
    lower = 1.0 - np.exp((1.0 - fraction) * np.log(1.0 - gamma_1) + fraction * np.log(1.0 - gamma_2))
    discounts = np.where(j < 7, upper, lower)
    discounts[0] = gamma_0
    discounts[7] = gamma_1
    return discounts


def ngu_discounts(num_policies: int, gamma_max: float = 0.997, gamma_min: float = 0.99) -> np.ndarray:
    """Discounts of NGU, evenly spaced in log(1 - gamma) from `gamma_max` (j = 0) to `gamma_min` (NGU App. A): [N] float64."""
    fraction = np.linspace(0.0, 1.0, num_policies)
    return 1.0 - np.exp((1.0 - fraction) * np.log(1.0 - gamma_max) + fraction * np.log(1.0 - gamma_min))


def actor_epsilons(actor_index: jax.Array, num_actors: int, base: float = 0.4, alpha: float = 8.0) -> jax.Array:
    """Exploration rates [E], epsilon_l = base^(1 + alpha l / (L - 1)) of actors l [E] (Ape-X, as in Agent57 App. G.3); `base` if L = 1."""
    exponent = 1.0 + alpha * actor_index.astype(jnp.float32) / max(num_actors - 1, 1)
    return jnp.float32(base) ** exponent


def epsilon_greedy_probabilities(action_values: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Epsilon-greedy probabilities [..., A] for action values [..., A] and epsilon [...]; of equal maxima the first is greedy."""
    num_actions = action_values.shape[-1]
    greedy = jax.nn.one_hot(jnp.argmax(action_values, axis=-1), num_actions, dtype=action_values.dtype)
    epsilon = jnp.broadcast_to(epsilon, action_values.shape[:-1])[..., None]
    return epsilon / num_actions + (1.0 - epsilon) * greedy
