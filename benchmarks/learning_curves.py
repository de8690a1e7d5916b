"""Learning curves from lines of metrics: points, times to thresholds, and statistics over seeds.

All agents write the same metrics. The greedy episodes of a run are grouped into points, one for each fortieth of its budget. A point is the
mean over its episodes and collects them until it has at least `POINT_EPISODES`. A threshold is reached at the first point
at which the mean of the last `WINDOW` points is at or above it.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.learning_tasks import POINTS, Budget

POINT_EPISODES = 5  # greedy episodes that a point has at least
WINDOW = 3  # points whose mean is compared with a threshold


class Point(NamedTuple):
    """A point of a run's curve: how far it is, and its returns."""

    seconds: float  # of the clock
    steps: int
    updates: int
    greedy_return: float  # mean over greedy evaluation episodes since the point before
    episodes: int  # how many they are
    training_return: float | None  # mean over training episodes since the point before; None where none ended


class Mean:
    """A mean that grows."""

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0

    def add(self, mean: float, count: int) -> None:
        """Adds `count` values with that mean."""
        self.count += count
        self._sum += mean * count

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self._sum / self.count if self.count else None


class _Counted:
    """How many episodes a line's mean is of: what a counter of all episodes rose by since the last one."""

    def __init__(self, key: str, counter: str) -> None:
        self._key, self._counter, self._before = key, counter, 0

    def add_to(self, mean: Mean, line: Mapping[str, Any]) -> None:
        value, so_far = line.get(self._key), line.get(self._counter)
        if value is not None and so_far is not None:
            mean.add(float(value), max(int(so_far) - self._before, 1))
            self._before = int(so_far)


def clock(seconds: float, starts: Sequence[Mapping[str, float]]) -> float:
    """Wall-clock time of a run's processes when its loop has run for `seconds`: what each start took before its loop began is added."""
    return seconds + sum(start["setup_seconds"] for start in starts if start["after_seconds"] < seconds)


def points(lines: Iterable[Mapping[str, Any]], starts: Sequence[Mapping[str, float]], budget: Budget) -> list[Point]:
    """The curve of a run.

    Args:
      lines: of metrics.jsonl.
      starts: of the run, each with the loop's time at which it began ("after_seconds") and the time that it took before ("setup_seconds").
    """
    found: list[Point] = []
    greedy_count = _Counted("evaluation/return", "evaluation/episodes")
    training_count = _Counted("episode/return", "episodes")
    greedy, training = Mean(), Mean()
    edge, last = 1, None
    for line in lines:
        greedy_count.add_to(greedy, line)
        training_count.add_to(training, line)
        seconds = clock(float(line["seconds"]), starts)
        share = budget.share(seconds, line["steps"])
        last = (seconds, int(line["steps"]), int(line["updates"]))
        if share * POINTS >= edge and greedy.count >= POINT_EPISODES:
            found.append(_point(last, greedy, training))
            greedy, training = Mean(), Mean()
            edge = int(share * POINTS) + 1
    # What remains is a point if it has enough episodes, or if a short run has no other.
    if last is not None and (greedy.count >= POINT_EPISODES or (greedy.count and not found)):
        found.append(_point(last, greedy, training))
    return found


def _point(counters: tuple[float, int, int], greedy: Mean, training: Mean) -> Point:
    assert greedy.value is not None
    return Point(*counters, greedy.value, greedy.count, training.value)


def first_reached(curve: Sequence[Point], threshold: float) -> Point | None:
    """The point at which the threshold is reached; None if it never is."""
    for end in range(WINDOW, len(curve) + 1):
        if statistics.mean(point.greedy_return for point in curve[end - WINDOW : end]) >= threshold:
            return curve[end - 1]
    return None


class Spread(NamedTuple):
    """A number over seeds."""

    median: float | None  # None where half of the seeds or more have none
    lowest: float | None
    highest: float | None
    seeds: int  # that have a number
    of: int  # seeds


def spread(values: Sequence[float | None]) -> Spread:
    """Statistics of values that may be missing: a seed that never reached the threshold counts as later than all others.

    Args:
      values: one for each seed.
    """
    there = [value for value in values if value is not None]
    median = statistics.median([math.inf if value is None else value for value in values]) if values else math.inf
    return Spread(
        median if math.isfinite(median) else None,
        min(there, default=None),
        max(there, default=None),
        len(there),
        len(values),
    )
