"""The replay against a list that forgets nothing, under random operations on one device and on several."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import parallel
from agent57_jax.agent import replay as replay_module
from agent57_jax.agent.replay import EMPTY, Replay, ReplayState
from agent57_jax.config import FirstPriority, ReplaySettings
from agent57_jax.types import FIRST, MID, Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId
from tests.oracles import replay as oracle

NUM_VALUES, LSTM_SIZE = 2, 3
BATCH_SIZE = 16  # over all devices
IMAGE = EnvironmentSpec((3, 2), np.dtype("uint8"), 251, (), 1)
VECTOR = EnvironmentSpec((5,), np.dtype("float32"), 251, (), 1)


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


@dataclasses.dataclass(frozen=True)
class Programs:
    """The replay's operations as the trainer wraps them."""

    init: Any
    append: Any
    sample: Any
    write: Any


def recurrent_form() -> RecurrentState:
    zeros = jnp.zeros((1, NUM_VALUES, LSTM_SIZE), jnp.float32)
    return RecurrentState(zeros, zeros, jnp.zeros((1,), jnp.int32))


def sampler(case: Case, batch_size: int, num_batches: int = 1) -> Any:
    """`num_batches` independent batches of `batch_size` sequences over all devices; their fields [devices, num_batches, ...]."""

    def sample(state: ReplayState, key: jax.Array) -> Batch:
        key = jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))
        batches = jax.vmap(lambda k: case.store.sample(state, k, batch_size // case.devices))(jax.random.split(key, num_batches))
        return jax.tree.map(lambda leaf: leaf[None], batches)

    mesh = parallel.make_mesh(case.devices)
    return parallel.sharded(sample, mesh, (replay_module.SPECS, parallel.REPLICATED), parallel.BY_ENVIRONMENT)


@functools.cache
def programs(case: Case) -> Programs:
    store, mesh = case.store, parallel.make_mesh(case.devices)
    specs, by_env, everywhere = replay_module.SPECS, parallel.BY_ENVIRONMENT, parallel.REPLICATED

    def init() -> ReplayState:
        return store.init(recurrent_form())

    def sample(state: ReplayState, key: jax.Array) -> Batch:
        return store.sample(state, jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS)), BATCH_SIZE // case.devices)

    return Programs(
        init=jax.jit(init, out_shardings=parallel.placement(mesh, specs, jax.eval_shape(init))),
        append=parallel.sharded(store.append, mesh, (specs, everywhere, by_env, by_env, by_env), specs, donate=(0,)),
        sample=parallel.sharded(sample, mesh, (specs, everywhere), by_env),
        write=parallel.sharded(store.write_priorities, mesh, (specs, by_env, by_env), specs, donate=(0,)),
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
        rows = range(self.case.envs)
        self.twin.append(
            group,
            [Experience(*(None if x is None else x[e] for x in experience)) for e in rows],
            [RecurrentState(*(x[e] for x in entering)) for e in rows],
            None if errors is None else errors.tolist(),
        )

    def fill(self, timesteps: int) -> None:
        """Appends so many timesteps to every environment, the groups in turn."""
        for _ in range(timesteps):
            for group in range(self.case.groups):
                self.append(group)

    def names(self, sequence: SequenceId) -> list[oracle.Name]:
        """A batch's sequences with environments counted over all devices; row i comes from device i / (rows per device)."""
        group, environment, number = (np.asarray(x) for x in sequence)
        assert np.all((environment >= 0) & (environment < self.case.envs // self.case.devices))
        device = np.arange(len(group)) // (len(group) // self.case.devices)
        environment = environment + device * (self.case.envs // self.case.devices)
        return list(zip(group.tolist(), environment.tolist(), number.tolist(), strict=True))

    def sample(self, seed: int) -> list[oracle.Name]:
        """Draws a batch and holds it against the twin."""
        batch = self.programs.sample(self.state, jax.random.key(seed))
        names = self.names(batch.sequence)
        assert set(names) <= set(self.twin.priorities), "a sequence that is incomplete, partly overwritten or gone was drawn"
        sequences = [self.twin.sequence(name) for name in names]
        for i, field in enumerate(Experience._fields):
            if field == "intrinsic_reward" and not self.case.has_intrinsic_reward:
                assert batch.experience[i] is None
                continue
            expected = np.array([[timestep[i] for timestep in timesteps] for timesteps, _ in sequences])
            assert batch.experience[i].dtype == expected.dtype, field
            np.testing.assert_array_equal(batch.experience[i], expected, err_msg=field)
        for i, field in enumerate(RecurrentState._fields):
            expected = np.array([entering[i] for _, entering in sequences])
            assert batch.recurrent_state[i].dtype == expected.dtype, field
            np.testing.assert_array_equal(batch.recurrent_state[i], expected, err_msg=field)
        case = self.case
        weights = self.twin.importance_weights(names, case.priority_exponent, case.is_exponent, case.devices)
        np.testing.assert_allclose(batch.importance_weight, weights, rtol=2e-5)
        return names

    def write(self, names: list[oracle.Name], priorities: np.ndarray) -> None:
        """Writes priorities; each device gets those of its own environments, and fills up with a sequence that does not exist."""
        envs_per_device = self.case.envs // self.case.devices
        rows = BATCH_SIZE // self.case.devices
        shares: list[list[tuple[oracle.Name, float]]] = [[] for _ in range(self.case.devices)]
        for name, priority in zip(names, priorities.astype(np.float32).tolist(), strict=True):
            shares[name[1] // envs_per_device].append((name, priority))
        assert max(len(share) for share in shares) <= rows
        table = [item for share in shares for item in share + [((0, 0, EMPTY), 1e9)] * (rows - len(share))]
        sequence = SequenceId(
            np.array([name[0] for name, _ in table], np.int32),
            np.array([name[1] % envs_per_device for name, _ in table], np.int32),
            np.array([name[2] for name, _ in table], np.int32),
        )
        self.state = self.programs.write(self.state, sequence, np.array([priority for _, priority in table], np.float32))
        self.twin.write_priorities([name for name, _ in table], [priority for _, priority in table])

    def write_all(self, priorities: np.ndarray) -> None:
        """Writes a priority to every sequence that can be drawn, in the order of the twin's names."""
        rows = BATCH_SIZE // self.case.devices
        names = sorted(self.twin.priorities)
        for start in range(0, len(names), rows):
            self.write(names[start : start + rows], priorities[start : start + rows])

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
                    if ring is None:
                        continue
                    np.testing.assert_array_equal(ring[group, environment, t % self.case.capacity], value)


CASES = [
    # (devices, groups, environments, capacity, trace, period, ...) and operations
    (Case(1, 1, 1, 2, 1, 1), 400),  # the smallest there is
    (Case(1, 2, 1, 4, 3, 1), 700),  # capacity trace + 1
    (Case(1, 1, 2, 9, 5, 3), 500),  # just above trace + period, a trace that is no multiple of the period
    (Case(1, 2, 2, 12, 7, 3), 700),
    (Case(1, 3, 2, 8, 4, 4), 700),  # period equal to the trace
    (Case(1, 2, 3, 40, 7, 5, VECTOR), 900),
    (Case(1, 2, 8, 12, 5, 3), 500),
    (Case(2, 2, 8, 12, 5, 3), 300),
    (Case(4, 2, 8, 12, 5, 3), 300),
    (Case(8, 2, 8, 12, 5, 3), 300),
    (Case(8, 1, 8, 16, 6, 4, VECTOR), 200),
    (Case(1, 2, 2, 12, 4, 3, burn_in=5), 500),  # a burn-in longer than the trace, a span that ends with a period
    (Case(4, 1, 8, 16, 6, 4, VECTOR, burn_in=3, has_intrinsic_reward=False), 300),
    (Case(1, 2, 2, 12, 4, 3, burn_in=5, first_priority=FirstPriority.ACTOR), 500),
    (Case(8, 2, 8, 12, 5, 3, first_priority=FirstPriority.ACTOR), 300),
]


def test_the_cases_make_thousands_of_operations() -> None:
    assert sum(operations for _, operations in CASES) >= 5000


@pytest.mark.parametrize(("case", "operations"), CASES)
def test_equals_a_list_under_random_operations(case: Case, operations: int) -> None:
    """Appends to a random group or in turn, samples, and priorities for sequences that are there, gone, unfinished or named twice."""
    rng = np.random.default_rng(case.capacity + 100 * case.devices)
    rig = Rig(case)
    remembered: list[oracle.Name] = []  # of earlier batches; by now some are gone
    turn = stale = fresh = 0
    for operation in range(operations):
        kind = rng.random()
        if kind < 0.7 or not rig.twin.priorities:
            turn = int(rng.integers(case.groups)) if rng.random() < 0.5 else (turn + 1) % case.groups
            rig.append(turn)
        elif kind < 0.85:
            remembered = (remembered + rig.sample(operation))[-4 * BATCH_SIZE :]
        else:
            size = BATCH_SIZE // case.devices  # at most so many for one device, in case that all fall to it
            pool = list(rig.twin.priorities) + remembered
            for _ in range(size):
                group, environment = int(rng.integers(case.groups)), int(rng.integers(case.envs))
                started = rig.length(group) // case.period + 1
                pool.append((group, environment, int(rng.integers(EMPTY, started + 2))))
            names = [pool[i] for i in rng.integers(len(pool), size=size)]
            values = {name: float(value) for name, value in zip(names, np.exp(rng.normal(0, 1.5, size)), strict=True)}
            fresh += len(set(names) & set(rig.twin.priorities))
            stale += len(set(names) - set(rig.twin.priorities))
            rig.write(names, np.array([values[name] for name in names]))
        rig.check()
    rig.check_ring()
    assert fresh > 20 and stale > 20
    assert min(rig.length(group) for group in range(case.groups)) > 5 * case.capacity


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_shards_together_hold_what_one_device_holds(devices: int) -> None:
    whole, split = (Rig(Case(d, 2, 8, 12, 5, 3)) for d in (1, devices))
    for rig in (whole, split):
        rig.fill(31)
        rig.append(1)
        names = sorted(rig.twin.priorities)
        rig.write(names[:2], np.array([7.0, 0.5]))  # group 0, environment 0
    for one, several in zip(jax.tree.leaves(whole.state), jax.tree.leaves(split.state), strict=True):
        np.testing.assert_array_equal(one, several)
    for ring in [*split.state.experience, *split.state.recurrent_state, split.state.priority]:
        shards = sorted(ring.addressable_shards, key=lambda shard: shard.index[1].start)
        assert [shard.data.shape for shard in shards] == [(2, 8 // devices, *ring.shape[2:])] * devices
        assert len({shard.device for shard in shards}) == devices
    codes = [int(shard.data[0, 0, 0]) // 10_000 for shard in split.state.experience.extrinsic_reward.addressable_shards]
    assert sorted(codes) == list(range(0, 8, 8 // devices)), "a shard holds other environments than its own"


@pytest.mark.parametrize(("capacity", "trace", "period", "burn_in"), [(9, 4, 2, 0), (4, 4, 2, 0), (2, 4, 2, 0), (6, 4, 2, 1), (8, 4, 2, 3)])
def test_impossible_sizes_are_refused(capacity: int, trace: int, period: int, burn_in: int) -> None:
    with pytest.raises(ValueError, match=f"capacity_per_env {capacity}"):
        Case(1, 1, 1, capacity, trace, period, burn_in=burn_in).store  # noqa: B018 - the property builds the replay


def test_drawable_sequences_by_hand() -> None:
    """C = 12, T = 5, P = 3: sequence k is there from timestep 3k + 5 until timestep 3k + 12 arrives."""
    store = Case(1, 1, 1, 12, 5, 3).store
    assert [store.drawable_sequences(n) for n in range(20)] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 2, 2, 3, 2, 2, 3, 2]
    paper = Replay(ReplaySettings(), IMAGE, 2, 1, 1600)
    assert [paper.drawable_sequences(n) for n in (160, 161, 240, 241, 1600, 1601, 10**9)] == [0, 1, 1, 2, 18, 18, 18]
    r2d2 = Replay(ReplaySettings(burn_in=40, trace=80, period=40), IMAGE, 2, 1, 1600)
    assert [r2d2.drawable_sequences(n) for n in (80, 120, 121, 160, 161, 1600, 1601)] == [0, 0, 1, 1, 2, 37, 37]


# Priorities


def test_a_new_sequence_gets_the_largest_priority_so_far() -> None:
    rig = Rig(Case(1, 2, 2, 12, 5, 3))
    rig.fill(6)
    np.testing.assert_array_equal(rig.priority()[:, :, 0], np.ones((2, 2)))
    rig.write([(0, 1, 0)], np.array([5.0]))
    rig.write([(0, 1, 0)], np.array([2.0]))
    rig.fill(3)
    np.testing.assert_array_equal(rig.priority()[:, :, :2], [[[1, 5], [2, 5]], [[1, 5], [1, 5]]])


OWN_ERRORS = Case(1, 2, 2, 12, 5, 3, burn_in=2, first_priority=FirstPriority.ACTOR)


def test_a_new_sequence_gets_the_priority_of_the_actors_errors() -> None:
    """Sequence 0 has timesteps 0..7, of which 0..1 are burn-in: its trace is the transitions into timesteps 3..7."""
    rig = Rig(OWN_ERRORS)
    inside = {"step_type": np.full(2, MID, np.int32)}
    for t in range(8):
        for group in range(2):
            rig.append(group, inside, (1000.0 * np.arange(2) + 100_000 * group + t + 1).astype(np.float32))
            assert np.any(rig.priority()[group]) == (t == 7)
    own = 1000.0 * np.arange(2)[None, :] + 100_000 * np.arange(2)[:, None]
    np.testing.assert_allclose(rig.priority()[:, :, 0], 0.9 * (own + 8) + 0.1 * (own + 6), rtol=1e-6)
    assert float(rig.state.max_priority) == 1.0  # of the learner's


def test_a_transition_into_the_first_timestep_has_no_error() -> None:
    """Neither in the maximum nor in the mean; without any valid transition the floor is left."""
    rig = Rig(OWN_ERRORS)
    for t in range(8):
        step_type = np.array([FIRST if t == 5 else MID, FIRST], np.int32)
        rig.append(0, {"step_type": step_type}, np.full(2, 900.0 if t == 5 else 10.0 * t, np.float32))
    np.testing.assert_allclose(rig.priority()[0, :, 0], [0.9 * 70 + 0.1 * (30 + 40 + 60 + 70) / 4, 1e-6], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_not_finite_poisons_no_priority(bad: float) -> None:
    """Its sequences get the largest priority so far, as if the actor had said nothing; those of other environments are as ever."""
    rig = Rig(OWN_ERRORS)
    inside = {"step_type": np.full(2, MID, np.int32)}
    for t in range(8):
        rig.append(0, inside, np.array([bad if t == 4 else 3.0, 5.0], np.float32))
    np.testing.assert_allclose(rig.priority()[0, :, 0], [1.0, 5.0], rtol=1e-6)
    for _ in range(9):
        rig.append(0, inside, np.array([3.0, 5.0], np.float32))
    rig.check()
    np.testing.assert_allclose(rig.priority()[0, 0].max(), 3.0, rtol=1e-6)  # what is behind it is forgotten with it


def test_a_sequence_that_is_gone_takes_no_priority() -> None:
    """Its column belongs to the next sequence, at first unfinished and then drawable; what was written does not count as the largest."""
    rig = Rig(Case(1, 1, 1, 12, 5, 3))
    rig.fill(12)
    gone = (0, 0, 0)
    rig.write([gone], np.array([3.0]))
    assert rig.priority()[0, 0, 0] == 3.0
    for timesteps, expected in ((1, 0.0), (5, 3.0)):
        rig.fill(timesteps)
        rig.write([gone], np.array([100.0]))
        assert rig.priority()[0, 0, 0] == expected and float(rig.state.max_priority) == 3.0
    # Nor does one that never was: its column stands for sequence -1 before anything is written.
    rig = Rig(Case(1, 1, 1, 12, 5, 3))
    rig.write([(0, 0, EMPTY)], np.array([100.0]))
    assert not rig.priority().any() and float(rig.state.max_priority) == 1.0


def test_of_two_priorities_for_one_sequence_one_is_taken() -> None:
    rig = Rig(Case(1, 1, 1, 12, 5, 3))
    rig.fill(12)
    rig.state = rig.programs.write(
        rig.state,
        SequenceId(np.zeros(16, np.int32), np.zeros(16, np.int32), np.array([1, 1] + [EMPTY] * 14, np.int32)),
        np.array([0.25, 4.0] + [9.0] * 14, np.float32),
    )
    priority = rig.priority()[0, 0]
    assert priority[1] in (0.25, 4.0) and priority[0] == priority[2] == 1.0


def frequencies(rig: Rig, batches: Batch) -> dict[oracle.Name, int]:
    """How often each sequence was drawn; every draw must be of one that may be."""
    share = rig.case.envs // rig.case.devices
    device = np.broadcast_to(np.arange(rig.case.devices)[:, None, None], batches.sequence.group.shape)
    columns = [batches.sequence.group, device * share + np.asarray(batches.sequence.environment), batches.sequence.number]
    names, counts = np.unique(np.stack([np.asarray(x).ravel() for x in columns]), axis=1, return_counts=True)
    result = {(int(g), int(e), int(k)): int(count) for (g, e, k), count in zip(names.T, counts, strict=True)}
    assert set(result) <= set(rig.twin.priorities)
    return result


@pytest.mark.parametrize(("devices", "exponent"), [(1, 0.9), (4, 0.9), (1, 0.0), (1, 2.0)])
def test_sequences_are_drawn_in_proportion_to_a_power_of_their_priority(devices: int, exponent: float) -> None:
    rig = Rig(Case(devices, 2, 4, 30, 5, 3, priority_exponent=exponent))
    rig.fill(43)
    rng = np.random.default_rng(3)
    rig.write_all(np.exp(rng.normal(0, 0.8, len(rig.twin.priorities))))
    batches = sampler(rig.case, 4, 8192)(rig.state, jax.random.key(1))
    counts = frequencies(rig, batches)
    probabilities = rig.twin.probabilities(exponent, devices)
    draws = sum(counts.values())
    assert draws == 4 * 8192 and len(probabilities) > 50
    chi_square = sum((counts.get(name, 0) - draws * p) ** 2 / (draws * p) for name, p in probabilities.items())
    freedom = len(probabilities) - devices
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("is_exponent", [0.0, 0.6, 1.0])
def test_importance_weights_equal_the_formula(devices: int, is_exponent: float) -> None:
    """The largest weight of the whole batch is 1, also where devices hold priorities of very different size."""
    rig = Rig(Case(devices, 2, 4, 30, 5, 3, is_exponent=is_exponent))
    rig.fill(40)
    rng = np.random.default_rng(4)
    names = sorted(rig.twin.priorities)
    rig.write_all(np.exp(rng.normal(0, 1, len(names)) + np.array([name[1] for name in names])))
    for seed in range(5):
        rig.sample(seed)  # compares
    weights = np.asarray(rig.programs.sample(rig.state, jax.random.key(9)).importance_weight)
    np.testing.assert_allclose(weights.max(), 1.0, rtol=1e-6)
    assert weights.min() > 0.0
    assert np.ptp(weights) == 0.0 if is_exponent == 0.0 else np.ptp(weights) > 0.1


def test_what_a_priority_of_one_device_is_does_not_change_another_ones_draws() -> None:
    """Every device draws its own share of the batch, however small its priorities are."""
    rig = Rig(Case(4, 2, 4, 30, 5, 3))
    rig.fill(40)
    names = sorted(rig.twin.priorities)
    rig.write_all(np.array([10.0 ** (3 * name[1]) for name in names]))
    drawn = rig.sample(0)
    assert [name[1] for name in drawn] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


EXTREME = Case(1, 2, 8, 192, 2, 2)  # 2 x 8 x 96 columns: enough for rounding in their sum


@functools.cache
def full_ring() -> ReplayState:
    """A ring in which every column has a number; priorities are to be replaced."""
    rig = Rig(EXTREME)
    rig.fill(EXTREME.capacity)
    return rig.state


def extreme_priorities(seed: int) -> np.ndarray:
    """Very large, very small and no priorities side by side, with none at both ends."""
    rng = np.random.default_rng(seed)
    priority = np.where(rng.random((2, 8, 96)) < 0.5, rng.choice([1e-6, 1.0, 1e6], (2, 8, 96)), rng.uniform(1e-6, 1e6, (2, 8, 96)))
    priority = np.where(rng.random((2, 8, 96)) < rng.choice([0.1, 0.5, 0.95]), 0.0, priority).astype(np.float32)
    flat = priority.reshape(-1)
    flat[: seed % 5] = flat[flat.size - seed % 7 :] = 0.0
    return priority


@functools.cache
def large_sampler() -> Any:
    return sampler(EXTREME, 4096)


def drawn_priorities(priority: np.ndarray, key: jax.Array, program: Any) -> np.ndarray:
    state = full_ring()._replace(priority=parallel.upload(parallel.make_mesh(1), parallel.BY_GROUPED_ENVIRONMENT, priority))
    sequence = program(state, key).sequence
    return priority[sequence.group, sequence.environment, sequence.number % EXTREME.store.num_columns]


@pytest.mark.parametrize("seed", range(10))
def test_a_column_without_priority_is_never_drawn(seed: int) -> None:
    priority = extreme_priorities(seed)
    drawn = drawn_priorities(priority, jax.random.key(seed), large_sampler())
    assert np.all(drawn > 0)
    assert drawn.max() == priority.max()


@pytest.mark.parametrize("position", [0, 700, 1535])
def test_a_lone_sequence_is_drawn_always(position: int) -> None:
    for value in (1e-6, 1e6):
        priority = np.zeros((2, 8, 96), np.float32)
        priority.reshape(-1)[position] = value
        assert np.all(drawn_priorities(priority, jax.random.key(0), large_sampler()) == np.float32(value))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
def test_the_ends_of_the_mass_belong_to_sequences(monkeypatch: pytest.MonkeyPatch, uniform: float) -> None:
    """The largest number below 1 rounds to 1 once it is added to a count, and so points behind the last column."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform, jnp.float32))
    program = sampler(EXTREME, 4096)
    for seed in range(10):
        assert np.all(drawn_priorities(extreme_priorities(seed), jax.random.key(0), program) > 0)


# Memory


def pointers(tree: Any) -> list[list[int]]:
    return [[shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("devices", [1, 8])
def test_the_replay_stays_where_it_is(devices: int) -> None:
    """Buffers are the same after appends and after writes of priorities, and the old handles are dead."""
    rig = Rig(Case(devices, 2, 8, 12, 5, 3))
    before = pointers(rig.state)
    for _ in range(60):
        old = rig.state
        rig.append(int(rig.length(0) > rig.length(1)))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert pointers(rig.state.experience) == before[: len(Experience._fields)]
    assert pointers(rig.state) == before
    old = rig.state
    rig.write(sorted(rig.twin.priorities)[:1], np.array([3.0]))
    assert old.experience.observation.is_deleted() and pointers(rig.state) == before
    rig.sample(0)
    assert not rig.state.priority.is_deleted() and pointers(rig.state) == before


PAPER_SPEC = EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, (), 4)


def paper_replay() -> tuple[Replay, Any]:
    """Trace 160, period 80, two LSTMs of 512; few environments, so that it fits."""
    zeros = jnp.zeros((1, 2, 512), jnp.float32)
    form = RecurrentState(zeros, zeros, jnp.zeros((1,), jnp.int32))
    store = Replay(ReplaySettings(), PAPER_SPEC, num_groups=2, envs_per_group=1, capacity_per_env=1600)
    return store, lambda: store.init(form)


def test_an_atari_timestep_takes_at_most_7400_bytes() -> None:
    store, init = paper_replay()
    state = jax.jit(init)()
    timesteps = store.num_groups * store.envs_per_group * store.capacity_per_env
    assert state.experience.observation.size == timesteps * 84 * 84
    assert state.recurrent_state.hidden.shape == (2, 1, 20, 2, 512)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert 84 * 84 < total / timesteps <= 7400


def test_an_intrinsic_reward_takes_four_bytes_of_a_timestep_and_its_absence_none() -> None:
    store, _ = paper_replay()
    form = RecurrentState(*(jax.ShapeDtypeStruct((1, 1, 512), jnp.float32),) * 2, jax.ShapeDtypeStruct((1,), jnp.int32))

    def size(replay: Replay) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(replay.init, form)))

    assert size(store) - size(dataclasses.replace(store, has_intrinsic_reward=False)) == 4 * 2 * 1600


def test_the_actors_errors_take_four_bytes_of_a_timestep_and_their_absence_none() -> None:
    store, init = paper_replay()
    asking = dataclasses.replace(store, settings=ReplaySettings(first_priority=FirstPriority.ACTOR))
    form = jax.eval_shape(recurrent_form)

    def size(replay: Replay) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(replay.init, form)))

    assert size(asking) - size(store) == 4 * 2 * 1600
    assert jax.eval_shape(init).td_error is None


@pytest.mark.parametrize("kind", ["append", "append with errors", "appends in a scan", "sample and write"])
def test_no_program_copies_or_rewrites_the_ring(kind: str) -> None:
    """What the compiler sets aside is far smaller than the frames, and all arrays are taken over from the arguments."""
    store, _ = paper_replay()
    if kind == "append with errors":
        store = dataclasses.replace(store, settings=ReplaySettings(first_priority=FirstPriority.ACTOR))
    form = RecurrentState(*(jax.ShapeDtypeStruct((1, 2, 512), jnp.float32),) * 2, jax.ShapeDtypeStruct((1,), jnp.int32))
    state = jax.eval_shape(store.init, form)
    rows = jax.eval_shape(lambda s: jax.tree.map(lambda leaf: leaf[0, :, 0], (s.experience, s.recurrent_state, s.td_error)), state)
    specs, by_env, everywhere = replay_module.SPECS, parallel.BY_ENVIRONMENT, parallel.REPLICATED

    def appends(state: ReplayState, *arguments: Any) -> ReplayState:
        def once(carry: ReplayState, _: None) -> tuple[ReplayState, None]:
            return store.append(carry, *arguments), None

        return jax.lax.scan(once, state, length=3)[0]

    def sample_and_write(state: ReplayState, key: jax.Array) -> tuple[ReplayState, jax.Array]:
        batch = store.sample(state, key, 2)
        means = jnp.mean(batch.experience.observation.astype(jnp.float32), axis=(1, 2, 3, 4))
        return store.write_priorities(state, batch.sequence, means), means

    arguments: tuple[Any, ...] = (state, jax.ShapeDtypeStruct((), jnp.int32), *rows)
    function, in_specs, out_specs = {
        "append": (store.append, (specs, everywhere, by_env, by_env, by_env), specs),
        "append with errors": (store.append, (specs, everywhere, by_env, by_env, by_env), specs),
        "appends in a scan": (appends, (specs, everywhere, by_env, by_env, by_env), specs),
        "sample and write": (sample_and_write, (specs, everywhere), (specs, by_env)),
    }[kind]
    if kind == "sample and write":
        arguments = (state, jax.eval_shape(lambda: jax.random.key(0)))
    program = parallel.sharded(function, parallel.make_mesh(1), in_specs, out_specs, donate=(0,))
    compiled = program.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    ring = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    sampled = 2 * 161 * 84 * 84 * 5 if kind == "sample and write" else 0  # uint8 and, for the mean, float32
    assert memory.temp_size_in_bytes < sampled + ring / 200
    assert memory.alias_size_in_bytes >= ring
    if kind != "sample and write":
        assert compiled.cost_analysis()["bytes accessed"] < ring / 200, "more than a few rows is read or written"


def test_an_age_counts_timesteps_since_the_first_one_of_a_sequence() -> None:
    case = Case(devices=1, groups=2, envs=2, capacity=12, trace=4, period=2)
    rig = Rig(case)
    for group in (0, 0, 0, 1, 0, 0, 0, 0):
        rig.append(group)
    sequence = SequenceId(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0, 2, 0]))
    np.testing.assert_array_equal(case.store.age(jax.device_get(rig.state), sequence), [7, 3, 1])  # type: ignore[arg-type]


@pytest.mark.parametrize("devices", [1, 2])
def test_priorities_are_counted_by_buckets_over_all_devices(devices: int) -> None:
    store = Case(devices=devices, groups=1, envs=4, capacity=6, trace=2, period=2).store
    mesh = parallel.make_mesh(devices)
    count = parallel.sharded(store.count_priorities, mesh, (replay_module.SPECS,), parallel.REPLICATED)
    values = [[0.0, 1e-9, 1.05], [1.05, 1.05, 0.0], [1e9, 0.0, 0.5], [1.5, 1e-9, 0.0]]
    state = jax.eval_shape(lambda: store.init(recurrent_form()))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)._replace(priority=np.array([values], np.float32))
    placed = jax.device_put(state, parallel.placement(mesh, replay_module.SPECS, state))
    counts = jax.device_get(count(placed))
    edges = [0, *replay_module.PRIORITY_EDGES.tolist(), np.inf]
    found = {value: counts[np.searchsorted(edges, value) - 1] for value in (1e-9, 0.5, 1.05, 1.5, 1e9)}
    assert found == {1e-9: 2, 0.5: 1, 1.05: 3, 1.5: 1, 1e9: 1}
    assert counts.sum() == 8
