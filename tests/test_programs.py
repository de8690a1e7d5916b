"""The programs as the drivers call them: traced once, and what they store, count and write back is what actor and learner said."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import ActOutput
from agent57_jax.agent.learner import LearnerState, acting_parameters
from agent57_jax.agent.programs import ACT_STREAM, NONE, SAMPLE_STREAM, Programs, Shared, UpdateMetrics
from agent57_jax.agent.replay import Replay, ReplayState
from agent57_jax.algorithm import meta_controller
from agent57_jax.config import EvaluationArm
from agent57_jax.types import FIRST, LAST, MID, Batch, TimeStep
from tests.oracles.meta_controller import Bandit, Pool
from tests.program_rig import (
    ALL,
    CAPACITY,
    DEVICES,
    PERIOD,
    ROWS,
    SPEC,
    CountingEnvironment,
    N,
    assert_close,
    key_data,
    make_programs,
    make_settings,
)


def make_timestep(rng: np.random.Generator, act: int, length: int = 5) -> TimeStep:
    """Timestep `act` of 8 streams that are out of step with each other."""
    step = (act + np.arange(8)) % (length + 1) if act else np.zeros(8, int)
    step_type = np.where(step == 0, FIRST, np.where(step == length, LAST, MID)).astype(np.int32)
    return TimeStep(
        observation=rng.normal(size=(8, 3)).astype(np.float32),
        reward=rng.normal(size=8).astype(np.float32),
        discount=np.where((step_type == LAST) & (np.arange(8) % 2 == 0), 0.0, 1.0).astype(np.float32),
        step_type=step_type,
        episode_return=rng.normal(size=8).astype(np.float32),
        episode_length=step.astype(np.int32),
        extras={"twice": 2 * step.astype(np.float32)},
    )


class Report(NamedTuple):
    """What the actor itself says about one act."""

    group: int
    output: ActOutput
    recurrent: Any  # as it was before the act


class Driven(NamedTuple):
    """Acts of two groups in turn, with updates between them."""

    programs: Programs
    reports: list[Report]
    actions: list[np.ndarray]
    replay: Any
    shared: Any
    updates: Any
    learner: Any
    compiled: list[str]  # after every program has run once


@functools.cache
def driven() -> Driven:
    made, root = make_programs(num_groups=2)
    actor = made.parts.actor
    one, same_root = parallel.make_mesh(1), key_data()

    def report(parameters: Any, state: Any, shared: Any, timestep: TimeStep, counter: jax.Array, group: jax.Array) -> ActOutput:
        key = parallel.fold_counter(jnp.asarray(same_root), ACT_STREAM, counter)
        return actor.act(parameters, state, shared.statistics, shared.metrics, timestep, key, shared.embeddings, group)

    reporter = parallel.sharded(report, one, (ALL, ROWS, ALL, ROWS, ALL, ALL), ActOutput(ROWS, ALL, ALL, ALL, *(ROWS,) * 4))
    learner, store, metrics, shared = made.init_learner(root), made.init_replay(), made.init_update_metrics(), made.init_shared()
    states = [made.init_actor(made.actor_index(group)) for group in range(2)]
    reported_states, reported_shared = jax.device_get((states, shared))
    rng = np.random.default_rng(0)
    reports, actions, compiled = [], [], []
    updates = 0

    def note(event: str, duration: float, **_: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for act in range(46):
            if act == 14:
                assert compiled, "the listener hears nothing"
                compiled.clear()
            group = act % 2
            timestep = make_timestep(rng, act // 2)
            parameters = acting_parameters(learner)
            before = reported_states[group].recurrent
            counter, number = np.uint32(act), np.int32(group)
            out = jax.device_get(reporter(jax.device_get(parameters), reported_states[group], reported_shared, timestep, counter, number))
            reported_states[group], reported_shared = out.state, Shared(out.statistics, out.embeddings, out.metrics)
            reports.append(Report(group, out, before))
            uploaded = parallel.upload(made.mesh, ROWS, timestep)
            states[group], shared, store, action = made.act(parameters, states[group], shared, store, uploaded, root, counter, number)
            actions.append(parallel.local_rows(action))
            if act >= 12 and act % 3 == 0:
                learner, store, metrics = made.update(learner, store, metrics, root, np.uint32(updates), np.int32(1))
                updates += 1
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    return Driven(made, reports, actions, *jax.device_get((store, shared, metrics, learner)), compiled)


def test_every_program_is_traced_and_compiled_once() -> None:
    run = driven()
    made = run.programs
    assert (made.act._cache_size(), made.update._cache_size(), made.init_actor._cache_size()) == (1, 1, 1)
    assert run.compiled == []


def test_the_replay_holds_what_the_actor_reported() -> None:
    run = driven()
    for group in range(2):
        reports = [report for report in run.reports if report.group == group]
        assert run.replay.appended[group] == len(reports) == 23
        for t in range(len(reports) - CAPACITY, len(reports)):
            stored = jax.tree.map(lambda ring, t=t, group=group: ring[group, :, t % CAPACITY], run.replay.experience)
            assert_close(stored._asdict(), reports[t].output.experience._asdict())
            np.testing.assert_allclose(run.replay.td_error[group, :, t % CAPACITY], reports[t].output.td_error, rtol=1e-4, atol=1e-5)
        newest = (len(reports) - 1) // PERIOD
        for sequence in range(newest - CAPACITY // PERIOD + 1, newest + 1):
            column = sequence % (CAPACITY // PERIOD)
            assert run.replay.number[group, column] == sequence
            stored = jax.tree.map(lambda rows, group=group, column=column: rows[group, :, column], run.replay.recurrent_state)
            assert_close(stored, reports[sequence * PERIOD].recurrent)


def test_actions_and_shared_sums_are_those_of_both_groups() -> None:
    run = driven()
    for report, action in zip(run.reports, run.actions, strict=True):
        np.testing.assert_array_equal(action, report.output.experience.action)
    final = run.reports[-1].output
    assert_close(run.shared, Shared(final.statistics, final.embeddings, final.metrics), atol=1e-4)
    assert run.shared.metrics.timesteps == 46 * 8


def test_actors_are_numbered_over_the_whole_fleet() -> None:
    run = driven()
    for report in run.reports[:2]:
        np.testing.assert_array_equal(report.output.state.actor, 8 * report.group + np.arange(8))
        np.testing.assert_array_equal(report.output.experience.policy, (8 * report.group + np.arange(8)) % N)


def test_updates_are_summed_and_counted() -> None:
    run = driven()
    assert run.updates.updates == run.learner.updates == 12
    assert run.updates.non_finite_update == NONE
    assert {programs.PRIORITY_SUM, programs.AGE, "loss/intrinsic", "gradient_norm/embedding"} <= set(run.updates.total)
    assert programs.FINITE not in run.updates.total
    assert run.updates.total["loss/extrinsic"] > 0
    assert 0 < run.updates.total["learner/valid_share"] <= 12


# One update -------------------------------------------------------------------------------------------------------------------------


class Filled(NamedTuple):
    """Host copies of a learner and a replay that has something to draw, and the program that says what would be drawn."""

    learner: LearnerState
    replay: ReplayState
    sampler: Any


@functools.cache
def filled() -> Filled:
    run = driven()
    made = run.programs

    def sample(store: ReplayState, root: jax.Array, counter: jax.Array) -> Batch:
        key = jax.random.fold_in(parallel.fold_counter(root, SAMPLE_STREAM, counter), jax.lax.axis_index(parallel.AXIS))
        return made.store.sample(store, key, made.parts.settings.learner.batch_size // DEVICES)

    sampler = parallel.sharded(sample, made.mesh, (programs.replay.SPECS, ALL, ALL), ROWS)
    return Filled(run.learner, run.replay, sampler)


def on_devices(made: Programs, learner: LearnerState, store: ReplayState, metrics: UpdateMetrics) -> tuple[Any, Any, Any]:
    """Fresh device copies, since the update consumes its arguments."""
    placed = jax.device_put(store, parallel.placement(made.mesh, programs.replay.SPECS, store))
    return parallel.upload(made.mesh, ALL, learner), placed, parallel.upload(made.mesh, ALL, metrics)


def update(made: Programs, learner: LearnerState, store: ReplayState, counter: int, seed: int = 0, metrics: Any = None) -> Any:
    """Host copies of what one update makes of host copies."""
    root = parallel.upload(made.mesh, ALL, key_data(seed))
    arguments = on_devices(made, learner, store, empty_metrics(made) if metrics is None else metrics)
    return jax.device_get(made.update(*arguments, root, np.uint32(counter), np.int32(1)))


def sampled_columns(batch: Batch) -> list[tuple[int, int, int]]:
    """(group, environment, column) of every sequence of a batch, environments numbered over all devices."""
    share = len(batch.sequence.number) // DEVICES
    device = np.arange(len(batch.sequence.number)) // share
    environment = batch.sequence.environment + device * (8 // DEVICES)
    columns = batch.sequence.number % (CAPACITY // PERIOD)
    return [tuple(int(x) for x in row) for row in zip(batch.sequence.group, environment, columns, strict=True)]  # type: ignore[misc]


def empty_metrics(made: Programs) -> UpdateMetrics:
    metrics: UpdateMetrics = jax.device_get(made.init_update_metrics())
    return metrics


def test_an_update_writes_priorities_to_its_own_sequences_alone() -> None:
    made, state = driven().programs, filled()
    written: set[tuple[int, int, int]] = set()
    for counter in range(5):
        root = parallel.upload(made.mesh, ALL, key_data(100 + counter))
        # All priorities alike, so that what is written shows.
        before = state.replay._replace(priority=np.where(state.replay.priority > 0, np.float32(1), np.float32(0)))
        store = on_devices(made, state.learner, before, empty_metrics(made))[1]
        drawn = sampled_columns(jax.device_get(state.sampler(store, root, np.uint32(counter))))
        _, after, done = update(made, state.learner, before, counter, seed=100 + counter)
        assert all(before.priority[at] > 0 for at in drawn)
        changed = set(zip(*(axis.tolist() for axis in np.nonzero(after.priority != before.priority)), strict=True))
        assert changed == set(drawn)
        assert np.all(after.priority[before.priority > 0] > 0) and not np.any(after.priority[before.priority == 0])
        np.testing.assert_allclose(np.mean([after.priority[at] for at in drawn]), done.total["learner/priority"], rtol=1e-5)
        np.testing.assert_allclose(after.max_priority, max(before.max_priority, *(after.priority[at] for at in drawn)), rtol=1e-6)
        for name in ("experience", "recurrent_state", "number", "appended"):
            jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
        written |= changed
    assert {group for group, _, _ in written} == {0, 1}
    assert {environment for _, environment, _ in written} == set(range(8))


def test_an_update_that_is_not_finite_is_reported_once_and_leaves_everything() -> None:
    made, state = driven().programs, filled()
    rewards = np.full_like(state.replay.experience.extrinsic_reward, np.nan)
    poisoned = state.replay._replace(experience=state.replay.experience._replace(extrinsic_reward=rewards))
    start = state.learner._replace(updates=np.int32(41))
    learner, store, metrics = update(made, start, poisoned, 5)
    assert metrics.non_finite_update == 41
    assert not np.isfinite(metrics.total["loss/extrinsic"])
    np.testing.assert_array_equal(store.priority, poisoned.priority)
    assert store.max_priority == poisoned.max_priority
    jax.tree.map(np.testing.assert_array_equal, learner, start)
    # The first one stays reported, whatever follows.
    for content in (state.replay, poisoned):
        metrics = update(made, start._replace(updates=np.int32(50)), content, 6, metrics=metrics)[2]
        assert metrics.non_finite_update == 41
    assert metrics.updates == 3
    assert made.update._cache_size() == 1


def test_several_updates_in_one_dispatch_equal_as_many_and_leave_the_replay_where_it_is() -> None:
    made, state = driven().programs, filled()
    looping = Programs(made.parts, made.mesh, made.store, CountingEnvironment())
    root = parallel.upload(made.mesh, ALL, key_data())
    starts = [on_devices(one, state.learner, state.replay, empty_metrics(made)) for one in (looping, made)]
    together, one_by_one = looping.learn(*starts[0], root, 7, 3), made.learn(*starts[1], root, 7, 3)
    assert together[2].updates == 3
    assert_close(together, one_by_one)

    def places(store: ReplayState) -> list[int]:
        return [leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in jax.tree.leaves((store.experience, store.recurrent_state))]

    before = places(together[1])
    assert places(looping.learn(*together, root, 10, 3)[1]) == before


# The bandits of all actors ----------------------------------------------------------------------------------------------------------


def test_arms_are_pooled_over_groups_and_devices() -> None:
    """Each bandit of each group has episodes of its own, of which none is lost and none counted twice."""
    settings = config.changed(make_settings(2), {"evaluation.arm": EvaluationArm.ACTORS.value})
    mesh = parallel.make_mesh(DEVICES)
    parts = programs.build(settings, SPEC)
    made = Programs(parts, mesh, Replay(settings.replay, SPEC, 2, 8, CAPACITY))
    window = parts.actor.mode.window_episodes
    twins, groups = [], []
    for group in range(2):
        bandits = []
        for environment in range(8):
            twin, bandit = Bandit(window, N), meta_controller.init_bandit(window)
            for episode in range(group + environment % 3):
                arm, episode_return = (environment + episode) % N, 1000.0 * environment + 10 * group + episode
                twin.record(arm, episode_return)
                bandit = meta_controller.record_returns(bandit, jnp.ones(1, bool), jnp.array([arm]), jnp.array([episode_return]))
            twins.append(twin)
            bandits.append(bandit)
        rows = jax.tree.map(lambda *leaves: np.stack(leaves), *bandits)
        groups.append(parallel.upload(mesh, ROWS, rows))
    pooled, twin = made.pool_arms(groups), Pool(twins, N)
    np.testing.assert_array_equal(pooled.counts, [len(returns) for returns in twin.returns])
    np.testing.assert_allclose(pooled.means, [twin.mean(arm) for arm in range(N)], rtol=1e-6)
    np.testing.assert_allclose(pooled.deviation, twin.deviation(), rtol=1e-6)
    assert pooled.counts.sharding.is_fully_replicated
