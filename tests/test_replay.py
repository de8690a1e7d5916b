"""The replay against a list that forgets nothing, under random operations on any number of devices; its priorities, draws and memory."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import parallel
from agent57_jax.agent.replay import EMPTY, PRIORITY_EDGES, Replay, ReplayState
from agent57_jax.config import FirstPriority, ReplaySettings
from agent57_jax.types import MID, Batch, EnvironmentSpec, SequenceId
from tests import tiny
from tests.oracles import replay as oracle
from tests.replay_rig import BATCH_SIZE, BY_ENV, EVERYWHERE, SPECS, VECTOR, Case, Rig, recurrent_form

SMALL = Case(1, 1, 1, 12, 5, 3)
OWN_ERRORS = Case(1, 2, 2, 12, 5, 3, burn_in=2, first_priority=FirstPriority.ACTOR)
CASES = [
    # (devices, groups, environments, capacity, trace, period, ...) and operations
    (Case(1, 1, 1, 2, 1, 1), 300),  # the smallest there is
    (Case(1, 2, 1, 4, 3, 1), 400),  # capacity trace + 1
    (Case(1, 1, 2, 9, 5, 3), 400),  # just above trace + period, a trace that is no multiple of the period
    (Case(1, 2, 2, 12, 7, 3), 400),
    (Case(1, 3, 2, 8, 4, 4), 500),  # period equal to the trace
    (Case(1, 2, 3, 40, 7, 5, VECTOR), 900),
    (Case(1, 2, 8, 12, 5, 3), 300),
    (Case(8, 2, 8, 12, 5, 3), 300),
    (Case(4, 1, 8, 16, 6, 4, VECTOR, burn_in=3, has_intrinsic_reward=False), 300),
    (Case(1, 2, 2, 12, 4, 3, burn_in=5, first_priority=FirstPriority.ACTOR), 500),  # a burn-in longer than the trace
    (Case(8, 2, 8, 12, 5, 3, first_priority=FirstPriority.ACTOR), 300),
]


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
            pool = list(rig.twin.priorities) + remembered
            for _ in range(rig.rows):
                group, environment = int(rng.integers(case.groups)), int(rng.integers(case.envs))
                started = rig.length(group) // case.period + 1
                pool.append((group, environment, int(rng.integers(EMPTY, started + 2))))
            names = [pool[i] for i in rng.integers(len(pool), size=rig.rows)]  # no more, in case that all fall to one device
            values = dict(zip(names, np.exp(rng.normal(0, 1.5, rig.rows)), strict=True))
            fresh += len(set(names) & set(rig.twin.priorities))
            stale += len(set(names) - set(rig.twin.priorities))
            rig.write(names, np.array([values[name] for name in names]))
        rig.check()
    rig.check_ring()
    assert fresh > 20 and stale > 20
    assert min(rig.length(group) for group in range(case.groups)) > 5 * case.capacity


@pytest.mark.parametrize(("capacity", "burn_in"), [(9, 0), (4, 0), (2, 0), (6, 1), (8, 3)])
def test_impossible_sizes_are_refused(capacity: int, burn_in: int) -> None:
    with pytest.raises(ValueError, match=f"capacity_per_env {capacity}"):
        Case(1, 1, 1, capacity, trace=4, period=2, burn_in=burn_in).store  # noqa: B018 - the property builds the replay


def test_an_age_counts_timesteps_since_the_first_one_of_a_sequence() -> None:
    rig = Rig(Case(devices=1, groups=2, envs=2, capacity=12, trace=4, period=2))
    for group in (0, 0, 0, 1, 0, 0, 0, 0):
        rig.append(group)
    sequence = SequenceId(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0, 2, 0]))
    np.testing.assert_array_equal(rig.store.age(jax.device_get(rig.state), sequence), [7, 3, 1])  # type: ignore[arg-type]


# Priorities -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_not_finite_poisons_no_priority(bad: float) -> None:
    """Its sequences get the largest priority so far, as if the actor had said nothing; those of other environments are as ever."""
    rig = Rig(OWN_ERRORS)
    inside = {"step_type": np.full(2, MID, np.int32)}
    for t in range(17):
        rig.append(0, inside, np.array([bad if t == 4 else 3.0, 5.0], np.float32))
        if t == 7:
            np.testing.assert_allclose(rig.priority()[0, :, 0], [1.0, 5.0], rtol=1e-6)
    rig.check()
    np.testing.assert_allclose(rig.priority()[0, 0].max(), 3.0, rtol=1e-6)  # what is behind it is forgotten with it


def test_of_two_priorities_for_one_sequence_one_is_taken() -> None:
    rig = Rig(SMALL)
    rig.fill(12)
    rig.write([(0, 0, 1)] * 2, np.array([0.25, 4.0]))
    priority = rig.priority()[0, 0]
    assert priority[1] in (0.25, 4.0) and priority[0] == priority[2] == 1.0


@pytest.mark.parametrize("devices", [1, 2])
def test_priorities_are_counted_by_buckets_over_all_devices(devices: int) -> None:
    store, mesh = Case(devices=devices, groups=1, envs=4, capacity=6, trace=2, period=2).store, parallel.make_mesh(devices)
    values = [[0.0, 1e-9, 1.05], [1.05, 1.05, 0.0], [1e9, 0.0, 0.5], [1.5, 1e-9, 0.0]]
    state = tiny.zeros_like(jax.eval_shape(lambda: store.init(recurrent_form())))._replace(priority=np.array([values], np.float32))
    placed = jax.device_put(state, parallel.placement(mesh, SPECS, state))
    counts = jax.device_get(parallel.sharded(store.count_priorities, mesh, (SPECS,), EVERYWHERE)(placed))
    edges = [0, *PRIORITY_EDGES.tolist(), np.inf]
    found = {value: counts[np.searchsorted(edges, value) - 1] for value in (1e-9, 0.5, 1.05, 1.5, 1e9)}
    assert found == {1e-9: 2, 0.5: 1, 1.05: 3, 1.5: 1, 1e9: 1}
    assert counts.sum() == 8


# Draws ----------------------------------------------------------------------------------------------------------------------------


def sampler(case: Case, batch_size: int, num_batches: int = 1) -> Any:
    """`num_batches` independent batches of `batch_size` sequences over all devices; their fields [devices, num_batches, ...]."""

    def sample(state: ReplayState, key: jax.Array) -> Batch:
        key = jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))
        batches = jax.vmap(lambda k: case.store.sample(state, k, batch_size // case.devices))(jax.random.split(key, num_batches))
        return jax.tree.map(lambda leaf: leaf[None], batches)

    return parallel.sharded(sample, parallel.make_mesh(case.devices), (SPECS, EVERYWHERE), BY_ENV)


def frequencies(rig: Rig, batches: Batch) -> dict[oracle.Name, int]:
    """How often each sequence was drawn; every draw must be of one that may be."""
    device = np.broadcast_to(np.arange(rig.case.devices)[:, None, None], batches.sequence.group.shape)
    columns = [batches.sequence.group, device * rig.share + np.asarray(batches.sequence.environment), batches.sequence.number]
    names, counts = np.unique(np.stack([np.asarray(x).ravel() for x in columns]), axis=1, return_counts=True)
    result = {(int(g), int(e), int(k)): int(count) for (g, e, k), count in zip(names.T, counts, strict=True)}
    assert set(result) <= set(rig.twin.priorities)
    return result


@pytest.mark.parametrize(("devices", "exponent", "is_exponent"), [(4, 0.9, 0.6), (1, 0.0, 1.0), (1, 2.0, 0.0)])
def test_sequences_are_drawn_in_proportion_to_a_power_of_their_priority(devices: int, exponent: float, is_exponent: float) -> None:
    """Of each device its own share, however small its priorities are; the largest weight of the whole batch is 1."""
    rig = Rig(Case(devices, 2, 4, 30, 5, 3, priority_exponent=exponent, is_exponent=is_exponent))
    rig.fill(43)
    rng, names = np.random.default_rng(3), sorted(rig.twin.priorities)
    rig.write_all(np.exp(rng.normal(0, 0.8, len(names)) + [name[1] * (devices - 1) for name in names]))
    counts = frequencies(rig, sampler(rig.case, 4, 8192)(rig.state, jax.random.key(1)))
    probabilities = rig.twin.probabilities(exponent, devices)
    draws = sum(counts.values())
    assert draws == 4 * 8192 and len(probabilities) > 50
    chi_square = sum((counts.get(name, 0) - draws * p) ** 2 / (draws * p) for name, p in probabilities.items())
    freedom = len(probabilities) - devices
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
    rig.sample(0)  # compares the weights with the formula
    weights = np.asarray(rig.programs.sample(rig.state, jax.random.key(9)).importance_weight)
    np.testing.assert_allclose(weights.max(), 1.0, rtol=1e-6)
    assert weights.min() > 0.0


# Rounding ---------------------------------------------------------------------------------------------------------------------------

EXTREME = Case(1, 2, 8, 192, 2, 2)  # 2 x 8 x 96 columns: enough for rounding in their sum


def extreme_priorities(seed: int) -> np.ndarray:
    """Very large, very small and no priorities side by side, with none at both ends."""
    rng = np.random.default_rng(seed)
    priority = np.where(rng.random((2, 8, 96)) < 0.5, rng.choice([1e-6, 1.0, 1e6], (2, 8, 96)), rng.uniform(1e-6, 1e6, (2, 8, 96)))
    priority = np.where(rng.random((2, 8, 96)) < rng.choice([0.1, 0.5, 0.95]), 0.0, priority).astype(np.float32)
    flat = priority.reshape(-1)
    flat[: seed % 5] = flat[flat.size - seed % 7 :] = 0.0
    return priority


@pytest.mark.parametrize("uniform", [None, 0.0, 1 - 2.0**-24])
def test_a_column_without_priority_is_never_drawn_and_a_lone_sequence_always(
    uniform: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest number below 1 rounds to 1 once it is added to a count, and so points behind the last column."""
    if uniform is not None:
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform, jnp.float32))
    rig, program = Rig(EXTREME), sampler(EXTREME, 4096)
    rig.fill(EXTREME.capacity)  # every column has a number; priorities are to be replaced

    def drawn_priorities(priority: np.ndarray, seed: int) -> np.ndarray:
        state = rig.state._replace(priority=parallel.upload(parallel.make_mesh(1), parallel.BY_GROUPED_ENVIRONMENT, priority))
        sequence = program(state, jax.random.key(seed)).sequence
        return priority[sequence.group, sequence.environment, sequence.number % EXTREME.store.num_columns]

    for seed in range(10):
        priority = extreme_priorities(seed)
        drawn = drawn_priorities(priority, seed)
        assert np.all(drawn > 0)
        assert uniform is not None or drawn.max() == priority.max()
    for position, value in itertools.product((0, 700, 1535), (1e-6, 1e6)):
        priority = np.zeros((2, 8, 96), np.float32)
        priority.reshape(-1)[position] = value
        assert np.all(drawn_priorities(priority, 0) == np.float32(value))


# Memory -----------------------------------------------------------------------------------------------------------------------------


# The paper's frames, trace of 160, period of 80 and two LSTMs of 512; few environments, so that it fits.
PAPER = Replay(ReplaySettings(), EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, (), 4), 2, 1, 1600)
ASKING = dataclasses.replace(PAPER, settings=ReplaySettings(first_priority=FirstPriority.ACTOR))


def paper_state(store: Replay) -> ReplayState:
    """As shapes."""
    state: ReplayState = jax.eval_shape(lambda: store.init(recurrent_form(2, 512)))
    return state


def num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_an_atari_timestep_takes_at_most_7400_bytes_and_the_actors_error_four_of_them() -> None:
    state, timesteps = paper_state(PAPER), 2 * 1600
    assert state.experience.observation.size == timesteps * 84 * 84
    assert state.recurrent_state.hidden.shape == (2, 1, 20, 2, 512)
    assert 84 * 84 < num_bytes(state) / timesteps <= 7400
    assert num_bytes(paper_state(ASKING)) - num_bytes(state) == 4 * timesteps
    assert state.td_error is None


@pytest.mark.parametrize("kind", ["append", "append with errors", "appends in a scan", "sample and write"])
def test_no_program_copies_or_rewrites_the_ring(kind: str) -> None:
    """What the compiler sets aside is far smaller than the frames, and all arrays are taken over from the arguments."""
    store = ASKING if kind == "append with errors" else PAPER
    state = paper_state(store)
    rows = jax.eval_shape(lambda s: jax.tree.map(lambda leaf: leaf[0, :, 0], (s.experience, s.recurrent_state, s.td_error)), state)

    def appends(state: ReplayState, *arguments: Any) -> ReplayState:
        def once(carry: ReplayState, _: None) -> tuple[ReplayState, None]:
            return store.append(carry, *arguments), None

        return jax.lax.scan(once, state, length=3)[0]

    def sample_and_write(state: ReplayState, key: jax.Array) -> tuple[ReplayState, jax.Array]:
        batch = store.sample(state, key, 2)
        means = jnp.mean(batch.experience.observation.astype(jnp.float32), axis=(1, 2, 3, 4))
        return store.write_priorities(state, batch.sequence, means), means

    function, in_specs, out_specs = store.append, (SPECS, EVERYWHERE, BY_ENV, BY_ENV, BY_ENV), SPECS
    arguments = (jax.ShapeDtypeStruct((), jnp.int32), *rows)
    sampled = 0
    if kind == "appends in a scan":
        function = appends
    elif kind == "sample and write":
        function, in_specs, out_specs = sample_and_write, (SPECS, EVERYWHERE), (SPECS, BY_ENV)
        arguments = (jax.eval_shape(lambda: jax.random.key(0)),)
        sampled = 2 * 161 * 84 * 84 * 5  # uint8 and, for the mean, float32
    compiled = parallel.sharded(function, parallel.make_mesh(1), in_specs, out_specs, donate=(0,)).lower(state, *arguments).compile()
    memory, ring = compiled.memory_analysis(), num_bytes(state)
    assert memory.temp_size_in_bytes < sampled + ring / 200
    assert memory.alias_size_in_bytes >= ring
    if not sampled:
        assert compiled.cost_analysis()["bytes accessed"] < ring / 200, "more than a few rows is read or written"
