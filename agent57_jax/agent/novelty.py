"""The actors' intrinsic reward: networks, episodic memory and running statistics (NGU §2, Alg. 1).

Parts that an agent lacks are None everywhere, and cost nothing.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agent57_jax import parallel
from agent57_jax.algorithm import episodic_novelty, lifelong_novelty
from agent57_jax.algorithm.episodic_novelty import EpisodicMemory
from agent57_jax.algorithm.intrinsic_reward import intrinsic_reward
from agent57_jax.algorithm.lifelong_novelty import RunningMoments
from agent57_jax.config import Embedding, NoveltySettings
from agent57_jax.networks.distillation import DistillationNetwork
from agent57_jax.networks.embedding import EmbeddingNetwork
from agent57_jax.types import ActingParameters


class NoveltyState(NamedTuple):
    """State of novelty between timesteps."""

    memory: EpisodicMemory | None  # [E, ...]; None without episodic novelty
    generation: jax.Array | None  # [E] int32, of this episode's embedding; None if no embedding is learnt
    intrinsic_return: jax.Array  # [E] float32, sum of r^i over this episode


class ActingEmbeddings(NamedTuple):
    """Two generations of embedding parameters: an episode keeps those with which it began (NGU Table 6: "once/episode").

    Distances between embeddings by different parameters are meaningless: every state would appear new.
    """

    old: Any  # parameters of older episodes
    new: Any  # parameters of episodes that begin now
    number: jax.Array  # scalar int32, generation of `new`
    users_of_old: jax.Array  # [G] int32, actors of each group, over all devices


class NoveltyStatistics(NamedTuple):
    """Running statistics over all actors, equal on every device."""

    squared_distance: RunningMoments | None  # to the nearest memories; the mean is d_m^2; None without episodic novelty
    distillation_error: RunningMoments  # mean and deviation are mu_err and sigma_err


class NoveltyMetrics(NamedTuple):
    """Sums over acts."""

    intrinsic_reward: jax.Array  # scalar, sum over timesteps
    episodic_reward: jax.Array | None  # scalar, sum over timesteps; None without episodic novelty
    alpha: jax.Array  # scalar, sum over timesteps, before clipping
    episode_intrinsic_return: jax.Array  # scalar, sum over episodes


class NoveltyOutput(NamedTuple):
    """Result of one step."""

    state: NoveltyState
    statistics: NoveltyStatistics
    embeddings: ActingEmbeddings | None
    reward: jax.Array  # [E] r^i_t
    metrics: NoveltyMetrics  # of this device


@dataclasses.dataclass(frozen=True)
class Novelty:
    """Networks and settings of the intrinsic reward."""

    settings: NoveltySettings
    embedding: EmbeddingNetwork | None  # None: only random network distillation
    distillation: DistillationNetwork

    @property
    def _learns_embedding(self) -> bool:
        return self.embedding is not None and self.settings.embedding is Embedding.LEARNT

    def init_state(self, num_envs: int) -> NoveltyState:
        """Actors before their first timestep."""
        settings = self.settings
        memory = None
        if self.embedding is not None:
            memory = episodic_novelty.init_memory(num_envs, settings.memory_capacity, settings.embedding_size)
        generation = jnp.zeros((num_envs,), jnp.int32) if self._learns_embedding else None
        return NoveltyState(memory, generation, jnp.zeros((num_envs,), jnp.float32))

    def init_embeddings(self, num_groups: int) -> ActingEmbeddings | None:
        """Placeholders until the first act copies the learner's parameters; None if no embedding is learnt."""
        if self.embedding is None or not self._learns_embedding:
            return None
        shapes = jax.eval_shape(self.embedding.init, jax.random.key(0))["embedding"]
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return ActingEmbeddings(none, none, jnp.zeros((), jnp.int32), jnp.zeros((num_groups,), jnp.int32))

    def init_statistics(self) -> NoveltyStatistics:
        """Statistics before the first timestep."""
        moments = lifelong_novelty.init_moments()
        return NoveltyStatistics(None if self.embedding is None else moments, moments)

    def init_metrics(self) -> NoveltyMetrics:
        """Sums before the first act."""
        zero = jnp.zeros((), jnp.float32)
        return NoveltyMetrics(zero, None if self.embedding is None else zero, zero, zero)

    def step(
        self,
        parameters: ActingParameters,
        state: NoveltyState,
        statistics: NoveltyStatistics,
        observation: jax.Array,
        is_first: jax.Array,
        is_last: jax.Array,
        embeddings: ActingEmbeddings | None = None,
        group: jax.Array | int = 0,
    ) -> NoveltyOutput:
        """Updates memory and statistics with a timestep and computes the reward for reaching it.

        Observations are [E, *observation_shape], `is_first` and `is_last` [E] bool. If `embeddings` is None, all episodes use
        `parameters.embedding`, which must then never change. `group` is the number of this group of actors.
        """
        settings = self.settings
        error = self.distillation.error(parameters.predictor, parameters.random_target, observation)
        # All devices see all errors, so that their statistics are equal, and independent of the number of devices.
        all_errors = parallel.gather_over_devices(error)
        errors = lifelong_novelty.update_moments(
            statistics.distillation_error, all_errors, jnp.ones_like(all_errors), settings.statistics_horizon
        )
        alpha = lifelong_novelty.lifelong_factor(error, errors)
        memory = generation = distances = episodic = None
        if self.embedding is None:
            reward = lifelong_novelty.distillation_reward(error, errors)
        else:
            assert state.memory is not None and statistics.squared_distance is not None
            generation, embeddings, embedding = self._embed(
                parameters.embedding, state.generation, embeddings, observation, is_first, group
            )
            memory, distances, episodic = self._episodic(embedding, state.memory, statistics.squared_distance, is_first)
            reward = intrinsic_reward(episodic, alpha, settings.max_factor)
        intrinsic_return = jnp.where(is_first, 0.0, state.intrinsic_return) + reward
        metrics = NoveltyMetrics(
            intrinsic_reward=jnp.sum(reward),
            episodic_reward=None if episodic is None else jnp.sum(episodic),
            alpha=jnp.sum(alpha),
            episode_intrinsic_return=jnp.sum(is_last * intrinsic_return),
        )
        return NoveltyOutput(
            NoveltyState(memory, generation, intrinsic_return), NoveltyStatistics(distances, errors), embeddings, reward, metrics
        )

    def _embed(
        self,
        learnt: Any,
        generation: jax.Array | None,
        embeddings: ActingEmbeddings | None,
        observation: jax.Array,
        is_first: jax.Array,
        group: jax.Array | int,
    ) -> tuple[jax.Array | None, ActingEmbeddings | None, jax.Array]:
        """Generations [E], parameters of both generations, and embeddings [E, D] of the observations."""
        assert self.embedding is not None
        if embeddings is None:
            return generation, None, self.embedding.embed(learnt, observation)
        assert generation is not None
        embeddings = renewed(embeddings, learnt, is_first.shape[0] * jax.lax.axis_size(parallel.AXIS))
        generation = jnp.where(is_first, embeddings.number, generation)
        is_new = generation == embeddings.number
        users = parallel.sum_over_devices(jnp.sum(~is_new))
        old, new = (self.embedding.embed(parameters, observation) for parameters in (embeddings.old, embeddings.new))
        embeddings = embeddings._replace(users_of_old=embeddings.users_of_old.at[group].set(users))
        return generation, embeddings, jnp.where(is_new[:, None], new, old)

    def _episodic(
        self, embedding: jax.Array, memory: EpisodicMemory, moments: RunningMoments, is_first: jax.Array
    ) -> tuple[EpisodicMemory, RunningMoments, jax.Array]:
        """Memory and statistics after inserting f(x_t), and the episodic reward [E]."""
        settings = self.settings
        memory = episodic_novelty.reset_memory(memory, is_first)
        memory, distances = episodic_novelty.insert_and_compare(memory, embedding, settings.num_neighbours)
        # Sorting may move a NaN behind missing neighbours, where it would be hidden.
        distances = jnp.where(jnp.all(jnp.isfinite(embedding), axis=-1, keepdims=True), distances, jnp.nan)
        everywhere = parallel.gather_over_devices(distances)
        present = (everywhere != episodic_novelty.NO_NEIGHBOUR).astype(jnp.float32)
        moments = lifelong_novelty.update_moments(moments, everywhere, present, settings.statistics_horizon)
        constants = (settings.kernel_epsilon, settings.cluster_distance, settings.pseudo_count, settings.max_similarity)
        return memory, moments, episodic_novelty.episodic_reward(distances, moments.mean, *constants)


def renewed(embeddings: ActingEmbeddings, learnt: Any, group_size: int) -> ActingEmbeddings:
    """Starts a new generation with the learner's parameters once no episode uses the old one; all `group_size` actors then do."""
    is_free = jnp.sum(embeddings.users_of_old) == 0

    def advance(fresh: Any, kept: Any) -> Any:
        return jax.tree.map(lambda one, other: jnp.where(is_free, one, other), fresh, kept)

    return ActingEmbeddings(
        old=advance(embeddings.new, embeddings.old),
        new=advance(learnt, embeddings.new),
        number=embeddings.number + is_free,
        users_of_old=jnp.where(is_free, group_size, embeddings.users_of_old),
    )
