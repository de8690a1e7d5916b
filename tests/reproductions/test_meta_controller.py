"""The simulation against the bandit's twin, and the figure's numbers on bandits and runs that are known by heart."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from reproductions import common, synthetic_bandits
from reproductions import meta_controller as figure
from reproductions.common import Run, Training
from reproductions.synthetic_bandits import Bandit, Pulls
from tests.oracles import meta_controller as oracle
from tests.reproductions.test_figures import PNG, record_of

GAMMAS = np.array([0.98, 0.95, 0.8, 0.5])
RETURNS = {True: np.array([1.0, 0.97, 0.5, 0.5]), False: np.array([0.0, 0.1, 0.5, 0.45])}  # of the arms by limit, long or short
BEST = {True: (0, 1), False: (2, 3)}
EXPLORATION = 0.5
SMALL = Bandit(4, 6, 0.0, 10, 3, 2, 0.5, has_control=True)


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
    shared = {"seed": 0, "gammas": GAMMAS.tolist()}
    return {name: {**shared, "windowed": name != "wide", "numbers": numbers_of(delay)} for name, delay in delays.items()}


def holds(expectations: dict[str, Any], word: str) -> Any:
    (outcome,) = [outcome["holds"] for claim, outcome in expectations.items() if word in claim]
    return outcome


def test_the_simulation_is_the_bandit_of_the_twin() -> None:
    best = np.array([[2, 0], [1, 3]], np.int32)
    pulls = synthetic_bandits.play(jax.random.split(jax.random.key(0), 2), best, 3.0, 0.0, 4, 6, 0.0, 20)
    for seed in range(2):
        twin = oracle.Bandit(6, 4)
        for episode in range(40):
            assert pulls.greedy[seed, episode] == twin.greedy_arm()
            arm = twin.start_episode(0)
            assert pulls.arm[seed, episode] == pulls.choice[seed, episode] == arm, (seed, episode)
            twin.record(arm, 3.0 if arm == best[seed, episode // 20] else 0.0)


def test_exploration_and_noise_are_what_they_are_called() -> None:
    best = synthetic_bandits.best_arms(seeds=40, phases=1, num_arms=8)
    pulls = synthetic_bandits.play(jax.random.split(jax.random.key(0), 40), best, 4.0, 1.0, 8, 160, 0.5, 400)
    differs = np.asarray(pulls.arm != pulls.choice)[:, 8:]
    assert abs(differs.mean() - 0.5 * 7 / 8) < 0.02  # a uniform arm is the choice one time in eight
    assert not np.any(np.asarray(pulls.arm != pulls.choice)[:, :8])  # the sweep
    counts = np.bincount(np.asarray(pulls.arm)[:, 8:][differs], minlength=8) / differs.sum()
    assert counts.max() < 0.3


def test_every_phase_has_another_best_arm() -> None:
    best = synthetic_bandits.best_arms(seeds=5, phases=6, num_arms=8)
    assert best.dtype == np.int32 and best.shape == (5, 6)
    assert all(len(set(row)) == 6 for row in best.tolist())
    assert len({tuple(row) for row in best.tolist()}) == 5


def test_numbers_of_a_bandit_by_hand() -> None:
    """Two seeds, three phases of ten episodes; the bandit turns to the best arm four episodes late, the control never does."""
    best = np.array([[0, 1, 2], [3, 1, 0]], np.int32)
    late = np.concatenate([np.repeat(best[:, :1], 4, axis=1), np.repeat(best, 10, axis=1)], axis=1)[:, :30]
    never = np.repeat(best[:, :1], 30, axis=1)
    found = synthetic_bandits.bandit_numbers(SMALL, best, Pulls(late, late, late), Pulls(never, never, never))
    assert found["half_after"] == {"choice": 4, "greedy": 4, "control": None}
    assert found["settled"] == {"choice": 1.0, "greedy": 1.0, "control": 0.0}
    assert found["shares"]["choice"] == [(e, float(e >= 4)) for e in range(10)]
    gap = synthetic_bandits.GAP
    assert found["mean_return"] == pytest.approx(
        {
            "bandit": gap * 22 / 30,
            "without a window": gap / 3,
            "best fixed arm": gap / 3,
            "uniform": gap / 4,
            "best of each phase": gap,
        }
    )
    curves = {name: dict(points) for name, points in found["regret"].items()}
    assert [curves["bandit"][t] for t in (10, 14, 20, 30)] == [0, 4 * gap, 4 * gap, 8 * gap]
    assert [curves["best fixed arm"][t] for t in (10, 20, 30)] == [0, 10 * gap, 20 * gap]
    assert [curves["uniform"][t] for t in (1, 30)] == pytest.approx([0.75 * gap, 22.5 * gap])
    claims = figure.bandit_expectations({"x": found})
    assert [holds(claims, word) for word in ("follows", "settles", "no regret", "lags")] == [True] * 4


def test_claims_about_a_bandit_can_fail() -> None:
    best = np.array([[0, 1, 2], [3, 1, 0]], np.int32)
    never = Pulls(*[np.repeat(best[:, :1], 30, axis=1)] * 3)
    claims = figure.bandit_expectations({"x": synthetic_bandits.bandit_numbers(SMALL, best, never, never)})
    assert [holds(claims, word) for word in ("follows", "settles", "no regret", "lags")] == [False] * 4
    scale = [{"gap": gap, "noise": synthetic_bandits.NOISES[0], "share": 0.9} for gap in synthetic_bandits.GAPS]
    assert holds(figure.scale_expectations(scale), "bonus") is False
    for point in scale:
        point["share"] = 0.9 if point["gap"] >= 1 else 0.5
    assert holds(figure.scale_expectations(scale), "bonus") is True


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
    assert found["phases"] == 4
    assert found["half_after"] == [4 * 40.0] * 4  # the first line in which the own pulls go to the best arms
    assert found["preferred_arms"] == {"long": [0, 1], "short": [2, 3]}
    far, near = GAMMAS[:2].mean(), GAMMAS[2:].mean()
    assert found["mean_discount"] == pytest.approx({"long": 0.9 * far + 0.1 * near, "short": 0.9 * near + 0.1 * far})
    np.testing.assert_allclose(found["arm_returns"]["long"], RETURNS[True])
    np.testing.assert_allclose(found["fixed_arms"], (RETURNS[True] + RETURNS[False]) / 2)
    long_own = 0.9 * RETURNS[True][:2].mean() + 0.1 * RETURNS[True][2:].mean()
    short_own = 0.9 * RETURNS[False][2:].mean() + 0.1 * RETURNS[False][:2].mean()
    own, uniform = (long_own + short_own) / 2, (RETURNS[True].mean() + RETURNS[False].mean()) / 2
    expected = {"bandit": (own + uniform) / 2, "its own pulls": own, "uniform": uniform, "best of each phase": 0.75}
    assert found["mean_return"] == pytest.approx(expected)
    shares = dict(found["share_after_change"]["long"])
    assert shares[min(shares)] == pytest.approx(0.0) and shares[max(shares)] == pytest.approx(1.0)
    assert [stop - start for start, stop in zip(found["borders"], found["borders"][1:], strict=False)] == [1200, 1200, 1200, 1160]


def test_claims_about_the_corridor_hold_and_fail() -> None:
    good = figure.corridor_expectations(corridors_of(window=2, wide=20))
    assert [outcome["holds"] for outcome in good.values()] == [True] * 4
    slow = figure.corridor_expectations(corridors_of(window=20, wide=2))
    assert [holds(slow, word) for word in ("flips", "far-sighted", "no regret", "more regret")] == [False] * 4
    none = figure.corridor_expectations({"a": {"seed": 0, "windowed": True, "gammas": [], "numbers": None}})
    assert [outcome["holds"] for outcome in none.values()] == [None] * 4


def test_a_run_that_is_too_short_has_no_numbers() -> None:
    for metrics in ([], lines_of(0)[:40]):
        assert figure.corridor_numbers(figure.corridor_lines(metrics, 4, 1), GAMMAS, EXPLORATION) is None


@pytest.mark.parametrize("profile", common.PROFILES)
def test_trainings_can_be_started(profile: str) -> None:
    trainings = figure.PROFILES[profile].trainings
    assert len({training.name for training in trainings}) == len(trainings)
    assert [training.labels["bandits"] for training in trainings].count(profile) == 1
    for training in trainings:
        settings = common.settings_of(training)
        windowed = training.labels["windowed"]
        assert settings.bandit.window_episodes == (figure.WINDOW if windowed else figure.WIDE_WINDOW)
        assert settings.logging.period_seconds == 0


def test_only_the_labelled_run_carries_the_simulation(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "measure_bandits", lambda sizes: {"sizes": list(sizes)})
    first, second = figure.PROFILES["cpu"].trainings[:2]
    assert figure.measure(tmp_path, first, 8) == {"sizes": list(synthetic_bandits.BANDITS["cpu"])}
    assert figure.measure(tmp_path, second, 8) == {}


def test_the_record_is_drawn(tmp_path: pathlib.Path) -> None:
    sizes = {"actors, N = 4": SMALL}
    simulated = synthetic_bandits.measure_bandits(sizes)
    assert len(simulated["scale"]) == len(synthetic_bandits.GAPS) * len(synthetic_bandits.NOISES)
    metrics = lines_of(2)
    for line in metrics[1:]:  # the config's eight arms
        line |= {f"arm/pulls_{arm + 4}": line[f"arm/pulls_{arm}"] for arm in range(4)}
        line |= {f"arm/return_{arm + 4}": line[f"arm/return_{arm}"] for arm in range(4)}
    runs = [
        Run(Training(name, "configs/shifting_corridor.py:laptop", {}, 0, {"windowed": name == "window"}), True, metrics, {}, further)
        for name, further in (("window", simulated), ("wide", {}))
    ]
    nothing = [Run(runs[0].training, False, metrics[:3], {}, {})]
    assert len(figure.summarise(runs)["expectations"]) == 4 + 1 + 4
    assert {outcome["holds"] for outcome in figure.summarise(nothing)["expectations"].values()} == {None}
    for some in (runs, nothing):
        figure.draw(record_of(figure.FIGURE, some), tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
