"""What each figure makes of its runs' numbers, for runs that are made up."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from reproductions import atari, common, disco_maze, lunar_lander, random_coin, records
from reproductions.common import Figure, Run, Training

ROOT = pathlib.Path(__file__).parents[2]
FIGURES = {module.FIGURE.name: module.FIGURE for module in (random_coin, disco_maze, lunar_lander, atari)}
PNG = b"\x89PNG\r\n\x1a\n"
each_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
each_profile = pytest.mark.parametrize("profile", common.PROFILES)


def made_up(training: Training, score: float, further: dict[str, Any] | None = None, finished: bool = True, points: int = 12) -> Run:
    """A run that ended with the score; its curves rise to it."""
    metrics = [
        {
            "frames": 4000 * i,
            "steps": 1000 * i,
            "updates": 10 * i,
            "seconds": 60.0 * i,
            "episode/return": score * i / points,
            "arm/return_0": None if i == 1 else score * i / points,
            "novelty/intrinsic_reward": 10.0 + i,
            "evaluation/return": None if i == 2 else score * i / points,
            "evaluation/visited_fraction": score * min(1.0, 2 * i / points),
        }
        for i in range(1, points + 1)
    ]
    evaluation = {"mean": score, "median": score, "hns": None, "episodes": 100, "returns": [score - 1.0, score + 1.0]}
    return Run(training, finished, metrics, evaluation, further or {})


def runs_of(figure: Figure, score: Callable[[Training], float], profile: str = "cpu", **others: Any) -> list[Run]:
    return [made_up(training, score(training), **others) for training in figure.profiles[profile].trainings]


def outcomes(figure: Figure, runs: list[Run]) -> list[bool | None]:
    return [outcome["holds"] for outcome in figure.summarise(runs)["expectations"].values()]


def record_of(figure: Figure, runs: list[Run], profile: str = "cpu", partial: bool = False) -> dict[str, Any]:
    """The parts of a record that a picture may need, as they come back from a file."""
    data = figure.summarise(runs)
    record = {
        "profile": profile,
        "partial": partial,
        "machine": {"device": "cpu", "cores": 2},
        "settings": {"runs": {run.training.name: {"steps": run.steps} for run in runs}},
        "expectations": data.pop("expectations"),
        "data": records.rounded(data),
    }
    result: dict[str, Any] = json.loads(records.to_text(record))
    return result


def coin_score(degrades: bool, separate: float) -> Callable[[Training], float]:
    def score(training: Training) -> float:
        if training.labels["agent"] == random_coin.SEPARATE:
            return separate
        return 1.0 - 0.05 * training.labels["beta_max"] * degrades

    return score


def game_score(pong: float, boxing: float, zaxxon: float) -> Callable[[Training], float]:
    return lambda training: {"Pong-v5": pong, "Boxing-v5": boxing, "Zaxxon-v5": zaxxon}[training.labels["game"]]


@pytest.mark.parametrize(
    ("figure", "profile", "score", "finished", "expected"),
    [
        (random_coin.FIGURE, "cpu", coin_score(True, 0.97), True, [True, True]),
        (random_coin.FIGURE, "cpu", coin_score(False, 0.97), True, [True, False]),
        (random_coin.FIGURE, "cpu", coin_score(True, 0.94), True, [False, True]),
        (lunar_lander.FIGURE, "gpu", lambda training: 200.0, True, [True]),
        (lunar_lander.FIGURE, "gpu", lambda training: 190.0 if training.seed else 300.0, True, [False]),  # every seed counts
        (atari.FIGURE, "gpu", game_score(18.0, 90.0, 9174.0), True, [True, True, True]),
        (atari.FIGURE, "gpu", game_score(17.9, 89.0, 9173.0), True, [False, False, False]),
        (atari.FIGURE, "gpu", game_score(17.9, 90.0, 100.0), False, [None, True, None]),
        (atari.FIGURE, "cpu", lambda training: 5.0, True, []),
    ],
)
def test_claims_hold_or_fail(
    figure: Figure, profile: str, score: Callable[[Training], float], finished: bool, expected: list[bool | None]
) -> None:
    assert outcomes(figure, runs_of(figure, score, profile, finished=finished)) == expected


def test_lunar_lander_needs_enough_episodes() -> None:
    run = made_up(lunar_lander.FIGURE.profiles["cpu"].trainings[0], 250.0)
    assert outcomes(lunar_lander.FIGURE, [Run(run.training, True, run.metrics, {**run.evaluation, "episodes": 4})]) == [None]


def test_random_coin_counts_a_mean_over_seeds_and_every_beta() -> None:
    figure = random_coin.FIGURE
    runs = runs_of(figure, lambda training: 1.0 if training.seed else 0.4)  # mean 0.8
    summary = figure.summarise(runs)
    assert outcomes(figure, runs) == [False, False]
    assert len(summary["points"]) == 42 and len(summary["means"]) == 14
    first = summary["means"][0]
    assert (first["agent"], first["beta_max"], first["lowest"], first["highest"], first["seeds"]) == ("single", 0.001, 0.4, 1.0, 3)
    assert first["mean"] == pytest.approx(0.8)
    good = runs_of(figure, coin_score(True, 1.0))
    without_largest = [run for run in good if run.training.labels["beta_max"] < 10]
    assert outcomes(figure, without_largest) == [None, None]
    # What falls only on average, within the seeds' range, is not called a fall.
    noisy = runs_of(figure, lambda training: 1.0 - 0.1 * (training.seed + (training.labels["beta_max"] == 10)))
    assert outcomes(figure, noisy) == [False, False]
    bad = [run for run in runs_of(figure, coin_score(True, 0.5)) if run.training.labels["beta_max"] < 10]
    assert outcomes(figure, bad) == [False, None]


@pytest.mark.parametrize(
    ("learnt", "random", "expected"),
    [
        (0.7, 0.2, [True, True, True]),
        (0.5, 0.1, [False, True, False]),
        (0.7, 0.3, [True, False, False]),
    ],
)
def test_disco_maze(learnt: float, random: float, expected: list[bool]) -> None:
    scores = {"learnt": learnt, "random": random, "rnd": 0.1}
    figure = disco_maze.FIGURE
    runs = [
        made_up(training, score, further={"first": 2.0, "repeated": 0.5, "visited_fraction": score})
        for training in figure.profiles["cpu"].trainings
        for score in [scores[training.labels["arm"]]]
    ]
    assert outcomes(figure, runs) == expected
    means = figure.summarise(runs)["means"]
    assert means["learnt"]["final"] == pytest.approx(learnt) and means["learnt"]["seeds"] == 3
    assert means["rnd"]["intrinsic_reward_first"] == 2.0 and means["rnd"]["intrinsic_reward_repeated"] == 0.5
    only_learnt = [run for run in runs if run.training.labels["arm"] == "learnt"]
    assert outcomes(figure, only_learnt) == [expected[0], None, None]
    during_training_alone = runs_of(figure, lambda training: scores[training.labels["arm"]])
    assert outcomes(figure, during_training_alone) == [*expected[:2], None]


def test_the_mazes_arms_differ_in_nothing_else() -> None:
    settings = [common.settings_of(training) for training in disco_maze.PROFILES["cpu"].trainings[:3]]
    flat = [common.config.flatten(common.config.to_dict(each)) for each in settings]
    differing = [{key for key in flat[0] if flat[0][key] != other[key]} for other in flat[1:]]
    assert differing == [{"novelty.embedding"}, {"novelty.reward"}]


@each_profile
@each_figure
def test_every_picture_can_be_drawn(figure: Figure, profile: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.png"
    further = {"first": 2.0, "repeated": 0.5, "visited_fraction": 0.5}
    figure.draw(record_of(figure, runs_of(figure, lambda training: 0.5, profile, further=further), profile), path)
    assert path.read_bytes().startswith(PNG) and path.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [path]


@each_figure
def test_a_picture_of_one_run_that_has_not_come_far(figure: Figure, tmp_path: pathlib.Path) -> None:
    run = made_up(figure.profiles["cpu"].trainings[0], 0.5, points=1)
    bare = Run(run.training, False, [{**run.metrics[0], "evaluation/return": None, "evaluation/visited_fraction": None}], run.evaluation)
    for each in (run, bare):
        figure.draw(record_of(figure, [each], partial=True), tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@each_profile
@each_figure
def test_the_runs_of_every_profile_can_start(figure: Figure, profile: str) -> None:
    trainings = figure.profiles[profile].trainings
    assert len({training.name for training in trainings}) == len(trainings)
    settings = [common.settings_of(training) for training in trainings]
    if profile == "smoke":
        assert all(each.total_steps <= 10_000 for each in settings)
    assert all(("paper" in training.config) == (profile == "gpu") for training in trainings)


def test_make_reproductions_makes_every_figure() -> None:
    text = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^reproductions:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert recipe is not None and re.search(r"^\.PHONY:.* reproductions( |$)", text, re.MULTILINE)
    made = re.findall(r"reproductions\.(\w+) --profile=cpu", recipe.group(1))
    figures = {path.stem for path in (ROOT / "reproductions").glob("*.py") if "    reproduce(" in path.read_text()}
    assert figures == set(made) and len(made) == len(set(made))
