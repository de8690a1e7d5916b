"""The act step of all environments: novelty, bandit, recurrent Q step, action (Agent57 §3, App. D; NGU Alg. 1).

Training and evaluation use the same step and differ in `ActingMode`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from agent57_jax import parallel
from agent57_jax.agent.novelty import ActingEmbeddings, Novelty, NoveltyMetrics, NoveltyOutput, NoveltyState, NoveltyStatistics
from agent57_jax.algorithm import meta_controller, policy_family
from agent57_jax.algorithm.error_scale import acting_scale
from agent57_jax.algorithm.intrinsic_reward import return_discounts, rewards_of_values
from agent57_jax.algorithm.meta_controller import BanditState, PooledArms
from agent57_jax.algorithm.policy_family import PolicyFamily
from agent57_jax.algorithm.sequence_priority import mixed_errors, one_step_error
from agent57_jax.algorithm.value_transform import SQUASHED, ValueTransform, combine_action_values
from agent57_jax.config import Chooser, Combination
from agent57_jax.networks.q_network import QInputs, QNetwork
from agent57_jax.types import FIRST, LAST, ActingParameters, Experience, RecurrentState, TimeStep


class ActorState(NamedTuple):
    """State of the actors between timesteps."""

    actor: jax.Array  # [E] int32, l, over all groups and devices
    recurrent: RecurrentState  # [E, ...]
    policy: jax.Array  # [E] int32, j of this episode
    episodes_started: jax.Array  # [E] int32
    is_greedy: jax.Array  # [E] bool, this episode plays the best arm, for the score, and does not update the bandit
    novelty: NoveltyState | None  # [E, ...]; None without intrinsic reward
    bandit: BanditState | None  # [E / group_size, ...]; None with fixed policies
    action_counts: jax.Array  # [E, A] int32, in this episode
    value: jax.Array | None  # [E, L] of the last action; None if no TD errors are computed


class ActMetrics(NamedTuple):
    """Sums over all acts since the last report, over all devices."""

    timesteps: jax.Array  # scalar
    steps: jax.Array  # scalar, timesteps that are not FIRST
    action_value: jax.Array  # [V] sum over timesteps of Q at the action taken
    episodes: jax.Array  # scalar, finished
    truncations: jax.Array  # scalar, truncated episodes
    episode_return: jax.Array  # scalar, sum over finished episodes
    episode_length: jax.Array  # scalar, sum over finished episodes, agent steps
    episode_extras: dict[str, jax.Array]  # scalars, sums of the environment's further numbers over finished episodes
    action_ratio: jax.Array  # [A] sum over finished episodes of the share of each action
    arm_pulls: jax.Array  # [N] finished episodes
    arm_return: jax.Array  # [N] sum over finished episodes
    novelty: NoveltyMetrics | None
    non_finite: dict[str, jax.Array]  # scalars, timesteps with a non-finite value, per checked quantity
    clean: dict[str, jax.Array]  # scalars, timesteps of all environments before the first of those


class EpisodeReport(NamedTuple):
    """Which episodes end at this timestep, and their numbers so far."""

    finished: jax.Array  # [E] bool
    is_greedy: jax.Array  # [E] bool
    policy: jax.Array  # [E] int32
    episode_return: jax.Array  # [E] float32
    episode_length: jax.Array  # [E] int32
    extras: dict[str, jax.Array]  # [E] float32 each


class ChosenValues(NamedTuple):
    """Transformed values of the chosen action."""

    separate: jax.Array  # [E, V] of every value function
    combined: jax.Array  # [E] what the policy maximises: Q^e and beta_j Q^i together
    learnt: jax.Array  # [E, L] of every value with a loss
    greedy: jax.Array  # [E, L] of those, at the greedy action


class ActOutput(NamedTuple):
    """Result of one act step."""

    state: ActorState
    statistics: NoveltyStatistics | None
    embeddings: ActingEmbeddings | None
    metrics: ActMetrics
    experience: Experience  # [E, ...]
    td_error: jax.Array | None  # [E] absolute TD error of the transition that led here, 0 at FIRST; None if not computed
    report: EpisodeReport
    chosen: ChosenValues


@dataclasses.dataclass(frozen=True)
class ActingMode:
    """The differences between training and evaluation; fields are named like the settings."""

    num_actors: int  # L, over all groups and devices
    epsilon_base: float
    epsilon_alpha: float
    chooser: Chooser
    window_episodes: int
    exploration: float
    ucb_bonus: float
    group_size: int
    bandit_episodes: int  # consecutive episodes that follow and update the bandit
    greedy_episodes: int  # episodes after those, on the best arm


@dataclasses.dataclass(frozen=True)
class Actor:
    """Networks, policies and mode of a fleet of actors."""

    mode: ActingMode
    family: PolicyFamily
    combination: Combination
    q_network: QNetwork
    novelty: Novelty | None  # None without intrinsic reward
    td_transform: ValueTransform | None = None  # h of the actors' TD errors; None: they compute none
    combined_loss: bool = False  # whether only the combined value has a loss

    @property
    def num_policies(self) -> int:
        """N."""
        return len(self.family.betas)

    @property
    def num_losses(self) -> int:
        """L."""
        return 1 if self.combined_loss else self.q_network.num_values

    @property
    def num_actions(self) -> int:
        """A."""
        return self.q_network.spec.num_actions

    def init_state(self, index: jax.Array) -> ActorState:
        """Actors [E] before their first timestep; `index`: their numbers in the fleet."""
        num_envs, bandit = index.shape[0], None
        if self.mode.chooser is not Chooser.FIXED:
            one = meta_controller.init_bandit(self.mode.window_episodes)
            bandit = jax.tree.map(lambda leaf: jnp.zeros((num_envs // self.mode.group_size, *leaf.shape), leaf.dtype), one)
        return ActorState(
            actor=index,
            recurrent=self.q_network.initial_state(num_envs),
            policy=jnp.zeros((num_envs,), jnp.int32),
            episodes_started=jnp.zeros((num_envs,), jnp.int32),
            is_greedy=jnp.zeros((num_envs,), bool),
            novelty=None if self.novelty is None else self.novelty.init_state(num_envs),
            bandit=bandit,
            action_counts=jnp.zeros((num_envs, self.num_actions), jnp.int32),
            value=None if self.td_transform is None else jnp.zeros((num_envs, self.num_losses), jnp.float32),
        )

    def init_statistics(self) -> NoveltyStatistics | None:
        """Statistics before the first timestep."""
        return None if self.novelty is None else self.novelty.init_statistics()

    def init_embeddings(self, num_groups: int) -> ActingEmbeddings | None:
        """Embedding parameters before the first episode."""
        return None if self.novelty is None else self.novelty.init_embeddings(num_groups)

    def init_metrics(self) -> ActMetrics:
        """Sums before the first act."""
        zero = jnp.zeros((), jnp.float32)
        return ActMetrics(
            timesteps=zero,
            steps=zero,
            action_value=jnp.zeros((self.q_network.num_values,), jnp.float32),
            episodes=zero,
            truncations=zero,
            episode_return=zero,
            episode_length=zero,
            episode_extras=dict.fromkeys(self.q_network.spec.extras, zero),
            action_ratio=jnp.zeros((self.num_actions,), jnp.float32),
            arm_pulls=jnp.zeros((self.num_policies,), jnp.float32),
            arm_return=jnp.zeros((self.num_policies,), jnp.float32),
            novelty=None if self.novelty is None else self.novelty.init_metrics(),
            non_finite=dict.fromkeys(self.checked_names, zero),
            clean=dict.fromkeys(self.checked_names, zero),
        )

    @property
    def checked_names(self) -> tuple[str, ...]:
        """Quantities that are checked for non-finite values, causes before effects."""
        of_novelty = () if self.novelty is None else ("novelty_statistics", "intrinsic_reward")
        return ("observation", "extrinsic_reward", *of_novelty, "action_values")

    def act(
        self,
        parameters: ActingParameters,
        state: ActorState,
        statistics: NoveltyStatistics | None,
        metrics: ActMetrics,
        timestep: TimeStep,
        key: jax.Array,
        embeddings: ActingEmbeddings | None = None,
        group: jax.Array | int = 0,
        pooled: PooledArms | None = None,
    ) -> ActOutput:
        """Processes a timestep and chooses actions.

        Args:
          timestep: every field [E, ...].
          key: the same on every device; each actor folds in its index, so that results do not depend on the number of devices.
          embeddings, group: as of `Novelty.step`.
          pooled: statistics of other bandits, which choose the arm of greedy episodes; None: their own bandit does.
        """
        is_first = timestep.step_type == FIRST
        is_last = timestep.step_type == LAST
        key_arm, key_action = jax.random.split(key)

        bandit = self._record(state, is_last, timestep)
        bandit, policy, episodes_started, is_greedy = self._choose_policies(state, bandit, is_first, key_arm, pooled)
        novelty = None
        if self.novelty is not None:
            assert state.novelty is not None and statistics is not None
            novelty = self.novelty.step(parameters, state.novelty, statistics, timestep.observation, is_first, is_last, embeddings, group)
        reward = None if novelty is None else novelty.reward
        recurrent, action, probability, chosen, values_are_finite = self._q_step(
            parameters, state, timestep, reward, policy, is_first, key_action
        )

        # Environments ignore the action at LAST, so it is not counted.
        counts = jnp.where(is_first[:, None], 0, state.action_counts)
        counts = counts + jnp.where(is_last[:, None], 0, jax.nn.one_hot(action, self.num_actions, dtype=jnp.int32))
        experience = Experience(
            observation=timestep.observation,
            action=action,
            extrinsic_reward=timestep.reward,
            intrinsic_reward=reward,
            behaviour_probability=probability,
            discount=timestep.discount,
            step_type=timestep.step_type,
            policy=policy,
        )
        finished = is_last.astype(jnp.float32)
        arms = jax.nn.one_hot(policy, self.num_policies) * finished[:, None]
        now = ActMetrics(
            timesteps=jnp.float32(is_first.shape[0]),
            steps=jnp.sum(~is_first).astype(jnp.float32),
            action_value=jnp.sum(chosen.separate, axis=0),
            episodes=jnp.sum(finished),
            truncations=jnp.sum(finished * timestep.discount),
            episode_return=jnp.sum(finished * timestep.episode_return),
            episode_length=jnp.sum(finished * timestep.episode_length),
            episode_extras={name: jnp.sum(finished * value) for name, value in timestep.extras.items()},
            action_ratio=jnp.sum(finished[:, None] * counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1), axis=0),
            arm_pulls=jnp.sum(arms, axis=0),
            arm_return=jnp.sum(arms * timestep.episode_return[:, None], axis=0),
            novelty=None if novelty is None else novelty.metrics,
            non_finite=_non_finite(timestep, values_are_finite, novelty),
            clean=dict.fromkeys(self.checked_names, jnp.zeros((), jnp.float32)),
        )
        now = parallel.sum_over_devices(now)
        clean = {name: jnp.where(metrics.non_finite[name] + bad > 0, 0.0, now.timesteps) for name, bad in now.non_finite.items()}
        return ActOutput(
            state=ActorState(
                actor=state.actor,
                recurrent=recurrent,
                policy=policy,
                episodes_started=episodes_started,
                is_greedy=is_greedy,
                novelty=None if novelty is None else novelty.state,
                bandit=bandit,
                action_counts=counts,
                value=None if self.td_transform is None else chosen.learnt,
            ),
            statistics=None if novelty is None else novelty.statistics,
            embeddings=None if novelty is None else novelty.embeddings,
            metrics=jax.tree.map(jnp.add, metrics, now._replace(clean=clean)),
            experience=experience,
            td_error=self._td_error(parameters, state, timestep, reward, policy, is_first, chosen),
            report=EpisodeReport(is_last, is_greedy, policy, timestep.episode_return, timestep.episode_length, timestep.extras),
            chosen=chosen,
        )

    def _by_bandit(self, per_env: jax.Array) -> jax.Array:
        """[E, ...] -> [E / group_size, group_size, ...]."""
        return per_env.reshape((-1, self.mode.group_size, *per_env.shape[1:]))

    def _record(self, state: ActorState, is_last: jax.Array, timestep: TimeStep) -> BanditState | None:
        """Updates the bandits with finished non-greedy episodes."""
        if state.bandit is None or not self.mode.bandit_episodes:
            return state.bandit
        taught = self._by_bandit(is_last & ~state.is_greedy)
        return jax.vmap(meta_controller.record_returns)(
            state.bandit, taught, self._by_bandit(state.policy), self._by_bandit(timestep.episode_return)
        )

    def _choose_policies(
        self, state: ActorState, bandit: BanditState | None, is_first: jax.Array, key: jax.Array, pooled: PooledArms | None
    ) -> tuple[BanditState | None, jax.Array, jax.Array, jax.Array]:
        """Bandits, policies [E], started episodes [E] and `is_greedy` [E] after the choices for episodes that start here."""
        mode = self.mode
        turn = state.episodes_started % (mode.bandit_episodes + mode.greedy_episodes)
        is_greedy = jnp.where(is_first, turn >= mode.bandit_episodes, state.is_greedy)
        episodes_started = state.episodes_started + is_first
        if bandit is None:
            # Without a bandit the score is that of the exploitative policy.
            return bandit, jnp.where(is_greedy, 0, state.actor % self.num_policies), episodes_started, is_greedy

        # Few episodes start at any timestep, so the windows are seldom read.
        bandit, arms = jax.lax.cond(
            jnp.any(is_first),
            lambda bandit: self._choose_arms(bandit, state.actor, is_first, is_greedy, key, pooled),
            lambda bandit: (bandit, state.policy),
            bandit,
        )
        return bandit, jnp.where(is_first, arms, state.policy), episodes_started, is_greedy

    def _choose_arms(
        self,
        bandit: BanditState,
        actor: jax.Array,
        is_first: jax.Array,
        is_greedy: jax.Array,
        key: jax.Array,
        pooled: PooledArms | None,
    ) -> tuple[BanditState, jax.Array]:
        """Bandits after their choices, and arms [E], which are valid where an episode starts."""
        mode = self.mode
        first_actor = self._by_bandit(actor)[:, 0]
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(first_actor)
        starting = self._by_bandit(is_first & ~is_greedy)
        arms, chosen = jax.vmap(
            lambda key, one, starting, first: meta_controller.select_arms(
                key, one, starting, first, self.num_policies, mode.exploration, mode.ucb_bonus
            )
        )(keys, bandit, starting, first_actor // mode.group_size)
        best = jax.vmap(lambda one: meta_controller.greedy_arm(one, self.num_policies))(bandit)
        if pooled is not None:
            best = jnp.where(jnp.sum(pooled.counts) > 0, meta_controller.reliable_arm(pooled), best)
        return chosen, jnp.where(is_greedy, jnp.repeat(best, mode.group_size), arms.reshape(-1))

    def _q_step(
        self,
        parameters: ActingParameters,
        state: ActorState,
        timestep: TimeStep,
        reward: jax.Array | None,
        policy: jax.Array,
        is_first: jax.Array,
        key: jax.Array,
    ) -> tuple[RecurrentState, jax.Array, jax.Array, ChosenValues, jax.Array]:
        """Next recurrent state, epsilon-greedy actions [E], their probabilities [E] and values, and [E] whether all values are finite."""
        inputs = QInputs(timestep.observation, state.recurrent.previous_action, timestep.reward, reward, policy, is_first)
        inputs = jax.tree.map(lambda leaf: leaf[:, None], inputs)
        outputs, hidden, cell = self.q_network.unroll(parameters.q, state.recurrent, inputs)
        outputs = self.q_network.of_policy(outputs, inputs.policy)[:, :, 0]  # [R, E, A]
        values = outputs[:-1] if self.q_network.has_policy else outputs  # [V, E, A]
        combined = values[0]
        if self.q_network.num_values == 2:
            transform = SQUASHED if self.combination is Combination.SQUASHED else None
            combined = combine_action_values(values[0], values[1], jnp.asarray(self.family.betas)[policy], transform)
        epsilon = policy_family.actor_epsilons(state.actor, self.mode.num_actors, self.mode.epsilon_base, self.mode.epsilon_alpha)
        preferred = outputs[-1] if self.q_network.has_policy else combined
        probabilities = policy_family.epsilon_greedy_probabilities(preferred, epsilon)

        def draw(index: jax.Array, greedy: jax.Array, epsilon: jax.Array) -> jax.Array:
            key_explore, key_uniform = jax.random.split(jax.random.fold_in(key, index))
            explore = jax.random.uniform(key_explore) < epsilon
            return jnp.where(explore, jax.random.randint(key_uniform, (), 0, self.num_actions), greedy)

        best = jnp.argmax(preferred, axis=-1).astype(jnp.int32)
        action = jax.vmap(draw)(state.actor, best, epsilon)
        probability = jnp.take_along_axis(probabilities, action[:, None], axis=1)[:, 0]
        separate = jnp.take_along_axis(values, action[None, :, None], axis=2)[:, :, 0].T
        of_action = jnp.take_along_axis(combined, action[:, None], axis=1)[:, 0]
        chosen = ChosenValues(
            separate=separate,
            combined=of_action,
            learnt=of_action[:, None] if self.combined_loss else separate,
            greedy=jnp.take_along_axis(combined[None] if self.combined_loss else values, best[None, :, None], axis=2)[:, :, 0].T,
        )
        return RecurrentState(hidden, cell, action), action, probability, chosen, jnp.all(jnp.isfinite(outputs), axis=(0, 2))

    def _td_error(
        self,
        parameters: ActingParameters,
        state: ActorState,
        timestep: TimeStep,
        reward: jax.Array | None,
        policy: jax.Array,
        is_first: jax.Array,
        chosen: ChosenValues,
    ) -> jax.Array | None:
        """Absolute one-step error [E] of the transition into this timestep, mixed over value functions as in the learner."""
        if self.td_transform is None or state.value is None:
            return None
        beta, gamma = jnp.asarray(self.family.betas)[policy], jnp.asarray(self.family.gammas)[policy]
        rewards = rewards_of_values(timestep.reward, reward, beta, self.num_losses)
        ends_with_episode = self.novelty is None or self.novelty.settings.ends_with_episode
        discount = return_discounts(gamma, timestep.discount, self.num_losses, ends_with_episode)
        errors = one_step_error(state.value.T, rewards, discount, chosen.greedy.T, self.td_transform)
        if parameters.error_variance is not None:
            errors = errors / acting_scale(parameters.error_variance)[:, policy]
        return jnp.where(is_first, 0.0, jnp.abs(mixed_errors(errors, beta)))


def _non_finite(timestep: TimeStep, values_are_finite: jax.Array, novelty: NoveltyOutput | None) -> dict[str, jax.Array]:
    """Number of local rows with a non-finite value, per checked quantity."""

    def rows(leaf: jax.Array) -> jax.Array:
        return jnp.sum(~jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)).astype(jnp.float32)

    is_image = jnp.issubdtype(timestep.observation.dtype, jnp.integer)
    found = {
        "observation": jnp.zeros((), jnp.float32) if is_image else rows(timestep.observation),
        "extrinsic_reward": rows(timestep.reward),
        "action_values": jnp.sum(~values_are_finite).astype(jnp.float32),
    }
    if novelty is not None:
        moments = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(novelty.statistics)])
        found["intrinsic_reward"] = rows(novelty.reward)
        found["novelty_statistics"] = jnp.where(jnp.all(moments), 0.0, jnp.float32(timestep.reward.shape[0]))
    return found
