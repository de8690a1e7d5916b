"""Statistics against their twins, against rliable and against the Agent57 paper."""

import pathlib
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent57_jax.environments import atari57
from agent57_jax.scoreboard import aggregates
from tests.oracles import scoreboard as oracle

# Agent57 paper, Table 1, the columns of which App. H.4 prints the scores in each game.
PAPER = {
    "agent57": (100.00, 57, 4766.25, 1933.49, 1091.07, 614.65, 324.78, 184.35, 116.67),
    "r2d2_bandit": (96.93, 54, 5461.66, 2357.92, 1298.80, 648.17, 303.61, 116.82, 93.25),
    "muzero": (89.92, 51, 4998.51, 2041.12, 1172.90, 503.05, 171.39, 75.74, 0.03),
}
SCORES = st.lists(st.floats(-5, 100), min_size=1, max_size=57)


def of_column(column: str, shift: float = 0.0) -> dict[str, float]:
    """The statistics of a published column, with `shift` added to every score."""
    normalised = [atari57.human_normalised_score(game, row[column] + shift) for game, row in atari57.SCORES.items()]
    return aggregates.table_1([value for value in normalised if value is not None])


@pytest.mark.parametrize("column", PAPER)
def test_published_columns_give_the_papers_table(column: str) -> None:
    # Scores in App. H.4 are rounded to 0.01, which is up to 0.04% of HNS in the games with the smallest scores; all statistics rise
    # with every score, so what the paper printed lies between those of the lowest and of the highest scores that print the same.
    low, high = of_column(column, -0.005), of_column(column, 0.005)
    for key, printed in zip(aggregates.TABLE_1, PAPER[column], strict=True):
        assert low[key] - 0.005 - 1e-9 <= printed <= high[key] + 0.005 + 1e-9, key
    assert of_column(column)["above_human"] == PAPER[column][1]


def test_the_documented_figures_are_the_computed_ones() -> None:
    text = (pathlib.Path(__file__).parents[2] / "docs" / "scoreboard.md").read_text()
    for key, name in aggregates.TABLE_1.items():
        row = re.search(rf"^\| {name} \|(.*)\|$", text, re.MULTILINE)
        assert row is not None
        _, ngu, _, r2d2 = (float(cell) for cell in row.group(1).split("|"))
        assert (ngu, r2d2) == (round(of_column("ngu")[key], 2), round(of_column("r2d2")[key], 2))


@given(SCORES)
@example([1.0, 1.5, 0.5])  # the human is not above the human
def test_table_1_equals_its_twin(hns: list[float]) -> None:
    ours, twin = aggregates.table_1(hns), oracle.table_1(hns)
    assert ours.keys() == twin.keys() == aggregates.TABLE_1.keys()
    assert ours["above_human"] == sum(100.0 * value > 100.0 for value in hns)
    for key in ours.keys() - {"above_human"}:
        assert ours[key] == pytest.approx(twin[key], rel=1e-12, abs=1e-9)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(0, 999))
def test_games_weigh_the_same_however_many_seeds_they_have(seeds: list[int], number: int) -> None:
    random = np.random.default_rng(number)
    hns = [random.normal(1.0, 2.0, size) for size in seeds]
    iqm, median, mean, capped = aggregates.bootstrap_statistics(hns)
    assert iqm == pytest.approx(100 * oracle.interquartile_mean_of_games([game.tolist() for game in hns]))
    table = aggregates.table_1([float(game.mean()) for game in hns])  # what stands above it on the page
    assert (median, mean, capped) == pytest.approx((table["median"], table["mean"], table["capped_mean"]))
    both = aggregates.bootstrap_statistics([np.stack([game, 2 * game]) for game in hns])
    np.testing.assert_allclose(both[0], [iqm, median, mean, capped])
    np.testing.assert_allclose(both[1], aggregates.bootstrap_statistics([2 * game for game in hns]))


def test_intervals_are_those_of_redrawing_seeds_within_games() -> None:
    hns = [np.random.default_rng(seeds).normal(place, place / 5, seeds) for seeds, place in ((5, 0.5), (1, 50.0), (3, 5.0))]
    low, high = aggregates.bootstrap_intervals(hns)
    random = np.random.default_rng(1)
    redrawn = [aggregates.bootstrap_statistics([random.choice(game, len(game)) for game in hns]) for _ in range(2000)]
    expected = np.percentile(redrawn, [2.5, 97.5], axis=0)
    assert low == pytest.approx(expected[0], rel=0.05) and high == pytest.approx(expected[1], rel=0.05)
    assert np.array_equal(np.stack([low, high]), aggregates.bootstrap_intervals(hns))  # the same runs, the same page


def test_statistics_and_intervals_are_rliables_where_games_have_as_many_seeds() -> None:
    library, metrics = pytest.importorskip("rliable.library"), pytest.importorskip("rliable.metrics")
    hns = np.random.default_rng(0).normal([0.5, 5.0, 50.0], [0.1, 1.0, 10.0], (5, 3))

    def statistics(scores: np.ndarray) -> np.ndarray:
        return aggregates.bootstrap_statistics(list(scores.T))

    expected = [100 * aggregate(hns) for aggregate in (metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_mean)]
    assert statistics(hns)[:3] == pytest.approx(expected)
    np.random.seed(0)  # noqa: NPY002 - rliable draws from NumPy's global generator, whatever it is given
    _, found = library.get_interval_estimates({"ours": hns}, statistics, reps=2000, confidence_interval_size=0.95)
    ours = aggregates.bootstrap_intervals(list(hns.T))
    assert ours == pytest.approx(found["ours"], rel=0.05) and not np.array_equal(ours[0], ours[1])
