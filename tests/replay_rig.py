"""A replay and its twin that get the same operations, for test_replay.py."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent import replay
from agent57_jax.agent.replay import EMPTY, Replay, ReplayState
from agent57_jax.config import FirstPriority, ReplaySettings
from agent57_jax.types import Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId
from tests.oracles import replay as oracle

NUM_VALUES, LSTM_SIZE = 2, 3
BATCH_SIZE = 16  # over all devices
IMAGE = EnvironmentSpec((3, 2), np.dtype("uint8"), 251, (), 1)
VECTOR = EnvironmentSpec((5,), np.dtype("float32"), 251, (), 1)
SPECS, BY_ENV, EVERYWHERE = replay.SPECS, parallel.BY_ENVIRONMENT, parallel.REPLICATED


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a replay under test."""

    devices: int
    groups: int
    envs: int
    capacity: int
    trace: int
    period: int
    spec: EnvironmentSpec = IMAGE
    priority_exponent: float = 0.9
    is_exponent: float = 0.6
    burn_in: int = 0
    has_intrinsic_reward: bool = True
    first_priority: FirstPriority = FirstPriority.LARGEST

    @property
    def store(self) -> Replay:
        settings = ReplaySettings(
            burn_in=self.burn_in,
            trace=self.trace,
            period=self.period,
            priority_exponent=self.priority_exponent,
            is_exponent=self.is_exponent,
            first_priority=self.first_priority,
        )
        return Replay(settings, self.spec, self.groups, self.envs, self.capacity, self.has_intrinsic_reward)


class Programs(NamedTuple):
    """The replay's operations as the trainer wraps them."""

    init: Any
    append: Any
    sample: Any
    write: Any


def recurrent_form(num_values: int = NUM_VALUES, lstm_size: int = LSTM_SIZE) -> RecurrentState:
    zeros = jnp.zeros((1, num_values, lstm_size), jnp.float32)
    return RecurrentState(zeros, zeros, jnp.zeros((1,), jnp.int32))


@functools.cache
def programs(case: Case) -> Programs:
    store, mesh = case.store, parallel.make_mesh(case.devices)

    def init() -> ReplayState:
        return store.init(recurrent_form())

    def sample(state: ReplayState, key: jax.Array) -> Batch:
        return store.sample(state, jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS)), BATCH_SIZE // case.devices)

    return Programs(
        init=jax.jit(init, out_shardings=parallel.placement(mesh, SPECS, jax.eval_shape(init))),
        append=parallel.sharded(store.append, mesh, (SPECS, EVERYWHERE, BY_ENV, BY_ENV, BY_ENV), SPECS, donate=(0,)),
        sample=parallel.sharded(sample, mesh, (SPECS, EVERYWHERE), BY_ENV),
        write=parallel.sharded(store.write_priorities, mesh, (SPECS, BY_ENV, BY_ENV), SPECS, donate=(0,)),
    )


def content(spec: EnvironmentSpec, group: int, environment: np.ndarray, t: int) -> tuple[Experience, RecurrentState]:
    """Timestep t of environments [E], and the state that enters it: no two timesteps are alike, nor two fields or two entries of one."""
    code = 100_000 * group + 10_000 * environment + t
    if spec is IMAGE:
        same = np.ones_like(environment)
        entries = [same * (t % 256), same * (t // 256), environment, same * group, same * 17, (7 * t + 3 * environment + group) % 256]
    else:
        entries = [code + i / 8 for i in range(5)]
    experience = Experience(
        observation=np.stack(entries, axis=-1).reshape((-1, *spec.observation_shape)).astype(spec.observation_dtype),
        action=((3 * t + 5 * environment + 7 * group) % 251).astype(np.int32),
        extrinsic_reward=code.astype(np.float32),
        intrinsic_reward=(-code - 0.5).astype(np.float32),
        behaviour_probability=((1 + code % 999) / 1000).astype(np.float32),
        discount=((t + environment) % 5 != 0).astype(np.float32),
        step_type=((t + environment + 2 * group) % 3).astype(np.int32),
        policy=((11 * t + environment + 100 * group) % 256).astype(np.int32),
    )
    entry = np.arange(NUM_VALUES * LSTM_SIZE).reshape(1, NUM_VALUES, LSTM_SIZE) / 16
    hidden = (code[:, None, None] + entry).astype(np.float32)
    return experience, RecurrentState(hidden, -hidden - 0.5, code.astype(np.int32))


def error_of(group: int, environment: np.ndarray, t: int) -> np.ndarray:
    """Sizes [E] of the errors of the transitions into timestep t, in no order, so that no two windows have the same priority."""
    code = 100_000 * group + 1000 * environment + t
    return (1 + code * 7919 % 99_991).astype(np.float32) / 1000


class Rig:
    """The replay and its twin, which get the same operations."""

    def __init__(self, case: Case) -> None:
        self.case, self.store, self.programs = case, case.store, programs(case)
        self.share = case.envs // case.devices  # environments of a device
        self.rows = BATCH_SIZE // case.devices
        self.state: ReplayState = self.programs.init()
        self.asks_actors = case.first_priority is FirstPriority.ACTOR
        eta = self.store.settings.eta if self.asks_actors else None
        self.twin = oracle.Replay(case.groups, case.envs, case.capacity, case.trace, case.period, case.burn_in, eta)

    def length(self, group: int) -> int:
        return len(self.twin.timesteps[group, 0])

    def append(self, group: int, changes: dict[str, Any] | None = None, errors: np.ndarray | None = None) -> None:
        """The next timestep, with these fields and errors instead of its own."""
        environments, t = np.arange(self.case.envs), self.length(group)
        experience, entering = content(self.case.spec, group, environments, t)
        experience = experience._replace(**(changes or {}))
        if self.asks_actors and errors is None:
            errors = error_of(group, environments, t)
        if not self.case.has_intrinsic_reward:
            experience = experience._replace(intrinsic_reward=None)
        self.state = self.programs.append(self.state, np.int32(group), experience, entering, errors)
        rows = [Experience(*(None if x is None else x[e] for x in experience)) for e in environments]
        states = [RecurrentState(*(x[e] for x in entering)) for e in environments]
        self.twin.append(group, rows, states, None if errors is None else errors.tolist())

    def fill(self, timesteps: int) -> None:
        """Appends so many timesteps to every environment, the groups in turn."""
        for _ in range(timesteps):
            for group in range(self.case.groups):
                self.append(group)

    def names(self, sequence: SequenceId) -> list[oracle.Name]:
        """A batch's sequences with environments counted over all devices; row i comes from device i / (rows per device)."""
        group, environment, number = (np.asarray(x) for x in sequence)
        assert np.all((environment >= 0) & (environment < self.share))
        environment = environment + np.arange(len(group)) // (len(group) // self.case.devices) * self.share
        return list(zip(group.tolist(), environment.tolist(), number.tolist(), strict=True))

    def sample(self, seed: int) -> list[oracle.Name]:
        """Draws a batch and holds it against the twin."""
        batch = self.programs.sample(self.state, jax.random.key(seed))
        names = self.names(batch.sequence)
        assert set(names) <= set(self.twin.priorities), "a sequence that is incomplete, partly overwritten or gone was drawn"
        timesteps, entering = zip(*(self.twin.sequence(name) for name in names), strict=True)
        assert (batch.experience.intrinsic_reward is None) == (not self.case.has_intrinsic_reward)
        wanted = Experience(*(np.array([[row[i] for row in rows] for rows in timesteps]) for i in range(len(Experience._fields))))
        pairs = zip((*batch.experience, *batch.recurrent_state), (*wanted, *map(np.array, zip(*entering, strict=True))), strict=True)
        for field, (found, expected) in zip((*Experience._fields, *RecurrentState._fields), pairs, strict=True):
            if found is not None:
                assert found.dtype == expected.dtype, field
                np.testing.assert_array_equal(found, expected, err_msg=field)
        case = self.case
        weights = self.twin.importance_weights(names, case.priority_exponent, case.is_exponent, case.devices)
        np.testing.assert_allclose(batch.importance_weight, weights, rtol=2e-5)
        return names

    def write(self, names: list[oracle.Name], priorities: np.ndarray) -> None:
        """Writes priorities; each device gets those of its own environments, and fills up with a sequence that does not exist."""
        shares: list[list[tuple[oracle.Name, float]]] = [[] for _ in range(self.case.devices)]
        for name, priority in zip(names, priorities.astype(np.float32).tolist(), strict=True):
            shares[name[1] // self.share].append((name, priority))
        assert max(len(share) for share in shares) <= self.rows
        table = [item for share in shares for item in share + [((0, 0, EMPTY), 1e9)] * (self.rows - len(share))]
        names, values = [name for name, _ in table], [priority for _, priority in table]
        group, environment, number = np.array(names, np.int32).T
        self.state = self.programs.write(self.state, SequenceId(group, environment % self.share, number), np.array(values, np.float32))
        self.twin.write_priorities(names, values)

    def write_all(self, priorities: np.ndarray) -> None:
        """Writes a priority to every sequence that can be drawn, in the order of the twin's names."""
        names = sorted(self.twin.priorities)
        for start in range(0, len(names), self.rows):
            self.write(names[start : start + self.rows], priorities[start : start + self.rows])

    def priority(self) -> np.ndarray:
        return np.asarray(self.state.priority)

    def check(self) -> None:
        """The small arrays, which say what can be drawn, are the twin's."""
        priority = self.priority()
        expected = np.zeros_like(priority)
        for (group, environment, number), value in self.twin.priorities.items():
            expected[group, environment, number % self.store.num_columns] = value
        np.testing.assert_allclose(priority, expected, rtol=2e-6 if self.asks_actors else 0)
        lengths = [self.length(group) for group in range(self.case.groups)]
        np.testing.assert_array_equal(self.state.appended, lengths)
        assert float(self.state.max_priority) == self.twin.largest_priority
        drawable = np.array([self.store.drawable_sequences(length) for length in lengths])
        np.testing.assert_array_equal((priority > 0).sum(axis=2), np.repeat(drawable[:, None], self.case.envs, axis=1))

    def check_ring(self) -> None:
        """Every slot holds the newest timestep that belongs there."""
        rings = [None if ring is None else np.asarray(ring) for ring in self.state.experience]
        for (group, environment), timesteps in self.twin.timesteps.items():
            for t in range(max(0, len(timesteps) - self.case.capacity), len(timesteps)):
                for ring, value in zip(rings, timesteps[t], strict=True):
                    assert (ring is None) == (value is None)
                    if ring is not None:
                        np.testing.assert_array_equal(ring[group, environment, t % self.case.capacity], value)
