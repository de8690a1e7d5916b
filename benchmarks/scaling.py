"""What the network costs on more and more GPUs: a calculation from counts and published link speeds, not a measurement.

    python -m benchmarks.scaling --config=configs/zaxxon.py [--sizes=1,8,64,512] [--counts=RECORD] [--json=FILE]

Every GPU keeps the settings' batch and fleet, so that the whole batch grows with the GPUs. How many collective operations an update and an
act have, and their bytes, stands in the record that `growth --tables=devices` counted from the compiled programs. An update's own time is
its counted arithmetic over `--peak` times `--share`. Nothing is assumed to overlap: what is sent waits and is waited for.

A sum goes around inside each box, then between the boxes, where each GPU of a box carries its part over a link of its own.
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
_BOX = flags.DEFINE_integer("box", 8, "GPUs in a box", lower_bound=1)
_PEAK = flags.DEFINE_float("peak", 989e12, "operations a second of a GPU, bfloat16 without sparsity", lower_bound=1.0)
_SHARE = flags.DEFINE_float("share", 0.3, "share of that which programs reach, an assumption", lower_bound=1e-6)
_INSIDE = flags.DEFINE_float("inside", 450e9, "bytes a second from one GPU to others of its box", lower_bound=1.0)
_BETWEEN = flags.DEFINE_float("between", 50e9, "bytes a second from one GPU to other boxes", lower_bound=1.0)
_LATENCY_INSIDE = flags.DEFINE_float("latency_inside", 20e-6, "seconds that a collective takes inside a box, however small, an assumption")
_LATENCY_BETWEEN = flags.DEFINE_float("latency_between", 10e-6, "seconds for each doubling of the boxes, an assumption")
_JSON = options.json()


class Network(NamedTuple):
    """Speeds and latencies of the links."""

    box: int  # GPUs
    inside: float  # bytes a second of one GPU
    between: float
    latency_inside: float  # seconds of one collective
    latency_between: float  # for each doubling of the boxes


class Cost(NamedTuple):
    """Of a number of collective operations on one GPU."""

    bytes_inside: float  # sent
    bytes_between: float
    seconds: float


def cost(network: Network, gpus: int, count: float, size: float) -> Cost:
    """`count` sums over all GPUs, of `size` bytes together."""
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

    from agent57_jax.environments import factory
    from benchmarks import reports, work
    from reproductions import records

    probe = factory.make_host_environment(settings.environment, 1, settings.seed, "evaluation")
    spec = probe.spec
    probe.close()
    timesteps = settings.learner.batch_size / settings.replay.samples_per_insert * settings.replay.period  # between two updates, of a GPU
    acts = timesteps / settings.envs_per_group
    rate = _PEAK.value * _SHARE.value
    own = (work.update(settings, spec).total + timesteps * work.act(settings, spec).total) / rate
    network = Network(_BOX.value, _INSIDE.value, _BETWEEN.value, _LATENCY_INSIDE.value, _LATENCY_BETWEEN.value)
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
    if _JSON.value:
        content = {"calculation": found, "acts_between_updates": acts, "network": network._asdict()}
        records.write_json(pathlib.Path(_JSON.value), reports.record("scaling", content, settings))


if __name__ == "__main__":
    command_line.run(main)
