"""The config files: every profile and agent of every task is complete, and the agents have the numbers of their papers."""

import dataclasses
import importlib.util
import itertools
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.agent import programs
from agent57_jax.config import Chooser, IntrinsicReward, Settings, Targets
from benchmarks import parts
from configs import profiles
from tests import tiny
from tests.oracles import policy_family

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
TASKS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "profiles"))
AGENTS = ("r2d2", "r2d2_retrace", "r2d2_bandit", "ngu", "ngu_separate", "agent57", "meme")


def load(task: str) -> types.ModuleType:
    """The module of a config file, loaded by its path as the flag does."""
    spec = importlib.util.spec_from_file_location(f"config_{task}", FOLDER / f"{task}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get(task: str, argument: str) -> Settings:
    settings: Settings = load(task).get_config(argument)
    return settings


def flat(settings: Settings) -> dict[str, Any]:
    return config.flatten(config.to_dict(settings))


def changes(settings: Settings, start: Settings) -> dict[str, Any]:
    """The settings that differ."""
    before = flat(start)
    return {name: value for name, value in flat(settings).items() if value != before[name]}


# Completeness -----------------------------------------------------------------------------------------------------------------------


def test_there_are_tasks_and_the_family_is_whole() -> None:
    assert {"zaxxon", "boxing", "montezuma_revenge", "pitfall", "atari", "lunar_lander", "random_coin", "disco_maze"} <= set(TASKS)
    assert tuple(profiles.AGENTS) == AGENTS and profiles.PROFILES == ("paper", "laptop", "smoke", "box")


OWN_RULES = ("random_coin", "disco_maze", "shifting_corridor")  # whose small profiles, but not their box, are without `small_budget`


@pytest.mark.parametrize("task", TASKS)
def test_every_profile_and_agent_is_complete(task: str) -> None:
    """And has the columns of the papers' tables, whatever the task's own agent is."""
    columns = {
        #                intrinsic reward      networks  policies  chooser         targets
        "r2d2": (IntrinsicReward.NONE, 1, True, Chooser.FIXED, Targets.N_STEP),
        "r2d2_retrace": (IntrinsicReward.NONE, 1, True, Chooser.FIXED, Targets.RETRACE),
        "r2d2_bandit": (IntrinsicReward.NONE, 1, False, Chooser.BANDIT, Targets.RETRACE),
        "ngu": (IntrinsicReward.NGU, 1, False, Chooser.FIXED, Targets.RETRACE),
        "ngu_separate": (IntrinsicReward.NGU, 2, False, Chooser.FIXED, Targets.RETRACE),
        "agent57": (IntrinsicReward.NGU, 2, False, Chooser.BANDIT, Targets.RETRACE),
        "meme": (IntrinsicReward.NGU, 2, False, Chooser.BANDIT, Targets.SOFT_WATKINS),
    }
    for profile in profiles.PROFILES:
        config.finalise(get(task, profile))
        plain = config.finalise(get(task, f"{profile},agent57"))
        assert plain.policy.num_policies > 1
        for agent in AGENTS:
            settings = config.finalise(get(task, f"{profile},{agent}"))
            alone = settings.policy.num_policies == 1
            found = (settings.novelty.reward, settings.num_values, alone, settings.bandit.chooser, settings.learner.targets)
            wanted = columns[agent]
            if agent == "agent57" and (profile == "box" or (profile != "paper" and task not in OWN_RULES)):
                wanted = (*wanted[:-1], Targets.SOFT_WATKINS)  # one of the rules of small budgets
            assert found == wanted, (profile, agent)
            assert (settings.policy.beta_max == 0) == (settings.novelty.reward is IntrinsicReward.NONE)
            has_numbers = agent == "meme" and profile == "paper"  # of its own, which do not follow from Agent57's
            assert (settings.replay.burn_in > 0) == (agent == "r2d2")
            assert (settings.replay.is_exponent > 0) == (agent == "r2d2" or has_numbers)
            half = 1 if agent in ("agent57", "meme") else 2
            assert (settings.replay.trace, settings.replay.period) == (plain.replay.trace // half, plain.replay.period // half)
            # As many updates for a timestep as without the change.
            rates = [s.replay.samples_per_insert / s.replay.period for s in (plain, settings)]
            assert rates[0] == rates[1] or has_numbers
            # The task and the machine stay what they are.
            same = dataclasses.replace(settings.environment, num_envs=plain.environment.num_envs) if has_numbers else settings.environment
            assert same == plain.environment
            assert dataclasses.replace(settings.network, policy_heads=False) == plain.network
            assert settings.evaluation == plain.evaluation
            assert settings.total_steps == plain.total_steps or (has_numbers and settings.total_steps == 50_000_000)
            assert config.from_dict(config.to_dict(settings)) == settings


# The papers' numbers ----------------------------------------------------------------------------------------------------------------


SHORTER = {"replay.trace": 80, "replay.period": 40, "replay.samples_per_insert": 0.75}
EXTRINSIC = {"novelty.reward": "none", "policy.separate_networks": False, "policy.beta_max": 0.0, **SHORTER}
ALONE = {**EXTRINSIC, "policy.num_policies": 1, "policy.discounts": "ngu", "bandit.chooser": "fixed"}
NGU = {"policy.discounts": "ngu", "bandit.chooser": "fixed", **SHORTER}
# What distinguishes each agent on Atari from Agent57, whose numbers the defaults are (tests/test_config.py).
# R2D2: Kapturowski et al. 2019, §2.3 and the table of its appendix; exploration as in Ape-X.
FROM_AGENT57: dict[str, dict[str, Any]] = {
    "agent57": {},
    "meme": {
        "environment.num_envs": 64,
        "network.policy_heads": True,
        "policy.num_policies": 16,
        "policy.gamma_0": 0.9997,
        "policy.gamma_2": 0.97,
        "policy.beta_max": 0.1,
        "replay.samples_per_insert": 6.0,
        "replay.priority_exponent": 0.6,
        "replay.is_exponent": 0.4,
        "learner.learning_rate": 3e-4,
        "learner.novelty_learning_rate": 6e-4,
        "learner.adam_epsilon": 1e-8,
        "learner.weight_decay": 0.05,
        "learner.target_rate": 0.01,
        "learner.targets": "soft_watkins",
        "learner.bootstrap": "online",
        "learner.trust_region": 2.0,
        "learner.normalise_errors": "everywhere",
        "learner.combined_loss": True,
        "learner.cross_mixture": 0.5,
        "learner.distil_policy": True,
        "total_steps": 50_000_000,
    },
    "ngu_separate": NGU,
    "ngu": {**NGU, "policy.separate_networks": False},
    "r2d2_bandit": EXTRINSIC,
    "r2d2_retrace": ALONE,
    "r2d2": {
        **ALONE,
        "learner.targets": "n_step",
        "learner.adam_epsilon": 1e-3,
        "learner.target_period_updates": 2_500,
        "replay.burn_in": 40,
        "replay.is_exponent": 0.6,
        "replay.auto_limit": 4_000_000,
        "actor.epsilon_alpha": 7.0,
    },
}


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_differ_in_the_papers_numbers_and_in_nothing_else(agent: str) -> None:
    assert changes(get("atari", f"paper,{agent}"), Settings()) == FROM_AGENT57[agent]
    game = {"environment.task_id": "Boxing-v5"} | FROM_AGENT57[agent]
    assert changes(get("boxing", agent), Settings()) == game


ZEROS = np.zeros(32)
BETAS = [policy_family.intrinsic_beta(j, 32, 0.3) for j in range(32)]


@pytest.mark.parametrize(
    ("agent", "gammas", "betas"),
    [
        ("agent57", [policy_family.agent57_discount(j, 32) for j in range(32)], BETAS),
        ("ngu", [policy_family.ngu_discount(j, 32) for j in range(32)], BETAS),
        ("r2d2_bandit", [policy_family.agent57_discount(j, 32) for j in range(32)], ZEROS),
        ("r2d2", [0.997], [0.0]),
    ],
)
def test_policies_have_their_papers_discounts_and_intrinsic_weights(agent: str, gammas: Any, betas: Any) -> None:
    family = programs.make_family(config.finalise(get("atari", f"paper,{agent}")).policy)
    np.testing.assert_allclose(family.gammas, gammas, rtol=1e-6)
    np.testing.assert_allclose(family.betas, betas, rtol=1e-5)
    assert family.betas[0] == 0 and family.betas.dtype == family.gammas.dtype == np.float32


def test_meme_makes_as_many_updates_as_it_is_quoted() -> None:
    """3.8 of them a second, at 12,970 frames a second."""
    settings = config.finalise(get("atari", "paper,meme"))
    seconds = settings.total_steps * 4 / 12_970
    assert settings.total_updates / seconds == pytest.approx(3.8, rel=0.01)


def test_small_profiles_scale_lengths_and_periods_in_proportion() -> None:
    laptop, r2d2 = get("zaxxon", "laptop"), get("zaxxon", "laptop,r2d2")
    assert (laptop.replay.trace, laptop.replay.period, laptop.learner.target_period_updates) == (20, 10, 100)
    assert (r2d2.replay.trace, r2d2.replay.burn_in, r2d2.replay.period, r2d2.learner.target_period_updates) == (10, 5, 5, 166)
    # Ten times Agent57's, also where values are small and its own is.
    coin = [get("random_coin", f"laptop,{agent}").learner.adam_epsilon for agent in ("agent57", "r2d2")]
    assert coin == pytest.approx([1e-6, 1e-5])


def test_tasks_have_agent57_but_for_two_with_an_agent_of_their_own() -> None:
    for task, profile in itertools.product(TASKS, profiles.PROFILES):
        has_own = flat(get(task, profile)) != flat(get(task, f"{profile},agent57"))
        assert has_own == (task in ("disco_maze", "shifting_corridor"))
    # NGU's maze (NGU §4.1, App.): one policy, one network, traces of 50.
    maze, named = config.finalise(get("disco_maze", "paper")), config.finalise(get("disco_maze", "paper,ngu"))
    assert (maze.policy.num_policies, maze.policy.beta_max, maze.policy.separate_networks) == (1, 0.5, False)
    assert maze.requested_capacity == 1_000_000  # NGU Table 7
    assert (maze.replay.trace, maze.replay.period) == (named.replay.trace, named.replay.period) == (50, 50)
    assert (named.policy.num_policies, named.policy.separate_networks) == (32, False)


def test_an_agent_begins_with_what_its_task_says() -> None:
    """The same function of the settings makes the agent on every task and in every test."""
    for task, agent in itertools.product(TASKS, AGENTS):
        settings = get(task, "laptop,agent57")
        profiles.AGENTS[agent](settings)
        assert flat(settings) == flat(get(task, f"laptop,{agent}"))


# The box ----------------------------------------------------------------------------------------------------------------------------

# What the paper's budget allows and that of one GPU and a day does not, on Atari.
BOX = {
    "policy.num_policies": 16,
    "policy.beta_max": 0.1,
    "policy.gamma_0": 0.9997,
    "policy.gamma_2": 0.97,
    "bandit.group_size": 16,
    "replay.trace": 80,
    "replay.period": 40,
    "replay.samples_per_insert": 6.0,
    "replay.priority_exponent": 0.6,
    "replay.first_priority": "actor",
    "learner.learning_rate": 2e-4,
    "learner.final_rate_share": 0.1,
    "learner.adam_epsilon": 1e-5,
    "learner.target_period_updates": 400,
    "learner.average_decay": 0.999,
    "learner.normalise_errors": "priorities",
    "learner.targets": "soft_watkins",
    "evaluation.window_episodes": 40,
    "evaluation.exploration": 0.1,
    "evaluation.arm": "actors",
    "precision.compute": "bfloat16",
    "total_steps": 50_000_000,
}


def test_the_box_differs_from_the_paper_in_what_its_documentation_says() -> None:
    assert changes(get("atari", "box"), Settings()) == BOX
    page = (FOLDER.parent / "docs" / "configuration_head.md").read_text()
    assert {name for name in flat(Settings()) if f"`{name}`" in page} >= set(BOX)


@pytest.mark.parametrize("task", TASKS)
def test_a_box_is_no_longer_and_no_larger_than_the_paper(task: str) -> None:
    paper, box = config.finalise(get(task, "paper")), config.finalise(get(task, "box"))
    assert box.total_steps <= min(paper.total_steps, 50_000_000)
    assert box.total_updates > 3_000  # enough for its target networks and rates
    assert box.total_updates / box.learner.target_period_updates >= 100
    assert 6 <= box.replay.samples_per_insert <= 12  # of the same timesteps; longer sequences are sampled more often
    for name in ("environment", "network", "novelty"):
        assert getattr(box, name) == getattr(paper, name)


def test_a_box_learns() -> None:
    """With small sizes, and without convolutions, which take long to compile in bfloat16 on a CPU: what it combines goes together."""
    settings = get("cartpole", "box")
    tiny._small(settings)
    settings.environment.num_envs, settings.environment.num_threads, settings.bandit.group_size = 8, 1, 4
    settings.network.dense_features = (8,)
    run = parts.Parts(config.finalise(settings), with_environments=False)
    before = jax.device_get(run.learner.parameters)
    run.learn()
    after = jax.device_get(run.learner.parameters)
    assert run.update_metrics.non_finite_update == -1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))
    assert any(np.any(old != new) for old, new in zip(jax.tree.leaves(before.q), jax.tree.leaves(after.q), strict=True))


# The argument -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["zaxxon", "disco_maze"])
def test_names_may_come_in_any_order_or_not_at_all(task: str) -> None:
    def same(*arguments: str) -> bool:
        found = [flat(get(task, argument)) for argument in arguments]
        return found == found[:1] * len(found)

    assert flat(load(task).get_config()) == flat(get(task, "paper"))
    assert same("", "paper", " paper ", "paper,", ",")
    assert same("ngu", "paper,ngu", "ngu,paper", " ngu , paper ", ",ngu")
    assert same("laptop,r2d2", "r2d2,laptop")
    assert not same("laptop", "paper") and not same("ngu", "paper") and not same("ngu", "r2d2")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("laptp", "no profile or agent 'laptp', did you mean laptop?"),
        ("R2D2", "no profile or agent 'R2D2', did you mean r2d2"),
        ("laptop:ngu", "no profile or agent 'laptop:ngu'"),
        ("zzz", "Profiles: paper, laptop, smoke, box; agents: r2d2, r2d2_retrace, r2d2_bandit, ngu, ngu_separate, agent57, meme"),
        ("laptop,smoke", "'laptop,smoke' names two of a kind; one profile (paper, laptop, smoke, box) and one agent"),
        ("smoke,smoke", "names two of a kind"),
        ("ngu,r2d2", "'ngu,r2d2' names two of a kind"),
    ],
)
def test_mistakes_in_the_argument_are_named(argument: str, message: str) -> None:
    for task in ("zaxxon", "random_coin", "shifting_corridor"):
        with pytest.raises(ValueError, match=r"names two of a kind|no profile or agent") as caught:
            get(task, argument)
        assert message in str(caught.value) and "\n" not in str(caught.value)
