"""The network's cost on more and more GPUs: a calculation from counts and published link speeds, not a measurement.

    python -m benchmarks.scaling --config=configs/zaxxon.py [--sizes=1,8,64,512] [--counts=RECORD] [--json=FILE]

Every GPU keeps the settings' batch and fleet, so the whole batch grows with the GPUs. The number of collective operations of an update and
an act, and their bytes, come from the record of `growth --tables=devices`. An update's own time is its counted arithmetic over
PEAK times SHARE. Nothing is assumed to overlap. A sum goes around inside each box, then between the boxes, where each GPU of a box sends
its part over its own link.
"""

import json
import math
import pathlib
from typing import NamedTuple

from absl import flags

from agent57_jax.commands import command_line
from benchmarks import options

_CONFIG = options.config()
_SIZES = flags.DEFINE_list("sizes", ["1", "8", "64", "512"], "numbers of GPUs")
_COUNTS = command_line.define_path("counts", "record of counted collectives; default: benchmarks/results/growth_devices.json")
_JSON = options.json()
PEAK, SHARE = 989e12, 0.3  # of an H200: operations a second in bfloat16, and the share that programs reach (an assumption)


class Network(NamedTuple):
    """Speeds of the links as published (NVLink 4, 400 Gb/s InfiniBand), and assumed latencies."""

    box: int = 8  # GPUs
    inside: float = 450e9  # bytes a second of one GPU
    between: float = 50e9
    latency_inside: float = 20e-6  # seconds of one collective
    latency_between: float = 10e-6  # for each doubling of the boxes


class Cost(NamedTuple):
    """The cost of collective operations on one GPU."""

    bytes_inside: float  # sent
    bytes_between: float
    seconds: float


def cost(network: Network, gpus: int, count: float, size: float) -> Cost:
    """The cost of `count` sums over all GPUs, `size` bytes in total."""
    inside = min(gpus, network.box)
    boxes = math.ceil(gpus / network.box)
    sent_inside = 2 * (inside - 1) / inside * size
    sent_between = 2 * (boxes - 1) / boxes * size / inside
    latency = (network.latency_inside if gpus > 1 else 0.0) + network.latency_between * math.log2(boxes)
    return Cost(sent_inside, sent_between, sent_inside / network.inside + sent_between / network.between + count * latency)


def main() -> None:
    """Prints a row for each number of GPUs and writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    try:
        rows = json.loads(pathlib.Path(_COUNTS.value or "benchmarks/results/growth_devices.json").read_text())["rows"]
    except (OSError, ValueError, KeyError) as error:
        command_line.fail(f"--counts: {error}: run python -m benchmarks.growth --config=... --tables=devices first")
    counted = max(rows, key=lambda row: row["size"])
    command_line.prepare_jax(whole_device=False)

    from benchmarks import parts, reports, work

    spec = parts.spec_of(settings)
    timesteps = settings.learner.batch_size / settings.replay.samples_per_insert * settings.replay.period  # between two updates, of a GPU
    acts = timesteps / settings.envs_per_group
    own = (work.update(settings, spec).total + timesteps * work.act(settings, spec).total) / (PEAK * SHARE)
    network = Network()
    lines: list[tuple[str, ...]] = [("GPUs", "MB inside", "MB between", "ms of an update", "ms of its acts", "own ms", "efficiency")]
    found = []
    for gpus in (int(x) for x in _SIZES.value):
        update = cost(network, gpus, counted["collectives an update"], counted["MB an update"] * 1e6)
        act = cost(network, gpus, counted["collectives an act"] * acts, counted["MB an act"] * 1e6 * acts)
        efficiency = own / (own + update.seconds + act.seconds)
        sent = (update.bytes_inside + act.bytes_inside) / 1e6, (update.bytes_between + act.bytes_between) / 1e6
        times = 1e3 * update.seconds, 1e3 * act.seconds, 1e3 * own
        found.append({"gpus": gpus, "update": update._asdict(), "acts": act._asdict(), "own_seconds": own, "efficiency": efficiency})
        lines.append((f"{gpus}", *(f"{x:.2f}" for x in (*sent, *times)), f"{efficiency:.1%}"))
    print(reports.aligned(lines, to_the_right=True))
    print(f"{acts:.3g} acts of {settings.envs_per_group} environments on each GPU between two updates")
    content = {"calculation": found, "acts_between_updates": acts, "network": network._asdict()}
    reports.write_json(_JSON.value, "scaling", content, settings)


if __name__ == "__main__":
    command_line.run(main)
