"""Twin of the policy family, one rung at a time (NGU App. A, Agent57 App. G.1)."""

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles.q_network import sigmoid


def intrinsic_beta(j: int, num_policies: int, beta_max: float) -> float:
    """beta_j of a family of N."""
    if j == num_policies - 1:
        return beta_max
    if j == 0:
        return 0.0
    return beta_max * sigmoid(10.0 * (2 * j - (num_policies - 2)) / (num_policies - 2))


def agent57_discount(j: int, num_policies: int, gamma_0: float = 0.9999, gamma_1: float = 0.997, gamma_2: float = 0.99) -> float:
    """gamma_j of Agent57; families smaller than 10 pick rungs of the family of 32."""
    if num_policies == 1:
        return gamma_0
    if num_policies < 10:
        return agent57_discount(round(31 * j / (num_policies - 1)), 32, gamma_0, gamma_1, gamma_2)
    if j == 0:
        return gamma_0
    if j < 7:
        i = 7 - j
        return gamma_1 + (gamma_0 - gamma_1) * sigmoid(10.0 * (2 * i - 6) / 6)
    if j == 7:
        return gamma_1
    rungs = num_policies - 9
    exponent = (rungs - (j - 8)) / rungs * math.log(1.0 - gamma_1) + (j - 8) / rungs * math.log(1.0 - gamma_2)
    return 1.0 - math.exp(exponent)


def ngu_discount(j: int, num_policies: int, gamma_max: float = 0.997, gamma_min: float = 0.99) -> float:
    """gamma_j of NGU."""
    last = num_policies - 1
    if last == 0:
        return gamma_max
    return 1.0 - math.exp(((last - j) * math.log(1.0 - gamma_max) + j * math.log(1.0 - gamma_min)) / last)


def actor_epsilon(actor: int, num_actors: int, base: float = 0.4, alpha: float = 8.0) -> float:
    """epsilon_l of actor l among L."""
    if num_actors == 1:
        return base
    return float(base ** (1.0 + alpha * actor / (num_actors - 1)))


def epsilon_greedy_row(action_values: Sequence[float], epsilon: float) -> list[float]:
    """Probabilities of one epsilon-greedy policy; the first of equal maxima is greedy."""
    best = int(np.argmax(action_values))
    uniform = epsilon / len(action_values)
    return [uniform + (1.0 - epsilon if action == best else 0.0) for action in range(len(action_values))]
