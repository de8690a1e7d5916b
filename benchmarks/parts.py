"""The parts of a run, built as the trainer builds them, to be timed one by one."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import config, parallel
from agent57_jax.agent import programs, replay
from agent57_jax.agent.actor import ActorState
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.agent.replay import ReplayState
from agent57_jax.algorithm.episodic_novelty import EpisodicMemory
from agent57_jax.config import EnvironmentKind, Settings
from agent57_jax.environments import factory
from agent57_jax.training import memory
from agent57_jax.training.drivers import Driver, HostDriver, SimulationDriver
from agent57_jax.training.schedule import Counters, Schedule
from agent57_jax.training.stopwatch import Stopwatch
from agent57_jax.types import MID, Batch, EnvironmentSpec, TimeStep


class Parts:
    """Programs and states of a run whose replay is full from the start."""

    def __init__(self, settings: Settings, with_environments: bool = True) -> None:
        """`with_environments`: whether there is a driver; else only what runs on the device."""
        # On CPUs, a saved replay would need additional memory.
        settings = config.changed(settings, {"checkpoint.save_replay": False, "replay.min_sequences": 1})
        self.settings = settings
        self.mesh = parallel.make_mesh(settings.num_devices)
        self.root = parallel.upload(self.mesh, parallel.REPLICATED, np.asarray(jax.random.key_data(jax.random.key(settings.seed))))
        self.stopwatch = Stopwatch()
        simulated = None if settings.is_host_environment else factory.make_jax_environment(settings.environment)
        self.spec = spec_of(settings) if simulated is None else simulated.spec
        self.parts = programs.build(settings, self.spec)
        self.capacity, _ = memory.plan(self.parts, self.mesh.size)
        self.store = memory.make_replay(self.parts, self.capacity)
        self.programs = programs.Programs(self.parts, self.mesh, self.store, simulated)
        self.learner = self.programs.init_learner(self.root)
        self.replay = filled_replay(self.programs)
        self.update_metrics = self.programs.init_update_metrics()
        self.counters = Counters()
        self.driver: Driver | None = None
        if with_environments:
            self.driver = (
                SimulationDriver(self.programs, self.root, self.stopwatch)
                if simulated is not None
                else HostDriver(self.programs, host_environments(settings), self.root, self.stopwatch)
            )
            self.driver.appended = [self.store.capacity_per_env] * settings.environment.num_groups

    def act(self) -> float:
        """One dispatch of the driver; agent steps."""
        assert self.driver is not None
        before = self.counters.steps
        self.replay = self.driver.dispatch(acting_parameters(self.learner), self.replay, self.counters)
        self.driver.complete(self.counters, self.update_metrics.updates)
        return float(self.counters.steps - before)

    def learn(self, count: int = 1) -> float:
        """Some updates, and a wait for the last; updates."""
        self._update(count)
        self.wait()
        return float(count)

    def wait(self) -> None:
        """Waits until all updates are done."""
        jax.block_until_ready(self.learner.updates)

    def fill_memories(self, fill: int) -> None:
        """Puts `fill` embeddings into every episodic memory of the fleet. The end of an episode empties its memory."""
        assert self.driver is not None
        self.driver.states = [self.remembering(state, fill) for state in self.driver.states]

    def remembering(self, state: ActorState, fill: int) -> ActorState:
        """The state, which is donated, with `fill` embeddings in every episodic memory, if there are memories."""
        if state.novelty is None or state.novelty.memory is None:
            return state
        by_env, everywhere = parallel.BY_ENVIRONMENT, parallel.REPLICATED
        remember = parallel.sharded(_remembered, self.mesh, (by_env, everywhere), by_env, donate=(0,))
        return state._replace(novelty=state.novelty._replace(memory=remember(state.novelty.memory, np.int32(fill))))

    def act_and_learn(self, updates: int) -> float:
        """The trainer's loop until `updates` more updates have started; agent steps. `wait` waits for them."""
        assert self.driver is not None
        schedule, counters = Schedule(self.settings.replay, self.settings.learner), self.counters
        before, until = counters.steps, counters.updates + updates
        while counters.updates < until:
            self.replay = self.driver.dispatch(acting_parameters(self.learner), self.replay, counters)
            learnt = self.update_metrics.updates
            due = schedule.updates_due(counters, self.settings.replay.min_sequences)
            if due:
                self._update(due)
            self.driver.complete(counters, learnt)
        return float(counters.steps - before)

    def bytes_per_timestep(self) -> float:
        """Bytes of the whole replay, with recurrent states and priorities, for each timestep."""
        slots = self.store.num_groups * self.store.envs_per_group * self.store.capacity_per_env
        return memory.replay_bytes(self.parts, self.capacity) / slots

    def close(self) -> None:
        """Closes the environments."""
        if self.driver is not None:
            self.driver.close()

    def _update(self, count: int = 1) -> None:
        self.learner, self.replay, self.update_metrics = self.programs.learn(
            self.learner, self.replay, self.update_metrics, self.root, self.counters.updates, count
        )
        self.counters.updates += count


class StillActor:
    """The act program on one constant timestep, with `fill` embeddings in the memories: what acting costs the device."""

    def __init__(self, parts: Parts, fill: int) -> None:
        """The counts of the memories are reset to `fill` before every act."""
        self._parts, self._usual_fill = parts, fill
        mesh, settings, by_env = parts.mesh, parts.settings, parallel.BY_ENVIRONMENT
        self._state = parts.remembering(parts.programs.init_actor(parts.programs.actor_index(0)), fill)
        self._shared = parts.programs.init_shared()
        self._timestep = parallel.upload(mesh, by_env, random_timestep(parts.spec, settings.envs_per_group))
        self._fill = parallel.sharded(jnp.full_like, mesh, (by_env, parallel.REPLICATED), by_env)
        self._acts = 0

    def act(self, fill: int | None = None) -> float:
        """One act, and a wait for it; agent steps. `fill` replaces the usual one."""
        parts, state = self._parts, self._state
        if state.novelty is not None and state.novelty.memory is not None:
            inserted = self._fill(state.actor, np.int32(self._usual_fill if fill is None else fill))
            state = state._replace(novelty=state.novelty._replace(memory=state.novelty.memory._replace(inserted=inserted)))
        counter = np.uint32(self._acts)
        self._state, self._shared, parts.replay, action = parts.programs.act(
            acting_parameters(parts.learner), state, self._shared, parts.replay, self._timestep, parts.root, counter, np.int32(0)
        )
        self._acts += 1
        jax.block_until_ready(action)
        return float(parts.settings.envs_per_group)


class StillSampler:
    """The replay's share of an update and an act, without learning and acting."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._count = parts, 0
        settings, store, mesh = parts.settings, parts.store, parts.mesh
        everywhere, by_env = parallel.REPLICATED, parallel.BY_ENVIRONMENT

        def sample(state: ReplayState, root: jax.Array, counter: jax.Array) -> tuple[ReplayState, Batch]:
            key = parallel.fold_counter(root, programs.SAMPLE_STREAM, counter)
            batch = store.sample(state, key, settings.learner.batch_size // mesh.size)
            return store.write_priorities(state, batch.sequence, batch.importance_weight + 1.0), batch

        def append(state: ReplayState, index: jax.Array, counter: jax.Array) -> ReplayState:
            rows = jax.tree.map(lambda ring: ring[0, :, 0], state.experience)
            recurrent = parts.parts.actor.q_network.initial_state(index.shape[0])
            return store.append(state, (counter % store.num_groups).astype(jnp.int32), rows, recurrent)

        specs = replay.SPECS
        self._sample = parallel.sharded(sample, mesh, (specs, everywhere, everywhere), (specs, by_env), donate=(0,))
        self._append = parallel.sharded(append, mesh, (specs, by_env, everywhere), specs, donate=(0,))
        self._index = parts.programs.actor_index(0)

    def sample(self) -> float:
        """Samples a batch, writes its priorities and waits; batches."""
        self._count += 1
        self._parts.replay, batch = self._sample(self._parts.replay, self._parts.root, np.uint32(self._count))
        jax.block_until_ready(batch)
        return 1.0

    def append(self) -> float:
        """Appends one timestep of a group and waits; appends."""
        self._count += 1
        self._parts.replay = self._append(self._parts.replay, self._index, np.uint32(self._count))
        jax.block_until_ready(self._parts.replay.appended)
        return 1.0


def random_timestep(spec: EnvironmentSpec, rows: int) -> TimeStep:
    """A timestep in the middle of an episode, with a random observation."""
    return TimeStep(
        observation=np.random.default_rng(0).integers(0, 256, (rows, *spec.observation_shape)).astype(spec.observation_dtype),
        reward=np.zeros(rows, np.float32),
        discount=np.ones(rows, np.float32),
        step_type=np.full(rows, MID, np.int32),
        episode_return=np.zeros(rows, np.float32),
        episode_length=np.ones(rows, np.int32),
        extras={name: np.zeros(rows, np.float32) for name in spec.extras},
    )


def _remembered(memory: EpisodicMemory, fill: jax.Array) -> EpisodicMemory:
    """`fill` embeddings in each memory, with numbers that differ between slots."""
    slot, number = (jax.lax.broadcasted_iota(jnp.uint32, memory.embeddings.shape, axis) for axis in (1, 2))
    numbers = slot * np.uint32(2_654_435_761) + number * np.uint32(40_503)
    embeddings = (numbers % 65_536).astype(jnp.float32) / 65_536
    return memory._replace(embeddings=embeddings, inserted=jnp.full_like(memory.inserted, fill))


def spec_of(settings: Settings) -> EnvironmentSpec:
    """The form of a host environment, from one that is started for it."""
    probe = factory.make_host_environment(settings.environment, 1, settings.seed, "evaluation")
    probe.close()
    return probe.spec


def host_environments(settings: Settings) -> list[Any]:
    """The environments of a run's groups."""
    count = settings.envs_per_group
    return [
        factory.make_host_environment(settings.environment, count, settings.seed, "training", skip=group * count)
        for group in range(settings.environment.num_groups)
    ]


def filled_replay(compiled: programs.Programs) -> ReplayState:
    """A replay without empty slots, in which every complete sequence can be drawn."""
    state = compiled.init_replay()
    store = compiled.store
    span, period, capacity = store.settings.span, store.settings.period, store.capacity_per_env

    def fill(state: ReplayState) -> ReplayState:
        x = state.experience
        leading = x.action.shape
        slot = jax.lax.broadcasted_iota(jnp.int32, leading, 2)
        place, row = (jax.lax.broadcasted_iota(jnp.int32, x.observation.shape, axis) for axis in (2, 3))
        is_image = x.observation.dtype == jnp.uint8
        complete = jnp.arange(store.num_columns) * period + span < capacity
        experience = x._replace(
            observation=(place * 7 + row * 3 if is_image else place / capacity).astype(x.observation.dtype),
            action=(slot % store.spec.num_actions).astype(x.action.dtype),
            intrinsic_reward=None if x.intrinsic_reward is None else jnp.full(leading, 0.1, jnp.float32),
            behaviour_probability=jnp.full(leading, 0.9, jnp.float32),
            discount=jnp.ones(leading, x.discount.dtype),
            step_type=jnp.full(leading, MID, x.step_type.dtype),
            policy=(slot % 2).astype(x.policy.dtype),
        )
        return state._replace(
            experience=experience,
            priority=jnp.broadcast_to(complete.astype(jnp.float32), state.priority.shape),
            number=jnp.broadcast_to(jnp.arange(store.num_columns, dtype=jnp.int32), state.number.shape),
            appended=jnp.full_like(state.appended, capacity),
        )

    placements = jax.tree.map(lambda leaf: leaf.sharding, state)
    filled: ReplayState = jax.jit(fill, donate_argnums=0, out_shardings=placements)(state)
    return filled


def raw_and_adapter(settings: Settings) -> tuple[dict[str, Callable[[], float]], Callable[[], None]]:
    """Two tasks, EnvPool by itself and behind our adapter, with the same options and groups, and a call that closes both.

    Both take random actions that were drawn before. A call is one step of every group. Gymnasium has only the task of our adapter.
    """
    count = settings.envs_per_group
    environments = {"adapter": host_environments(settings)}
    stepped: dict[str, list[Any]] = dict(environments)
    if settings.environment.kind is EnvironmentKind.ENVPOOL:
        environments["raw"] = host_environments(settings)
        stepped["raw"] = [environment.pool for environment in environments["raw"]]
    drawn = np.random.default_rng(0).integers(0, environments["adapter"][0].spec.num_actions, (64, count)).astype(np.int32)
    for environment in itertools.chain(*environments.values()):
        environment.reset()

    def step(each: list[Any], actions: Iterator[np.ndarray]) -> float:
        action = next(actions)
        for one in each:
            one.recv()
            one.send(action)
        return float(count * len(each))

    def close() -> None:
        for pool in stepped.get("raw", []):
            pool.recv()
            pool.close()
        for environment in environments["adapter"]:
            environment.close()

    return {name: functools.partial(step, each, itertools.cycle(drawn)) for name, each in stepped.items()}, close
