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


def bootstrap_statistics(hns: np.ndarray) -> np.ndarray:
    """The statistics of BOOTSTRAP in percent, [4], of scores [S, G] of S seeds in G games.

    The interquartile mean (IQM) is the mean of what is left of all S x G scores without the lowest and the highest quarter; the others
    are taken over games, of each game's mean over seeds.
    """
    scores = 100.0 * np.asarray(hns, np.float64)
    games = scores.mean(0)
    cut = scores.size // 4
    middle = np.sort(scores, axis=None)[cut : scores.size - cut]
    return np.array([middle.mean(), np.median(games), games.mean(), np.clip(games, 0.0, 100.0).mean()])


def bootstrap_intervals(hns: np.ndarray) -> np.ndarray:
    """95% intervals of `bootstrap_statistics`, [2, 4], lower ends first, by the stratified bootstrap: seeds are redrawn game by game.

    Args:
      hns: [S, G] with S of at least 2: of one seed the bootstrap could only draw the same again.

    Raises:
      ImportError: without the extra `scoreboard`.
    """
    from rliable import library

    before = np.random.get_state()  # noqa: NPY002 - rliable draws from NumPy's global generator, whatever it is given
    np.random.seed(0)  # noqa: NPY002 - the same runs give the same page
    try:
        _, intervals = library.get_interval_estimates(
            {"ours": np.asarray(hns, np.float64)},
            bootstrap_statistics,
            reps=BOOTSTRAP_REPEATS,
            confidence_interval_size=CONFIDENCE,
        )
    finally:
        np.random.set_state(before)  # noqa: NPY002
    found: np.ndarray = intervals["ours"]
    return found
