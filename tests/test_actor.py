"""The act step against a plain simulation of the fleet that is built from the oracles, and on any number of devices."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from agent57_jax import parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import Actor, ActOutput
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.algorithm import lifelong_novelty
from agent57_jax.algorithm.meta_controller import PooledArms
from agent57_jax.config import Chooser, Combination, FirstPriority, IntrinsicReward, Settings
from agent57_jax.types import FIRST, LAST, MID, ActingParameters, EnvironmentSpec, TimeStep
from tests import tiny
from tests.oracles import policy_family
from tests.oracles.fleet import Expected, Fleet

A, N = 3, 4
ACTS = 48
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1, extras=("height", "width"))
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT

# Each costs its compilation, so settings that do not touch each other share one.
VARIANTS: dict[str, dict[str, Any]] = {
    "training": {"bandit.group_size": 2, "replay.first_priority": FirstPriority.ACTOR},
    "heads per policy, distilled policy": {
        "network.policy_heads": True,
        "learner.distil_policy": True,
        "learner.combined_loss": True,
        "replay.first_priority": FirstPriority.ACTOR,
    },
    "evaluation": {"policy.combination": Combination.SQUASHED},
    "distillation alone, one network, fixed policies": {
        "novelty.reward": IntrinsicReward.LIFELONG,
        "policy.separate_networks": False,
        "bandit.chooser": Chooser.FIXED,
        "replay.first_priority": FirstPriority.ACTOR,
    },
    "no intrinsic reward": {"novelty.reward": IntrinsicReward.NONE, "policy.separate_networks": False, "policy.beta_max": 0.0},
}
DISTILLATION = "distillation alone, one network, fixed policies"
NUM_ENVS = {variant: 8 if variant == "evaluation" else 16 for variant in VARIANTS}


def make_settings(changes: dict[str, Any]) -> Settings:
    settings = tiny.vector_settings()
    settings.environment.num_envs = 16
    settings.policy.num_policies = N
    settings.bandit.window_episodes, settings.bandit.exploration, settings.bandit.ucb_bonus = 8, 0.3, 1.5
    settings.actor.epsilon_base, settings.actor.epsilon_alpha = 0.6, 1.0
    novelty = settings.novelty
    novelty.num_neighbours, novelty.memory_capacity = 3, 4  # smaller than an episode: the ring goes round
    novelty.kernel_epsilon, novelty.cluster_distance, novelty.pseudo_count, novelty.max_similarity = 0.02, 0.05, 0.01, 1.45
    novelty.max_factor, novelty.statistics_horizon, novelty.train_timesteps = 1.5, 200.0, 2
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences = 4, 2, 16
    settings.evaluation.num_envs, settings.evaluation.exploration, settings.evaluation.window_episodes = 8, 0.0, 9
    settings.evaluation.greedy_episodes = 2
    return tiny.finalised(settings, changes)


def make_script(num_envs: int, acts: int = ACTS, seed: int = 0) -> list[TimeStep]:
    """Scripted streams: episodes of 1 to 7 steps, terminated or truncated, that come back to some observations exactly."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(5, 3))
    step = np.zeros(num_envs, np.int32)
    length = rng.integers(1, 8, num_envs)
    total = np.zeros(num_envs, np.float32)
    script = []
    for _ in range(acts):
        step_type = np.where(step == 0, FIRST, np.where(step == length, LAST, MID)).astype(np.int32)
        noise = rng.normal(0.0, 0.5, (num_envs, 3)) * (rng.uniform(size=(num_envs, 1)) < 0.6)
        reward = rng.normal(0.0, 1.0, num_envs).astype(np.float32)  # at FIRST it means nothing
        total = np.where(step == 0, 0, total + reward).astype(np.float32)
        terminated = (step_type == LAST) & (rng.uniform(size=num_envs) < 0.5)
        script.append(
            TimeStep(
                observation=(places[rng.integers(0, 5, num_envs)] + noise).astype(np.float32),
                reward=reward,
                discount=(~terminated).astype(np.float32),
                step_type=step_type,
                episode_return=total,
                episode_length=step.copy(),
                extras={"height": rng.uniform(size=num_envs).astype(np.float32), "width": -np.float32(total)},
            )
        )
        length = np.where(step_type == LAST, rng.integers(1, 8, num_envs), length)
        step = np.where(step_type == LAST, 0, step + 1).astype(np.int32)
    return script


@functools.cache
def parts(variant: str) -> programs.Parts:
    return programs.build(make_settings(VARIANTS[variant]), SPEC)


def actor_of(variant: str) -> Actor:
    return parts(variant).evaluation_actor if variant == "evaluation" else parts(variant).actor


@functools.cache
def parameters(variant: str) -> ActingParameters:
    """Random parameters everywhere."""
    shapes = acting_parameters(jax.eval_shape(parts(variant).learner.init, jax.random.key(0)))
    given: ActingParameters = tiny.random_like(shapes, np.random.default_rng(1), 0.7)
    return given


@functools.cache
def act_program(variant: str, num_devices: int) -> Any:
    actor = actor_of(variant)

    def act(*arguments: Any) -> ActOutput:
        *given, pooled = arguments
        return actor.act(*given, pooled=pooled)

    out = ActOutput(ROWS, ALL, ALL, ALL, *(ROWS,) * 4)
    return parallel.sharded(act, parallel.make_mesh(num_devices), (ALL, ROWS, ALL, ALL, ROWS, ALL, ALL), out)


def run_script(
    variant: str, script: list[TimeStep], num_devices: int = 1, seed: int = 7, pooled: PooledArms | None = None
) -> list[ActOutput]:
    """The act step's outputs over a script, metrics summed from its beginning."""
    actor = actor_of(variant)
    num_envs = len(script[0].reward)
    state = jax.device_get(jax.jit(actor.init_state)(np.arange(num_envs, dtype=np.int32)))
    statistics, metrics = tiny.zeros_like(jax.eval_shape(lambda: (actor.init_statistics(), actor.init_metrics())))
    outputs = []
    for t, timestep in enumerate(script):
        key = jax.random.fold_in(jax.random.key(seed), t)
        out = act_program(variant, num_devices)(parameters(variant), state, statistics, metrics, timestep, key, pooled)
        state, statistics, metrics = out.state, out.statistics, out.metrics
        outputs.append(jax.device_get(out))
    return outputs


def stacked(records: list[Any]) -> Any:
    """One record whose fields are [acts, ...]."""
    return jax.tree.map(lambda *fields: np.stack(fields), *records)


class Played(NamedTuple):
    """A script, what the act step makes of it and what the simulation does."""

    script: list[TimeStep]
    outputs: list[ActOutput]
    timesteps: TimeStep  # the script with fields [acts, E, ...], as are the outputs in `out`
    out: ActOutput
    expected: Expected
    fleet: Fleet

    @property
    def first(self) -> np.ndarray:
        return self.timesteps.step_type == FIRST

    @property
    def last(self) -> np.ndarray:
        return self.timesteps.step_type == LAST


@functools.cache
def played(variant: str) -> Played:
    script = make_script(NUM_ENVS[variant])
    outputs = run_script(variant, script)
    fleet = Fleet(actor_of(variant), parts(variant).settings, parameters(variant), NUM_ENVS[variant])
    acts = [fleet.act(timestep, out.experience.policy, out.experience.action) for timestep, out in zip(script, outputs, strict=True)]
    expected = Expected(*(np.array(field) for field in zip(*acts, strict=True)))
    return Played(script, outputs, stacked(script), stacked(outputs), expected, fleet)


# Against the simulation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_rewards_values_and_probabilities_equal_the_simulations(variant: str) -> None:
    run, kind = played(variant), parts(variant).settings.novelty.reward
    x, want = run.out.experience, run.expected
    rewards = want.intrinsic_reward
    assert (x.intrinsic_reward is None) == (kind is IntrinsicReward.NONE)
    if kind is not IntrinsicReward.NONE:
        np.testing.assert_allclose(x.intrinsic_reward, rewards, rtol=2e-4, atol=1e-5)
    if kind is IntrinsicReward.NGU:
        assert not np.any(x.intrinsic_reward[run.first])
        # The script must reach every branch: similar and novel states, clipped and unclipped factors.
        assert np.any(rewards[~run.first] == 0) and np.any(rewards[~run.first] > 0)
        alpha = want.alpha[~run.first & (rewards > 0)]
        assert np.any(alpha < 1) and np.any(alpha > 1.5) and np.any((alpha > 1) & (alpha < 1.5))
    elif kind is IntrinsicReward.LIFELONG:
        assert np.all(rewards > 0) and np.ptp(rewards) > 2  # in deviations of the error
    if "replay.first_priority" in VARIANTS[variant]:
        np.testing.assert_allclose(run.out.td_error, want.td_error, rtol=1e-3, atol=2e-5)
    else:
        assert run.out.td_error is None and run.out.state.value is None
    assert want.gap.min() > 1e-5, "the simulation cannot tell the greedy action"
    greedy = np.where(x.action == want.greedy_action, 1.0 - want.epsilon, 0.0)
    np.testing.assert_allclose(x.behaviour_probability, want.epsilon / A + greedy, rtol=1e-5)
    for name in ("reward", "observation", "discount", "step_type"):
        np.testing.assert_array_equal(getattr(x, name.replace("reward", "extrinsic_reward")), getattr(run.timesteps, name))
    final = run.outputs[-1]
    np.testing.assert_allclose(final.state.recurrent.hidden, run.fleet.hidden, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(final.state.recurrent.cell, run.fleet.cell, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(final.state.recurrent.previous_action, final.experience.action)


@pytest.mark.parametrize("variant", ["training", DISTILLATION])
def test_running_statistics_are_those_of_all_actors_and_outlive_episodes(variant: str) -> None:
    fleet, statistics = played(variant).fleet, played(variant).outputs[-1].statistics
    assert (statistics.squared_distance is None) == (variant == DISTILLATION)
    for found, wanted in ((statistics.distillation_error, fleet.errors), (statistics.squared_distance, fleet.distances)):
        if found is not None:
            assert found.weight == 200, "the horizon must bind"
            np.testing.assert_allclose(found.mean, wanted.mean(), rtol=1e-4)
            np.testing.assert_allclose(lifelong_novelty.standard_deviation(found), wanted.standard_deviation(), rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_are_sums_over_acts_and_over_episodes(variant: str) -> None:
    run, kind = played(variant), parts(variant).settings.novelty.reward
    action, want, given, last = run.out.experience.action, run.expected, run.timesteps, run.last
    arm, returns = run.out.experience.policy, given.episode_return
    total = {
        "timesteps": action.size,
        "steps": np.sum(~run.first),
        "action_value": np.take_along_axis(want.values, action[:, None, :, None], axis=3).sum(axis=(0, 2, 3)),
        "episodes": np.sum(last),
        "truncations": np.sum(given.discount[last]),
        "episode_return": np.sum(returns[last]),
        "episode_length": np.sum(given.episode_length[last]),
        "action_ratio": np.zeros(A),
        "arm_pulls": np.bincount(arm[last], minlength=N),
        "arm_return": np.bincount(arm[last], returns[last], minlength=N),
        **{name: np.sum(extra[last]) for name, extra in given.extras.items()},
    }
    intrinsic_return = 0.0
    for e in range(NUM_ENVS[variant]):
        for start, end in zip(np.flatnonzero(run.first[:, e]), np.flatnonzero(last[:, e]), strict=False):
            total["action_ratio"] += np.bincount(action[start:end, e], minlength=A) / (end - start)
            intrinsic_return += want.intrinsic_reward[start : end + 1, e].sum()
    if kind is not IntrinsicReward.NONE:
        total |= {"intrinsic_reward": want.intrinsic_reward.sum(), "alpha": want.alpha.sum(), "episode_intrinsic_return": intrinsic_return}
    if kind is IntrinsicReward.NGU:
        total["episodic_reward"] = want.episodic.sum()
    final, actor = run.outputs[-1].metrics, actor_of(variant)
    assert jax.tree.structure(final) == jax.tree.structure(actor.init_metrics())
    assert final.non_finite == dict.fromkeys(actor.checked_names, 0)
    assert final.clean == dict.fromkeys(actor.checked_names, final.timesteps)
    found = final._asdict() | final.episode_extras | ({} if final.novelty is None else final.novelty._asdict())
    found = {name: value for name, value in found.items() if value is not None and not isinstance(value, dict | tuple)}
    assert found.keys() == total.keys() and {"height", "width"} < total.keys()
    for name, value in total.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
    assert 0 < total["truncations"] < total["episodes"]


def test_reports_name_the_episodes_that_end() -> None:
    run = played("evaluation")
    report, given = run.out.report, run.timesteps
    wanted = (run.last, run.expected.is_greedy, run.out.experience.policy, given.episode_return, given.episode_length, given.extras)
    jax.tree.map(np.testing.assert_array_equal, tuple(report), wanted)


# Policies ---------------------------------------------------------------------------------------------------------------------------


def bandit_content(state: Any, index: int, window: int) -> list[tuple[int, float]]:
    """The episodes in one bandit's window, oldest first."""
    recorded = int(state.bandit.recorded[index])
    order = [k % window for k in range(max(0, recorded - window), recorded)]
    return [(int(state.bandit.arms[index, slot]), float(state.bandit.returns[index, slot])) for slot in order]


def test_bandits_learn_at_last_and_draw_at_first() -> None:
    run = played("training")
    found, final = run.out.experience.policy, run.outputs[-1].state
    assert set(found[0].tolist()) == set(range(N))  # first episodes cover all arms over the fleet
    np.testing.assert_array_equal(found[1:][~run.first[1:]], found[:-1][~run.first[1:]])  # an arm stays for the episode
    is_best, uniform = found == run.expected.arm, []
    for index, bandit in enumerate(run.fleet.bandits):
        actors = slice(2 * index, 2 * index + 2)
        draws = is_best[:, actors][run.first[:, actors]]
        assert np.all(draws[:N])  # every arm once before chance has a say
        uniform += (~draws[N:]).tolist()
        assert bandit_content(final, index, 8) == list(bandit.episodes)
        assert final.bandit.started[index] == bandit.started
    # A uniform arm, with probability 0.3, is another than the best with (N - 1) / N.
    share = 0.3 * (N - 1) / N
    assert len(uniform) > 80
    assert abs(np.mean(uniform) - share) < 4 * np.sqrt(share * (1 - share) / len(uniform))
    assert np.all(final.bandit.recorded > 8), "the window must slide"


def test_bandit_and_greedy_episodes_alternate_in_evaluation() -> None:
    run, mode = played("evaluation"), actor_of("evaluation").mode
    assert (mode.bandit_episodes, mode.greedy_episodes, mode.group_size, mode.num_actors) == (1, 2, 8, 8)
    is_greedy, final = run.out.state.is_greedy, run.outputs[-1]
    assert set(run.out.experience.policy[0].tolist()) == set(range(N))
    np.testing.assert_array_equal(run.out.experience.policy, run.expected.arm)  # without exploration chance decides nothing
    np.testing.assert_array_equal(is_greedy, run.expected.is_greedy)
    np.testing.assert_allclose(run.expected.epsilon, 0.01)
    for e in range(8):
        kinds = is_greedy[:, e][run.first[:, e]].tolist()
        assert kinds == [k % 3 != 0 for k in range(len(kinds))] and len(kinds) > 6
    # Only bandit episodes teach.
    assert np.sum(run.last & ~is_greedy) == final.state.bandit.recorded[0] < final.metrics.episodes
    assert bandit_content(final.state, 0, 9) == list(run.fleet.bandits[0].episodes)


@pytest.mark.parametrize(("counts", "arm"), [([1.0, 40.0, 2.0, 0.0], 1), ([0.0] * N, None)])
def test_greedy_episodes_play_what_the_actors_bandits_say(counts: list[float], arm: int | None) -> None:
    """Whatever the evaluator's own bandit has seen; as long as the actors' have seen nothing, it is asked as ever."""
    pooled = PooledArms(np.array(counts, np.float32), np.array([5.0, 4.0, 3.0, 0.0], np.float32), np.float32(2.0))
    run = played("evaluation")
    asked = stacked(run_script("evaluation", run.script, pooled=pooled))
    greedy, found, own = asked.state.is_greedy, asked.experience.policy, run.out.experience.policy
    if arm is None:
        np.testing.assert_array_equal(found, own)
    else:
        assert greedy.any() and np.all(found[greedy] == arm)
        assert np.any(own[greedy] != arm), "the evaluator's own bandit must have another opinion"
    # The bandit's episodes go on, and teach it alone.
    np.testing.assert_array_equal(asked.state.bandit.recorded, run.out.state.bandit.recorded)


def test_fixed_policies_are_dealt_over_the_fleet_and_never_change() -> None:
    assert played(DISTILLATION).out.experience.policy.tolist() == [[e % N for e in range(16)]] * ACTS


# Chance -----------------------------------------------------------------------------------------------------------------------------


def test_actions_have_the_frequencies_of_their_probabilities() -> None:
    acts = 400
    probability = stacked(run_script("training", make_script(16, acts, seed=3), seed=11)).experience.behaviour_probability  # [acts, E]
    mode = actor_of("training").mode
    epsilon = np.array([policy_family.actor_epsilon(e, 16, mode.epsilon_base, mode.epsilon_alpha) for e in range(16)])
    other = np.isclose(probability, epsilon[None] / A)
    np.testing.assert_allclose(probability[~other], np.broadcast_to(1.0 - epsilon + epsilon / A, other.shape)[~other], rtol=1e-5)
    expected = epsilon * (A - 1) / A
    assert np.all(np.abs(other.mean(axis=0) - expected) < 4 * np.sqrt(expected * (1 - expected) / acts))
    # The most exploring actor and the least differ, so one rate for all would not pass.
    assert expected[0] - expected[-1] > 6 * np.sqrt(expected[0] * (1 - expected[0]) / acts)
    # Each actor by its own chance, not in step with the others or with its past.
    agreement = np.corrcoef(other.T.astype(float)) - np.eye(16)
    assert np.abs(agreement).max() < 4.5 / np.sqrt(acts)
    lagged = [np.corrcoef(other[1:, e], other[:-1, e])[0, 1] for e in range(16)]
    assert np.abs(lagged).max() < 4.5 / np.sqrt(acts)


def test_explored_actions_are_uniform() -> None:
    run = played("training")
    pairs = np.zeros((A, A), int)  # [greedy, taken]
    np.add.at(pairs, (run.expected.greedy_action, run.out.experience.action), 1)
    explored = pairs.sum() - np.trace(pairs)
    assert explored > 150
    for greedy in range(A):
        first, second = np.delete(pairs[greedy], greedy)
        assert abs(first - second) <= 3.5 * np.sqrt(first + second)


# Devices ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "num_devices"), [("training", 8), (DISTILLATION, 2)])
def test_results_do_not_depend_on_the_number_of_devices(variant: str, num_devices: int) -> None:
    expected = played(variant).out
    found = stacked(run_script(variant, played(variant).script, num_devices))
    np.testing.assert_array_equal(found.experience.action, expected.experience.action)
    np.testing.assert_array_equal(found.experience.policy, expected.experience.policy)
    tiny.assert_close(found, expected)
