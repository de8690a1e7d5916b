"""The mesh, programs sharded over it, and what goes to the devices and comes back, on 8 simulated devices."""

import itertools
import os
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agent57_jax import parallel
from agent57_jax.parallel import AXIS, BY_ENVIRONMENT, BY_GROUPED_ENVIRONMENT, REPLICATED, DeviceError

on_any_number_of_devices = pytest.mark.parametrize("devices", [1, 2, 8])


class Counted:
    """x [E] and a number s: x + s and the sum of x over all devices. Counts how often it is traced."""

    def __init__(self) -> None:
        self.traces = 0

    def __call__(self, x: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        self.traces += 1
        return x + s, parallel.sum_over_devices(jnp.sum(x))


def spelt(mesh: Mesh, x: np.ndarray, *axes: str | None) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


def counting(mesh: Mesh) -> tuple[Counted, Any]:
    """The function and its program."""
    function = Counted()
    return function, parallel.sharded(function, mesh, (BY_ENVIRONMENT, REPLICATED), (BY_ENVIRONMENT, REPLICATED))


X = np.arange(24, dtype=np.float32).reshape(8, 3)


@on_any_number_of_devices
def test_a_program_runs_on_every_devices_share_and_is_traced_once(devices: int) -> None:
    """Whether an array was uploaded, is a result of the program itself or of another, or has its sharding spelt in another way."""
    mesh = parallel.make_mesh(devices)
    function, program = counting(mesh)
    y, total = program(parallel.upload(mesh, BY_ENVIRONMENT, X), parallel.upload(mesh, REPLICATED, np.float32(1)))
    np.testing.assert_array_equal(y, X + 1)
    assert float(total) == X.sum()
    for _ in range(3):
        y, total = program(y, total)
    program(spelt(mesh, X, AXIS, None), spelt(mesh, np.float32(2)))
    program(jax.jit(jnp.copy)(y), jax.jit(jnp.negative, out_shardings=NamedSharding(mesh, REPLICATED))(total))
    assert function.traces == 1
    # Or always comes from the host, as timesteps and counters do.
    function, program = counting(mesh)
    for i in range(4):
        np.testing.assert_array_equal(program(X + i, np.float32(i))[0], X + 2 * i)
    assert function.traces == 1


def test_an_array_that_lies_elsewhere_is_refused() -> None:
    """Rather than moved by a second program that nobody asked for."""
    mesh = parallel.make_mesh(2)
    with pytest.raises(ValueError, match="does not match the sharding"):
        counting(mesh)[1](spelt(mesh, X), np.float32(1))


@on_any_number_of_devices
def test_results_lie_as_the_specs_say(devices: int) -> None:
    mesh = parallel.make_mesh(devices)

    def function(x: jax.Array) -> dict[str, jax.Array]:
        assert x.shape == (2, 8 // devices)
        return {"grouped": x, "rows": x[0], "everywhere": parallel.sum_over_devices(jnp.sum(x))}

    specs = {"grouped": BY_GROUPED_ENVIRONMENT, "rows": BY_ENVIRONMENT, "everywhere": REPLICATED}
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    out = parallel.sharded(function, mesh, BY_GROUPED_ENVIRONMENT, specs)(x)
    np.testing.assert_array_equal(out["grouped"], x)
    np.testing.assert_array_equal(out["rows"], x[0])
    for name, spec in specs.items():
        assert out[name].sharding == NamedSharding(mesh, spec)
    assert [float(shard.data) for shard in out["everywhere"].addressable_shards] == [x.sum()] * devices


def test_a_spec_may_stand_for_a_tree() -> None:
    mesh = parallel.make_mesh(4)
    program = parallel.sharded(lambda tree: (tree, tree["b"][0]), mesh, BY_ENVIRONMENT, BY_ENVIRONMENT)
    tree = {"a": np.arange(8.0, dtype=np.float32), "b": (np.arange(16, dtype=np.int32).reshape(8, 2),)}
    same, part = program(tree)
    jax.tree.map(np.testing.assert_array_equal, same, tree)
    np.testing.assert_array_equal(part, tree["b"][0])
    assert {leaf.sharding for leaf in jax.tree.leaves(same)} == {NamedSharding(mesh, BY_ENVIRONMENT)}


@on_any_number_of_devices
def test_donated_arguments_are_consumed_and_others_are_not(devices: int) -> None:
    mesh = parallel.make_mesh(devices)
    program = parallel.sharded(lambda x, y: x + y, mesh, (BY_ENVIRONMENT, BY_ENVIRONMENT), BY_ENVIRONMENT, donate=(0,))
    # Made on the device: an uploaded array may borrow NumPy's memory, which nobody may write to.
    make = parallel.sharded(lambda: (jnp.arange(8.0), jnp.ones(8)), mesh, (), BY_ENVIRONMENT)
    x, y = make()
    before = [shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards]
    z = program(x, y)
    assert x.is_deleted() and not y.is_deleted()
    assert [shard.data.unsafe_buffer_pointer() for shard in z.addressable_shards] == before


@on_any_number_of_devices
def test_gathering_keeps_the_order_of_the_environments(devices: int) -> None:
    mesh = parallel.make_mesh(devices)

    def function(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        everyone = parallel.gather_over_devices(x)
        return everyone, everyone.sum(axis=0)[None]

    x = 1000 * np.arange(16, dtype=np.int32)[:, None] + np.arange(3, dtype=np.int32)[None]
    everyone, sums = parallel.sharded(function, mesh, BY_ENVIRONMENT, (REPLICATED, BY_ENVIRONMENT))(x)
    for shard in everyone.addressable_shards:
        np.testing.assert_array_equal(shard.data, x)
    np.testing.assert_array_equal(sums, np.broadcast_to(x.sum(axis=0), (devices, 3)))


def test_sums_go_over_the_leaves_of_a_tree() -> None:
    tree = {"a": np.arange(8, dtype=np.float32), "b": np.ones((8, 2), np.int32)}
    sums = parallel.sharded(parallel.sum_over_devices, parallel.make_mesh(8), BY_ENVIRONMENT, REPLICATED)(tree)
    np.testing.assert_array_equal(sums["a"], [28.0])
    np.testing.assert_array_equal(sums["b"], [[8, 8]])


# Mesh


def test_mesh_has_the_devices_in_order() -> None:
    for devices in (1, 2, 8):
        mesh = parallel.make_mesh(devices)
        assert mesh.axis_names == (AXIS,) and mesh.size == devices
        assert list(mesh.devices) == jax.devices()[:devices]
    assert parallel.make_mesh().size == len(jax.devices()) == 8


def test_too_few_devices_are_an_error() -> None:
    with pytest.raises(DeviceError, match="num_devices is 9, but JAX sees only 8"):
        parallel.make_mesh(9)


@pytest.fixture
def nvidia_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/proc/driver/nvidia/version" or exists(path))


@pytest.mark.usefixtures("nvidia_driver")
def test_a_gpu_that_jax_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_replicated_upload_is_whole_on_every_device() -> None:
    mesh = parallel.make_mesh(8)
    up = parallel.upload(mesh, REPLICATED, np.arange(5))
    assert [shard.data.tolist() for shard in up.addressable_shards] == [[0, 1, 2, 3, 4]] * 8


def test_placement_of_a_tree_by_prefix() -> None:
    mesh = parallel.make_mesh(4)
    tree = {"a": {"x": 0, "y": (1, 2)}, "b": 3}
    rows, whole = NamedSharding(mesh, BY_ENVIRONMENT), NamedSharding(mesh, REPLICATED)
    specs = {"a": BY_ENVIRONMENT, "b": REPLICATED}
    assert parallel.placement(mesh, specs, tree) == {"a": {"x": rows, "y": (rows, rows)}, "b": whole}
    assert parallel.placement(mesh, REPLICATED, tree) == {"a": {"x": whole, "y": (whole, whole)}, "b": whole}


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
