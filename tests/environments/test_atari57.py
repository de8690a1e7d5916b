"""The table of the 57 games."""

import envpool
import pytest

from agent57_jax.environments.atari57 import ACTION_NAMES, SCORES, human_normalised_score


def test_57_games_of_envpool_score_0_at_random_and_1_for_the_human() -> None:
    assert len(SCORES) == 57 and set(SCORES) <= set(envpool.list_all_envs())
    assert len(set(ACTION_NAMES)) == 18 and ACTION_NAMES[0] == "NOOP"
    for task_id, scores in SCORES.items():
        assert human_normalised_score(task_id, scores["random"]) == 0
        assert human_normalised_score(task_id, scores["human"]) == 1


def test_normalised_score_of_known_games_and_of_none() -> None:
    # The published Agent57 mean on Zaxxon, and Skiing, on which every score is negative.
    assert human_normalised_score("Zaxxon-v5", 249808.9) == pytest.approx((249808.9 - 32.5) / (9173.3 - 32.5))
    assert human_normalised_score("Skiing-v5", -10000.0) == pytest.approx((17098.1 - 10000.0) / (17098.1 - 4336.9))
    assert human_normalised_score("LunarLander-v3", 200.0) is None
