"""Twin of the sequence priority and of the actor's errors (R2D2 §2.3)."""

from collections.abc import Callable, Sequence


def sequence_priority(td_errors: Sequence[float], valid: Sequence[bool], eta: float, floor: float = 1e-6) -> float:
    """eta max |e| + (1 - eta) mean |e| over valid errors, at least `floor`."""
    magnitudes = [abs(float(error)) for error, counts in zip(td_errors, valid, strict=True) if counts]
    if not magnitudes:
        return floor
    return max(eta * max(magnitudes) + (1.0 - eta) * sum(magnitudes) / len(magnitudes), floor)


def one_step_error(
    value_tm1: float,
    reward_t: float,
    discount_t: float,
    greedy_value_t: float,
    apply: Callable[[float], float],
    invert: Callable[[float], float],
) -> float:
    """h(r + gamma d h^-1(max_a Q(x_t, a))) - Q(x_{t-1}, a_{t-1})."""
    return apply(reward_t + discount_t * invert(greedy_value_t)) - value_tm1


def mixed_error(errors: Sequence[float], beta: float) -> float:
    """e^extrinsic + beta e^intrinsic, or the error of the one value function."""
    return float(errors[0]) if len(errors) == 1 else float(errors[0]) + beta * float(errors[1])
