"""Environment, act and append in one program on the device do what environments and acts on a host do one after another."""

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.agent.programs import ENVIRONMENT_STREAM
from agent57_jax.types import FIRST, LAST, TimeStep
from tests.program_rig import ACTS_PER_DISPATCH, ROWS, CountingEnvironment, assert_close, key_data, make_programs

DISPATCHES = 8


def test_a_rollout_is_so_many_steps_of_environments_and_acts_of_a_host() -> None:
    """Each environment has random numbers of its own at every step."""
    made, root = make_programs(num_groups=1, environment=CountingEnvironment())
    parameters, index = acting_parameters(made.init_learner(root)), made.actor_index(0)
    simulation, state, shared, store = made.init_simulation(root, index), made.init_actor(index), made.init_shared(), made.init_replay()
    own_state, own_shared, own_store = made.init_actor(index), made.init_shared(), made.init_replay()
    actors, environments, timestep = jax.device_get(simulation)
    assert len(set(environments.length.tolist())) > 1
    step, seen = jax.jit(jax.vmap(CountingEnvironment().step)), []
    for dispatch in range(DISPATCHES):
        first = dispatch * ACTS_PER_DISPATCH
        simulation, state, shared, store, count = made.rollout(parameters, simulation, state, shared, store, root, np.uint32(first))
        for t in range(first, first + ACTS_PER_DISPATCH):
            uploaded = parallel.upload(made.mesh, ROWS, timestep)
            act = parameters, own_state, own_shared, own_store, uploaded, root, np.uint32(t), np.int32(0)
            own_state, own_shared, own_store, action = made.act(*act)
            seen.append(timestep)
            key = parallel.fold_counter(jnp.asarray(key_data()), ENVIRONMENT_STREAM, jnp.uint32(t))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, actors)
            environments, timestep = jax.device_get(step(keys, environments, parallel.local_rows(action)))
        assert_close((simulation.timestep, store, shared), (timestep, own_store, own_shared), atol=1e-5)
        kinds = np.stack([one.step_type for one in seen[first:]])
        assert np.asarray(count).tolist() == [np.sum(kinds != FIRST), np.sum(kinds == LAST)]
    assert made.rollout._cache_size() == 1
    every: TimeStep = jax.tree.map(lambda *rows: np.stack(rows), *seen)
    noise, last, metrics = every.observation[1:, :, 2], every.step_type == LAST, jax.device_get(shared.metrics)
    assert len(np.unique(noise)) == noise.size
    assert (metrics.timesteps, metrics.steps, metrics.episodes) == (last.size, np.sum(every.step_type != FIRST), np.sum(last))
    sums = np.sum(every.episode_return[last]), np.sum(every.episode_length[last]), 2 * np.sum(every.episode_length[last])
    np.testing.assert_allclose((metrics.episode_return, metrics.episode_length, metrics.episode_extras["twice"]), sums)
