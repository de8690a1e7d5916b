"""How long an act and an update should take on a GPU: calculated from programs lowered for a GPU, not measured.

    python -m benchmarks.gpu_prediction --config=configs/zaxxon.py [--envs=256,1024,2048] [--json=FILE]

No GPU is needed. Both programs are lowered for one at the settings' sizes, and their kernels are counted; `work` counts arithmetic, and
the shapes give bytes. What a device can do is in `Device`, each number with its source. The table puts the times beside the goals.

Kernels are counted in the program that JAX gives to XLA, which fuses elementwise work into its neighbours: a product, a convolution, a
reduction, a gather, a scatter, a slice written and a sort are one kernel each, and so is each result that is none of these.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Precision, Settings
from agent57_jax.types import EnvironmentSpec
from benchmarks import options

_CONFIG = options.config()
_ENVS = flags.DEFINE_list("envs", ["256", "1024", "2048"], "numbers of environments")
_CORES = flags.DEFINE_integer("emulator_cores", 16, "CPU cores for emulators", lower_bound=1)
_JSON = options.json()

CAPACITY = 5_000_000  # timesteps of replay that programs are lowered for where the settings leave it open
PRODUCTS = ("stablehlo.dot_general", "stablehlo.convolution")
KERNELS = (
    *PRODUCTS,
    *(f"stablehlo.{name}" for name in ("reduce", "reduce_window", "gather", "scatter", "dynamic_update_slice", "sort", "custom_call")),
    "chlo.top_k",
)
NO_KERNELS = ("stablehlo.constant", "stablehlo.reshape", "stablehlo.while", "stablehlo.case", "func.call", "stablehlo.all_gather")
TURN = 8_192  # slots of an episodic memory that one turn of the search visits on a GPU


class Device(NamedTuple):
    """What a device and its host can do. The defaults are an H200's published peaks, and assumptions about which share is reached."""

    bfloat16: float = 989e12  # operations a second, published, without sparsity
    tf32: float = 495e12  # published; XLA's default for products of float32
    float32: float = 67e12  # published
    memory: float = 4.8e12  # bytes a second, published
    tensor_share: float = 0.25  # of the peak in convolutions, which are products with 64 columns: assumption
    act_share: float = 0.2  # the same with an act's few images: assumption
    float32_share: float = 0.6  # without tensor cores: assumption
    memory_share: float = 0.7  # assumption
    launch: float = 3e-6  # seconds of a small kernel in a straight program: assumption
    loop_product: float = 8e-6  # seconds of a product that waits for the one before: assumption
    loop_kernel: float = 4e-6  # seconds of any other kernel in a loop: assumption
    top_k: float = 0.1e-3  # seconds of the ten nearest of 8,192 for every environment of a group: assumption
    call: float = 0.3e-3  # seconds on the host for an act's call, uploads and download: assumption
    condition: float = 15e-6  # seconds in which the host reads a condition: assumption
    upload: float = 20e9  # bytes a second to the device from memory that is not pinned: assumption
    emulator: float = 2_200.0  # agent steps a second that emulators make on one core, measured on Zaxxon


class Counts(NamedTuple):
    """Kernels of a program for a GPU, those of a loop as often as it runs."""

    kernels: float  # outside loops
    loop_products: float  # inside loops of known length
    loop_kernels: float
    search_kernels: float  # of one turn of a loop of unknown length
    loops: tuple[int, ...]  # lengths of the loops whose length is known
    searches: int  # loops of unknown length: the host reads a condition before each turn
    branches: int  # the host reads each once


class Programs(NamedTuple):
    """What a run calls, lowered for a GPU."""

    act: Any
    update: Any


class Prediction(NamedTuple):
    """Seconds, and what they are made of."""

    total: float
    parts: dict[str, float]


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside this context, programs are traced as on a GPU."""
    with mock.patch("jax.default_backend", return_value="gpu"):
        yield


def lowered(settings: Settings, spec: EnvironmentSpec, capacity: int = CAPACITY) -> Programs:
    """The act and the update on one GPU. Nothing is allocated: arguments are shapes."""
    import jax
    import numpy as np

    from agent57_jax import parallel
    from agent57_jax.agent import programs
    from agent57_jax.agent.learner import acting_parameters
    from agent57_jax.training import memory
    from agent57_jax.types import TimeStep

    with as_on_a_gpu():
        parts = programs.build(settings, spec)
        store = memory.make_replay(parts, capacity)
        made = programs.Programs(parts, parallel.make_mesh(1), store, None)
        learner = jax.eval_shape(parts.learner.init, programs.ROOT_SHAPE)
        state = jax.eval_shape(lambda: store.init(parts.actor.q_network.initial_state(1)))
        rows = settings.envs_per_group
        actor = jax.eval_shape(parts.actor.init_state, jax.ShapeDtypeStruct((rows,), np.int32))
        shared = jax.eval_shape(lambda: programs.init_shared(parts))

        def row(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((rows, *shape), dtype)

        numbers = row(np.float32), row(np.float32), row(np.int32), row(np.float32), row(np.int32)
        extras = {name: row(np.float32) for name in spec.extras}
        timestep = TimeStep(row(spec.observation_dtype, *spec.observation_shape), *numbers, extras=extras)
        root, counter, number = programs.ROOT_SHAPE, programs.COUNTER_SHAPE, jax.ShapeDtypeStruct((), np.int32)
        act = made.act.trace(acting_parameters(learner), actor, shared, state, timestep, root, counter, number)
        metrics = jax.eval_shape(made.init_update_metrics)
        update = made.update.trace(learner, state, metrics, root, counter, number)
        return Programs(*(traced.lower(lowering_platforms=("cuda",)) for traced in (act, update)))


def counted(program: Any) -> Counts:
    """The kernels of a lowered program."""
    module = program.compiler_ir("stablehlo")
    functions = {one.attributes["sym_name"].value: one for one in module.body.operations if "sym_name" in one.attributes}
    loops: list[int] = []
    found = {"searches": 0, "branches": 0}

    def operations(region: Any) -> list[Any]:
        return [operation.operation for block in region.blocks for operation in block.operations]

    def walk(region: Any) -> list[float]:
        """Kernels and products outside loops, products and kernels inside loops, kernels of a turn of a search."""
        total = [0.0, 0.0, 0.0, 0.0, 0.0]
        for operation in operations(region):
            inner = [0.0] * 5
            if operation.name == "stablehlo.while":
                length = loop_length(operation)
                kernels, products, *_ = walk(operation.regions[1])
                if length is None:
                    found["searches"] += 1
                    inner[4] = kernels
                elif length == 1:  # which XLA unrolls
                    inner[:2] = kernels, products
                else:
                    loops.append(length)
                    inner[2:4] = products * length, (kernels - products) * length
            elif operation.name == "stablehlo.case":
                found["branches"] += 1  # rarely taken
            elif operation.name == "func.call":
                inner = walk(functions[operation.attributes["callee"].value].regions[0])
            elif operation.name in KERNELS:
                inner[:2] = 1.0, float(operation.name in PRODUCTS)
            elif operation.name in ("func.return", "stablehlo.return"):
                inner[0] = float(sum(is_elementwise(operand) for operand in operation.operands))
            total = [a + b for a, b in zip(total, inner, strict=True)]
        return total

    kernels, _, loop_products, loop_kernels, search = walk(functions["main"].regions[0])
    return Counts(kernels, loop_products, loop_kernels, search, tuple(loops), found["searches"], found["branches"])


def is_elementwise(value: Any) -> bool:
    """Whether a result is computed by an operation that is no kernel of its own and not merely passed on."""
    owner = value.owner
    name = getattr(getattr(owner, "operation", owner), "name", None)  # a block owns its arguments and has no name
    return name is not None and name not in KERNELS and name not in NO_KERNELS


def loop_length(operation: Any) -> int | None:
    """The length of a loop that counts up to a constant; None if only the device knows when it ends."""
    import numpy as np

    for one in (inner.operation for block in operation.regions[0].blocks for inner in block.operations):
        if one.name == "stablehlo.compare":
            owner = one.operands[1].owner
            if getattr(getattr(owner, "operation", owner), "name", None) == "stablehlo.constant":
                return int(np.asarray(owner.attributes["value"]).item())
    return None


def act(settings: Settings, spec: EnvironmentSpec, counts: Counts, fill: int, device: Device) -> Prediction:
    """An act of one group whose episodic memories hold `fill` embeddings."""
    from benchmarks import work

    rows = settings.envs_per_group
    fill = min(fill, settings.novelty.memory_capacity)
    turns = math.ceil(fill / TURN) if counts.searches else 0
    compute = device.bfloat16 if settings.precision.compute is Precision.BFLOAT16 else device.tf32
    operations = work.act(settings, spec)
    return _prediction(
        {
            "launches": counts.kernels * device.launch + turns * counts.search_kernels * device.launch,
            "host": device.call + (counts.branches + counts.searches * (turns + 1)) * device.condition,
            "arithmetic": rows / device.act_share * (operations.compute / compute + operations.float32 / device.tf32),
            "memories": turns * device.top_k + memory_bytes(settings, fill) / (device.memory_share * device.memory),
            "upload": rows * work.stored_bytes_of_frame(spec) / device.upload,
        }
    )


def memory_bytes(settings: Settings, fill: int) -> int:
    """Bytes of episodic memories that one act compares."""
    return settings.envs_per_group * fill * settings.novelty.embedding_size * 4


def update(settings: Settings, spec: EnvironmentSpec, counts: Counts, held: int, parameters: int, device: Device, full: bool) -> Prediction:
    """An update.

    Args:
      held: bytes of activations in float32.
      parameters: bytes of parameters and optimisers.
      full: products of full float32 instead of TF32.
    """
    from benchmarks import work

    is_half = settings.precision.compute is Precision.BFLOAT16
    single = device.float32_share * device.float32 if full else device.tensor_share * device.tf32
    compute = device.tensor_share * device.bfloat16 if is_half else single
    operations = work.update(settings, spec)
    return _prediction(
        {
            "launches": counts.kernels * device.launch,
            "LSTM and other loops": counts.loop_products * device.loop_product + counts.loop_kernels * device.loop_kernel,
            "arithmetic": operations.compute / compute + operations.float32 / single,
            "activations": 2 * held / (2 if is_half else 1) / (device.memory_share * device.memory),
            "optimisers": 2 * parameters / (device.memory_share * device.memory),
        }
    )


def _prediction(parts: dict[str, float]) -> Prediction:
    return Prediction(sum(parts.values()), parts)


def goals(settings: Settings, update_seconds: float, act_seconds: float) -> dict[str, float]:
    """What is asked for -> the share of the time that the device is busy with it, which must stay below 1; both times are predicted."""
    steps = settings.envs_per_group
    rate = 13_000 * 6 / settings.replay.period / settings.learner.batch_size  # updates a second
    return {
        "66,500 frames/s and 5 updates/s": 66_500 / 4 / steps * act_seconds + 5 * update_seconds,
        "40 updates/s alone": 40 * update_seconds,
        "13,000 steps/s at ratio 6": 13_000 / steps * act_seconds + rate * update_seconds,
    }


def predicted(settings: Settings, spec: EnvironmentSpec, envs: list[int], device: Device) -> dict[str, Any]:
    """Counts, predictions by number of environments and precision, and goals."""
    import jax

    from agent57_jax.agent import programs
    from agent57_jax.training import memory

    made = lowered(settings, spec)
    of_act, of_update = counted(made.act), counted(made.update)
    parts = programs.build(settings, spec)
    learner = memory.tree_bytes(jax.eval_shape(parts.learner.init, programs.ROOT_SHAPE))
    held = memory.update_bytes(parts)
    updates = {}
    for name in ("bfloat16", "TF32", "float32"):
        compute = Precision.BFLOAT16 if name == "bfloat16" else Precision.FLOAT32
        one = config.changed(settings, {"precision.compute": compute.value})
        updates[name] = update(one, spec, of_update, held, learner, device, full=name == "float32")
    rows = []
    for count in envs:
        one = config.changed(settings, {"environment.num_envs": count})
        for fill in (1_000, settings.novelty.memory_capacity):
            time = act(one, spec, of_act, fill, device)
            reached = {name: goals(one, update.total, time.total) for name, update in updates.items()}
            rows.append(
                {"environments": count, "memories": fill, "act": time._asdict(), "bytes compared": memory_bytes(one, fill), "busy": reached}
            )
    return {
        "act program": of_act._asdict(),
        "update program": of_update._asdict(),
        "updates": {name: one._asdict() for name, one in updates.items()},
        "acts": rows,
        "frames of emulators": _CORES.value * device.emulator * spec.frames_per_step,
        "assumptions": device._asdict(),
    }


def main() -> None:
    """Prints the tables, writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=False)

    from benchmarks import reports
    from benchmarks.parts import spec_of

    if not settings.is_host_environment:
        command_line.fail("the prediction is for environments on the host")
    found = predicted(settings, spec_of(settings), [int(count) for count in _ENVS.value], Device())
    for name in ("act", "update"):
        print(f"{name} program: {', '.join(f'{key} {value}' for key, value in found[f'{name} program'].items())}")
    print(f"\n{reports.aligned(update_lines(found))}\n\n{reports.aligned(act_lines(found))}")
    print(f"\nemulators: at most {found['frames of emulators']:,.0f} frames a second")
    reports.write_json(_JSON.value, "gpu_prediction", found, settings)


def update_lines(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each precision: milliseconds of an update by its parts."""
    names = list(next(iter(found["updates"].values()))["parts"])
    lines = [("an update", *(f"{name}, ms" for name in names), "total, ms", "updates/s")]
    for precision, one in found["updates"].items():
        cells = [f"{1e3 * one['parts'][name]:.1f}" for name in names]
        lines.append((precision, *cells, f"{1e3 * one['total']:.1f}", f"{1 / one['total']:.0f}"))
    return lines


def act_lines(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each number of environments and memories: milliseconds of an act, and how busy the goals keep the device."""
    wanted = list(found["acts"][0]["busy"]["bfloat16"])
    lines = [("environments", "memories", "an act, ms", *(f"{name}: busy" for name in wanted))]
    for row in found["acts"]:
        cells = [" / ".join(f"{row['busy'][precision][name]:.0%}" for precision in row["busy"]) for name in wanted]
        lines.append((str(row["environments"]), f"{row['memories']:,}", f"{1e3 * row['act']['total']:.2f}", *cells))
    return lines


if __name__ == "__main__":
    command_line.run(main)
