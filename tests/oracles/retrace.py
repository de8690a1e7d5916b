"""Twin of transformed returns with traces: the explicit double sum (NGU App. E), with Retrace's and soft Watkins' coefficients."""

from collections.abc import Callable

import numpy as np

from tests.oracles import value_transform


def retrace_targets(
    target_action_values: np.ndarray,
    target_policy: np.ndarray,
    actions: np.ndarray,
    behaviour_probabilities: np.ndarray,
    rewards: np.ndarray,
    discounts: np.ndarray,
    valid: np.ndarray,
    trace_lambda: float,
    apply: Callable[[float], float] = value_transform.squash,
    invert: Callable[[float], float] = value_transform.unsquash,
) -> np.ndarray:
    """Targets with the coefficients of Retrace."""
    coefficients = retrace_coefficients(target_policy, actions, behaviour_probabilities, trace_lambda)
    return trace_targets(target_action_values, target_policy, actions, coefficients, rewards, discounts, valid, apply, invert)


def retrace_coefficients(
    target_policy: np.ndarray, actions: np.ndarray, behaviour_probabilities: np.ndarray, trace_lambda: float
) -> np.ndarray:
    """c_t = lambda min(1, pi(a_t|x_t) / mu_t)."""
    return np.array(
        [
            trace_lambda * min(1.0, float(target_policy[t][int(action)]) / float(behaviour_probabilities[t]))
            for t, action in enumerate(actions)
        ]
    )


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
    apply: Callable[[float], float] = value_transform.squash,
    invert: Callable[[float], float] = value_transform.unsquash,
) -> np.ndarray:
    """y_t = h(q(x_t, a_t) + sum_{s >= t} gamma^{s-t} (prod_{i=t+1..s} d_i c_i) delta_s) of one stream.

    Arguments as in the package: values and policy [T + 1, A] at x_0..x_T; actions and c [T] at 0..T-1; rewards and discounts [T] of
    x_1..x_T, the discount being gamma d. A transition that is not valid has delta = 0 and c = 0; its own target is its value.
    """
    length = len(actions)
    num_actions = len(target_action_values[0])

    def value(t: int, action: int) -> float:
        return invert(float(target_action_values[t][action]))

    def delta(t: int) -> float:
        if not valid[t]:
            return 0.0
        expected = 0.0
        for action in range(num_actions):
            expected += float(target_policy[t + 1][action]) * value(t + 1, action)
        return float(rewards[t]) + float(discounts[t]) * expected - value(t, int(actions[t]))

    def trace(t: int) -> float:
        if not valid[t]:
            return 0.0
        return float(coefficients[t])

    targets = []
    for t in range(length):
        if not valid[t]:
            targets.append(float(target_action_values[t][int(actions[t])]))
            continue
        total = value(t, int(actions[t]))
        for s in range(t, length):
            product = 1.0
            for i in range(t + 1, s + 1):
                if not valid[i]:
                    product = 0.0
                    break
                product *= float(discounts[i - 1]) * trace(i)  # the discount that came with x_i
            if product != 0.0:
                total += product * delta(s)
        targets.append(apply(total))
    return np.array(targets, np.float64)
