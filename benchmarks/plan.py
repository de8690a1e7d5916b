"""What one machine with several GPUs needs, and what saturates first: a calculation from counts, not a measurement.

    python -m benchmarks.plan --config=configs/zaxxon.py [--gpus=8] [--frames=66500] [--updates=5] [--json=FILE]

Arithmetic is counted by `work`, bytes from the shapes of what a run holds. The machine's capacities are flags: the defaults are the
published peaks of an H200; the emulators' rate is that of one core as `throughput --parts=environments` measures it. Devices share one
batch and sum their gradients, so `--updates` is of the whole box and `--config.learner.batch_size` the batch of all devices; frames are for
each GPU.
"""

import math
from typing import NamedTuple

from absl import flags

from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_CONFIG = options.config()
_GPUS = flags.DEFINE_integer("gpus", 8, "GPUs in the box", lower_bound=1)
_FRAMES = flags.DEFINE_float("frames", 66_500.0, "frames a second for each GPU", lower_bound=0.0)
_UPDATES = flags.DEFINE_float("updates", 5.0, "updates a second of the whole box", lower_bound=0.0)
_CORES = flags.DEFINE_integer("cores", 128, "CPU cores of the box", lower_bound=1)
_STEPS_PER_CORE = flags.DEFINE_float("steps_per_core", 2_200.0, "agent steps a second that emulators make on one core", lower_bound=1.0)
_ARITHMETIC = flags.DEFINE_float("arithmetic", 989e12, "operations a second of a GPU, bfloat16 without sparsity", lower_bound=1.0)
_MEMORY = flags.DEFINE_float("memory", 4.8e12, "bytes a second of a GPU's memory", lower_bound=1.0)
_CAPACITY = flags.DEFINE_float("capacity", 141e9, "bytes of a GPU's memory", lower_bound=1.0)
_HOST_MEMORY = flags.DEFINE_float("host_memory", 300e9, "bytes a second of the box's memory", lower_bound=1.0)
_PCIE = flags.DEFINE_float("pcie", 63e9, "bytes a second to one GPU", lower_bound=1.0)
_LINK = flags.DEFINE_float("link", 450e9, "bytes a second from one GPU to the others", lower_bound=1.0)
_ACTS = flags.DEFINE_float("acts", 500.0, "acts a second that one process can start and wait for, however small", lower_bound=1.0)
_JSON = options.json()


class Need(NamedTuple):
    """What is needed of a resource, and how much of it there is."""

    resource: str
    unit: str
    needed: float
    available: float

    @property
    def share(self) -> float:
        """Of the resource."""
        return self.needed / self.available


class Load(NamedTuple):
    """Rates that are asked for."""

    gpus: int
    steps: float  # agent steps a second of each GPU
    updates: float  # a second, of the box


class Sizes(NamedTuple):
    """Bytes, over all devices where nothing else is said."""

    observation: int  # one
    memories: int  # the numbers of one environment's episodic memory, full
    recurrent: int  # states of one environment
    learner: int  # parameters, targets and optimisers, on each device
    parameters: int  # those that actors read, on each device
    gradients: int  # on each device
    frames_per_step: int
    activations: int  # of one update
    state: int  # all that is allocated, on each device


def needs(settings: Settings, load: Load, sizes: Sizes, act_flops: float, update_flops: float) -> list[Need]:
    """Every resource under the load, each for one GPU but for those of the host."""
    per_gpu = load.updates / load.gpus  # each device works on its share of every batch
    acts = load.steps / (settings.envs_per_group / load.gpus)  # of one device, a second
    batch = settings.learner.batch_size * (settings.replay.span + 1)
    traffic = {
        # Written on arrival, read by the act, written to the ring.
        "observations": 3 * sizes.observation * load.steps,
        "episodic memories, full": sizes.memories * load.steps,
        "recurrent states, read and written": 2 * sizes.recurrent * load.steps,
        "parameters, read by every act": sizes.parameters * acts,
        # Gathered from the ring: read, written, read by online and by target networks.
        "batches": 4 * sizes.observation * batch * per_gpu,
        "activations of updates, written and read": 2 * sizes.activations * per_gpu,
        "optimisers, read and written": 2 * sizes.learner * load.updates,
    }
    summed = 2 * (load.gpus - 1) / load.gpus * sizes.gradients * load.updates  # a ring of devices
    steps = load.gpus * load.steps
    return [
        Need("emulators", "cores", steps / _STEPS_PER_CORE.value, _CORES.value),
        Need("acts", "/s", acts, _ACTS.value),
        # Written by the emulators, read and written by the copy for the upload, read by the upload.
        Need("host memory", "B/s", 4 * sizes.observation * steps, _HOST_MEMORY.value),
        Need("PCIe, upwards", "B/s", (sizes.observation + 20) * load.steps, _PCIE.value),
        Need("GPU arithmetic", "FLOP/s", act_flops * load.steps + update_flops * per_gpu, _ARITHMETIC.value),
        Need("GPU memory, traffic", "B/s", sum(traffic.values()), _MEMORY.value),
        *(Need(f"  {name}", "B/s", value, _MEMORY.value) for name, value in traffic.items()),
        Need("GPU memory, held", "B", sizes.state, _CAPACITY.value),
        Need("links between GPUs", "B/s", summed, _LINK.value),
    ]


def sizes_of(settings: Settings, gpus: int) -> tuple[Sizes, float, float]:
    """Bytes of a run on so many devices, and the operations of an act and of an update."""
    import jax
    import numpy as np

    from agent57_jax.agent import programs
    from agent57_jax.agent.learner import acting_parameters
    from agent57_jax.training import memory
    from benchmarks import work
    from benchmarks.parts import spec_of

    if not settings.is_host_environment:
        command_line.fail("the plan is for environments on the host: JAX environments need neither cores nor PCIe")
    spec = spec_of(settings)
    parts = programs.build(settings, spec)
    learner = jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32))
    actor = jax.eval_shape(parts.actor.init_state, jax.ShapeDtypeStruct((1,), np.int32))
    held = actor.novelty.memory if actor.novelty is not None else None
    fleet = memory.tree_bytes(actor) * settings.environment.num_envs
    capacity = settings.replay.auto_limit if settings.requested_capacity is None else settings.requested_capacity
    activations = memory.update_bytes(parts)
    sizes = Sizes(
        observation=math.prod(spec.observation_shape) * spec.observation_dtype.itemsize,
        memories=memory.tree_bytes(held),
        recurrent=memory.tree_bytes(actor.recurrent),
        learner=memory.tree_bytes(learner),
        parameters=memory.tree_bytes(acting_parameters(learner)),
        gradients=memory.tree_bytes(learner.parameters),
        frames_per_step=spec.frames_per_step,
        activations=activations,
        state=memory.tree_bytes(learner) + (fleet + activations + memory.replay_bytes(parts, capacity)) // gpus,
    )
    return sizes, work.act(settings, spec).total, work.update(settings, spec).total


def main() -> None:
    """Prints the table, highest share first where it matters, and writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=False)

    from benchmarks import reports

    sizes, act_flops, update_flops = sizes_of(settings, _GPUS.value)
    load = Load(_GPUS.value, _FRAMES.value / sizes.frames_per_step, _UPDATES.value)
    found = needs(settings, load, sizes, act_flops, update_flops)
    lines = [("resource", "needed", "available", "unit", "share")]
    lines += [
        (need.resource, reports.readable(need.needed), reports.readable(need.available), need.unit, f"{need.share:.2%}") for need in found
    ]
    print(reports.aligned(lines))
    first = max((need for need in found if need.unit != "B"), key=lambda need: need.share)
    print(f"first to saturate: {first.resource}, at {1 / first.share:.3g} times this load" if first.share else "no load")
    content = {"calculation": [need._asdict() | {"share": need.share} for need in found], "sizes": sizes._asdict()}
    reports.write_json(_JSON.value, "plan", content, settings)


if __name__ == "__main__":
    command_line.run(main)
