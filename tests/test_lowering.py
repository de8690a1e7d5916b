"""What a GPU would be given: act and update at the paper's sizes, lowered for one on whatever machine this is."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.config import Settings
from agent57_jax.types import EnvironmentSpec
from benchmarks import gpu_prediction

SPEC = EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, tuple(str(action) for action in range(18)), 4)
PROGRAMS = ("act", "update")


@functools.cache
def made() -> gpu_prediction.Programs:
    return gpu_prediction.lowered(config.finalise(Settings()), SPEC)


@functools.cache
def text(name: str) -> str:
    found: str = getattr(made(), name).as_text()
    return found


@functools.cache
def operations(name: str) -> list[Any]:
    """All of them, those of loops and functions too."""

    def below(operation: Any) -> Iterator[Any]:
        yield operation
        for region in operation.regions:
            for block in region.blocks:
                for inner in block.operations:
                    yield from below(inner.operation)

    return list(below(getattr(made(), name).compiler_ir("stablehlo").operation))


def shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value.type, "shape", ()))


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_donated_is_written_in_place(name: str) -> None:
    """The ring, the memories and the optimisers: each donated array is the room of one result."""
    donated = [info for info in jax.tree.leaves(getattr(made(), name).args_info) if info.donated]
    assert text(name).count("tf.aliasing_output") == len(donated)
    largest = max(donated, key=lambda info: math.prod(info.shape))
    assert math.prod(largest.shape) > 2**35 and largest.dtype == np.uint8  # the observations of 5 million timesteps


@pytest.mark.parametrize("name", PROGRAMS)
def test_places_in_the_ring_are_counted_by_axis(name: str) -> None:
    """Numbered through, a ring of 35 G elements would not fit the 32 bits of an index; along each axis it fits by far."""
    passes_on = {"func.func", "func.return", "builtin.module"}
    touched = set()
    for operation in operations(name):
        for value in (*operation.operands, *operation.results):
            if math.prod(shape(value)) >= 2**31:
                assert max(shape(value)) < 2**31
                touched.add(operation.name)
                if operation.name == "stablehlo.gather":
                    numbers = str(operation.attributes["dimension_numbers"])
                    assert "start_index_map = [0, 1, 2]" in numbers and "collapsed_slice_dims = [0, 1, 2]" in numbers
    assert touched - passes_on == ({"stablehlo.dynamic_update_slice"} if name == "act" else {"stablehlo.gather"})


def test_loops_and_what_the_host_waits_for() -> None:
    """An act waits for one search of unknown length and one branch; an update for nothing."""
    act, update = (gpu_prediction.counted(program) for program in made())
    assert (act.searches, act.branches, act.loops) == (1, 1, ())
    assert (update.searches, update.branches) == (0, 0)
    assert sorted(update.loops) == [16, 20, 161, 161]  # search for priorities, Retrace in blocks, the LSTM and its gradient
    # Nothing here calls back to the host.
    assert not any("custom_call" in operation.name for name in PROGRAMS for operation in operations(name))
    # So many kernels are the basis of predictions: more of them would be noticed first on a GPU.
    assert 200 < act.kernels < 320 and act.search_kernels < 10
    assert 500 < update.kernels < 800 and update.loop_kernels < 3_000


def test_the_lstms_loop_has_one_product_for_all_networks() -> None:
    """Online and target networks of both values in one batch; products of inputs and of gradients for the kernel stay outside."""
    update = gpu_prediction.counted(made().update)
    assert update.loop_products == 2 * 161
    inside = [shape(operation.operands[1]) for operation in operations("update") if operation.name == "stablehlo.dot_general"]
    assert inside.count((4, 512, 2048)) == 1  # forward
    assert inside.count((2, 512, 2048)) == 1  # backward, of the two that are trained


@pytest.mark.parametrize("name", PROGRAMS)
def test_convolutions_and_searches_take_the_ways_of_a_gpu(name: str) -> None:
    counts = [sum(operation.name == kind for operation in operations(name)) for kind in gpu_prediction.PRODUCTS]
    assert counts[1] == {"act": 17, "update": 38}[name]
    if name == "act":
        assert f"tensor<128x{gpu_prediction.TURN}x32xf32>" in text(name)
        assert sum(operation.name == "chlo.top_k" for operation in operations(name)) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_papers_profile_leaves_the_precision_of_products_to_the_device(name: str) -> None:
    """Float32 throughout; a GPU multiplies it as TF32 unless JAX_DEFAULT_MATMUL_PRECISION says otherwise."""
    assert "bf16" not in text(name)
    assert "DEFAULT" in text(name) and "HIGH" not in text(name)


def test_predictions_add_up_and_grow_with_their_causes() -> None:
    settings, device = config.finalise(Settings()), gpu_prediction.Device()
    assert gpu_prediction.memory_bytes(settings, 30_000) == 128 * 30_000 * 32 * 4  # 0.49 GB: 0.1 ms of an H200's memory
    counts = gpu_prediction.counted(made().act)
    few, many = (gpu_prediction.act(settings, SPEC, counts, fill, device) for fill in (1_000, 30_000))
    assert few.total == pytest.approx(sum(few.parts.values()))
    assert many.parts["memories"] > few.parts["memories"] and many.parts["arithmetic"] == few.parts["arithmetic"]
    assert 0.5e-3 < few.total < many.total < 5e-3
    update = gpu_prediction.counted(made().update)
    times = [gpu_prediction.update(settings, SPEC, update, 10**10, 10**8, device, full).total for full in (False, True)]
    assert 10e-3 < times[0] < times[1] < 100e-3
    reached = gpu_prediction.goals(settings, 20e-3, 1e-3)
    assert reached["40 updates/s alone"] == pytest.approx(0.8)
    assert reached["66,500 frames/s and 5 updates/s"] == pytest.approx(16_625 / 128 * 1e-3 + 0.1)
    assert reached["13,000 steps/s at ratio 6"] == pytest.approx(13_000 / 128 * 1e-3 + 13_000 * 6 / 80 / 64 * 20e-3)
