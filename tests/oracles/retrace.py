"""Twin of transformed returns with traces: the explicit double sum (NGU App. E), with Retrace's and soft Watkins' coefficients."""

import math
from collections.abc import Callable

import numpy as np


def retrace_coefficients(
    target_policy: np.ndarray, actions: np.ndarray, behaviour_probabilities: np.ndarray, trace_lambda: float
) -> np.ndarray:
    """c_t = lambda min(1, pi(a_t|x_t) / mu_t)."""
    pi_a = [float(target_policy[t][int(action)]) for t, action in enumerate(actions)]
    return np.array([trace_lambda * min(1.0, pi / float(mu)) for pi, mu in zip(pi_a, behaviour_probabilities, strict=True)])


def soft_watkins_coefficients(
    action_values: np.ndarray, target_policy: np.ndarray, actions: np.ndarray, trace_lambda: float, tolerance: float
) -> np.ndarray:
    """c_t = lambda times the probability, under the target policy, of the actions that the taken one is no worse than (MEME)."""
    coefficients = []
    for t, action in enumerate(actions):
        taken, total = float(action_values[t][int(action)]), 0.0
        for other, probability in enumerate(target_policy[t]):
            value = float(action_values[t][other])
            if taken >= value - tolerance * abs(value):
                total += float(probability)
        coefficients.append(trace_lambda * total)
    return np.array(coefficients)


def trace_targets(
    target_action_values: np.ndarray,
    target_policy: np.ndarray,
    actions: np.ndarray,
    coefficients: np.ndarray,
    rewards: np.ndarray,
    discounts: np.ndarray,
    valid: np.ndarray,
    apply: Callable[[float], float],
    invert: Callable[[float], float],
) -> np.ndarray:
    """y_t = h(q(x_t, a_t) + sum_{s >= t} gamma^{s-t} (prod_{i=t+1..s} d_i c_i) delta_s) of one stream.

    Arguments as in the package: values and policy [T + 1, A] at x_0..x_T; actions and c [T] at 0..T-1; rewards and discounts [T] of
    x_1..x_T, the discount being gamma d. A transition that is not valid has delta = 0 and c = 0; its own target is its value.
    """
    q = [[invert(float(value)) for value in values] for values in target_action_values]
    own = [q[t][int(action)] for t, action in enumerate(actions)]

    def delta(t: int) -> float:
        expected = sum(float(p) * value for p, value in zip(target_policy[t + 1], q[t + 1], strict=True))
        return float(rewards[t]) + float(discounts[t]) * expected - own[t]

    deltas = [delta(t) if valid[t] else 0.0 for t in range(len(actions))]
    targets = []
    for t in range(len(actions)):
        total = own[t]
        for s in range(t, len(actions)):
            if not valid[s]:
                break
            # The discount that came with x_i, and the trace of the action there.
            total += math.prod(float(discounts[i - 1]) * float(coefficients[i]) for i in range(t + 1, s + 1)) * deltas[s]
        targets.append(apply(total))
    return np.array(targets, np.float64)
