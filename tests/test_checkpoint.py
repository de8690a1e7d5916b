"""Checkpoints: what goes in comes out, on any number of devices; what does not fit or is not whole is refused in one line."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agent57_jax.training import checkpoint
from agent57_jax.training.checkpoint import CheckpointError, Checkpoints

ROWS = PartitionSpec("data")
ALL = PartitionSpec()


class Inner(NamedTuple):
    frames: Any
    flags: Any


class State(NamedTuple):
    inner: Inner
    parameters: Any
    optimiser: Any
    updates: Any


SPECS = State(Inner(ROWS, ROWS), ALL, ALL, ALL)
SMALL = {"learner": {"x": np.zeros(2, np.float32)}}


def mesh_of(num_devices):
    return Mesh(np.array(jax.devices()[:num_devices]), ("data",))


def host_state(rows=8, seed=0):
    """A state as runs have them: named tuples, dicts, lists, empty nodes; all dtypes; scalars."""
    random = np.random.default_rng(seed)
    parameters = {"dense": {"kernel": random.normal(size=(3, 5)).astype(np.float32), "bias": np.arange(5, dtype=np.float32)}}
    return State(
        inner=Inner(random.integers(0, 256, (rows, 4, 2), dtype=np.uint8), random.integers(0, 2, (rows,)).astype(bool)),
        parameters=parameters,
        optimiser=[optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(parameters), (), None],
        updates=np.int32(2**31 - 1) * np.ones((), np.int32),
    )


def placed(tree, num_devices, specs=SPECS):
    mesh = mesh_of(num_devices)
    spread = jax.tree.map(
        lambda spec, part: jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec)), part),
        specs,
        tree,
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )
    return jax.block_until_ready(spread)


def expected(shape, dtype, num_devices=1, spec=ALL):
    """What a restored array is to be."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh_of(num_devices), spec))


def target_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.fixture
def store(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_state_of_four_devices_restores_on_any_number(tmp_path, num_devices):
    state = host_state()
    meta = {"counters": {"steps": 90_000_000_000, "seconds": 1.25}, "settings": {"task": "Zaxxon-v5", "sizes": [1, 2], "none": None}}
    with_four = Checkpoints(tmp_path, keep=1)
    assert with_four.save(90_000_000_000, {"learner": placed(state, 4), "other": {"x": jnp.zeros(3)}}, meta)
    with_four.close()

    fresh = Checkpoints(tmp_path, keep=1)
    assert fresh.latest() == 90_000_000_000
    target = target_of(placed(state, num_devices))
    arrays, found = fresh.restore(90_000_000_000, {"learner": target})
    fresh.close()
    assert found == meta
    assert set(arrays) == {"learner"}
    assert_same(arrays["learner"], state)
    for leaf, wanted in zip(jax.tree.leaves(arrays["learner"]), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding


def test_arrays_may_be_donated_right_after_save_and_after_a_restore(store):
    """The background write must not see what a later program puts into the same memory."""
    mesh, size = mesh_of(4), (8, 2**20)
    shardings = {"rows": NamedSharding(mesh, ROWS), "all": NamedSharding(mesh, ALL)}
    counted = jax.jit(lambda: dict.fromkeys(shardings, jnp.arange(8 * 2**20, dtype=jnp.int32).reshape(size)), out_shardings=shardings)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf.at[:, ::2].set(7) * 0 + 7, tree), donate_argnums=0)
    tree = jax.block_until_ready(counted())
    target = target_of(tree)
    store.save(1, {"replay": tree}, {})
    for _ in range(3):
        tree = overwrite(tree)
    jax.block_until_ready(tree)
    store.wait()
    restored = store.restore(1, {"replay": target})[0]["replay"]
    for array in restored.values():
        np.testing.assert_array_equal(np.asarray(array).ravel(), np.arange(8 * 2**20))

    def places(array):
        return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]

    before = places(restored["rows"])
    change_one = jax.jit(lambda x: x.at[0, 0].set(1), donate_argnums=0)
    assert places(jax.block_until_ready(change_one(restored["rows"]))) == before


def test_numpy_arrays_may_be_changed_right_after_save(store):
    array = np.arange(2**22, dtype=np.int32)
    store.save(1, {"host": {"x": array}}, {})
    array[:] = -1
    store.wait()
    found = store.restore(1, {"host": {"x": expected(array.shape, array.dtype)}})[0]["host"]["x"]
    np.testing.assert_array_equal(found, np.arange(2**22))


def test_keeps_the_latest_and_repeats_nothing(store):
    assert store.latest() is None and store.steps() == []
    for step in (3, 7, 20):
        assert store.save(step, SMALL, {"step": step})
    assert not store.save(20, SMALL, {"step": 21})
    store.wait()
    assert store.steps() == [7, 20] and store.meta(20) == {"step": 20}
    assert store.has_item(20, "learner") and not store.has_item(20, "replay") and not store.has_item(5, "learner")
    with pytest.raises(CheckpointError, match=r"^checkpoint 5 is older than the latest one, 20, in "):
        store.save(5, SMALL, {})
    target = {"x": expected((2,), np.float32)}
    with pytest.raises(CheckpointError, match=r"^checkpoint 20 in \S+ has no item 'replay'$"):
        store.restore(20, {"replay": target})
    with pytest.raises(CheckpointError, match=r"^there is no checkpoint 5 in \S+$"):
        store.restore(5, {"learner": target})


def test_running_save_is_not_the_latest(store, monkeypatch):
    store.save(1, SMALL, {})
    store.wait()
    gate = threading.Event()
    rename = os.rename

    def slow_rename(*args, **kwargs):
        gate.wait(20)
        return rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", slow_rename)
    store.save(2, SMALL, {})
    assert store.latest() == 1
    gate.set()
    store.wait()
    assert store.latest() == 2


def change_target(tree, leaf):
    return tree._replace(parameters={"dense": {**tree.parameters["dense"], "bias": leaf}})


def test_what_does_not_fit_is_one_line(store):
    state = placed(host_state(), 1)
    store.save(1, {"learner": state}, {})
    target, bias = target_of(state), r"learner\.parameters\.dense\.bias"
    for shape, dtype in (((5,), np.int32), ((5,), jnp.bfloat16), ((6,), np.float32), ((), np.float32)):
        other = f"{np.dtype(dtype).name}{list(shape)}".replace("[", r"\[").replace("]", r"\]")
        message = rf"^checkpoint 1 does not fit this run's settings: {bias} is float32\[5\], but {other} is expected$"
        with pytest.raises(CheckpointError, match=message):
            store.restore(1, {"learner": change_target(target, expected(shape, dtype))})
    more = target._replace(parameters={**target.parameters, "head": target.updates})
    less = target._replace(parameters={"dense": {"kernel": target.parameters["dense"]["kernel"]}})
    bare = change_target(target, jax.ShapeDtypeStruct((5,), np.float32))
    for odd, message in (
        (more, r": it has no learner\.parameters\.head$"),
        (less, rf": {bias} is not expected$"),
        (bare, rf"^the target of {bias} has no NamedSharding$"),
    ):
        with pytest.raises(CheckpointError, match=message):
            store.restore(1, {"learner": odd})


def test_other_format_is_one_line(store, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    store.save(1, SMALL, {})
    monkeypatch.undo()
    for read in (store.meta, lambda step: store.restore(step, {})):
        with pytest.raises(CheckpointError, match=r"^checkpoint 1 in \S+ has format 1, but this version of agent57_jax reads format 2$"):
            read(1)


@pytest.mark.parametrize(
    ("arrays", "meta", "message"),
    [
        *((SMALL, meta, "must be plain JSON values") for meta in ({"x": np.int64(3)}, {"x": float("nan")}, {"x": (1, 2)}, {1: "x"})),
        ({"learner": {"x": 3.0}}, {}, r"^learner\.x is a float; "),
        ({"learner": {"x": None}}, {}, r"^the item 'learner' holds no arrays"),
        ({"meta": {"x": np.zeros(2)}}, {}, r"^the item name 'meta' is taken$"),
    ],
)
def test_what_cannot_be_saved_is_refused(store, arrays, meta, message):
    with pytest.raises(CheckpointError, match=message):
        store.save(1, arrays, meta)
    assert store.latest() is None


def test_failed_write_is_reported(store, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full_disk)
    store.save(1, SMALL, {})
    with pytest.raises(CheckpointError, match=r"^a checkpoint could not be written to \S+: .*No space left on device"):
        store.wait()  # it was written in the background
    assert store.latest() is None
    other = Checkpoints(tmp_path / "other", keep=1)
    (tmp_path / "other").rmdir()
    (tmp_path / "other").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"^checkpoint 1 could not be written to \S+: "):
        other.save(1, SMALL, {})


@pytest.mark.parametrize(
    "name", ["zaxxon[seed0]", "[!x]", "a*", "a?b", "**", "{a,b}", "a[", "%d", "~", "$HOME", "a b\n", "é\u4e2d", "a#b?c=d"]
)
def test_a_folder_may_have_any_name(tmp_path, name):
    """Libraries must not take it for a pattern; nor must they find what lies in a folder that such a pattern fits."""
    state = placed(host_state(), 4)
    for folder in (tmp_path / "zaxxons" / "run", tmp_path / name / "run"):
        store = Checkpoints(folder, keep=1)
        store.save(1, {"learner": state}, {"folder": str(folder)})
        store.close()
    arrays, meta = Checkpoints(tmp_path / name / "run", keep=1, read_only=True).restore(1, {"learner": target_of(state)})
    assert meta == {"folder": str(tmp_path / name / "run")}
    assert_same(arrays["learner"], host_state())


@pytest.mark.parametrize("lost", ["manifest.ocdbt", "_METADATA", ""])
def test_what_was_saved_is_read_back_before_it_counts(store, tmp_path, monkeypatch, lost):
    store.save(1, SMALL, {})
    store.wait()
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "moved")
    store.save(2, SMALL, {})
    rename = store._manager.wait_until_finished

    def lose():
        rename()
        for path in (tmp_path / "checkpoints" / "2" / "learner").rglob(lost or "*"):
            if path.is_file():
                path.unlink()

    monkeypatch.setattr(store._manager, "wait_until_finished", lose)
    with pytest.raises(CheckpointError, match=r"^item 'learner' of checkpoint 2 in \S+ cannot be read: "):
        store.wait()
    store.wait()  # it is said once
    assert store.save(3, {"learner": {"x": np.zeros(3, np.float32)}}, {})
    monkeypatch.undo()
    store.wait()


def test_a_checkpoint_that_a_person_has_removed_is_no_failure(store, tmp_path):
    store.save(1, SMALL, {})
    store._manager.wait_until_finished()
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "moved")
    store.wait()


def test_saves_leave_nothing_behind(store):
    """A save took 120 Python objects for ever, through statistics that TensorStore kept."""
    arrays = {"learner": {str(i): jnp.full(3, i, jnp.float32) for i in range(10)}}

    def objects_after(steps: range) -> int:
        for step in steps:
            store.save(step, arrays, {"step": step})
            store.wait()
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(range(1, 4))
    assert objects_after(range(4, 14)) - before < 200


def test_reader_leaves_a_running_writer_alone(tmp_path):
    reader = Checkpoints(tmp_path / "checkpoints", keep=1, read_only=True)
    assert reader.latest() is None
    reader.close()
    assert not (tmp_path / "checkpoints").exists()

    writer = Checkpoints(tmp_path / "checkpoints", keep=1)
    writer.save(1, {"learner": {"x": np.arange(2, dtype=np.float32)}}, {"a": 1})
    writer.wait()
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    half.mkdir()
    reader = Checkpoints(tmp_path / "checkpoints", keep=1, read_only=True)
    assert half.is_dir() and reader.latest() == 1
    arrays, meta = reader.restore(1, {"learner": {"x": expected((2,), np.float32)}})
    assert meta == {"a": 1}
    np.testing.assert_array_equal(arrays["learner"]["x"], [0, 1])
    with pytest.raises(CheckpointError, match="was opened for reading only"):
        reader.save(3, SMALL, {})
    half.rmdir()
    writer.save(2, SMALL, {})
    writer.wait()
    assert reader.latest() == 2
    reader.close()
    writer.close()


WRITER = """
import os
import sys
import time
import numpy as np
from agent57_jax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1], keep=2)
random = np.random.default_rng(0)
for step in (1, 2):
    noise = random.integers(0, 256, (16, 2**20), dtype=np.uint8)  # 16 MB that do not compress
    noise[:, 0] = step
    if step == 2:  # the kill must come before the end of this save: the files are written, but no folder gets its final name
        os.rename = lambda *args, **kwargs: time.sleep(600)
    checkpoints.save(step, {"replay": {"x": noise}, "learner": {"x": np.full((3,), step, np.float32)}}, {"step": step})
    print(step, flush=True)
    checkpoints.wait()
"""


def test_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    )
    assert process.stdout is not None
    while process.stdout.readline() != "2\n":
        assert process.poll() is None
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("2.*tmp*/replay*/**/d/*")):  # array data of the second checkpoint is being written
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.glob("2.*tmp*"))

    store = Checkpoints(tmp_path, keep=2)
    assert store.latest() == 1
    targets = {"replay": {"x": expected((16, 2**20), np.uint8, 4, ROWS)}, "learner": {"x": expected((3,), np.float32, 4)}}
    arrays, meta = store.restore(1, targets)
    assert meta == {"step": 1}
    noise = np.random.default_rng(0).integers(0, 256, (16, 2**20), dtype=np.uint8)
    noise[:, 0] = 1
    np.testing.assert_array_equal(np.asarray(arrays["replay"]["x"]), noise)
    np.testing.assert_array_equal(np.asarray(arrays["learner"]["x"]), np.ones(3))
    assert store.save(2, SMALL, {})
    store.close()
    assert Checkpoints(tmp_path, keep=2, read_only=True).steps() == [1, 2]
    assert not list(tmp_path.glob("2.*tmp*"))
