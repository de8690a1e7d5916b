"""Twin of the bandit: its window is a deque of (arm, return) (Agent57 §3.2, App. D)."""

import math
from collections import deque
from collections.abc import Callable, Sequence


def mean_of(returns: Sequence[float]) -> float:
    """Mean return; 0 without a pull."""
    return math.fsum(returns) / len(returns) if returns else 0.0


def best_of(arms: Sequence[int], value: Callable[[int], float]) -> int:
    """The arm with the largest value, the first of equals; 0 if there is none."""
    return max(arms, key=lambda arm: (value(arm), -arm), default=0)


class Bandit:
    """Sliding-window UCB over N arms; the caller says what chance decides."""

    def __init__(self, window: int, num_arms: int) -> None:
        """A bandit that has seen nothing."""
        self.num_arms = num_arms
        self.episodes: deque[tuple[int, float]] = deque(maxlen=window)
        self.started = 0

    def record(self, arm: int, episode_return: float) -> None:
        """Adds one finished episode."""
        self.episodes.append((int(arm), float(episode_return)))

    def returns_of(self, arm: int) -> list[float]:
        """Returns of the episodes in the window that the arm played."""
        return [episode_return for played, episode_return in self.episodes if played == arm]

    def mean(self, arm: int) -> float:
        """Mean return of an arm over the window."""
        return mean_of(self.returns_of(arm))

    def greedy_arm(self) -> int:
        """The pulled arm with the largest mean."""
        return best_of([arm for arm in range(self.num_arms) if self.returns_of(arm)], self.mean)

    def upper_bound(self, arm: int, ucb_bonus: float = 1.0) -> float:
        """mean + bonus sqrt(1 / count); unbounded without a pull in the window."""
        count = len(self.returns_of(arm))
        return self.mean(arm) + ucb_bonus * math.sqrt(1.0 / count) if count else math.inf

    def start_episode(self, first_arm: int, ucb_bonus: float = 1.0) -> int:
        """The arm of the next episode when it is not a uniform one."""
        episode = self.started
        self.started += 1
        if episode < self.num_arms:
            return (first_arm + episode) % self.num_arms
        return best_of(range(self.num_arms), lambda arm: self.upper_bound(arm, ucb_bonus))


class Pool:
    """What several bandits say together of the arms."""

    def __init__(self, bandits: Sequence[Bandit], num_arms: int) -> None:
        """Takes the episodes in their windows."""
        self.returns = [[r for bandit in bandits for r in bandit.returns_of(arm)] for arm in range(num_arms)]

    def mean(self, arm: int) -> float:
        """Mean return of an arm."""
        return mean_of(self.returns[arm])

    def deviation(self) -> float:
        """Standard deviation of all returns; 0 without any."""
        every = [r for returns in self.returns for r in returns]
        mean = mean_of(every)
        return math.sqrt(mean_of([(r - mean) ** 2 for r in every]))

    def lower_bound(self, arm: int) -> float:
        """mean - deviation / sqrt(count), of an arm that was pulled."""
        return self.mean(arm) - self.deviation() / math.sqrt(len(self.returns[arm]))

    def reliable_arm(self) -> int:
        """The pulled arm with the largest lower bound."""
        return best_of([arm for arm, returns in enumerate(self.returns) if returns], self.lower_bound)
