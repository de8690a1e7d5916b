"""Statistics over games and seeds of human-normalised scores (HNS: 0 random, 1 human), in float64."""

from collections.abc import Sequence

import numpy as np

PERCENTILES = (40, 30, 20, 10, 5)
# The rows of the Agent57 paper's Table 1, in its order. All are in percent, except the number of games.
ABOVE_HUMAN = "above_human"
TABLE_1 = {
    "capped_mean": "capped mean",
    ABOVE_HUMAN: "games above human",
    "mean": "mean",
    "median": "median",
    **{f"percentile_{p}": f"{p}th percentile" for p in PERCENTILES},
}
BOOTSTRAP = {"iqm": "IQM", "median": "median", "mean": "mean", "capped_mean": "capped mean"}
BOOTSTRAP_REPEATS = 2_000
CONFIDENCE = 0.95


def table_1(hns: Sequence[float]) -> dict[str, float]:
    """The statistics of TABLE_1.

    A percentile that falls between two games is interpolated linearly: of G sorted scores, the p-th one lies at index p/100 (G - 1).
    This is what reproduces the paper's table from the scores in its App. H.4.

    Args:
      hns: [G], one or more, each the mean over a game's seeds.

    Returns:
      Percentages, and the number of games with a score above 1 under "above_human".
    """
    scores = 100.0 * np.asarray(hns, np.float64)
    return {
        "capped_mean": float(np.clip(scores, 0.0, 100.0).mean()),
        ABOVE_HUMAN: float((scores > 100.0).sum()),
        "mean": float(scores.mean()),
        "median": float(np.median(scores)),
        **{f"percentile_{p}": float(np.percentile(scores, p, method="linear")) for p in PERCENTILES},
    }


def bootstrap_statistics(hns: Sequence[np.ndarray]) -> np.ndarray:
    """The statistics of BOOTSTRAP in percent. Every game weighs the same, however many seeds it has.

    The interquartile mean (IQM) is over all scores of all games, the others over games, of each game's mean over seeds.

    Args:
      hns: for each game an array [..., S] of its S seeds; S may differ from game to game.

    Returns:
      [..., 4].
    """
    scores = [100.0 * np.asarray(game, np.float64) for game in hns]
    games = np.stack([game.mean(-1) for game in scores], -1)
    capped = np.clip(games, 0.0, 100.0).mean(-1)
    return np.stack([_interquartile_mean(scores), np.median(games, -1), games.mean(-1), capped], -1)


def _interquartile_mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of what is left of all scores [..., S] without the lowest and the highest, as long as those weigh no more than a quarter.

    A score of a game with S seeds weighs 1/S. With as many seeds in every game this is rliable's IQM.
    """
    shares = np.concatenate([np.full(game.shape[-1], 1.0 / (game.shape[-1] * len(scores))) for game in scores])
    pooled = np.concatenate(scores, -1)
    order = np.argsort(pooled, -1, kind="stable")
    weights = shares[order]
    quarter = 0.25 + 1e-9  # sums of thirds and the like are not exact
    left = (weights.cumsum(-1) > quarter) & (weights[..., ::-1].cumsum(-1)[..., ::-1] > quarter)
    weights = weights * left
    mean: np.ndarray = (np.take_along_axis(pooled, order, -1) * weights).sum(-1) / weights.sum(-1)
    return mean


def bootstrap_intervals(hns: Sequence[np.ndarray]) -> np.ndarray:
    """95% intervals of `bootstrap_statistics`, [2, 4], lower ends first, by the stratified bootstrap with percentiles.

    Each game's seeds are redrawn among themselves; of one seed only the same can be drawn.

    Args:
      hns: for each game its seeds [S].
    """
    random = np.random.default_rng(0)  # the same runs give the same page
    redrawn = [game[random.integers(len(game), size=(BOOTSTRAP_REPEATS, len(game)))] for game in map(np.asarray, hns)]
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    ends: np.ndarray = np.percentile(bootstrap_statistics(redrawn), [tail, 100.0 - tail], axis=0)
    return ends
