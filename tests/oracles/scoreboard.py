"""Slow twins of the scoreboard's statistics, game by game."""

import math
from collections.abc import Sequence
from fractions import Fraction


def percentile(values: Sequence[float], p: float) -> float:
    """The value at index p/100 (G - 1) of the sorted ones; between two neighbours, as far as the index is."""
    ordered = sorted(values)
    index = p / 100 * (len(ordered) - 1)
    below = math.floor(index)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (index - below) * (ordered[above] - ordered[below])


def table_1(hns: Sequence[float]) -> dict[str, float]:
    return {
        "capped_mean": sum(100 * min(max(value, 0), 1) for value in hns) / len(hns),
        "above_human": sum(value > 1 for value in hns),
        "mean": sum(100 * value for value in hns) / len(hns),
        "median": 100 * percentile(hns, 50),
        **{f"percentile_{p}": 100 * percentile(hns, p) for p in (40, 30, 20, 10, 5)},
    }


def interquartile_mean_of_games(games: Sequence[Sequence[float]]) -> float:
    """Each game weighs the same, whatever its number of seeds; each side loses one score after the other, up to a quarter of the weight."""
    left = sorted((score, Fraction(1, len(games) * len(game))) for game in games for score in game)
    for side in (0, -1):
        lost = left[side][1]
        while lost <= Fraction(1, 4):
            del left[side]
            lost += left[side][1]
    return float(sum(score * weight for score, weight in left) / sum(weight for _, weight in left))
