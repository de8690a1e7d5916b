"""Twin of the sequence priority (R2D2 §2.3)."""

from collections.abc import Sequence


def sequence_priority(td_errors: Sequence[float], valid: Sequence[bool], eta: float, floor: float = 1e-6) -> float:
    """eta max |e| + (1 - eta) mean |e| over valid errors, at least `floor`."""
    magnitudes = [abs(float(error)) for error, counts in zip(td_errors, valid, strict=True) if counts]
    if not magnitudes:
        return floor
    return max(eta * max(magnitudes) + (1.0 - eta) * sum(magnitudes) / len(magnitudes), floor)
