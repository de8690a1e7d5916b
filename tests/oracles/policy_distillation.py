"""Twin of policy distillation: one state at a time, from the formula as MEME is quoted."""

import math
from collections.abc import Sequence

import numpy as np

from tests.oracles.policy_family import epsilon_greedy_row


def policy(logits: Sequence[float], temperature: float = 1.0) -> np.ndarray:
    """softmax(log softmax(logits) / temperature)."""
    weights = np.exp(np.asarray(logits, np.float64) - max(logits))
    weights = (weights / weights.sum()) ** (1.0 / temperature)
    return np.asarray(weights / weights.sum())


def divergence(old: np.ndarray, new: np.ndarray) -> float:
    """KL(old || new) in nats."""
    return sum(p * math.log(p / q) for p, q in zip(old, new, strict=True) if p > 0)


def distillation_loss(
    logits: Sequence[float], target_logits: Sequence[float], values: np.ndarray, epsilon: float, limit: float
) -> tuple[float, bool]:
    """Cross entropy with the epsilon-greedy policy of the values, 0 beyond the limit; whether it is within."""
    pi, old = policy(logits), policy(target_logits)
    is_near = divergence(old, pi) <= limit
    goal = epsilon_greedy_row(values, epsilon)
    return (-sum(g * math.log(p) for g, p in zip(goal, pi, strict=True)) if is_near else 0.0), is_near
