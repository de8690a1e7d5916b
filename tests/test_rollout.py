"""Environment, act and append in one program on the device: the timesteps of a plain simulation, and the act of host environments."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.agent.programs import ENVIRONMENT_STREAM, Programs
from agent57_jax.agent.replay import ReplayState
from agent57_jax.types import FIRST, LAST, MID, Experience, TimeStep
from tests.program_rig import ACTS_PER_DISPATCH, ALL, CAPACITY, ROWS, CountingEnvironment, assert_close, key_data, make_programs


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
    timesteps = [
        jax.tree.map(lambda ring, t=t: ring[0, :, t % CAPACITY], replays[t // ACTS_PER_DISPATCH].experience)
        for t in range(len(replays) * ACTS_PER_DISPATCH)
    ]
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
        step, episode, total, reward = 0, 0, 0.0, 0.0
        for t in range(acts):
            last = step == lengths[e]
            wanted = (reward, 0 if last and episode % 2 == 0 else 1, FIRST if step == 0 else LAST if last else MID)
            assert (x.extrinsic_reward[e, t], x.discount[e, t], x.step_type[e, t]) == wanted, (e, t)
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
    assert_close((store, shared), (run.replays[-1], run.shared), atol=1e-5)
    assert run.programs.rollout._cache_size() == 1  # in eight dispatches
