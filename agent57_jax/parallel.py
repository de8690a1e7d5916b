"""The mesh of devices, and the placement of arrays on it.

It has one axis, `data`, over all devices of all processes. Programs are written for one device's share and wrapped by `sharded`; one
device is an axis of size 1.
"""

import ctypes
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agent57_jax.types import RunError

AXIS = "data"
REPLICATED = PartitionSpec()
BY_ENVIRONMENT = PartitionSpec(AXIS)  # arrays [E, ...]
BY_GROUPED_ENVIRONMENT = PartitionSpec(None, AXIS)  # arrays [G, E, ...]
JOIN_SECONDS = 300  # timeout at the start, since schedulers start processes at different times
VERTEX, VERTEX_PORT = "CLUSTER_SPEC", 12345  # Vertex AI's variable for a job's machines; a port that is free in our image
LOST_SECONDS = 30  # a process without a heartbeat is lost after this time


class DeviceError(RunError):
    """Devices that do not fit the run; the message says what to do."""


def start_processes(address: str | None, count: int | None, number: int | None) -> None:
    """Joins the processes of a run, from the HOST:PORT of process 0, their count and this one's number; must precede other use of JAX.

    All three are None where Slurm, Open MPI, Kubernetes, Vertex AI or a TPU pod provide them. Raises DeviceError if the processes do not
    find each other within `JOIN_SECONDS`.
    """
    # The service would take SIGTERM away from the trainer.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX aborts from its own thread when the coordinator is gone; a Python handler would wait for the main thread.
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _ABORTED)
    if address is None and VERTEX in os.environ:  # JAX does not read it
        address, count, number = vertex_processes(os.environ[VERTEX])
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=LOST_SECONDS,
            shutdown_timeout_seconds=LOST_SECONDS,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DeviceError(
            f"the processes of this run did not find each other: {reason} (start all with the same --coordinator and --num_processes, "
            f"and each with its own --process_id)"
        ) from error


def vertex_processes(specification: str) -> tuple[str, int, int]:
    """Address of process 0, number of processes and number of this one, from Vertex AI's description of a custom job; else DeviceError."""
    try:
        content = json.loads(specification)
        pools, task = content["cluster"], content["task"]
        machines = [(pool, index) for pool in sorted(pools) for index in range(len(pools[pool]))]
        host = pools["workerpool0"][0].rpartition(":")[0] or pools["workerpool0"][0]
        return f"{host}:{VERTEX_PORT}", len(machines), machines.index((task["type"], int(task["index"])))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DeviceError(
            f"{VERTEX} does not describe a Vertex AI job ({error!r}): give --coordinator, --num_processes and --process_id"
        ) from error


def _say_why_aborted(number: int) -> None:
    print(
        f"error: process {jax.process_index()} was aborted by JAX (reason above), most likely because process 0 is gone. "
        f"Restart all processes: they will resume from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


# A module variable, since C holds no reference to it.
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_int)(_say_why_aborted)


def may_have_lost_a_process(error: Exception) -> bool:
    """Whether the error may come from the loss of another process; at dispatch that is a ValueError with a status code."""
    is_of_the_runtime = isinstance(error, jax.errors.JaxRuntimeError) or str(error).startswith(("UNKNOWN:", "UNAVAILABLE:", "INTERNAL:"))
    return jax.process_count() > 1 and is_of_the_runtime


def end_within(seconds: int) -> None:
    """Ends this process after a timeout: at exit JAX waits for the other processes, which may be gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def is_first_process() -> bool:
    """Whether this process writes, shows progress and evaluates."""
    return jax.process_index() == 0


def start_sum(mesh: Mesh, values: Sequence[int]) -> Callable[[], list[int]]:
    """Starts to sum a few integers over the processes, all of which must call this; returns a function that waits for the sums."""
    own = [int(value) for value in values]
    if jax.process_count() == 1:
        return lambda: own
    rows = np.zeros((mesh.local_mesh.size, len(own)), np.int32)
    rows[0] = own
    total = _row_sum(mesh)(upload(mesh, BY_ENVIRONMENT, rows))
    return lambda: [int(value) for value in jax.device_get(total)]


@functools.cache
def _row_sum(mesh: Mesh) -> Any:
    return sharded(lambda rows: jax.lax.psum(rows[0], AXIS), mesh, BY_ENVIRONMENT, REPLICATED)


def least_bytes(value: int) -> int:
    """The minimum over the processes; in whole MiB if there are several, since JAX gathers 32-bit integers."""
    return value if jax.process_count() == 1 else int(np.min(multihost_utils.process_allgather(np.int32(value >> 20)))) << 20


def from_first_process(mesh: Mesh, tree: Any) -> Any:
    """The first process's arrays, replicated over all devices; unchanged with one process."""
    if jax.process_count() == 1:
        return tree
    return upload(mesh, REPLICATED, multihost_utils.broadcast_one_to_all(jax.device_get(tree)))


def find_devices() -> list[jax.Device]:
    """All devices that JAX can use; raises DeviceError if there are none."""
    try:
        return list(jax.devices())
    except (RuntimeError, AssertionError) as error:  # depends on the platform
        asked = os.environ.get("JAX_PLATFORMS")
        reason = " ".join(str(error).split())[:300] or "it gives no reason"
        advice = f"JAX_PLATFORMS={asked} is not available here; unset it to use what is" if asked else "try JAX_PLATFORMS=cpu"
        raise DeviceError(f"JAX finds no device: {advice} ({reason})") from error


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over the first `num_devices` devices (None: all); raises DeviceError if they do not fit the run."""
    devices = find_devices()
    if devices[0].platform == "cpu" and os.path.exists("/proc/driver/nvidia/version") and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        raise DeviceError(
            "this machine has an NVIDIA driver, but JAX sees only the CPU: install requirements-cuda.txt (in Docker: start with --gpus "
            "all), or set JAX_PLATFORMS=cpu to train on the CPU"
        )
    wanted = len(devices) if num_devices is None else num_devices
    if wanted > len(devices):
        raise DeviceError(f"num_devices is {wanted}, but JAX sees only {len(devices)}: {devices}")
    if jax.process_count() > 1 and wanted < len(devices):
        raise DeviceError(
            f"num_devices is {wanted}, but the processes have {len(devices)}: leave it out, or let each process see fewer "
            "devices (CUDA_VISIBLE_DEVICES)"
        )
    return Mesh(np.array(devices[:wanted]), (AXIS,))


def sharded(function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, donate: tuple[int, ...] = ()) -> Any:
    """A jitted program that runs `function` on every device's share of its arguments; arguments `donate` are consumed."""
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    # Fixed shardings: an array with another one is refused instead of compiled for silently.
    return jax.jit(mapped, donate_argnums=donate, in_shardings=_shardings(mesh, in_specs), out_shardings=_shardings(mesh, out_specs))


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)


def _shardings(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def placement(mesh: Mesh, specs: Any, tree: Any) -> Any:
    """NamedSharding for every leaf of `tree`, from specs that may be a prefix of it."""
    return jax.tree.map(lambda spec, part: jax.tree.map(lambda _: NamedSharding(mesh, spec), part), specs, tree, is_leaf=_is_spec)


def upload(mesh: Mesh, spec: PartitionSpec, tree: Any) -> Any:
    """Copies host arrays to the devices; each process provides its own rows."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of an array [E, ...] that this process holds, as NumPy, in order."""
    if jax.process_count() == 1:
        return jax.device_get(array)  # explicit, which transfer guards allow
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([jax.device_get(shard.data) for shard in shards])


def sum_over_devices(tree: Any) -> Any:
    """In a sharded program: sums over the axis."""
    # psum would copy the arrays even on one device.
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.psum(tree, AXIS)


def gather_over_devices(array: jax.Array) -> jax.Array:
    """In a sharded program: [E / devices, ...] of every device to [E, ...] on all devices, in order."""
    return jax.lax.all_gather(array, AXIS, axis=0, tiled=True)


def device_memory_bytes() -> tuple[int, int] | None:
    """Bytes in use and limit of the first local device; None if the backend (the CPU) does not tell."""
    find_devices()  # raises if there are none
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return None
    return int(statistics["bytes_in_use"]), int(statistics["bytes_limit"])


def host_memory_available_bytes() -> int:
    """Free memory of the host or the container."""
    with open("/proc/meminfo") as file:
        values = dict(line.split(":") for line in file)
    available = int(values["MemAvailable"].split()[0]) * 1024
    for limit_path, usage_path in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit_path) as limit, open(usage_path) as usage:
                text = limit.read().strip()
                if text != "max":
                    available = min(available, int(text) - int(usage.read()))
        except OSError:
            continue
    return available


def fold_counter(key: jax.Array, stream: int, counter: jax.Array) -> jax.Array:
    """The key for one use, determined by (root key, stream, counter), so that a resumed run continues its random streams."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), jnp.asarray(counter, jnp.uint32))
