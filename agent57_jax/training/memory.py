"""Computes memory before anything is allocated: the table that a run prints, and the replay's automatic capacity."""

import math
from typing import Any

import jax
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.programs import Parts
from agent57_jax.agent.replay import Replay
from agent57_jax.config import IntrinsicReward, SettingsError, Torso

DEVICE_SHARE = 0.92  # of the device's limit; the rest is left to fragmentation
HOST_SHARE = 0.6  # of free host memory on a CPU; the rest is for emulators, compiler and checkpoints


def tree_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def make_replay(parts: Parts, capacity: int) -> Replay:
    """A replay for `capacity` timesteps over all environments."""
    settings = parts.settings
    groups, per_env = settings.environment.num_groups, settings.capacity_per_env(capacity)
    has_intrinsic_reward = settings.novelty.reward is not IntrinsicReward.NONE
    return Replay(settings.replay, parts.spec, groups, settings.envs_per_group, per_env, has_intrinsic_reward)


def replay_bytes(parts: Parts, capacity: int) -> int:
    """Bytes of the replay's arrays, over all devices."""
    store = make_replay(parts, capacity)
    return tree_bytes(jax.eval_shape(lambda: store.init(parts.actor.q_network.initial_state(1))))


def plan(parts: Parts, num_devices: int, kept: int | None = None) -> tuple[int, dict[str, int]]:
    """The replay's capacity in timesteps, or that `kept` of a resumed run, and a table of bytes per device.

    In the table "free" is the rest of the device, and "host ..." lies outside it. Raises SettingsError if the capacity does not fit, with
    the largest one that does, and what else to lower.
    """
    settings = parts.settings
    groups = settings.environment.num_groups
    learner = jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32))
    actors = jax.eval_shape(parts.actor.init_state, jax.ShapeDtypeStruct((settings.envs_per_group,), np.int32))
    evaluator = jax.eval_shape(parts.evaluation_actor.init_state, jax.ShapeDtypeStruct((settings.evaluation.num_envs,), np.int32))
    memories = tree_bytes(actors.novelty) * groups // num_devices
    table = {
        "parameters and targets": tree_bytes(learner._replace(optimiser=None)),
        "optimisers": tree_bytes(learner.optimiser),
        "episodic memories": memories,
        "other state of the actors": tree_bytes(actors) * groups // num_devices - memories,
        "evaluator": tree_bytes(evaluator),
        "one update (estimate)": update_bytes(parts) // num_devices,
    }
    saves = settings.checkpoint.save_replay
    device = parallel.device_memory_bytes()
    host = parallel.host_memory_available_bytes()
    free = int(device[1] * DEVICE_SHARE) - device[0] if device else int(host * HOST_SHARE) // num_devices
    free = parallel.least_bytes(free)  # all processes need the same plan
    room = (free - sum(table.values())) * num_devices
    unit = settings.environment.num_envs * settings.replay.period
    # Bytes are linear in whole periods, so two sizes determine them.
    small = -(-(settings.replay.span + settings.replay.period) // settings.replay.period) * unit
    # On a CPU the writer holds the replay that is being saved, and training continues in a copy.
    copies = 2 if device is None and saves else 1
    first = replay_bytes(parts, small)
    per_unit = replay_bytes(parts, small + unit) - first
    fits = max(0, (room - copies * first) // (copies * per_unit) * unit + small)
    advice = "replay.capacity, replay.min_sequences, environment.num_envs, novelty.memory_capacity or learner.batch_size"
    others = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in table.items())
    place = f"{free / 2**30:.2f} GiB are free per device, of which {others} go elsewhere"
    if device is not None and saves:
        # A device's replay is saved through host memory.
        host_room = parallel.least_bytes(int(host * HOST_SHARE)) * jax.process_count()
        through_host = max(0, (host_room - first) // per_unit * unit + small)
        if through_host < fits:
            fits, place = through_host, f"a checkpoint passes through the host, which has {host / 2**30:.2f} GiB"
            advice = f"set checkpoint.save_replay=False, or lower {advice}"
    wanted = settings.requested_capacity if kept is None else kept
    capacity = min(settings.replay.auto_limit, fits) if wanted is None else wanted
    capacity = max(capacity // unit * unit, 0)
    if capacity > fits or capacity < settings.min_capacity:
        raise SettingsError(
            f"replay.capacity {wanted or 'auto'}: at most {fits} timesteps fit (replay.min_sequences {settings.replay.min_sequences} needs "
            f"{settings.min_capacity}); {place}: {advice if advice.startswith('set') else 'lower ' + advice}"
        )
    held = replay_bytes(parts, capacity)
    table["replay"] = held // num_devices
    if copies > 1:
        table["replay while it is saved"] = held // num_devices
    table["free"] = free - sum(table.values())
    if device is not None:
        table["host, while a checkpoint is saved"] = tree_bytes(learner) + (held // jax.process_count() if saves else 0)
    return capacity, table


def update_bytes(parts: Parts) -> int:
    """Estimated bytes of one update's activations over all devices: float32 frames and all layer outputs, forward and backward."""
    settings = parts.settings
    shape = parts.spec.observation_shape
    per_frame = math.prod(shape) * 5  # uint8 and float32
    if settings.network.torso is Torso.CONVOLUTIONS:
        height, width = shape[:2]
        for features, kernel, stride in zip(
            settings.network.conv_features, settings.network.conv_kernels, settings.network.conv_strides, strict=True
        ):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            per_frame += 2 * 4 * height * width * features
    # LSTM: 12 sizes for the gates before and after activation and their gradients; 5 for cell, its tanh, output and gradients.
    per_frame += 4 * (17 * settings.network.lstm_size + 4 * settings.network.head_size + settings.network.torso_size)
    timesteps = settings.learner.batch_size * (settings.replay.span + 1)
    return int(2 * settings.num_networks * timesteps * per_frame)
