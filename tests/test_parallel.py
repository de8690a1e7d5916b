"""The mesh, programs sharded over it, and what goes to the devices and comes back, on 8 simulated devices."""

import itertools
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agent57_jax import parallel
from agent57_jax.parallel import AXIS, BY_ENVIRONMENT, REPLICATED, DeviceError

on_any_number_of_devices = pytest.mark.parametrize("devices", [1, 2, 8])


def spelt(mesh: Mesh, x: np.ndarray, *axes: str | None) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


def test_a_program_is_traced_once_however_shardings_are_spelt_and_refuses_arrays_that_lie_elsewhere() -> None:
    """Uploaded, a result of the program itself or of another, or from the host, as timesteps and counters are."""
    mesh, x, number = parallel.make_mesh(8), np.arange(24, dtype=np.float32).reshape(8, 3), np.float32(2)
    specs, traced = (BY_ENVIRONMENT, REPLICATED), []

    def function(x: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        traced.append(x.shape)
        return x + s, parallel.sum_over_devices(jnp.sum(x))

    program = parallel.sharded(function, mesh, specs, specs)
    y, total = program(parallel.upload(mesh, BY_ENVIRONMENT, x), parallel.upload(mesh, REPLICATED, number))
    np.testing.assert_array_equal(y, x + 2)
    assert float(total) == x.sum()
    program(*program(y, total))
    program(spelt(mesh, x, AXIS, None), spelt(mesh, number))
    program(jax.jit(jnp.copy)(y), jax.jit(jnp.negative, out_shardings=NamedSharding(mesh, REPLICATED))(total))
    assert traced == [(1, 3)]
    program = parallel.sharded(function, mesh, specs, specs)
    for i in range(3):
        np.testing.assert_array_equal(program(x, np.float32(i))[0], x + i)
    assert traced == [(1, 3)] * 2
    with pytest.raises(ValueError, match="does not match the sharding"):
        program(spelt(mesh, x), number)


# Mesh


def test_mesh_has_the_devices_in_order() -> None:
    for devices in (1, 2, 8):
        mesh = parallel.make_mesh(devices)
        assert mesh.axis_names == (AXIS,) and mesh.size == devices
        assert list(mesh.devices) == jax.devices()[:devices]
    assert parallel.make_mesh().size == len(jax.devices()) == 8
    with pytest.raises(DeviceError, match="num_devices is 9, but JAX sees only 8"):
        parallel.make_mesh(9)


def test_a_gpu_that_jax_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/proc/driver/nvidia/version" or exists(path))
    for platforms in ("", "cuda,cpu"):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        with pytest.raises(DeviceError, match="JAX sees only the CPU: install requirements-cuda"):
            parallel.make_mesh()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(DeviceError, match="set JAX_PLATFORMS=cpu"):
        parallel.make_mesh()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert parallel.make_mesh().size == 8


# Host to device and back


@on_any_number_of_devices
@pytest.mark.parametrize("processes", [1, 2])
def test_rows_go_up_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch, devices: int, processes: int) -> None:
    """The way of several processes works for one that holds all rows, too."""
    mesh = parallel.make_mesh(devices)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    tree = {"a": np.arange(16, dtype=np.int32), "b": 1000.0 + np.arange(48, dtype=np.float32).reshape(16, 3)}
    up = parallel.upload(mesh, BY_ENVIRONMENT, tree)
    for name, rows in tree.items():
        assert up[name].sharding == NamedSharding(mesh, BY_ENVIRONMENT)
        for shard in up[name].addressable_shards:
            assert shard.data.shape == (16 // devices, *rows.shape[1:])
        back = parallel.local_rows(up[name])
        assert isinstance(back, np.ndarray) and back.dtype == rows.dtype
        np.testing.assert_array_equal(back, rows)


def test_rows_are_put_in_order_whatever_the_order_of_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    array = spelt(parallel.make_mesh(8), np.arange(16), AXIS)
    shuffled = types.SimpleNamespace(addressable_shards=[array.addressable_shards[i] for i in (3, 0, 7, 1, 2)])
    np.testing.assert_array_equal(parallel.local_rows(shuffled), [0, 1, 2, 3, 4, 5, 6, 7, 14, 15])


# Processes, keys, memory


def test_keys_differ_by_root_stream_and_counter_and_repeat() -> None:
    fold = jax.jit(parallel.fold_counter, static_argnums=1)

    def numbers(seed: int, stream: int, counter: int) -> tuple[int, ...]:
        key = fold(jax.random.key(seed), stream, np.uint32(counter))
        assert key.shape == ()
        return tuple(jax.random.key_data(key).tolist())

    places = list(itertools.product((0, 1), range(6), (0, 1, 2, 3, 2**31, 2**32 - 1)))
    found = [numbers(*place) for place in places]
    assert len(set(found)) == len(places) and found == [numbers(*place) for place in places]
    # Known to the host or only to the device, the counter gives the same key; a signed one as well.
    root = jax.random.key(0)
    for key in (parallel.fold_counter(root, 3, 7), fold(root, 3, np.int32(7))):
        assert tuple(jax.random.key_data(key).tolist()) == numbers(0, 3, 7)


def test_memory_of_device_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < parallel.host_memory_available_bytes() < 2**50
    if jax.devices()[0].platform == "cpu":
        assert parallel.device_memory_bytes() is None

    for statistics, expected in (({"bytes_in_use": 3, "bytes_limit": 10}, (3, 10)), ({"bytes_in_use": 3}, None), ({}, None), (None, None)):
        device = types.SimpleNamespace(memory_stats=lambda statistics=statistics: statistics)
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert parallel.device_memory_bytes() == expected
