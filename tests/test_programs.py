"""The programs as the drivers call them: traced once, and what they store, count and write back is what actor and learner said."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import ActOutput
from agent57_jax.agent.learner import LearnerState, acting_parameters
from agent57_jax.agent.programs import ACT_STREAM, ENVIRONMENT_STREAM, NONE, SAMPLE_STREAM, Programs, Shared, UpdateMetrics
from agent57_jax.agent.replay import Replay, ReplayState
from agent57_jax.algorithm import meta_controller
from agent57_jax.config import EvaluationArm, FirstPriority, Settings, Torso
from agent57_jax.types import FIRST, LAST, MID, Batch, EnvironmentSpec, Experience, TimeStep
from tests.oracles.meta_controller import Bandit, Pool

DEVICES = 4
A, N = 3, 3
TRACE, PERIOD, CAPACITY = 4, 2, 12  # of each environment
ACTS_PER_DISPATCH = 3
SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("a", "b", "c"), 1, extras=("twice",))  # twice the episode's length
ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT


def make_settings(num_groups: int) -> Settings:
    settings = Settings()
    settings.environment.num_envs, settings.environment.num_groups = 8 * num_groups, num_groups
    settings.network.torso = Torso.DENSE
    settings.network.dense_features = (4,)
    settings.network.torso_size = settings.network.lstm_size = 4
    settings.network.head_size = 5
    settings.policy.num_policies = N
    novelty = settings.novelty
    novelty.embedding_size = novelty.distillation_size = novelty.inverse_hidden_size = 4
    novelty.num_neighbours, novelty.memory_capacity, novelty.train_timesteps = 3, 10, 2
    settings.actor.acts_per_dispatch = ACTS_PER_DISPATCH
    settings.replay.trace, settings.replay.period, settings.replay.min_sequences = TRACE, PERIOD, 8
    settings.replay.first_priority = FirstPriority.ACTOR
    settings.learner.batch_size = 8
    return config.finalise(settings)


def key_data(seed: int = 0) -> np.ndarray:
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def make_programs(num_groups: int, environment: Any = None) -> tuple[Programs, jax.Array]:
    """Programs on a mesh, and the root key as a run has it."""
    parts = programs.build(make_settings(num_groups), SPEC)
    mesh = parallel.make_mesh(DEVICES)
    made = Programs(parts, mesh, Replay(parts.settings.replay, SPEC, num_groups, 8, CAPACITY), environment)
    return made, parallel.upload(mesh, ALL, key_data())


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
            for name, wanted in reports[t].output.experience._asdict().items():
                stored = getattr(run.replay.experience, name)[group, :, t % CAPACITY]
                np.testing.assert_allclose(stored, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{name} of timestep {t}")
            np.testing.assert_allclose(run.replay.td_error[group, :, t % CAPACITY], reports[t].output.td_error, rtol=1e-4, atol=1e-5)
        newest = (len(reports) - 1) // PERIOD
        for sequence in range(newest - CAPACITY // PERIOD + 1, newest + 1):
            column = sequence % (CAPACITY // PERIOD)
            assert run.replay.number[group, column] == sequence
            for name, wanted in reports[sequence * PERIOD].recurrent._asdict().items():
                stored = getattr(run.replay.recurrent_state, name)[group, :, column]
                np.testing.assert_allclose(stored, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_actions_and_shared_sums_are_those_of_both_groups() -> None:
    run = driven()
    for report, action in zip(run.reports, run.actions, strict=True):
        np.testing.assert_array_equal(action, report.output.experience.action)
    final = run.reports[-1].output
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4),
        run.shared,
        Shared(final.statistics, final.embeddings, final.metrics),
    )
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
        learner, store, metrics = on_devices(made, state.learner, before, empty_metrics(made))
        batch = jax.device_get(state.sampler(store, root, np.uint32(counter)))
        _, after, done = jax.device_get(made.update(learner, store, metrics, root, np.uint32(counter), np.int32(1)))
        drawn = sampled_columns(batch)
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
    root = parallel.upload(made.mesh, ALL, key_data())
    rewards = np.full_like(state.replay.experience.extrinsic_reward, np.nan)
    poisoned = state.replay._replace(experience=state.replay.experience._replace(extrinsic_reward=rewards))
    start = state.learner._replace(updates=np.int32(41))
    learner, store, metrics = jax.device_get(
        made.update(*on_devices(made, start, poisoned, empty_metrics(made)), root, np.uint32(5), np.int32(1))
    )
    assert metrics.non_finite_update == 41
    assert not np.isfinite(metrics.total["loss/extrinsic"])
    np.testing.assert_array_equal(store.priority, poisoned.priority)
    assert store.max_priority == poisoned.max_priority
    jax.tree.map(np.testing.assert_array_equal, learner, start)
    # The first one stays reported, whatever follows.
    later = start._replace(updates=np.int32(50))
    for content in (state.replay, poisoned):
        learner, store, metrics = jax.device_get(made.update(*on_devices(made, later, content, metrics), root, np.uint32(6), np.int32(1)))
        assert metrics.non_finite_update == 41
    assert metrics.updates == 3
    assert made.update._cache_size() == 1


def test_several_updates_in_one_dispatch_equal_as_many_dispatches() -> None:
    made, state = driven().programs, filled()
    looping = Programs(made.parts, made.mesh, made.store, CountingEnvironment())
    root = parallel.upload(made.mesh, ALL, key_data())
    found = [one.learn(*on_devices(one, state.learner, state.replay, empty_metrics(one)), root, 7, 3) for one in (looping, made)]
    together, one_by_one = jax.device_get(found)
    assert together[2].updates == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, one_by_one)


def test_a_loop_of_updates_leaves_the_replay_where_it_is() -> None:
    made, state = driven().programs, filled()
    looping = Programs(made.parts, made.mesh, made.store, CountingEnvironment())
    root = parallel.upload(made.mesh, ALL, key_data())
    carried = looping.learn(*on_devices(looping, state.learner, state.replay, empty_metrics(looping)), root, 0, 2)

    def places(store: ReplayState) -> list[int]:
        return [leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in jax.tree.leaves((store.experience, store.recurrent_state))]

    before = places(carried[1])
    assert places(looping.learn(*carried, root, 2, 3)[1]) == before


def test_an_update_depends_on_its_counter_and_the_root_key() -> None:
    made, state = driven().programs, filled()

    def priorities(seed: int, counter: int) -> Any:
        root = parallel.upload(made.mesh, ALL, key_data(seed))
        store = made.update(*on_devices(made, state.learner, state.replay, empty_metrics(made)), root, np.uint32(counter), np.int32(1))[1]
        return np.asarray(store.priority)

    np.testing.assert_array_equal(priorities(0, 3), priorities(0, 3))
    assert np.any(priorities(0, 3) != priorities(0, 4))
    assert np.any(priorities(0, 3) != priorities(1, 3))


# JAX environments -------------------------------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """State of one counting environment."""

    step: jax.Array
    length: jax.Array  # steps of this episode
    episode: jax.Array
    total: jax.Array  # undiscounted return so far


class CountingEnvironment:
    """Counts its steps up to a length that differs between episodes; the observation tells what it was given."""

    spec = SPEC

    def init(self, key: jax.Array) -> tuple[Count, TimeStep]:
        state = Count(jnp.int32(0), jax.random.randint(key, (), 1, 4), jnp.int32(0), jnp.float32(0))
        return state, self._timestep(state, jnp.float32(0), jnp.float32(0))

    def step(self, key: jax.Array, state: Count, action: jax.Array) -> tuple[Count, TimeStep]:
        over = state.step == state.length
        noise = jax.random.uniform(key)
        fresh = Count(jnp.int32(0), state.length % 4 + 1, state.episode + 1, jnp.float32(0))
        reward = jnp.where(over, 0.0, 0.5 * action + state.step)
        moved = state._replace(step=state.step + 1, total=state.total + reward)
        state = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, moved)
        return state, self._timestep(state, reward, noise)

    def _timestep(self, state: Count, reward: jax.Array, noise: jax.Array) -> TimeStep:
        last = state.step == state.length
        return TimeStep(
            observation=jnp.stack([state.episode + 0.1 * state.step, 0.1 * state.length, noise]).astype(jnp.float32),
            reward=jnp.asarray(reward, jnp.float32),
            discount=jnp.where(last & (state.episode % 2 == 0), 0.0, 1.0),
            step_type=jnp.where(state.step == 0, FIRST, jnp.where(last, LAST, MID)).astype(jnp.int32),
            episode_return=state.total,
            episode_length=state.step,
            extras={"twice": 2 * state.step.astype(jnp.float32)},
        )


class Rolled(NamedTuple):
    """Some rollouts: their start, the replay after each, and all counts."""

    programs: Programs
    start: Any
    replays: list[ReplayState]
    counts: np.ndarray  # [dispatches, 2]
    shared: Any


@functools.cache
def rolled() -> Rolled:
    made, root = make_programs(num_groups=1, environment=CountingEnvironment())
    parameters = acting_parameters(made.init_learner(root))
    store, shared, index = made.init_replay(), made.init_shared(), made.actor_index(0)
    simulation, state = made.init_simulation(root, index), made.init_actor(index)
    start = jax.device_get(simulation)
    replays, counts = [], []
    for dispatch in range(8):
        counter = np.uint32(dispatch * ACTS_PER_DISPATCH)
        simulation, state, shared, store, count = made.rollout(parameters, simulation, state, shared, store, root, counter)
        replays.append(jax.device_get(store))
        counts.append(np.asarray(count))
    return Rolled(made, start, replays, np.array(counts), jax.device_get(shared))


def stored_stream(replays: list[ReplayState]) -> Experience:
    """Every timestep that was appended, fields [E, t, ...], read before the ring went round."""
    acts = len(replays) * ACTS_PER_DISPATCH
    timesteps = []
    for t in range(acts):
        store = replays[t // ACTS_PER_DISPATCH]
        timesteps.append(jax.tree.map(lambda ring, t=t: ring[0, :, t % CAPACITY], store.experience))
    return jax.tree.map(lambda *rows: np.stack(rows, axis=1), *timesteps)


def test_a_rollout_stores_the_timesteps_of_a_plain_simulation_and_counts_them() -> None:
    run = rolled()
    x, start = stored_stream(run.replays), run.start.state
    acts = x.action.shape[1]
    steps, episodes = np.zeros(acts, int), np.zeros(acts, int)
    lengths = [int(length) for length in start.length]
    assert len(set(lengths)) > 1
    total_return = total_length = 0.0
    for e in range(8):
        step, episode, total = 0, 0, 0.0
        reward = 0.0
        for t in range(acts):
            last = step == lengths[e]
            wanted = {
                "extrinsic_reward": reward,
                "discount": 0 if last and episode % 2 == 0 else 1,
                "step_type": FIRST if step == 0 else LAST if last else MID,
            }
            for name, value in wanted.items():
                assert getattr(x, name)[e, t] == value, f"{name} of environment {e} at {t}"
            np.testing.assert_allclose(x.observation[e, t, :2], [episode + 0.1 * step, 0.1 * lengths[e]], rtol=1e-6)
            steps[t] += step > 0
            episodes[t] += last
            if last:
                total_return, total_length = total_return + total, total_length + step
                step, episode, total, reward, lengths[e] = 0, episode + 1, 0.0, 0.0, lengths[e] % 4 + 1
            else:
                reward = 0.5 * int(x.action[e, t]) + step
                step, total = step + 1, total + reward
    np.testing.assert_array_equal(run.counts[:, 0], steps.reshape(-1, ACTS_PER_DISPATCH).sum(axis=1))
    np.testing.assert_array_equal(run.counts[:, 1], episodes.reshape(-1, ACTS_PER_DISPATCH).sum(axis=1))
    metrics = run.shared.metrics
    assert (metrics.timesteps, metrics.steps, metrics.episodes) == (8 * acts, steps.sum(), episodes.sum())
    np.testing.assert_allclose((metrics.episode_return, metrics.episode_length), (total_return, total_length))
    np.testing.assert_allclose(metrics.episode_extras["twice"], 2 * total_length)


def test_environments_have_random_numbers_of_their_own_at_every_step() -> None:
    run = rolled()
    noise = stored_stream(run.replays).observation[..., 2]  # [E, t]
    assert not np.any(noise[:, 0])  # init gives none
    assert len(np.unique(noise[:, 1:])) == noise[:, 1:].size
    root = key_data()
    for e, t in ((0, 1), (5, 9), (7, 23)):
        key = parallel.fold_counter(jnp.asarray(root), ENVIRONMENT_STREAM, jnp.uint32(t - 1))
        assert noise[e, t] == np.asarray(jax.random.uniform(jax.random.fold_in(key, e)))


def test_a_rollout_is_the_act_of_host_environments_so_many_times() -> None:
    run = rolled()
    made, root = run.programs, parallel.upload(run.programs.mesh, ALL, key_data())
    x = stored_stream(run.replays)
    parameters = acting_parameters(made.init_learner(root))
    store, shared, state = made.init_replay(), made.init_shared(), made.init_actor(made.actor_index(0))
    length = np.zeros(8, np.int32)
    total = np.zeros(8, np.float32)
    for t in range(x.action.shape[1]):
        first = x.step_type[:, t] == FIRST
        length, total = np.where(first, 0, length + 1).astype(np.int32), np.where(first, 0, total + x.extrinsic_reward[:, t])
        timestep = TimeStep(
            x.observation[:, t],
            x.extrinsic_reward[:, t],
            x.discount[:, t].astype(np.float32),
            x.step_type[:, t].astype(np.int32),
            total.astype(np.float32),
            length,
            {"twice": 2 * length.astype(np.float32)},
        )
        uploaded = parallel.upload(made.mesh, ROWS, timestep)
        state, shared, store, _ = made.act(parameters, state, shared, store, uploaded, root, np.uint32(t), np.int32(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), jax.device_get((store, shared)), (run.replays[-1], run.shared)
    )


def test_a_rollout_is_traced_once() -> None:
    assert rolled().programs.rollout._cache_size() == 1


# Parts ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_groups", [1, 2])
def test_parts_know_the_size_of_the_fleet(num_groups: int) -> None:
    parts = programs.build(make_settings(num_groups), SPEC)
    assert parts.actor.mode.num_actors == 8 * num_groups
    assert parts.evaluation_actor.mode.num_actors == parts.settings.evaluation.num_envs
    assert (parts.actor.mode.bandit_episodes, parts.actor.mode.greedy_episodes) == (1, 0)


def test_the_family_follows_the_ladder_that_is_set() -> None:
    settings = Settings().policy
    agent57 = programs.make_family(settings)
    settings.discounts = config.DiscountLadder.NGU
    ngu = programs.make_family(settings)
    np.testing.assert_allclose(agent57.gammas[[0, 7, 31]], [0.9999, 0.997, 0.99], rtol=1e-3)
    np.testing.assert_allclose(ngu.gammas[[0, 31]], [0.997, 0.99], rtol=1e-6)
    np.testing.assert_array_equal(agent57.betas, ngu.betas)
    assert agent57.betas[0] == 0 and agent57.betas.dtype == agent57.gammas.dtype == np.float32


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


def test_nobody_pools_arms_unless_asked() -> None:
    assert not hasattr(make_programs(1)[0], "pool_arms")
