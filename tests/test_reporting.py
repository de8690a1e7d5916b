"""Sums of acts and evaluation episodes become declared metrics; what an agent lacks is not reported."""

from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.agent import programs
from agent57_jax.config import IntrinsicReward, Settings, Torso
from agent57_jax.monitoring.metrics import is_declared
from agent57_jax.training import reporting
from agent57_jax.training.evaluator import Episode
from agent57_jax.types import EnvironmentSpec

SPEC = EnvironmentSpec((3,), np.dtype("float32"), 2, ("left", "right"), 1, extras=("visited_fraction", "long_limit"))


def make_parts(reward: IntrinsicReward) -> programs.Parts:
    settings = Settings()
    settings.environment.kind, settings.environment.num_groups = config.EnvironmentKind.SHIFTING_CORRIDOR, 1
    settings.network.torso = Torso.DENSE
    settings.policy.num_policies = 2
    settings.novelty.reward = reward
    if reward is IntrinsicReward.NONE:
        settings.policy.separate_networks, settings.policy.beta_max = False, 0.0
    return programs.build(config.finalise(settings), SPEC)


def sums_of(parts: programs.Parts) -> tuple[Any, Any]:
    """Sums and statistics in which every number is another one: 10, 11, 12, ..."""
    counter = iter(range(10, 100))
    empty = jax.eval_shape(lambda: (parts.actor.init_metrics(), parts.actor.init_statistics()))
    return jax.tree.map(lambda leaf: np.array([next(counter) for _ in range(leaf.size)], np.float64).reshape(leaf.shape), empty)


def assert_found(found: dict[str, float], expected: dict[str, Any]) -> None:
    """The values, each under a declared name."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert is_declared(name)
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def deviation(moments: Any) -> float:
    return float(np.sqrt(moments.squares / moments.weight))


@pytest.mark.parametrize("reward", IntrinsicReward)
def test_sums_of_acts_become_means_and_nothing_is_a_mean_over_nothing(reward: IntrinsicReward) -> None:
    parts = make_parts(reward)
    sums, statistics = sums_of(parts)
    timesteps, episodes = sums.timesteps, sums.episodes
    expected = {
        "actor/value_extrinsic": sums.action_value[0] / timesteps,
        "episode/return": sums.episode_return / episodes,
        "episode/length": sums.episode_length / episodes,
        "episode/truncated_share": sums.truncations / episodes,
        "episode/visited_fraction": sums.episode_extras["visited_fraction"] / episodes,
        "episode/long_limit": sums.episode_extras["long_limit"] / episodes,
        "action/ratio_left": sums.action_ratio[0] / episodes,
        "action/ratio_right": sums.action_ratio[1] / episodes,
        **{f"arm/pulls_{j}": sums.arm_pulls[j] for j in range(2)},
        **{f"arm/return_{j}": sums.arm_return[j] / sums.arm_pulls[j] for j in range(2)},
    }
    if reward is not IntrinsicReward.NONE:
        expected |= {
            "actor/value_intrinsic": sums.action_value[1] / timesteps,
            "novelty/intrinsic_reward": sums.novelty.intrinsic_reward / timesteps,
            "novelty/alpha": sums.novelty.alpha / timesteps,
            "novelty/distillation_error": statistics.distillation_error.mean,
            "novelty/distillation_deviation": deviation(statistics.distillation_error),
            "episode/intrinsic_return": sums.novelty.episode_intrinsic_return / episodes,
        }
    if reward is IntrinsicReward.NGU:
        expected |= {
            "novelty/episodic_reward": sums.novelty.episodic_reward / timesteps,
            "novelty/mean_squared_distance": statistics.squared_distance.mean,
        }
    assert_found(reporting.act_values(parts, sums, statistics), expected)
    no_episode = reporting.act_values(parts, sums._replace(episodes=np.float64(0), arm_pulls=np.zeros(2)), statistics)
    assert {name.split("/")[0] for name in no_episode} <= {"actor", "novelty"}
    assert reporting.act_values(parts, *jax.tree.map(np.zeros_like, (sums, statistics))) == {}


def test_evaluation_reports_the_mean_of_its_greedy_episodes() -> None:
    parts = make_parts(IntrinsicReward.NONE)
    episodes = [
        Episode(0, True, 1, 2.0, 10, {"visited_fraction": 0.25, "long_limit": 1.0}),
        Episode(1, False, 0, 50.0, 90, {"visited_fraction": 0.9, "long_limit": 0.0}),
        Episode(0, True, 0, 3.0, 30, {"visited_fraction": 0.5, "long_limit": 0.0}),
    ]
    expected = {
        "evaluation/return": 2.5,
        "evaluation/length": 20.0,
        "evaluation/arm": 0.0,
        "evaluation/visited_fraction": 0.375,
        "evaluation/long_limit": 0.5,
        "evaluation/episodes": 7.0,
        "evaluation/bandit_return": 50.0,
    }
    assert_found(reporting.evaluation_values(parts, episodes, 7), expected)
    assert reporting.evaluation_values(parts, episodes[1:2], 7) == {"evaluation/bandit_return": 50.0}
    assert reporting.evaluation_values(parts, [], 7) == {}


def test_shares_of_time_are_a_whole_of_which_the_host_has_the_rest() -> None:
    found = reporting.time_values(10.0, {"environment": 1.0, "learning": 2.0, "acting": 3.0, "evaluation": 0.5})
    shares = {"environment": 0.1, "learning": 0.2, "acting": 0.3, "evaluation": 0.05, "saving": 0.0, "host": 0.35}
    assert_found(found, {f"throughput/share_{name}": share for name, share in shares.items()})
    # Environments on the device are a part of acting, not free.
    assert "throughput/share_environment" not in reporting.time_values(10.0, {"acting": 3.0})
