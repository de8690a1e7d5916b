"""Twin of the life-long novelty: every value is kept with its weight, moments are sums over all of them (NGU §2)."""

import math
from collections.abc import Sequence


class RunningMoments:
    """All values of a stream. When their weights exceed `horizon` together, all are scaled down to it."""

    def __init__(self, horizon: float = math.inf) -> None:
        """An empty stream."""
        self.horizon = horizon
        self.values: list[float] = []
        self.weights: list[float] = []

    def update(self, values: Sequence[float], counts: Sequence[bool]) -> None:
        """Adds those values of a batch that count."""
        for value, present in zip(values, counts, strict=True):
            if present:
                self.values.append(float(value))
                self.weights.append(1.0)
        total = self.count()
        if total > self.horizon:
            self.weights = [weight * self.horizon / total for weight in self.weights]

    def count(self) -> float:
        """Effective number of values."""
        return math.fsum(self.weights)

    def mean(self) -> float:
        """Weighted mean; 0 for an empty stream."""
        if not self.values:
            return 0.0
        return math.fsum(w * v for w, v in zip(self.weights, self.values, strict=True)) / self.count()

    def standard_deviation(self) -> float:
        """Weighted population deviation; 0 for an empty stream."""
        if not self.values:
            return 0.0
        mean = self.mean()
        return math.sqrt(math.fsum(w * (v - mean) ** 2 for w, v in zip(self.weights, self.values, strict=True)) / self.count())


def lifelong_factor(error: float, mean: float, standard_deviation: float) -> float:
    """alpha = 1 + (err - mu_err) / sigma_err; 1 while there is no spread."""
    if standard_deviation == 0:
        return 1.0
    return 1.0 + (error - mean) / standard_deviation


def distillation_reward(error: float, standard_deviation: float) -> float:
    """r^i = err / sigma_err of random network distillation alone; 0 while there is no spread."""
    if standard_deviation == 0:
        return 0.0
    return error / standard_deviation
