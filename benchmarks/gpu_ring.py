"""Tests the indexing of a replay with more elements than 32 bits can count: every slot holds a pattern that encodes its position."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent import replay
from agent57_jax.agent.replay import ReplayState
from agent57_jax.training.memory import tree_bytes
from agent57_jax.types import Batch, Experience
from benchmarks import collectives
from benchmarks.measure import peak_device_bytes
from benchmarks.parts import Parts, StillActor

_UPDATE_BYTES = 10**10  # upper limit of an update's own memory; with a smaller replay a copy of it could not be told apart
MARK = 8  # elements at either end of an observation that hold its place; those between them hold a pattern


def content(xp: Any, group: Any, environment: Any, timestep: Any, size: int) -> Any:
    """[..., size] uint8 of any place, by `numpy` or `jax.numpy`: its numbers at both ends, a pattern of them between."""
    group, environment, t = (xp.asarray(x).astype(xp.uint32) for x in (group, environment, timestep))
    same = xp.zeros_like(group + environment + t)
    numbers = (165, group, environment, environment >> 8, t, t >> 8, t >> 16, t >> 24)
    mark = xp.stack([same + xp.uint32(number) & 255 for number in numbers], axis=-1)
    start = same + group * 101 + environment * 13 + t * 31
    pattern = start[..., None] + xp.arange(size - 2 * MARK, dtype=xp.uint32).reshape((1,) * start.ndim + (-1,)) * 7
    return xp.concatenate([mark, pattern % 251, mark[..., ::-1]], axis=-1).astype(xp.uint8)


def checked(run: Parts, keep: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """Everything that `gpu_checks --check=ring` tells; `run` loses its replay. `keep` gets what is known so far."""
    found = in_place(run)
    keep(found)
    run.replay = None  # type: ignore[assignment]
    store = run.store
    state = filled(run, store.num_groups * (store.capacity_per_env + store.settings.span + store.settings.period + 3))
    observations = state.experience.observation
    size = math.prod(run.spec.observation_shape)
    found |= {
        "replay timesteps": run.capacity,
        "elements of the observations": observations.size,
        "bytes of the replay": tree_bytes(state),
        "slots": observations.size // size,
        "slots with a wrong end": wrong_slots(run, state),
    }
    wrong = list(found["wrong"])
    if found["slots with a wrong end"]:
        wrong.append(f"{found['slots with a wrong end']} slots do not hold what was appended")
    keep(found | {"wrong": wrong})
    masks: dict[str, Any] = {"anywhere": 1.0, "in the last environment": last_environment(run)}
    for name, mask in masks.items():
        draws = drawn(run, state._replace(priority=state.priority * mask))
        found[f"drawn {name}"] = draws
        if draws["wrong timesteps"]:
            wrong.append(f"{draws['wrong timesteps']} of {draws['timesteps']} timesteps drawn {name} are wrong")
    return found | {"wrong": wrong}


def in_place(run: Parts) -> dict[str, Any]:
    """Whether an act and an update leave the observations where they lie, and what memory beside their arguments they were given."""
    found: dict[str, Any] = {}
    wrong, held = [], tree_bytes(run.replay)
    for name, program in collectives.lowered(run).items():
        memory = program.compile().memory_analysis()
        if memory is not None:
            found[f"bytes of {name}"] = {"aliased": memory.alias_size_in_bytes, "temporary": memory.temp_size_in_bytes}
            if memory.alias_size_in_bytes < held:
                wrong.append(f"{name} does not write to the replay in place")
    still = StillActor(run, 0)
    peak = peak_device_bytes()
    before = pointer(run.replay)
    still.act()
    if pointer(run.replay) != before:
        wrong.append("an act moved the ring")
    before = pointer(run.replay)
    run.learn()
    if pointer(run.replay) != before:
        wrong.append("an update moved the ring")
    if peak is not None:
        growth = found["growth of the peak in an act and an update"] = (peak_device_bytes() or 0) - peak
        if growth > held // 2 > _UPDATE_BYTES:
            wrong.append(f"an act and an update took {growth} bytes more, as a copy of the replay would")
    return found | {"wrong": wrong}


def pointer(state: ReplayState) -> int:
    """Where the first device's observations lie."""
    return int(state.experience.observation.addressable_shards[0].data.unsafe_buffer_pointer())


def filled(run: Parts, appends: int) -> ReplayState:
    """A replay after so many of the replay's own appends, groups in turn."""
    store, size = run.store, math.prod(run.spec.observation_shape)

    def append(i: jax.Array, carry: tuple[ReplayState, jax.Array]) -> tuple[ReplayState, jax.Array]:
        state, environment = carry
        group = i % store.num_groups
        t = state.appended[group]
        rows = environment.shape[0]
        number = jnp.broadcast_to(t.astype(jnp.float32), (rows,))
        experience = Experience(
            observation=content(jnp, group, environment, t, size).reshape(rows, *run.spec.observation_shape),
            action=(environment + t) % run.spec.num_actions,
            extrinsic_reward=number,
            intrinsic_reward=number if store.has_intrinsic_reward else None,
            behaviour_probability=jnp.ones((rows,)),
            discount=jnp.ones((rows,)),
            step_type=jnp.ones((rows,), jnp.int32),
            policy=environment % 256,
        )
        recurrent = jax.tree.map(lambda leaf: jnp.full_like(leaf, t), run.parts.actor.q_network.initial_state(rows))
        td_error = None if state.td_error is None else number
        return store.append(state, group, experience, recurrent, td_error), environment

    def fill(state: ReplayState, environment: jax.Array, count: jax.Array) -> ReplayState:
        return jax.lax.fori_loop(0, count, append, (state, environment))[0]

    everywhere = parallel.REPLICATED
    program = parallel.sharded(fill, run.mesh, (replay.SPECS, parallel.BY_ENVIRONMENT, everywhere), replay.SPECS, donate=(0,))
    done: ReplayState = program(run.programs.init_replay(), run.programs.actor_index(0), np.int32(appends))
    return done


def wrong_slots(run: Parts, state: ReplayState) -> int:
    """Slots whose observation does not begin and end as the last one that was appended there."""
    groups, environments, capacity = state.priority.shape[0], state.priority.shape[1], run.store.capacity_per_env
    size = math.prod(run.spec.observation_shape)

    def ends(observation: jax.Array) -> jax.Array:
        flat = observation.reshape(groups, observation.shape[1], capacity, size)
        return jnp.concatenate([flat[..., :MARK], flat[..., -MARK:]], axis=-1)

    seen = np.asarray(parallel.sharded(ends, run.mesh, replay.SPECS.experience, replay.SPECS.experience)(state.experience.observation))
    group, environment, slot = np.ogrid[:groups, :environments, :capacity]
    last = np.asarray(state.appended)[:, None, None] - 1
    expected = content(np, group, environment, last - (last - slot) % capacity, 2 * MARK)
    return int(np.sum(np.any(seen != expected, axis=-1)))


def last_environment(run: Parts) -> jax.Array:
    """[G, E, 1] float32, 1 for the environment whose ring lies at the far end."""
    mask = np.zeros((run.store.num_groups, run.store.envs_per_group, 1), np.float32)
    mask[-1, -1] = 1
    uploaded: jax.Array = parallel.upload(run.mesh, parallel.BY_GROUPED_ENVIRONMENT, mask)
    return uploaded


def drawn(run: Parts, state: ReplayState, batches: int = 2) -> dict[str, int]:
    """Compares whole batches with what was appended, and reports how far from the ring's beginning they lie."""
    store, size = run.store, math.prod(run.spec.observation_shape)

    def sample(state: ReplayState, key: jax.Array) -> Batch:
        return store.sample(state, key, run.settings.learner.batch_size // run.mesh.size)

    program = parallel.sharded(sample, run.mesh, (replay.SPECS, parallel.REPLICATED), parallel.BY_ENVIRONMENT)
    found = {"timesteps": 0, "wrong timesteps": 0, "furthest element": 0, "beyond 2^31": 0, "beyond 2^32": 0}
    for number in range(batches):
        key = parallel.upload(run.mesh, parallel.REPLICATED, np.asarray([0, number], np.uint32))
        batch: Batch = jax.device_get(program(state, key))
        x, sequence = batch.experience, batch.sequence
        group, environment = sequence.group[:, None], sequence.environment[:, None]
        t = sequence.number[:, None] * store.settings.period + np.arange(store.settings.span + 1)[None]
        good = np.all(x.observation.reshape(*t.shape, size) == content(np, group, environment, t, size), axis=-1)
        good &= (x.extrinsic_reward == t) & (x.action == (environment + t) % run.spec.num_actions) & (x.policy == environment % 256)
        good &= np.all(batch.recurrent_state.cell == t[:, :1, None], axis=(1, 2))[:, None]
        start = ((group * store.envs_per_group + environment).astype(np.int64) * store.capacity_per_env + t % store.capacity_per_env) * size
        found["timesteps"] += good.size
        found["wrong timesteps"] += int(np.sum(~good))
        found["furthest element"] = max(found["furthest element"], int(start.max()))
        for power in (31, 32):
            found[f"beyond 2^{power}"] += int(np.sum(start >= 2**power))
    return found


def repeated(run: Parts, length: int) -> ReplayState:
    """The run's replay with the observations of its first `length` slots in all of them; its own is consumed."""
    capacity = run.store.capacity_per_env

    def fill(observation: jax.Array) -> jax.Array:
        block = observation[:, :, :length]

        def put(i: jax.Array, ring: jax.Array) -> jax.Array:
            # The last one is moved back so that it ends with the ring.
            return jax.lax.dynamic_update_slice_in_dim(ring, block, jnp.minimum(i * length, capacity - length), axis=2)

        return jax.lax.fori_loop(1, -(-capacity // length), put, observation)

    spec = replay.SPECS.experience
    program = parallel.sharded(fill, run.mesh, spec, spec, donate=(0,))
    return run.replay._replace(experience=run.replay.experience._replace(observation=program(run.replay.experience.observation)))


@jax.jit
def _sum(leaf: jax.Array) -> jax.Array:
    """A number that changes when an element changes or moves along the ring."""
    bits = leaf if leaf.dtype == jnp.uint8 else jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, min(2, leaf.ndim - 1)) + 1 if leaf.ndim else jnp.uint32(1)
    return jnp.sum(bits.astype(jnp.uint32) * place, dtype=jnp.uint32)


def digest(state: ReplayState) -> dict[str, int]:
    """Name of each array -> a number that stands for its content."""
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): int(_sum(leaf)) for path, leaf in leaves}
