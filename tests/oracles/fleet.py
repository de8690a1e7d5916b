"""Twin of the act step: a fleet in plain Python, with lists as memories, one bandit an object and statistics over all values so far."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agent57_jax.agent.actor import Actor
from agent57_jax.config import Chooser, Combination, IntrinsicReward, Settings
from agent57_jax.types import FIRST, LAST, ActingParameters, TimeStep
from tests.oracles import learner, policy_family, q_network, sequence_priority, value_transform
from tests.oracles.episodic_novelty import EpisodicMemory, episodic_reward
from tests.oracles.intrinsic_reward import intrinsic_reward
from tests.oracles.lifelong_novelty import RunningMoments, distillation_reward, lifelong_factor
from tests.oracles.meta_controller import Bandit


class Expected(NamedTuple):
    """What the fleet says about one act, or a sequence of acts; per environment. Without intrinsic reward the first three are 0."""

    intrinsic_reward: Any
    episodic: Any
    alpha: Any
    arm: Any  # when chance does not decide
    is_greedy: Any  # episode
    epsilon: Any
    values: Any  # [V, E, A]
    greedy_action: Any
    td_error: Any  # of the transition that led here; 0 at FIRST
    gap: Any  # smallest distance between the best and the second action's value, of all environments


class Fleet:
    """Actors 0 to `num_envs` - 1 of a mode, with its networks' parameters in float64."""

    def __init__(self, actor: Actor, settings: Settings, parameters: ActingParameters, num_envs: int) -> None:
        self.mode, self.novelty, self.num_envs, self.num_policies = actor.mode, settings.novelty, num_envs, actor.num_policies
        self.num_actions, self.has_policy, self.combined_loss = actor.num_actions, actor.q_network.has_policy, actor.combined_loss
        self.squashed_mix = settings.policy.combination is Combination.SQUASHED
        self.betas = [policy_family.intrinsic_beta(j, self.num_policies, settings.policy.beta_max) for j in range(self.num_policies)]
        self.gammas = actor.family.gammas.astype(np.float64)
        self.parameters = ActingParameters(*(learner.to_float64(part) for part in parameters))
        self.memories = [EpisodicMemory(self.novelty.memory_capacity) for _ in range(num_envs)]
        self.distances, self.errors = (RunningMoments(self.novelty.statistics_horizon) for _ in range(2))
        self.bandits = [Bandit(self.mode.window_episodes, self.num_policies) for _ in range(num_envs // self.mode.group_size)]
        self.hidden = np.zeros((num_envs, actor.q_network.num_networks, settings.network.lstm_size))
        self.cell = np.zeros_like(self.hidden)
        self.previous = np.zeros(num_envs, np.int32)
        self.taken = np.zeros((actor.num_losses, num_envs))  # values of the actions chosen last
        self.arms, self.greedy, self.episodes = [0] * num_envs, [False] * num_envs, [0] * num_envs

    def choose(self, timestep: TimeStep) -> None:
        """Bandits learn at LAST and draw at FIRST."""
        mode = self.mode
        for e in np.flatnonzero(timestep.step_type == LAST):
            if not self.greedy[e]:
                self.bandits[e // mode.group_size].record(self.arms[e], float(timestep.episode_return[e]))
        for e in np.flatnonzero(timestep.step_type == FIRST):
            turn = self.episodes[e] % (mode.bandit_episodes + mode.greedy_episodes)
            self.episodes[e] += 1
            self.greedy[e] = turn >= mode.bandit_episodes
            group = int(e) // mode.group_size
            if mode.chooser is Chooser.FIXED:
                self.arms[e] = int(e) % self.num_policies
            elif self.greedy[e]:
                self.arms[e] = self.bandits[group].greedy_arm()
            else:
                self.arms[e] = self.bandits[group].start_episode(group, mode.ucb_bonus)

    def act(self, timestep: TimeStep, actual_arms: np.ndarray, actual_actions: np.ndarray) -> Expected:
        """One timestep. Where chance decides, in uniform arms and actions, the fleet follows what the act step did."""
        self.choose(timestep)
        expected_arms = list(self.arms)
        self.arms = [int(arm) for arm in actual_arms]
        environments, is_first = range(self.num_envs), timestep.step_type == FIRST
        rewards, episodic, alpha = self.rewards(timestep.observation, is_first)
        outputs = self.unroll(timestep, None if self.novelty.reward is IntrinsicReward.NONE else np.array(rewards)[:, None])
        values = outputs[:-1] if self.has_policy else outputs
        combined = np.array([self.combine(values[:, e], self.arms[e]) for e in environments])
        preferred = outputs[-1] if self.has_policy else combined
        ranked, best = np.sort(preferred, axis=1), np.argmax(preferred, axis=1)
        learnt = combined[None] if self.combined_loss else values
        td_error = [
            0.0 if is_first[e] else self.td_error(e, timestep.reward[e], rewards[e], timestep.discount[e], learnt[:, e, best[e]])
            for e in environments
        ]
        self.previous, self.taken = actual_actions, learnt[:, np.arange(self.num_envs), actual_actions]
        schedule = self.mode.num_actors, self.mode.epsilon_base, self.mode.epsilon_alpha
        epsilon = [policy_family.actor_epsilon(e, *schedule) for e in environments]
        gap = np.min(ranked[:, -1] - ranked[:, -2])
        return Expected(rewards, episodic, alpha, expected_arms, list(self.greedy), epsilon, values, best, td_error, gap)

    def unroll(self, timestep: TimeStep, rewards: np.ndarray | None) -> np.ndarray:
        """What the networks say under each actor's policy [R, E, A]; the recurrent state goes on."""
        is_first, arms = (timestep.step_type == FIRST)[:, None], np.array(self.arms)[:, None]
        inputs = timestep.observation[:, None], self.previous[:, None], timestep.reward[:, None], rewards, arms, is_first
        sizes = self.num_actions, self.num_policies
        outputs, self.hidden, self.cell = q_network.unroll(self.parameters.q, self.hidden, self.cell, *inputs, *sizes)
        outputs = outputs[:, :, 0]
        if outputs.ndim == 4:  # heads for every policy
            outputs = np.stack([outputs[:, e, arm] for e, arm in enumerate(self.arms)], axis=1)
        return outputs

    def rewards(self, observation: np.ndarray, is_first: np.ndarray) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
        """Intrinsic rewards, their episodic part and the life-long factors."""
        nothing = [0.0] * self.num_envs
        if self.novelty.reward is IntrinsicReward.NONE:
            return nothing, nothing, nothing
        errors = learner.distillation_error(self.parameters.predictor, self.parameters.random_target, observation)
        self.errors.update(errors, [True] * len(errors))
        mean, deviation = self.errors.mean(), self.errors.standard_deviation()
        alpha = [lifelong_factor(error, mean, deviation) for error in errors]
        if self.novelty.reward is IntrinsicReward.LIFELONG:
            return [distillation_reward(error, deviation) for error in errors], nothing, alpha
        episodic = self.episodic(observation, is_first)
        return [intrinsic_reward(r, a, self.novelty.max_factor) for r, a in zip(episodic, alpha, strict=True)], episodic, alpha

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

    def td_error(self, e: int, extrinsic: float, intrinsic: float, discount: float, greedy_values: np.ndarray) -> float:
        """Size of the one-step error of the transition into this timestep, of all value functions together."""
        beta, discount = self.betas[self.arms[e]], float(self.gammas[self.arms[e]]) * float(discount)
        rewards = [extrinsic, intrinsic] if len(greedy_values) == 2 else [extrinsic + beta * intrinsic]
        errors = [
            sequence_priority.one_step_error(before, float(reward), discount, after, value_transform.squash, value_transform.unsquash)
            for before, reward, after in zip(self.taken[:, e], rewards, greedy_values, strict=True)
        ]
        return abs(sequence_priority.mixed_error(errors, beta))

    def combine(self, values: np.ndarray, arm: int) -> np.ndarray:
        """Acting values [A] from [V, A]."""
        if len(values) == 1:
            return values[0]
        mix = value_transform.combine_unsquashed if self.squashed_mix else value_transform.combine
        return np.array([mix(e, i, self.betas[arm]) for e, i in zip(*values, strict=True)])
