"""The linear read-out against codes that are known, and what the figure makes of its runs' numbers."""

import pathlib
import types
from typing import Any

import numpy as np
import pytest

from agent57_jax.environments.disco_maze import AGENT_COLOUR, WALL_COLOURS
from reproductions import controllable_states as figure
from reproductions import rollouts
from reproductions.common import Run
from tests import tiny
from tests.reproductions.test_figures import record_of
from tests.reproductions.test_rollouts import save_run

LEARNT, UNTRAINED, AGENT, OTHER = figure.LEARNT, figure.UNTRAINED, figure.AGENT, figure.OTHER
NUMBERS = np.stack(np.divmod(np.arange(9), 3), axis=1)  # row and column of the places of a room


def test_r_squared() -> None:
    targets = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    assert figure.r_squared(targets, targets) == 1
    assert figure.r_squared(targets, np.tile(targets.mean(axis=0), (3, 1))) == 0
    assert figure.r_squared(targets, targets + np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 3.0]])) == pytest.approx(1 - 9 / 14)
    assert figure.r_squared(targets, -targets) < 0


def test_a_read_out_finds_what_the_code_holds_and_nothing_else() -> None:
    """A code for 9 places in 12 numbers, and a variable that it does not hold."""
    rng = np.random.default_rng(2)
    places, others = rng.integers(0, 9, 4000), rng.integers(0, 4, 4000)
    features, is_test = rng.normal(size=(9, 12))[places].astype(np.float32), np.arange(4000) >= 2000
    held = figure.read_out(features, places, NUMBERS, is_test)
    assert held == pytest.approx({"r2": 1, "accuracy": 1, "explained": 1}, abs=0.02)
    missing = figure.read_out(features, others, np.eye(4), is_test)
    assert missing == pytest.approx({"r2": 0, "accuracy": 1 / 4, "explained": 0}, abs=0.03)


def test_accuracy_is_that_of_the_nearest_place() -> None:
    # What is read is too large by a third of a cell for one half of the timesteps that test, and by two thirds for the other.
    places = np.tile(np.arange(9), 40)
    features = NUMBERS[places].astype(float)
    features[180:270, 0] -= 1 / 3
    features[270:, 0] -= 2 / 3
    found = figure.read_out(features, places, NUMBERS, np.arange(360) >= 180)
    assert found["accuracy"] == pytest.approx((1 + 1 / 3) / 2)  # in the uppermost row the nearest place is the right one


def test_a_read_out_is_judged_where_it_was_not_fitted() -> None:
    # As many features as timesteps: what they are fitted to they reproduce, and know nothing of the others.
    rng = np.random.default_rng(3)
    is_test = np.arange(200) >= 100
    found = figure.read_out(rng.normal(size=(200, 150)), rng.integers(0, 4, 200), np.eye(4), is_test)
    assert found["r2"] < 0 and found["accuracy"] < 0.5


def test_what_is_read_in_the_coin_room() -> None:
    observation = np.zeros((2, 3, 3, 3), np.uint8)
    observation[..., 0] = 255
    observation[[0, 1], [1, 2], [0, 1], 1] = 255
    observation[[0, 1], [0, 1], [2, 0], 2] = 255
    found = figure.variables(figure.COIN, observation, np.array([[1, 0], [2, 1]]))
    for name, places in ((AGENT, [[1, 0], [2, 1]]), (OTHER, [[0, 2], [1, 0]])):
        values, numbers = found[name]
        assert numbers.shape == (9, 2) and numbers[values].tolist() == places


def test_what_is_read_in_the_maze() -> None:
    observation = np.zeros((5, 7, 7, 3), np.uint8)
    observation[:, 2, 2] = WALL_COLOURS[[3, 1, 4, 0, 2]]
    observation[:, 2, 4] = WALL_COLOURS[0]
    values, numbers = figure.variables(figure.MAZE, observation, np.ones((5, 2), int))[OTHER]
    assert values.tolist() == [3, 1, 4, 0, 2] and numbers.tolist() == np.eye(5).tolist()


def test_attainable_accuracy() -> None:
    # In a corner of the coin room two actions do nothing, at its border one; an action that moves the agent is known.
    room = np.zeros((3, 3, 3, 3), np.uint8)
    room[..., 0] = 255
    at, then = np.array([[0, 0], [1, 0], [0, 0]]), np.array([[0, 0], [1, 0], [0, 1]])
    assert figure.attainable_accuracy(figure.COIN, room, at, then) == pytest.approx((1 / 2 + 1 + 1) / 3)
    # In a dead end of the maze that opens to the right, three.
    maze = np.broadcast_to(WALL_COLOURS[1], (2, 5, 5, 3)).copy()
    maze[:, 1, 2:4] = 0
    maze[:, 1, 1] = AGENT_COLOUR
    at, then = np.array([[1, 1], [1, 1]]), np.array([[1, 1], [1, 2]])
    assert figure.attainable_accuracy(figure.MAZE, maze, at, then) == pytest.approx((1 / 3 + 1) / 2)


def test_guesses_of_the_actions_that_led_to_each_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    first, mid, last = 0, 1, 2
    observation = np.zeros((1, 6, 3, 3, 3), np.uint8)
    position = np.array([[[0, 0], [0, 1], [0, 1], [2, 2], [2, 2], [1, 2]]])
    seen = types.SimpleNamespace(
        observation=observation,
        action=np.array([[1, 0, 3, 2, 0, 1]]),
        step_type=np.array([[first, mid, last, first, mid, mid]]),
        position=position,
    )
    # The action at LAST does not count, whatever the guess.
    answers = {"after": np.array([[1, 0, 3, 2, 3]]), "before": np.array([[0, 0, 0, 0, 0]])}
    monkeypatch.setattr(rollouts, "initial_learner", lambda run: "before")
    monkeypatch.setattr(rollouts, "guess_actions", lambda run, learner, observation: answers[learner])
    found = figure.guesses(figure.COIN, types.SimpleNamespace(learner="after"), seen)
    assert found == pytest.approx({LEARNT: 3 / 4, UNTRAINED: 2 / 4, "attainable": (1 + 1 + 1 / 2 + 1) / 4})


def read_outs_of(agent: float, other: float, explained: float) -> dict[str, dict[str, float]]:
    return {
        AGENT: {"r2": agent, "accuracy": agent, "explained": explained},
        OTHER: {"r2": other, "accuracy": other, "explained": 0.0},
    }


def made_up(task: str, learnt: dict[str, Any], untrained: dict[str, Any], guess: float = 0.9, endings: bool = True) -> Run:
    (training,) = (training for training in figure.PROFILES["cpu"].trainings if training.labels["task"] == task)
    ratios = {"action/ratio_up": 0.6, "action/ratio_left": 0.4} if endings else {}
    metrics = [{"steps": 100 * i, "seconds": 1.0 * i, "novelty/inverse_accuracy": i / 20, **ratios} for i in range(1, 21)]
    further = {
        "guesses": {LEARNT: guess, UNTRAINED: 0.2, "attainable": None if task == figure.ZAXXON else 0.95},
        "read_outs": None if task == figure.ZAXXON else {LEARNT: learnt, UNTRAINED: untrained},
    }
    return Run(training, True, metrics, {}, further)


GOOD, BEFORE = read_outs_of(0.8, 0.1, 0.9), read_outs_of(0.2, 0.3, 0.3)


@pytest.mark.parametrize(
    ("learnt", "untrained", "guess", "expected"),
    [
        (GOOD, BEFORE, 0.9, [True, True, True, True]),
        (GOOD, BEFORE, 0.3, [False, True, True, True]),
        (read_outs_of(0.8, 0.5, 0.9), BEFORE, 0.9, [True, False, True, True]),
        (GOOD, read_outs_of(0.5, 0.3, 0.3), 0.9, [True, True, False, True]),
        (read_outs_of(0.8, 0.1, 0.7), BEFORE, 0.9, [True, True, True, False]),
        (GOOD, read_outs_of(0.2, 0.3, 0.95), 0.9, [True, True, True, False]),
    ],
)
def test_expectations_of_a_grid_world(learnt: dict[str, Any], untrained: dict[str, Any], guess: float, expected: list[bool]) -> None:
    summary = figure.summarise([made_up(figure.COIN, learnt, untrained, guess)])
    outcomes = {claim: outcome["holds"] for claim, outcome in summary["expectations"].items()}
    assert [holds for claim, holds in outcomes.items() if "Random Coin" in claim] == expected
    assert all(holds is None for claim, holds in outcomes.items() if "Random Coin" not in claim)
    found = summary["tasks"][figure.COIN]
    assert found["training_accuracy"] == pytest.approx(0.975) and found["most_common_action"] == pytest.approx(0.6)


@pytest.mark.parametrize("endings", [True, False])
def test_a_picture_of_all_tasks(endings: bool, tmp_path: pathlib.Path) -> None:
    runs = [made_up(task, GOOD, BEFORE, endings=endings) for task in figure.TASKS]
    summary = figure.summarise(runs)
    assert all(outcome["holds"] for outcome in summary["expectations"].values()) and len(summary["expectations"]) == 9
    assert (summary["tasks"][figure.ZAXXON]["most_common_action"] is None) != endings
    figure.draw(record_of(figure.FIGURE, runs), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_run_that_has_not_learnt_yet_is_as_before_training(tmp_path: pathlib.Path) -> None:
    folder = save_run(tiny.coin_settings(), tmp_path)
    found = figure.look_at(figure.COIN, folder, num_envs=8, timesteps=16, seed=0)
    read, guesses = found["read_outs"], found["guesses"]
    assert read[LEARNT] == {name: pytest.approx(values, abs=1e-3) for name, values in read[UNTRAINED].items()}
    assert guesses[LEARNT] == guesses[UNTRAINED] and 0.5 < guesses["attainable"] < 1
