"""The jitted, sharded programs, which combine actor, replay and learner.

`build` makes the parts from the settings; `Programs` compiles the trainer's programs. Every program is traced once in a run;
docs/architecture.md lists them with what they donate and how often they run.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agent57_jax import parallel
from agent57_jax.agent import actor, replay
from agent57_jax.agent.actor import ActMetrics, Actor, ActorState
from agent57_jax.agent.learner import Learner, LearnerState, UpdateOutput
from agent57_jax.agent.novelty import ActingEmbeddings, Novelty, NoveltyStatistics
from agent57_jax.agent.replay import MAX_ACTIONS, Replay, ReplayState
from agent57_jax.agent.value_loss import ValueLoss
from agent57_jax.algorithm import meta_controller, policy_family
from agent57_jax.algorithm.cross_mixture import mixed_policies
from agent57_jax.algorithm.meta_controller import BanditState, PooledArms
from agent57_jax.algorithm.policy_family import PolicyFamily
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED
from agent57_jax.config import DiscountLadder, FirstPriority, IntrinsicReward, PolicySettings, Settings, SettingsError, Transform
from agent57_jax.networks.distillation import DistillationNetwork
from agent57_jax.networks.embedding import EmbeddingNetwork
from agent57_jax.networks.q_network import QNetwork
from agent57_jax.networks.torsos import torso_problem
from agent57_jax.types import FIRST, LAST, ActingParameters, EnvironmentSpec, JaxEnvironment, SequenceId, TimeStep

# Streams of random numbers, each with its own counter.
INIT_STREAM, ACT_STREAM, ENVIRONMENT_STREAM, SAMPLE_STREAM, EVALUATION_STREAM, EVALUATION_ENVIRONMENT_STREAM = range(6)


class Simulation(NamedTuple):
    """JAX environments between two acts."""

    actor: jax.Array  # [E] int32, number of the environment
    state: Any  # [E, ...], of the environments
    timestep: TimeStep  # [E, ...], for the next act


class Shared(NamedTuple):
    """State shared by all groups of actors, equal on every device."""

    statistics: NoveltyStatistics | None  # None without intrinsic reward
    embeddings: ActingEmbeddings | None  # None if no embedding is learnt
    metrics: ActMetrics


class UpdateMetrics(NamedTuple):
    """Sums of the learner's metrics over the updates since the last report."""

    total: dict[str, jax.Array]
    updates: jax.Array  # scalar float32
    non_finite_update: jax.Array  # scalar int32, number of the first update with a non-finite metric, or NONE


NONE = -1
ROOT_SHAPE = jax.ShapeDtypeStruct((2,), np.uint32)
COUNTER_SHAPE = jax.ShapeDtypeStruct((), np.uint32)
PRIORITY_SUM = "replay/priority_sum"
AGE = "replay/age"
FINITE = "finite"  # not a metric: whether the update was finite


@dataclasses.dataclass(frozen=True)
class Parts:
    """The components of a run."""

    settings: Settings
    spec: EnvironmentSpec
    actor: Actor
    evaluation_actor: Actor
    learner: Learner


def make_family(settings: PolicySettings) -> PolicyFamily:
    """Weights and discounts of the N policies."""
    betas = policy_family.intrinsic_betas(settings.num_policies, settings.beta_max)
    if settings.discounts is DiscountLadder.NGU:
        gammas = policy_family.ngu_discounts(settings.num_policies, settings.gamma_1, settings.gamma_2)
    else:
        gammas = policy_family.agent57_discounts(settings.num_policies, settings.gamma_0, settings.gamma_1, settings.gamma_2)
    return PolicyFamily(betas.astype(np.float32), gammas.astype(np.float32))


def build(settings: Settings, spec: EnvironmentSpec) -> Parts:
    """Networks, actors and learner for an environment; raises SettingsError if they cannot handle it."""
    problem = torso_problem(settings.network, spec)
    if problem is None and spec.num_actions > MAX_ACTIONS:
        problem = f"the task has {spec.num_actions} actions, but the replay stores at most {MAX_ACTIONS}"
    if problem is not None:
        raise SettingsError(problem)
    family = make_family(settings.policy)
    reward = settings.novelty.reward
    has_reward = reward is not IntrinsicReward.NONE
    q_network = QNetwork(
        settings.network,
        spec,
        settings.policy.num_policies,
        settings.num_values,
        settings.precision.compute,
        has_intrinsic_reward=has_reward,
        has_policy=settings.learner.distil_policy,
    )
    # Parts that the agent lacks are None.
    embedding = EmbeddingNetwork(settings.network, settings.novelty, spec) if reward is IntrinsicReward.NGU else None
    distillation = DistillationNetwork(settings.network, settings.novelty, spec) if has_reward else None
    novelty = None if distillation is None else Novelty(settings.novelty, embedding, distillation)
    bandit, evaluation = settings.bandit, settings.evaluation
    training_mode = actor.ActingMode(
        num_actors=settings.environment.num_envs,
        epsilon_base=settings.actor.epsilon_base,
        epsilon_alpha=settings.actor.epsilon_alpha,
        chooser=bandit.chooser,
        window_episodes=bandit.window_episodes,
        exploration=bandit.exploration,
        ucb_bonus=bandit.ucb_bonus,
        group_size=bandit.group_size,
        bandit_episodes=1,
        greedy_episodes=0,
    )
    evaluation_mode = dataclasses.replace(
        training_mode,
        num_actors=evaluation.num_envs,
        epsilon_base=evaluation.epsilon,
        epsilon_alpha=0.0,
        window_episodes=evaluation.window_episodes,
        exploration=evaluation.exploration,
        group_size=evaluation.num_envs,  # one bandit
        greedy_episodes=evaluation.greedy_episodes,
    )
    make_actor = functools.partial(
        Actor,
        family=family,
        combination=settings.policy.combination,
        q_network=q_network,
        novelty=novelty,
        combined_loss=settings.learner.combined_loss,
    )
    transform = SQUASHED if settings.learner.transform is Transform.SQUASHED else IDENTITY
    has_errors = settings.replay.first_priority is FirstPriority.ACTOR
    return Parts(
        settings=settings,
        spec=spec,
        actor=make_actor(training_mode, td_transform=transform if has_errors else None),
        evaluation_actor=make_actor(evaluation_mode),
        learner=Learner(
            settings=settings.learner,
            novelty=settings.novelty,
            total_updates=settings.total_updates,
            value_loss=ValueLoss(
                settings=settings.learner,
                combination=settings.policy.combination,
                ends_with_episode=settings.novelty.ends_with_episode,
                eta=settings.replay.eta,
                burn_in=settings.replay.burn_in,
                family=family,
                q_network=q_network,
            ),
            embedding=embedding,
            distillation=distillation,
        ),
    )


class Programs:
    """The trainer's programs, compiled for a mesh of devices."""

    def __init__(self, parts: Parts, mesh: Mesh, store: Replay, environment: JaxEnvironment | None = None) -> None:
        """`environment`: the JAX environment to train in; None for host environments."""
        self.parts, self.mesh, self.store = parts, mesh, store
        by_env, everywhere = parallel.BY_ENVIRONMENT, parallel.REPLICATED
        self.init_learner = parallel.sharded(self._init_learner, mesh, everywhere, everywhere)
        self.init_shared = parallel.sharded(functools.partial(init_shared, parts), mesh, (), everywhere)
        self.init_act_metrics = parallel.sharded(parts.actor.init_metrics, mesh, (), everywhere)
        self.copy = parallel.sharded(lambda tree: jax.tree.map(jnp.copy, tree), mesh, everywhere, everywhere)
        self.init_actor = parallel.sharded(parts.actor.init_state, mesh, by_env, by_env)
        # Not in shard_map: the program sees the whole replay, of which each device allocates its part.
        self.init_replay = jax.jit(
            self._init_replay, out_shardings=parallel.placement(mesh, replay.SPECS, jax.eval_shape(self._init_replay))
        )
        self.init_update_metrics = parallel.sharded(self._init_update_metrics, mesh, (), everywhere)
        self.act = parallel.sharded(
            self._act,
            mesh,
            (everywhere, by_env, everywhere, replay.SPECS, by_env, everywhere, everywhere, everywhere),
            (by_env, everywhere, replay.SPECS, by_env),
            donate=(1, 2, 3),
        )
        # On GPUs a loop of unknown length blocks the host. That delays emulators, but not JAX environments.
        self._loops = environment is not None
        self.update = parallel.sharded(
            self._updates if self._loops else self._single_update,
            mesh,
            (everywhere, replay.SPECS, everywhere, everywhere, everywhere, everywhere),
            (everywhere, replay.SPECS, everywhere),
            donate=(0, 1),  # not the sums, on which the trainer waits to measure the time of learning
        )
        self.count_priorities = parallel.sharded(self.store.count_priorities, mesh, (replay.SPECS,), everywhere)
        if parts.settings.asks_actors:
            self.pool_arms = parallel.sharded(self._pool_arms, mesh, (by_env,), everywhere)
        if environment is not None:
            self.environment = environment
            self.init_simulation = parallel.sharded(self._init_simulation, mesh, (everywhere, by_env), by_env)
            self.rollout = parallel.sharded(
                self._rollout,
                mesh,
                (everywhere, by_env, by_env, everywhere, replay.SPECS, everywhere, everywhere),
                (by_env, by_env, everywhere, replay.SPECS, everywhere),
                donate=(1, 2, 3, 4),
            )

    def actor_index(self, group: int) -> jax.Array:
        """Numbers [E] of a group's actors in the fleet, sharded."""
        size = self.parts.settings.envs_per_group
        local = size // jax.process_count()
        first = group * size + jax.process_index() * local
        return parallel.upload(self.mesh, parallel.BY_ENVIRONMENT, np.arange(first, first + local, dtype=np.int32))

    def _init_learner(self, root: jax.Array) -> LearnerState:
        return self.parts.learner.init(parallel.fold_counter(root, INIT_STREAM, jnp.uint32(0)))

    def _init_replay(self) -> ReplayState:
        return self.store.init(self.parts.actor.q_network.initial_state(1))

    def _init_update_metrics(self) -> UpdateMetrics:
        # The keys are those that an update returns; only shapes are computed here.
        learner, store = jax.eval_shape(self.parts.learner.init, ROOT_SHAPE), jax.eval_shape(self._init_replay)
        names = jax.eval_shape(self._measured_update, learner, store, ROOT_SHAPE, COUNTER_SHAPE)[1]
        return UpdateMetrics(
            {name: jnp.zeros((), jnp.float32) for name in names if name != FINITE},
            jnp.zeros((), jnp.float32),
            jnp.full((), NONE, jnp.int32),
        )

    def _act(
        self,
        parameters: ActingParameters,
        state: ActorState,
        shared: Shared,
        store: ReplayState,
        timestep: TimeStep,
        root: jax.Array,
        counter: jax.Array,
        group: jax.Array,
    ) -> tuple[ActorState, Shared, ReplayState, jax.Array]:
        """One act of a group, with the append to the replay. Returns the actions [E] last."""
        key = parallel.fold_counter(root, ACT_STREAM, counter)
        out = self.parts.actor.act(parameters, state, shared.statistics, shared.metrics, timestep, key, shared.embeddings, group)
        store = self.store.append(store, group, out.experience, state.recurrent, out.td_error)
        return out.state, Shared(out.statistics, out.embeddings, out.metrics), store, out.experience.action

    def _pool_arms(self, bandits: list[BanditState]) -> PooledArms:
        """Pooled statistics of the bandits of all groups."""
        together = jax.tree.map(lambda *leaves: parallel.gather_over_devices(jnp.concatenate(leaves)), *bandits)
        return meta_controller.pooled_arm_statistics(together, self.parts.actor.num_policies)

    def _init_simulation(self, root: jax.Array, index: jax.Array) -> Simulation:
        return init_simulation(self.environment, parallel.fold_counter(root, INIT_STREAM, jnp.uint32(1)), index)

    def _rollout(
        self,
        parameters: ActingParameters,
        simulation: Simulation,
        state: ActorState,
        shared: Shared,
        store: ReplayState,
        root: jax.Array,
        counter: jax.Array,
    ) -> tuple[Simulation, ActorState, Shared, ReplayState, jax.Array]:
        """`acts_per_dispatch` acts of JAX environments. Returns [2] last: steps taken and episodes finished."""

        def once(carry: tuple[Simulation, ActorState, Shared, ReplayState], act: jax.Array) -> tuple[Any, jax.Array]:
            simulation, state, shared, store = carry
            timestep = simulation.timestep
            number = counter + act
            new_state, shared, store, action = self._act(parameters, state, shared, store, timestep, root, number, jnp.int32(0))
            key = parallel.fold_counter(root, ENVIRONMENT_STREAM, number)
            simulation = step_simulation(self.environment, simulation, key, action)
            counts = jnp.stack([jnp.sum(timestep.step_type != FIRST), jnp.sum(timestep.step_type == LAST)])
            return (simulation, new_state, shared, store), parallel.sum_over_devices(counts)

        acts = jnp.arange(self.parts.settings.actor.acts_per_dispatch, dtype=jnp.uint32)
        carry, counts = jax.lax.scan(once, (simulation, state, shared, store), acts)
        return (*carry, jnp.sum(counts, axis=0))

    def learn(
        self, learner: LearnerState, store: ReplayState, metrics: UpdateMetrics, root: jax.Array, first: int, count: int
    ) -> tuple[LearnerState, ReplayState, UpdateMetrics]:
        """Starts `count` updates, numbered from `first`, in one dispatch with JAX environments. Consumes learner and replay states."""
        for number, length in [(first, count)] if self._loops else [(first + i, 1) for i in range(count)]:
            numbers = parallel.upload(self.mesh, parallel.REPLICATED, (np.uint32(number % 2**32), np.int32(length)))
            learner, store, metrics = self.update(learner, store, metrics, root, *numbers)
        return learner, store, metrics

    def _single_update(
        self, state: LearnerState, store: ReplayState, metrics: UpdateMetrics, root: jax.Array, counter: jax.Array, count: jax.Array
    ) -> tuple[LearnerState, ReplayState, UpdateMetrics]:
        del count  # 1
        return self._update(state, store, metrics, root, counter)

    def _updates(
        self, state: LearnerState, store: ReplayState, metrics: UpdateMetrics, root: jax.Array, counter: jax.Array, count: jax.Array
    ) -> tuple[LearnerState, ReplayState, UpdateMetrics]:
        """`count` updates, numbered from `counter`; one program for any count."""

        def once(i: jax.Array, carry: tuple[LearnerState, ReplayState, UpdateMetrics]) -> tuple[LearnerState, ReplayState, UpdateMetrics]:
            return self._update(*carry, root, counter + i.astype(jnp.uint32))

        return jax.lax.fori_loop(0, count, once, (state, store, metrics))

    def _update(
        self, state: LearnerState, store: ReplayState, metrics: UpdateMetrics, root: jax.Array, counter: jax.Array
    ) -> tuple[LearnerState, ReplayState, UpdateMetrics]:
        """Samples, learns, writes priorities back."""
        (out, sequence), found = self._measured_update(state, store, root, counter)
        finite = found[FINITE] > 0
        # A non-finite priority would spoil all later draws: such an update writes none.
        sequence = sequence._replace(number=jnp.where(finite, sequence.number, replay.EMPTY))
        store = self.store.write_priorities(store, sequence, out.priorities)
        first_bad = jnp.where(finite | (metrics.non_finite_update != NONE), metrics.non_finite_update, state.updates)
        total = {name: metrics.total[name] + found[name] for name in metrics.total}
        return out.state, store, UpdateMetrics(total, metrics.updates + 1, first_bad)

    def _measured_update(
        self, state: LearnerState, store: ReplayState, root: jax.Array, counter: jax.Array
    ) -> tuple[tuple[UpdateOutput, SequenceId], dict[str, jax.Array]]:
        """The update, its sequences, and its measurements: FINITE and the metrics."""
        key = jax.random.fold_in(parallel.fold_counter(root, SAMPLE_STREAM, counter), jax.lax.axis_index(parallel.AXIS))
        batch = self.store.sample(store, key, self.parts.settings.learner.batch_size // self.mesh.size)
        # Otherwise a non-finite stored priority would go unnoticed.
        mass = parallel.sum_over_devices(jnp.sum(store.priority))
        batch = batch._replace(importance_weight=jnp.where(jnp.isfinite(mass), batch.importance_weight, jnp.nan))
        share = self.parts.settings.learner.cross_mixture
        if share and not self.parts.settings.network.policy_heads:  # with policy heads the loss mixes all policies
            policy = mixed_policies(jax.random.fold_in(key, 1), batch.experience.policy, self.parts.actor.num_policies, share)
            batch = batch._replace(experience=batch.experience._replace(policy=policy))
        out = self.parts.learner.update(state, batch)
        age = parallel.sum_over_devices(jnp.mean(self.store.age(store, batch.sequence).astype(jnp.float32))) / self.mesh.size
        return (out, batch.sequence), out.metrics | {PRIORITY_SUM: mass, AGE: age}


def init_shared(parts: Parts) -> Shared:
    """The shared state before the first act."""
    actor = parts.actor
    return Shared(actor.init_statistics(), actor.init_embeddings(parts.settings.environment.num_groups), actor.init_metrics())


def init_simulation(environment: JaxEnvironment, key: jax.Array, index: jax.Array) -> Simulation:
    """Environments `index` [E] at the start of an episode, each with its own key."""
    state, timestep = jax.vmap(lambda i: environment.init(jax.random.fold_in(key, i)))(index)
    return Simulation(index, state, timestep)


def step_simulation(environment: JaxEnvironment, simulation: Simulation, key: jax.Array, action: jax.Array) -> Simulation:
    """One step of every environment, each with its own key."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(simulation.actor)
    state, timestep = jax.vmap(environment.step)(keys, simulation.state, action)
    return Simulation(simulation.actor, state, timestep)


def one_device_copy(tree: Any) -> Any:
    """The first local device's copy of replicated arrays, without a transfer."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
