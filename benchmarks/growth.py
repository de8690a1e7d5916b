"""How cost grows: with environments, batch, trace, memories, replay and devices.

    python -m benchmarks.growth --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--tables=fill,replay] [--results=DIR]

Each table is measured in one process and written after every size as DIR/growth_TABLE.json, with a picture beside it: what is measured
stays, even if a larger size does not fit. Tables: environments (the act program against the size of a group), batch and trace (the update),
fill (the act program against what the episodic memories hold, at one capacity), replay (sampling a batch, writing its priorities and
appending, against the replay's size), devices (what an update and an act send between simulated devices, counted from the compiled
programs).
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_CONFIG = options.config()
_TABLES = flags.DEFINE_list("tables", ["environments", "batch", "trace", "fill", "replay", "devices"], "which tables")
_REPEATS = options.repeats()
_SECONDS = options.seconds()
_RESULTS = command_line.define_path("results", "folder for records and pictures; default: benchmarks/results")
_ENVIRONMENTS = flags.DEFINE_list("environments", ["16", "64", "256", "1024", "4096"], "environments of a group")
_BATCHES = flags.DEFINE_list("batches", ["4", "8", "16", "32", "64"], "sequences of a batch")
_TRACES = flags.DEFINE_list("traces", ["20", "40", "80", "160"], "transitions of a sequence")
_FILLS = flags.DEFINE_list("fills", ["0", "1000", "3000", "10000", "30000"], "embeddings in a memory")
_REPLAYS = flags.DEFINE_list("replays", ["61440", "245760", "983040"], "timesteps of replay")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "simulated devices")

Row = dict[str, float]  # "size" and the columns
# Where no update is measured none needs memory: the shortest sequences, one for each of up to 8 devices.
ONLY_ACTS: dict[str, Any] = {
    "novelty.train_timesteps": 1,
    "learner.batch_size": 8,
    "replay.burn_in": 0,
    "replay.trace": 10,
    "replay.period": 10,
    "replay.min_sequences": 1,
}


class MeasurementError(RuntimeError):
    """A size that could not be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One dependency that is measured."""

    size: str  # what grows, with its unit
    columns: tuple[str, ...]
    measure: Callable[[Settings], Iterator[Row]]
    is_logarithmic: bool = True


def main() -> None:
    """Measures what is asked for, prints and writes it. Exit code 1 if a size could not be measured."""
    settings = command_line.complete_settings(_CONFIG.value)
    unknown = [name for name in _TABLES.value if name not in TABLES]
    if unknown:
        command_line.fail(f"--tables: there is no table '{unknown[0]}'; tables are {', '.join(TABLES)}")
    command_line.prepare_jax(whole_device=True)

    from benchmarks import reports

    is_whole = True
    for name in _TABLES.value:
        table = TABLES[name]
        rows: list[Row] = []
        try:
            for row in table.measure(settings):
                rows.append(row)
                write(name, table, rows, settings)
        except (config.SettingsError, RuntimeError) as error:
            # XLA's lack of memory is a RuntimeError. The tables that follow may fit.
            print(f"{name}: {' '.join(str(error).split())[:400]}", file=sys.stderr, flush=True)
            is_whole = False
        if rows:
            lines = [(table.size, *table.columns)]
            lines += [(f"{row['size']:,.0f}", *(f"{row[column]:,.4g}" for column in table.columns)) for row in rows]
            print(reports.aligned(lines, to_the_right=True), flush=True)
    if not is_whole:
        sys.exit(1)


def write(name: str, table: Table, rows: list[Row], settings: Settings) -> None:
    """The record of a table and its picture, whole or as far as it has come."""
    from benchmarks import reports
    from reproductions import records

    path = pathlib.Path(_RESULTS.value or "benchmarks/results") / f"growth_{name}.json"
    records.write_json(path, reports.record("growth", {"table": name, "size": table.size, "rows": rows}, settings))
    draw(table, rows, path.with_suffix(".png"))


def environments(settings: Settings) -> Iterator[Row]:
    """The act program alone, against the environments of a group."""
    from benchmarks import measure, parts

    for count in (int(x) for x in _ENVIRONMENTS.value):
        # The least replay, no update, and memories no larger than is compared: none of them is what grows here.
        small = {
            **ONLY_ACTS,
            "environment.num_envs": count,
            "environment.num_groups": 1,
            "novelty.memory_capacity": min(settings.novelty.memory_capacity, 1_000),
            "replay.capacity": str(count * 20),
        }
        run = parts.Parts(config.changed(settings, small), with_environments=False)
        still = parts.StillActor(run, run.settings.novelty.memory_capacity)
        rate = measure.in_turn({"act": still.act}, _REPEATS.value, _SECONDS.value)["act"]
        yield {"size": count, "steps a second": rate.median, "ms an act": 1e3 * count / rate.median}
        del run, still


def batch(settings: Settings) -> Iterator[Row]:
    """The update, against the number of its sequences."""
    yield from updates(settings, {int(x): {"learner.batch_size": int(x)} for x in _BATCHES.value})


def trace(settings: Settings) -> Iterator[Row]:
    """The update, against the length of its sequences."""
    yield from updates(settings, {int(x): {"replay.trace": int(x), "replay.period": max(1, int(x) // 2)} for x in _TRACES.value})


def updates(settings: Settings, sizes: Mapping[int, Mapping[str, Any]]) -> Iterator[Row]:
    """The update under the settings of each size."""
    from benchmarks import measure, parts, work

    num_envs = settings.environment.num_envs
    for size, own in sizes.items():
        # A replay for two batches: a larger one makes no difference to an update, as the table "replay" shows.
        values = config.to_dict(settings)["replay"] | {name.removeprefix("replay."): value for name, value in own.items()}
        period, batch = values["period"], own.get("learner.batch_size", settings.learner.batch_size)
        columns = -(-(values["burn_in"] + values["trace"]) // period) + 1 + -(-2 * batch // num_envs)
        small = {"replay.min_sequences": 1, "replay.capacity": str(num_envs * columns * period)}
        run = parts.Parts(config.changed(settings, {**small, **own}), with_environments=False)
        rate = measure.in_turn({"update": run.learn}, _REPEATS.value, _SECONDS.value)["update"]
        flops = work.update(run.settings, run.spec).total
        yield {"size": size, "s an update": 1 / rate.median, "GFLOP/s": flops * rate.median / 1e9}
        del run


def fill(settings: Settings) -> Iterator[Row]:
    """The act program, against the embeddings that the memories hold."""
    from benchmarks import measure, parts

    run = parts.Parts(config.changed(settings, ONLY_ACTS), with_environments=False)
    sizes = [size for size in (int(x) for x in _FILLS.value) if size <= settings.novelty.memory_capacity]
    still = parts.StillActor(run, 0)  # one for all sizes: its memories are large
    tasks = {str(size): functools.partial(still.act, size) for size in sizes}
    rates = measure.in_turn(tasks, _REPEATS.value, _SECONDS.value)
    for size in sizes:
        steps = rates[str(size)].median
        yield {"size": size, "steps a second": steps, "ms an act": 1e3 * settings.envs_per_group / steps}


def replay(settings: Settings) -> Iterator[Row]:
    """Sampling with writing back, and appending, against the size of the replay."""
    from benchmarks import measure, parts

    for size in (int(x) for x in _REPLAYS.value):
        small = {"replay.capacity": str(size), "replay.min_sequences": 1, "learner.batch_size": 8}
        run = parts.Parts(config.changed(settings, small), with_environments=False)
        sampler = parts.StillSampler(run)
        rates = measure.in_turn({"sample": sampler.sample, "append": sampler.append}, _REPEATS.value, _SECONDS.value)
        yield {"size": size, "ms a batch": 1e3 / rates["sample"].median, "ms an append": 1e3 / rates["append"].median}
        del run, sampler


def devices(settings: Settings) -> Iterator[Row]:
    """What devices tell each other in an update and in an act. Each number of devices is a process of its own."""
    del settings  # each process reads them from the same command line
    for count in (int(x) for x in _DEVICES.value):
        simulated = f"--xla_force_host_platform_device_count={count}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {simulated}".strip()}
        command = [sys.executable, "-m", "benchmarks.collectives", *options.config_arguments(), f"--config.num_devices={count}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MeasurementError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        yield {"size": count, **json.loads(done.stdout.splitlines()[-1])}


def draw(table: Table, rows: list[Row], path: pathlib.Path) -> None:
    """One panel a column."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(table.columns), figsize=(5.0 * len(table.columns), 3.6), layout="constrained", squeeze=False)
    for axis, column in zip(axes[0], table.columns, strict=True):
        axis.plot([row["size"] for row in rows], [row[column] for row in rows], "o-")
        if table.is_logarithmic:
            axis.set_xscale("log", base=2)
            axis.set_xticks([row["size"] for row in rows], [f"{row['size']:,.0f}" for row in rows])
            axis.minorticks_off()
        axis.set_xlabel(table.size)
        axis.set_title(column)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


TABLES = {
    "environments": Table("environments of a group", ("steps a second", "ms an act"), environments),
    "batch": Table("sequences of a batch", ("s an update", "GFLOP/s"), batch),
    "trace": Table("transitions of a sequence", ("s an update", "GFLOP/s"), trace),
    "fill": Table("embeddings in each memory", ("steps a second", "ms an act"), fill, is_logarithmic=False),
    "replay": Table("timesteps of replay", ("ms a batch", "ms an append"), replay),
    "devices": Table("devices", ("collectives an update", "MB an update", "collectives an act", "MB an act"), devices),
}

if __name__ == "__main__":
    command_line.run(main)
