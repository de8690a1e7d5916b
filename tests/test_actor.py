"""The act step against a plain simulation of the fleet that is built from the oracles, and on any number of devices."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import Actor, ActOutput
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.algorithm import lifelong_novelty
from agent57_jax.algorithm.meta_controller import PooledArms
from agent57_jax.config import Chooser, Combination, FirstPriority, IntrinsicReward, Settings, Torso
from agent57_jax.networks.q_network import QInputs
from agent57_jax.types import FIRST, LAST, MID, ActingParameters, EnvironmentSpec, Experience, TimeStep
from tests.oracles import learner, policy_family, q_network, sequence_priority, value_transform
from tests.oracles.episodic_novelty import EpisodicMemory, episodic_reward
from tests.oracles.intrinsic_reward import intrinsic_reward
from tests.oracles.lifelong_novelty import RunningMoments, distillation_reward, lifelong_factor
from tests.oracles.meta_controller import Bandit

A, N = 3, 4
ACTS = 48
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1, extras=("height", "width"))
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT

VARIANTS: dict[str, dict[str, Any]] = {
    "training": {"bandit.group_size": 2, "replay.first_priority": FirstPriority.ACTOR},
    "fixed policies, one network": {
        "bandit.chooser": Chooser.FIXED,
        "policy.separate_networks": False,
        "replay.first_priority": FirstPriority.ACTOR,
    },
    "heads per policy, distilled policy": {
        "network.policy_heads": True,
        "learner.distil_policy": True,
        "learner.combined_loss": True,
        "replay.first_priority": FirstPriority.ACTOR,
    },
    "evaluation": {"policy.combination": Combination.SQUASHED},
    "distillation alone": {"novelty.reward": IntrinsicReward.LIFELONG},
    "no intrinsic reward": {"novelty.reward": IntrinsicReward.NONE, "policy.separate_networks": False, "policy.beta_max": 0.0},
}
NUM_ENVS = {variant: 8 if variant == "evaluation" else 16 for variant in VARIANTS}


def make_settings(changes: dict[str, Any]) -> Settings:
    settings = Settings()
    settings.environment.num_envs, settings.environment.num_groups = 16, 1
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (4,)
    settings.network.torso_size = settings.network.lstm_size = 4
    settings.network.head_size = 5
    settings.policy.num_policies, settings.policy.beta_max = N, 0.8
    settings.bandit.window_episodes, settings.bandit.exploration, settings.bandit.ucb_bonus = 8, 0.3, 1.5
    settings.actor.epsilon_base, settings.actor.epsilon_alpha = 0.6, 1.0
    novelty = settings.novelty
    novelty.embedding_size = novelty.distillation_size = 4
    novelty.inverse_hidden_size = 5
    novelty.num_neighbours, novelty.memory_capacity = 3, 4  # smaller than an episode: the ring goes round
    novelty.kernel_epsilon, novelty.cluster_distance, novelty.pseudo_count, novelty.max_similarity = 0.02, 0.05, 0.01, 1.45
    novelty.max_factor, novelty.statistics_horizon = 1.5, 200.0
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences = 4, 2, 16
    settings.novelty.train_timesteps = 2
    settings.evaluation.num_envs, settings.evaluation.exploration, settings.evaluation.window_episodes = 8, 0.0, 9
    settings.evaluation.greedy_episodes = 2
    for path, value in changes.items():
        section, name = path.split(".")
        setattr(getattr(settings, section), name, value)
    return config.finalise(settings)


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
    """Random parameters everywhere; the embedding is smaller, so that distances vary around the mean."""
    shapes = jax.eval_shape(parts(variant).learner.init, jax.random.key(0))
    rng = np.random.default_rng(1)

    def randomise(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: rng.normal(0.0, 0.7, leaf.shape).astype(np.float32), tree)

    acting = acting_parameters(shapes)
    return ActingParameters(*(randomise(part) for part in acting))


@functools.cache
def act_program(variant: str, num_devices: int) -> Any:
    actor = actor_of(variant)
    mesh = Mesh(np.array(jax.devices()[:num_devices]), (parallel.AXIS,))

    def act(*arguments: Any) -> ActOutput:
        *given, pooled = arguments
        return actor.act(*given, pooled=pooled)

    return parallel.sharded(act, mesh, (ALL, ROWS, ALL, ALL, ROWS, ALL, ALL), ActOutput(ROWS, ALL, ALL, ALL, *(ROWS,) * 4))


def run_script(
    variant: str, script: list[TimeStep], num_devices: int = 1, first_actor: int = 0, seed: int = 7, pooled: PooledArms | None = None
) -> list[ActOutput]:
    """The act step's outputs over a script, metrics summed from its beginning."""
    actor = actor_of(variant)
    num_envs = len(script[0].reward)
    state = jax.device_get(jax.jit(actor.init_state)(np.arange(first_actor, first_actor + num_envs, dtype=np.int32)))
    empty = jax.eval_shape(lambda: (actor.init_statistics(), actor.init_metrics()))
    statistics, metrics = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty)
    outputs = []
    for t, timestep in enumerate(script):
        key = jax.random.fold_in(jax.random.key(seed), t)
        out = act_program(variant, num_devices)(parameters(variant), state, statistics, metrics, timestep, key, pooled)
        state, statistics, metrics = out.state, out.statistics, out.metrics
        outputs.append(jax.device_get(out))
    return outputs


@functools.cache
def outputs_of(variant: str) -> tuple[list[TimeStep], list[ActOutput]]:
    script = make_script(NUM_ENVS[variant])
    return script, run_script(variant, script)


class Expected(NamedTuple):
    """What the simulation says about one act; per environment."""

    intrinsic_reward: list[float]  # 0 where there is none, as are the next two
    episodic: list[float]
    alpha: list[float]
    arm: list[int]  # when chance does not decide
    is_greedy: list[bool]
    epsilon: list[float]
    values: np.ndarray  # [V, E, A]
    greedy_action: list[int]
    td_error: list[float]  # of the transition that led here; 0 at FIRST
    gap: float  # smallest distance between the best and the second action's value


class Fleet:
    """A fleet of actors in plain Python: lists as memories, one bandit an object, statistics over all values so far."""

    def __init__(self, variant: str, num_envs: int) -> None:
        actor, settings = actor_of(variant), parts(variant).settings
        self.mode, self.novelty, self.num_envs = actor.mode, settings.novelty, num_envs
        self.squashed_mix = settings.policy.combination is Combination.SQUASHED
        self.betas = [policy_family.intrinsic_beta(j, N, settings.policy.beta_max) for j in range(N)]
        self.gammas = actor.family.gammas.astype(np.float64)
        given = parameters(variant)
        self.parameters = ActingParameters(*(None if part is None else learner.to_float64(part) for part in given))
        self.memories = [EpisodicMemory(self.novelty.memory_capacity) for _ in range(num_envs)]
        self.distances, self.errors = RunningMoments(self.novelty.statistics_horizon), RunningMoments(self.novelty.statistics_horizon)
        self.bandits = [Bandit(self.mode.window_episodes, N) for _ in range(num_envs // self.mode.group_size)]
        self.hidden = np.zeros((num_envs, actor.q_network.num_networks, 4))
        self.cell = np.zeros_like(self.hidden)
        self.previous = np.zeros(num_envs, np.int32)
        self.has_policy, self.combined_loss = actor.q_network.has_policy, actor.combined_loss
        self.taken = np.zeros((actor.num_losses, num_envs))  # values of the actions chosen last
        self.arms = [0] * num_envs
        self.greedy = [False] * num_envs
        self.episodes = [0] * num_envs

    def choose(self, timestep: TimeStep) -> None:
        """Bandits learn at LAST and draw at FIRST."""
        for e in range(self.num_envs):
            if timestep.step_type[e] == LAST and not self.greedy[e]:
                self.bandits[e // self.mode.group_size].record(self.arms[e], float(timestep.episode_return[e]))
        for e in range(self.num_envs):
            if timestep.step_type[e] != FIRST:
                continue
            turn = self.episodes[e] % (self.mode.bandit_episodes + self.mode.greedy_episodes)
            self.episodes[e] += 1
            self.greedy[e] = turn >= self.mode.bandit_episodes
            group = e // self.mode.group_size
            if self.mode.chooser is Chooser.FIXED:
                self.arms[e] = e % N
            elif self.greedy[e]:
                self.arms[e] = self.bandits[group].greedy_arm()
            else:
                self.arms[e] = self.bandits[group].start_episode(group, self.mode.ucb_bonus)

    def act(self, timestep: TimeStep, actual_arms: np.ndarray, actual_actions: np.ndarray) -> Expected:
        """One timestep. Where chance decides, in uniform arms and actions, the fleet follows what the act step did."""
        self.choose(timestep)
        expected_arms = list(self.arms)
        self.arms = [int(arm) for arm in actual_arms]
        observation, is_first, kind = timestep.observation, timestep.step_type == FIRST, self.novelty.reward
        episodic = alpha = rewards = [0.0] * self.num_envs
        if kind is IntrinsicReward.NGU:
            episodic, alpha = self.episodic(observation, is_first), self.lifelong(observation)[1]
            rewards = [intrinsic_reward(r, a, self.novelty.max_factor) for r, a in zip(episodic, alpha, strict=True)]
        elif kind is IntrinsicReward.LIFELONG:
            errors, alpha = self.lifelong(observation)
            rewards = [distillation_reward(error, self.errors.standard_deviation()) for error in errors]
        given, self.hidden, self.cell = q_network.unroll(
            self.parameters.q,
            self.hidden,
            self.cell,
            observation[:, None],
            self.previous[:, None],
            timestep.reward[:, None],
            None if kind is IntrinsicReward.NONE else np.array(rewards)[:, None],
            np.array(self.arms)[:, None],
            is_first[:, None],
            A,
            N,
        )
        given = given[:, :, 0]
        if given.ndim == 4:  # heads for every policy
            given = np.stack([given[:, e, self.arms[e]] for e in range(self.num_envs)], axis=1)
        values = given[:-1] if self.has_policy else given
        self.previous = actual_actions
        combined = np.array([self.combine(values[:, e], self.arms[e]) for e in range(self.num_envs)])
        preferred = given[-1] if self.has_policy else combined
        ranked = np.sort(preferred, axis=1)
        best = np.argmax(preferred, axis=1)
        learnt = combined[None] if self.combined_loss else values
        td_error = [
            0.0
            if is_first[e]
            else self.td_error(e, float(timestep.reward[e]), rewards[e], float(timestep.discount[e]), learnt[:, e, best[e]])
            for e in range(self.num_envs)
        ]
        self.taken = learnt[:, np.arange(self.num_envs), actual_actions]
        return Expected(
            intrinsic_reward=rewards,
            episodic=episodic,
            alpha=alpha,
            arm=expected_arms,
            is_greedy=list(self.greedy),
            epsilon=[
                policy_family.actor_epsilon(e, self.mode.num_actors, self.mode.epsilon_base, self.mode.epsilon_alpha)
                for e in range(self.num_envs)
            ],
            values=values,
            greedy_action=list(best),
            td_error=td_error,
            gap=float(np.min(ranked[:, -1] - ranked[:, -2])),
        )

    def episodic(self, observation: np.ndarray, is_first: np.ndarray) -> list[float]:
        """Episodic rewards, after all actors' distances have entered the statistics."""
        n, embeddings = self.novelty, learner.embed(self.parameters.embedding, observation)
        nearest = []
        for e, memory in enumerate(self.memories):
            if is_first[e]:
                memory.reset()
            # A full memory has lost its oldest entry before the newest is compared with the rest.
            others = EpisodicMemory(n.memory_capacity)
            others.embeddings = memory.embeddings[-(n.memory_capacity - 1) :]
            nearest.append(others.nearest_squared_distances(embeddings[e], n.num_neighbours))
            memory.insert(embeddings[e])
        flat = [distance for distances in nearest for distance in distances]
        self.distances.update(flat, [True] * len(flat))
        kernel = n.kernel_epsilon, n.cluster_distance, n.pseudo_count, n.max_similarity
        return [episodic_reward(distances, self.distances.mean(), *kernel) for distances in nearest]

    def lifelong(self, observation: np.ndarray) -> tuple[list[float], list[float]]:
        """Distillation errors and life-long factors, after all actors' errors have entered the statistics."""
        errors = learner.distillation_error(self.parameters.predictor, self.parameters.random_target, observation)
        self.errors.update(errors, [True] * len(errors))
        return list(errors), [lifelong_factor(error, self.errors.mean(), self.errors.standard_deviation()) for error in errors]

    def td_error(self, e: int, extrinsic: float, intrinsic: float, discount: float, greedy_values: np.ndarray) -> float:
        """Size of the one-step error of the transition into this timestep, of all value functions together."""
        beta, discount = self.betas[self.arms[e]], float(self.gammas[self.arms[e]]) * discount
        rewards = [extrinsic, intrinsic] if len(greedy_values) == 2 else [extrinsic + beta * intrinsic]
        errors = [
            sequence_priority.one_step_error(before, reward, discount, after, value_transform.squash, value_transform.unsquash)
            for before, reward, after in zip(self.taken[:, e], rewards, greedy_values, strict=True)
        ]
        return abs(sequence_priority.mixed_error(errors, beta))

    def combine(self, values: np.ndarray, arm: int) -> np.ndarray:
        """Acting values [A] from [V, A]."""
        if len(values) == 1:
            return values[0]
        mix = value_transform.combine_unsquashed if self.squashed_mix else value_transform.combine
        return np.array([mix(e, i, self.betas[arm]) for e, i in zip(*values, strict=True)])


@functools.cache
def simulated(variant: str) -> tuple[Fleet, list[Expected]]:
    script, outputs = outputs_of(variant)
    fleet = Fleet(variant, NUM_ENVS[variant])
    expected = [fleet.act(timestep, out.experience.policy, out.experience.action) for timestep, out in zip(script, outputs, strict=True)]
    return fleet, expected


# Against the simulation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_rewards_values_and_probabilities_equal_the_simulations(variant: str) -> None:
    script, outputs = outputs_of(variant)
    fleet, expected = simulated(variant)
    kind = fleet.novelty.reward
    rewards = np.array([one.intrinsic_reward for one in expected])
    for t, (timestep, out, want) in enumerate(zip(script, outputs, expected, strict=True)):
        x = out.experience
        if kind is IntrinsicReward.NONE:
            assert x.intrinsic_reward is None
        else:
            np.testing.assert_allclose(x.intrinsic_reward, want.intrinsic_reward, rtol=2e-4, atol=1e-5, err_msg=f"act {t}")
        if kind is IntrinsicReward.NGU:
            assert not np.any(x.intrinsic_reward[timestep.step_type == FIRST])
        if actor_of(variant).td_transform is None:
            assert out.td_error is None and out.state.value is None
        else:
            np.testing.assert_allclose(out.td_error, want.td_error, rtol=1e-3, atol=2e-5, err_msg=f"act {t}")
        assert want.gap > 1e-5, "the simulation cannot tell the greedy action"
        greedy = x.action == np.array(want.greedy_action)
        epsilon = np.array(want.epsilon)
        np.testing.assert_allclose(x.behaviour_probability, epsilon / A + np.where(greedy, 1.0 - epsilon, 0.0), rtol=1e-5)
        for name, given in {"extrinsic_reward": "reward", "observation": "", "discount": "", "step_type": ""}.items():
            np.testing.assert_array_equal(getattr(x, name), getattr(timestep, given or name))
    inside = np.array([timestep.step_type != FIRST for timestep in script])
    if kind is IntrinsicReward.NGU:
        # The script must reach every branch: similar and novel states, clipped and unclipped factors.
        assert np.any(rewards[inside] == 0) and np.any(rewards[inside] > 0)
        alpha = np.array([one.alpha for one in expected])[inside & (rewards > 0)]
        assert np.any(alpha < 1) and np.any(alpha > 1.5) and np.any((alpha > 1) & (alpha < 1.5))
    elif kind is IntrinsicReward.LIFELONG:
        assert np.all(rewards > 0) and np.ptp(rewards) > 2  # in deviations of the error
    final = outputs[-1].state
    np.testing.assert_allclose(final.recurrent.hidden, fleet.hidden, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(final.recurrent.cell, fleet.cell, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(final.recurrent.previous_action, outputs[-1].experience.action)


@pytest.mark.parametrize("variant", ["training", "distillation alone"])
def test_running_statistics_are_those_of_all_actors_and_outlive_episodes(variant: str) -> None:
    fleet, _ = simulated(variant)
    statistics = outputs_of(variant)[1][-1].statistics
    pairs = [(statistics.distillation_error, fleet.errors)]
    if variant == "training":
        pairs.append((statistics.squared_distance, fleet.distances))
    else:
        assert statistics.squared_distance is None
    for found, wanted in pairs:
        np.testing.assert_allclose(found.weight, wanted.count(), rtol=1e-5)
        assert found.weight == 200, "the horizon must bind"
        np.testing.assert_allclose(found.mean, wanted.mean(), rtol=1e-4)
        np.testing.assert_allclose(lifelong_novelty.standard_deviation(found), wanted.standard_deviation(), rtol=1e-4)


def test_memory_holds_the_episode_so_far() -> None:
    script, outputs = outputs_of("training")
    fleet, _ = simulated("training")
    for timestep, out in zip(script, outputs, strict=True):
        # FIRST is the first entry, so there is one more than there were steps.
        np.testing.assert_array_equal(out.state.novelty.memory.inserted, timestep.episode_length + 1)
    capacity = fleet.novelty.memory_capacity
    inserted = outputs[-1].state.novelty.memory.inserted
    assert np.any(inserted > capacity) and np.any(inserted < capacity)
    for e, memory in enumerate(fleet.memories):
        held = outputs[-1].state.novelty.memory.embeddings[e, : min(inserted[e], capacity)]
        np.testing.assert_allclose(sorted(held.tolist()), sorted(memory.embeddings), rtol=1e-4, atol=1e-5)


def test_recurrent_state_and_values_are_those_of_an_unroll_over_the_stored_stream() -> None:
    actor, num_envs = actor_of("training"), 16
    outputs = outputs_of("training")[1]
    x = Experience(*(np.stack(field, axis=1) for field in zip(*(out.experience for out in outputs), strict=True)))
    previous = np.concatenate([np.zeros((num_envs, 1), np.int32), x.action[:, :-1]], axis=1)
    inputs = QInputs(x.observation, previous, x.extrinsic_reward, x.intrinsic_reward, x.policy, x.step_type == FIRST)
    values, hidden, cell = jax.jit(actor.q_network.unroll)(parameters("training").q, actor.q_network.initial_state(num_envs), inputs)
    np.testing.assert_allclose(outputs[-1].state.recurrent.hidden, hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[-1].state.recurrent.cell, cell, rtol=1e-5, atol=1e-5)
    taken = np.take_along_axis(np.asarray(values), x.action[None, :, :, None], axis=3)
    np.testing.assert_allclose(outputs[-1].metrics.action_value, taken.sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_are_sums_over_acts_and_over_episodes(variant: str) -> None:
    script, outputs = outputs_of(variant)
    _, expected = simulated(variant)
    num_envs = NUM_ENVS[variant]
    kind = parts(variant).settings.novelty.reward
    final = outputs[-1].metrics
    assert jax.tree.structure(final) == jax.tree.structure(actor_of(variant).init_metrics())
    found = {**final._asdict(), **final.episode_extras}
    for name in ("episode_extras", "novelty", "non_finite", "clean"):
        del found[name]
    assert set(final.non_finite) == set(final.clean) == set(actor_of(variant).checked_names)
    assert all(count == 0 for count in final.non_finite.values())
    assert all(timesteps == final.timesteps for timesteps in final.clean.values())
    if kind is not IntrinsicReward.NONE:
        found |= final.novelty._asdict()
        assert (found["episodic_reward"] is None) == (kind is IntrinsicReward.LIFELONG)
    total = {name: np.zeros(np.shape(value)) for name, value in found.items() if value is not None}
    actions: list[list[int]] = [[] for _ in range(num_envs)]
    novelty = [0.0] * num_envs
    for timestep, out, want in zip(script, outputs, expected, strict=True):
        for e in range(num_envs):
            action = int(out.experience.action[e])
            step_type = timestep.step_type[e]
            if step_type == FIRST:
                actions[e], novelty[e] = [], 0.0
            if step_type != LAST:
                actions[e].append(action)
            novelty[e] += want.intrinsic_reward[e]
            total["timesteps"] += 1
            total["steps"] += step_type != FIRST
            for name, value in (("intrinsic_reward", want.intrinsic_reward), ("episodic_reward", want.episodic), ("alpha", want.alpha)):
                if name in total:
                    total[name] += value[e]
            total["action_value"] += want.values[:, e, action]
            if step_type == LAST:
                arm = int(out.experience.policy[e])
                total["episodes"] += 1
                total["truncations"] += timestep.discount[e] == 1
                total["episode_return"] += timestep.episode_return[e]
                total["episode_length"] += len(actions[e])
                if "episode_intrinsic_return" in total:
                    total["episode_intrinsic_return"] += novelty[e]
                for name, extra in timestep.extras.items():
                    total[name] += extra[e]
                total["action_ratio"] += np.bincount(actions[e], minlength=A) / len(actions[e])
                total["arm_pulls"][arm] += 1
                total["arm_return"][arm] += timestep.episode_return[e]
    for name, value in total.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-3, err_msg=name)
    assert total.keys() == {name for name, value in found.items() if value is not None} and {"height", "width"} < total.keys()
    assert 0 < total["truncations"] < total["episodes"]


def test_reports_name_the_episodes_that_end() -> None:
    script, outputs = outputs_of("evaluation")
    _, expected = simulated("evaluation")
    for timestep, out, want in zip(script, outputs, expected, strict=True):
        np.testing.assert_array_equal(out.report.finished, timestep.step_type == LAST)
        np.testing.assert_array_equal(out.report.is_greedy, want.is_greedy)
        np.testing.assert_array_equal(out.report.policy, out.experience.policy)
        np.testing.assert_array_equal(out.report.episode_return, timestep.episode_return)
        np.testing.assert_array_equal(out.report.episode_length, timestep.episode_length)
        jax.tree.map(np.testing.assert_array_equal, out.report.extras, timestep.extras)


# Policies ---------------------------------------------------------------------------------------------------------------------------


def bandit_content(state: Any, index: int, window: int) -> list[tuple[int, float]]:
    """The episodes in one bandit's window, oldest first."""
    recorded = int(state.bandit.recorded[index])
    order = [k % window for k in range(max(0, recorded - window), recorded)]
    return [(int(state.bandit.arms[index, slot]), float(state.bandit.returns[index, slot])) for slot in order]


def test_bandits_learn_at_last_and_draw_at_first() -> None:
    script, outputs = outputs_of("training")
    fleet, expected = simulated("training")
    draws = uniform = 0
    starts = [0] * len(fleet.bandits)
    before = np.zeros(16, np.int32)
    for timestep, out, want in zip(script, outputs, expected, strict=True):
        found, first = out.experience.policy, timestep.step_type == FIRST
        np.testing.assert_array_equal(found[~first], before[~first])  # an arm stays for the episode
        for e in np.flatnonzero(first):
            starts[e // 2] += 1
            if starts[e // 2] <= N:
                assert found[e] == want.arm[e]  # every arm once before chance has a say
            else:
                draws += 1
                uniform += found[e] != want.arm[e]
        before = found
    # A uniform arm, with probability 0.3, is another than the best with (N - 1) / N.
    share = 0.3 * (N - 1) / N
    assert draws > 80
    assert abs(uniform / draws - share) < 4 * np.sqrt(share * (1 - share) / draws)
    final = outputs[-1].state
    for index, bandit in enumerate(fleet.bandits):
        assert bandit_content(final, index, 8) == list(bandit.episodes)
        assert final.bandit.started[index] == bandit.started
    assert np.all(final.bandit.recorded > 8), "the window must slide"


@pytest.mark.parametrize("variant", ["training", "evaluation"])
def test_first_episodes_cover_all_arms_over_the_fleet(variant: str) -> None:
    arms = outputs_of(variant)[1][0].experience.policy
    assert set(arms.tolist()) == set(range(N))


def test_bandit_and_greedy_episodes_alternate_in_evaluation() -> None:
    script, outputs = outputs_of("evaluation")
    fleet, expected = simulated("evaluation")
    mode = actor_of("evaluation").mode
    assert (mode.bandit_episodes, mode.greedy_episodes, mode.group_size, mode.num_actors) == (1, 2, 8, 8)
    kinds: list[list[bool]] = [[] for _ in range(8)]
    for timestep, out, want in zip(script, outputs, expected, strict=True):
        np.testing.assert_array_equal(out.experience.policy, want.arm)  # without exploration chance decides nothing
        np.testing.assert_array_equal(out.state.is_greedy, want.is_greedy)
        for e in np.flatnonzero(timestep.step_type == FIRST):
            kinds[e].append(bool(out.state.is_greedy[e]))
        np.testing.assert_allclose(want.epsilon, 0.01)
    assert all(kind == [k % 3 != 0 for k in range(len(kind))] and len(kind) > 6 for kind in kinds)
    # Only bandit episodes teach.
    final = outputs[-1].state
    taught = sum(int(np.sum((timestep.step_type == LAST) & ~out.state.is_greedy)) for timestep, out in zip(script, outputs, strict=True))
    assert taught == final.bandit.recorded[0] < outputs[-1].metrics.episodes
    assert bandit_content(final, 0, 9) == list(fleet.bandits[0].episodes)


@pytest.mark.parametrize(("counts", "arm"), [([1.0, 40.0, 2.0, 0.0], 1), ([0.0] * N, None)])
def test_greedy_episodes_play_what_the_actors_bandits_say(counts: list[float], arm: int | None) -> None:
    """Whatever the evaluator's own bandit has seen; as long as the actors' have seen nothing, it is asked as ever."""
    pooled = PooledArms(np.array(counts, np.float32), np.array([5.0, 4.0, 3.0, 0.0], np.float32), np.float32(2.0))
    script, outputs = outputs_of("evaluation")
    asked = run_script("evaluation", script, pooled=pooled)
    played = np.array([out.experience.policy for out in asked])
    greedy = np.array([out.state.is_greedy for out in asked])
    if arm is None:
        np.testing.assert_array_equal(played, [out.experience.policy for out in outputs])
    else:
        assert greedy.any() and np.all(played[greedy] == arm)
        own = np.array([out.experience.policy for out in outputs])
        assert np.any(own[greedy] != arm), "the evaluator's own bandit must have another opinion"
    # The bandit's episodes go on, and teach it alone.
    assert asked[-1].state.bandit.recorded[0] == outputs[-1].state.bandit.recorded[0]


def test_evaluation_has_the_papers_blocks_by_default() -> None:
    mode = programs.build(make_settings({"evaluation.greedy_episodes": Settings().evaluation.greedy_episodes}), SPEC).evaluation_actor.mode
    assert (mode.bandit_episodes, mode.greedy_episodes, mode.epsilon_base, mode.epsilon_alpha) == (1, 5, 0.01, 0.0)


def test_fixed_policies_are_dealt_over_the_fleet_and_never_change() -> None:
    for out in outputs_of("fixed policies, one network")[1]:
        np.testing.assert_array_equal(out.experience.policy, np.arange(16) % N)


# Chance -----------------------------------------------------------------------------------------------------------------------------


def test_actions_have_the_frequencies_of_their_probabilities() -> None:
    acts = 400
    script = make_script(16, acts, seed=3)
    outputs = run_script("training", script, seed=11)
    probability = np.array([out.experience.behaviour_probability for out in outputs])  # [acts, E]
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
    _, outputs = outputs_of("training")
    _, expected = simulated("training")
    pairs = np.zeros((A, A), int)  # [greedy, taken]
    for out, want in zip(outputs, expected, strict=True):
        np.add.at(pairs, (np.array(want.greedy_action), out.experience.action), 1)
    explored = pairs.sum() - np.trace(pairs)
    assert explored > 150
    for greedy in range(A):
        first, second = np.delete(pairs[greedy], greedy)
        assert abs(first - second) <= 3.5 * np.sqrt(first + second)


def test_the_same_key_repeats_and_another_does_not() -> None:
    script = make_script(16)[:6]
    one, other = (np.array([out.experience.action for out in run_script("training", script, seed=seed)]) for seed in (7, 8))
    np.testing.assert_array_equal(one, [out.experience.action for out in outputs_of("training")[1][:6]])
    assert np.any(one != other)


# Devices ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "num_devices"), [("training", 2), ("training", 4), ("training", 8), ("distillation alone", 4)])
def test_results_do_not_depend_on_the_number_of_devices(variant: str, num_devices: int) -> None:
    script, expected = outputs_of(variant)
    found = run_script(variant, script, num_devices)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.experience.action, other.experience.action)
        np.testing.assert_array_equal(one.experience.policy, other.experience.policy)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)


def test_results_do_not_depend_on_who_else_is_in_the_batch() -> None:
    # At FIRST nothing is shared yet, so what an actor does depends on its number alone.
    script, outputs = outputs_of("training")
    whole = outputs[0].experience
    half = jax.tree.map(lambda leaf: leaf[8:], script[0])
    x = run_script("training", [half], first_actor=8)[0].experience
    np.testing.assert_array_equal(x.action, whole.action[8:])
    np.testing.assert_array_equal(x.policy, whole.policy[8:])
    np.testing.assert_allclose(x.behaviour_probability, whole.behaviour_probability[8:], rtol=1e-6)
