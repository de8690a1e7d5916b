"""Twin of transformed n-step double Q-learning: rewards and discounts of every step written out (R2D2 §2.3)."""

import math
from collections.abc import Callable

import numpy as np


def steps_ahead(t: int, n_step: int, valid: np.ndarray) -> int:
    """m: n, or as many transitions as follow transition t before one that is no experience or the stream's end; 0 if t is none itself."""
    m = 0
    while m < n_step and t + m < len(valid) and valid[t + m]:
        m += 1
    return m


def n_step_targets(
    target_action_values: np.ndarray,
    online_action_values: np.ndarray,
    rewards: np.ndarray,
    discounts: np.ndarray,
    valid: np.ndarray,
    n_step: int,
    apply: Callable[[float], float],
    invert: Callable[[float], float],
) -> np.ndarray:
    """y_t = h(sum_{k=1..m} gamma^{k-1} (prod_{i<k} d_{t+i}) r_{t+k} + gamma^m (prod_{i<=m} d_{t+i}) h^-1(Q^-(x_{t+m}, a*_{t+m}))).

    a* is the online network's best action. Arguments as in the package: values [T + 1, A] at x_0..x_T; rewards and discounts [T] of
    x_1..x_T, the discount being gamma d. NaN where a transition is not valid: it has no target.
    """
    targets = []
    for t in range(len(rewards)):
        m = steps_ahead(t, n_step, valid)
        if m == 0:
            targets.append(np.nan)
            continue
        total = 0.0
        for k in range(1, m + 1):
            total += math.prod(map(float, discounts[t : t + k - 1])) * float(rewards[t + k - 1])  # those of x_{t+1}..x_{t+k-1}
        best = int(np.argmax(online_action_values[t + m]))
        total += math.prod(map(float, discounts[t : t + m])) * invert(float(target_action_values[t + m][best]))
        targets.append(apply(total))
    return np.array(targets, np.float64)
