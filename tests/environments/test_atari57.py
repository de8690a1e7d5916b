"""The table of the 57 games."""

import pytest

from agent57_jax.environments import atari57
from agent57_jax.environments.atari57 import SCORES, human_normalised_score


def test_there_are_57_games_with_random_and_human_scores() -> None:
    assert len(SCORES) == 57
    assert all(scores["human"] != scores["random"] for scores in SCORES.values())
    assert len(set(atari57.ACTION_NAMES)) == 18
    assert atari57.ACTION_NAMES[0] == "NOOP"


def test_random_play_scores_0_and_the_human_1() -> None:
    for task_id, scores in SCORES.items():
        assert human_normalised_score(task_id, scores["random"]) == 0
        assert human_normalised_score(task_id, scores["human"]) == 1


def test_normalised_score_of_known_games() -> None:
    # The published Agent57 mean on Zaxxon, and Skiing, on which every score is negative.
    assert human_normalised_score("Zaxxon-v5", 249808.9) == pytest.approx((249808.9 - 32.5) / (9173.3 - 32.5))
    assert human_normalised_score("Skiing-v5", -10000.0) == pytest.approx((17098.1 - 10000.0) / (17098.1 - 4336.9))


def test_other_tasks_have_no_figures() -> None:
    assert human_normalised_score("LunarLander-v3", 200.0) is None
