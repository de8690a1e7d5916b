"""The figure's numbers on runs that are known by heart."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from reproductions import common, records
from reproductions import meta_controller as figure
from reproductions.common import Run, Training

GAMMAS = np.array([0.98, 0.95, 0.8, 0.5])
RETURNS = {True: np.array([1.0, 0.97, 0.5, 0.5]), False: np.array([0.0, 0.1, 0.5, 0.45])}  # of the arms by limit, long or short
BEST = {True: (0, 1), False: (2, 3)}
EXPLORATION = 0.5


def lines_of(delay: int, phase_lines: int = 30, phases: int = 12, pulls: int = 40) -> list[dict[str, Any]]:
    """Metrics of a run of one bandit whose own pulls go to the arms that were best `delay` lines before."""
    lines: list[dict[str, Any]] = [{"steps": 0, "episodes": 0}]
    for number in range(phases * phase_lines):
        is_long, was_long = (max(n, 0) // phase_lines % 2 == 0 for n in (number, number - delay))
        counts = np.full(4, EXPLORATION * pulls / 4)
        counts[list(BEST[was_long])] += (1 - EXPLORATION) * pulls / 2
        line: dict[str, Any] = {"steps": 100.0 * (number + 1), "episodes": pulls * (number + 1), "episode/long_limit": float(is_long)}
        line |= {f"arm/pulls_{arm}": float(count) for arm, count in enumerate(counts)}
        line |= {f"arm/return_{arm}": float(value) for arm, value in enumerate(RETURNS[is_long])}
        lines.append(line)
    return lines


def numbers_of(delay: int) -> dict[str, Any]:
    found = figure.corridor_numbers(figure.corridor_lines(lines_of(delay), 4, num_bandits=1), GAMMAS, EXPLORATION)
    assert found is not None
    return found


def corridors_of(**delays: int) -> dict[str, dict[str, Any]]:
    return {
        name: {"seed": 0, "windowed": name != "wide", "gammas": GAMMAS.tolist(), "numbers": numbers_of(d)} for name, d in delays.items()
    }


def test_exploration_is_taken_out_of_the_shares() -> None:
    own = np.array([0.7, 0.3, 0.0, 0.0])
    pulls = 1000 * (0.5 * own + 0.5 / 4)
    np.testing.assert_allclose(figure.without_exploration(pulls, 0.5), own, atol=1e-12)


def test_only_complete_phases_of_the_second_half_count() -> None:
    lines = figure.corridor_lines(lines_of(0), 4, num_bandits=2)
    assert lines.pulls.shape == (360, 4)  # the line without episodes is left out
    np.testing.assert_array_equal(lines.episodes[:2], [20, 40])
    phases = figure.settled_phases(lines)
    assert [(p.start, p.stop, p.is_long) for p in phases] == [(s, s + 30, s // 30 % 2 == 0) for s in (210, 240, 270, 300)]


def test_numbers_of_a_run_by_hand() -> None:
    found = numbers_of(delay=3)
    assert found["half_after"] == [4 * 40.0] * 4  # the first line in which the own pulls go to the best arms
    far, near = GAMMAS[:2].mean(), GAMMAS[2:].mean()
    assert found["mean_discount"] == pytest.approx({"long": 0.9 * far + 0.1 * near, "short": 0.9 * near + 0.1 * far})
    np.testing.assert_allclose(found["arm_returns"]["long"], RETURNS[True])
    np.testing.assert_allclose(found["fixed_arms"], (RETURNS[True] + RETURNS[False]) / 2)
    long_own = 0.9 * RETURNS[True][:2].mean() + 0.1 * RETURNS[True][2:].mean()
    short_own = 0.9 * RETURNS[False][2:].mean() + 0.1 * RETURNS[False][:2].mean()
    own, uniform = (long_own + short_own) / 2, (RETURNS[True].mean() + RETURNS[False].mean()) / 2
    expected = {"bandit": (own + uniform) / 2, "its own pulls": own, "best of each phase": 0.75}
    assert found["mean_return"] == pytest.approx(expected)
    shares = dict(found["share_after_change"]["long"])
    assert shares[min(shares)] == pytest.approx(0.0) and shares[max(shares)] == pytest.approx(1.0)
    assert [stop - start for start, stop in zip(found["borders"], found["borders"][1:], strict=False)] == [1200, 1200, 1200, 1160]


def test_claims_about_the_corridor_hold_and_fail() -> None:
    good = figure.corridor_expectations(corridors_of(window=2, wide=20))
    assert [outcome["holds"] for outcome in good.values()] == [True] * 4
    slow = figure.corridor_expectations(corridors_of(window=20, wide=2))
    assert [outcome["holds"] for outcome in slow.values()] == [False] * 4
    none = figure.corridor_expectations({"a": {"seed": 0, "windowed": True, "gammas": [], "numbers": None}})
    assert [outcome["holds"] for outcome in none.values()] == [None] * 4


def test_a_run_that_is_too_short_has_no_numbers() -> None:
    for metrics in ([], lines_of(0)[:40]):
        assert figure.corridor_numbers(figure.corridor_lines(metrics, 4, 1), GAMMAS, EXPLORATION) is None


@pytest.mark.parametrize("profile", common.PROFILES)
def test_trainings_can_be_started(profile: str) -> None:
    trainings = figure.PROFILES[profile].trainings
    assert len({training.name for training in trainings}) == len(trainings)
    for training in trainings:
        settings = common.settings_of(training)
        windowed = training.labels["windowed"]
        assert settings.bandit.window_episodes == (figure.WINDOW if windowed else figure.WIDE_WINDOW)
        assert settings.logging.period_seconds == 0


def test_the_record_is_drawn(tmp_path: pathlib.Path) -> None:
    metrics = lines_of(2)
    for line in metrics[1:]:  # the config's eight arms
        line |= {f"arm/pulls_{arm + 4}": line[f"arm/pulls_{arm}"] for arm in range(4)}
        line |= {f"arm/return_{arm + 4}": line[f"arm/return_{arm}"] for arm in range(4)}
    runs = [
        Run(Training(name, "configs/shifting_corridor.py:laptop", {}, 0, {"windowed": name == "window"}), True, metrics, {})
        for name in ("window", "wide")
    ]
    summary = figure.summarise(runs)
    assert len(summary["expectations"]) == 4
    record: dict[str, Any] = {"profile": "cpu", "partial": False, "settings": {"runs": {"window": {}, "wide": {}}}}
    record = json.loads(records.to_text({**record, "data": records.rounded(summary)}))
    figure.draw(record, tmp_path / "picture.png")
    nothing = figure.summarise([Run(runs[0].training, False, metrics[:3], {})])
    assert {outcome["holds"] for outcome in nothing["expectations"].values()} == {None}
    figure.draw({**record, "data": json.loads(records.to_text(nothing))}, tmp_path / "empty.png")
    for name in ("picture.png", "empty.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
