"""Twin of the bandit: its window is a deque of (arm, return) (Agent57 §3.2, App. D)."""

import math
from collections import deque
from collections.abc import Sequence


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
        """Mean return of an arm over the window; 0 without a pull."""
        returns = self.returns_of(arm)
        return math.fsum(returns) / len(returns) if returns else 0.0

    def greedy_arm(self) -> int:
        """The pulled arm with the largest mean, the first of equals; 0 if none was pulled."""
        pulled = [arm for arm in range(self.num_arms) if self.returns_of(arm)]
        return max(pulled, key=lambda arm: (self.mean(arm), -arm), default=0)

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
        return max(range(self.num_arms), key=lambda arm: (self.upper_bound(arm, ucb_bonus), -arm))


class Pool:
    """What several bandits say together of the arms."""

    def __init__(self, bandits: Sequence[Bandit], num_arms: int) -> None:
        """Takes the episodes in their windows."""
        self.num_arms = num_arms
        self.returns = [[r for bandit in bandits for r in bandit.returns_of(arm)] for arm in range(num_arms)]

    def mean(self, arm: int) -> float:
        """Mean return of an arm; 0 without a pull."""
        return math.fsum(self.returns[arm]) / len(self.returns[arm]) if self.returns[arm] else 0.0

    def deviation(self) -> float:
        """Standard deviation of all returns; 0 without any."""
        every = [r for returns in self.returns for r in returns]
        if not every:
            return 0.0
        mean = math.fsum(every) / len(every)
        return math.sqrt(math.fsum((r - mean) ** 2 for r in every) / len(every))

    def lower_bound(self, arm: int) -> float:
        """mean - deviation / sqrt(count), of an arm that was pulled."""
        return self.mean(arm) - self.deviation() / math.sqrt(len(self.returns[arm]))

    def reliable_arm(self) -> int:
        """The pulled arm with the largest lower bound, the first of equals; 0 if none was pulled."""
        pulled = [arm for arm in range(self.num_arms) if self.returns[arm]]
        return max(pulled, key=lambda arm: (self.lower_bound(arm), -arm), default=0)
