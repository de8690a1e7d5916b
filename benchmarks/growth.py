"""How cost grows: with environments, batch, trace, memories, replay and devices.

    python -m benchmarks.growth --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--tables=fill] [--table_sizes=N,N] [--results=DIR]

Each table is written after every size as DIR/growth_TABLE.json, with a picture: if a larger size does not fit, the smaller ones are kept.
Tables: environments (the act program by the size of a group), batch and trace (the update), fill (the act program by the embeddings that
the memories hold), replay (sampling a batch with writing its priorities, and appending, by the size of the replay), devices (what an
update and an act send between simulated devices, counted from the compiled programs).
"""

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_CONFIG = options.config()
_TABLES = flags.DEFINE_list("tables", ["environments", "batch", "trace", "fill", "replay", "devices"], "which tables")
_SIZES = flags.DEFINE_list("table_sizes", [], "sizes of the tables; default: each table's own")
_REPEATS = options.repeats()
_SECONDS = options.seconds()
_RESULTS = command_line.define_path("results", "folder for records and pictures; default: benchmarks/results")

Row = dict[str, float]  # "size" and the columns
# Updates are not measured here and need no memory: the shortest sequences, one for each of up to 8 devices.
ONLY_ACTS: dict[str, Any] = {
    "novelty.train_timesteps": 1,
    "learner.batch_size": 8,
    "replay.burn_in": 0,
    "replay.trace": 10,
    "replay.period": 10,
    "replay.min_sequences": 1,
}


class Table(NamedTuple):
    """One dependency that is measured."""

    size: str  # what grows, with its unit
    sizes: tuple[int, ...]
    columns: tuple[str, ...]
    measure: Callable[[Settings, Sequence[int]], Iterator[Row]]
    is_logarithmic: bool = True


def main() -> None:
    """Measures the requested tables, prints and writes them. Exit code 1 if a size could not be measured."""
    settings = command_line.complete_settings(_CONFIG.value)
    unknown = [name for name in _TABLES.value if name not in TABLES]
    if unknown:
        command_line.fail(f"--tables: there is no table '{unknown[0]}'; tables are {', '.join(TABLES)}")
    command_line.prepare_jax(whole_device=True)

    from benchmarks import reports
    from reproductions import records

    is_whole = True
    for name in _TABLES.value:
        table = TABLES[name]
        path = pathlib.Path(_RESULTS.value or "benchmarks/results") / f"growth_{name}.json"
        rows: list[Row] = []
        try:
            for row in table.measure(settings, [int(size) for size in _SIZES.value] or table.sizes):
                rows.append(row)
                records.write_json(path, reports.record("growth", {"table": name, "size": table.size, "rows": rows}, settings))
                draw(table, rows, path.with_suffix(".png"))
        except (config.SettingsError, RuntimeError) as error:
            # XLA raises RuntimeError when memory runs out. The tables that follow may fit.
            print(f"{name}: {' '.join(str(error).split())[:400]}", file=sys.stderr, flush=True)
            is_whole = False
        if rows:
            lines = [(table.size, *table.columns)]
            lines += [(f"{row['size']:,.0f}", *(f"{row[column]:,.4g}" for column in table.columns)) for row in rows]
            print(reports.aligned(lines, to_the_right=True), flush=True)
    if not is_whole:
        sys.exit(1)


def rates(**tasks: Callable[[], float]) -> dict[str, float]:
    """Median rates a second of tasks that are measured in turn."""
    from benchmarks import measure

    return {name: rate.median for name, rate in measure.in_turn(tasks, _REPEATS.value, _SECONDS.value).items()}


def environments(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """The act program alone, by the environments of a group."""
    from benchmarks import parts

    for count in sizes:
        # A small replay, no update, and small memories: they are not what grows here.
        small = {
            **ONLY_ACTS,
            "environment.num_envs": count,
            "environment.num_groups": 1,
            "novelty.memory_capacity": min(settings.novelty.memory_capacity, 1_000),
            "replay.capacity": str(count * 20),
        }
        run = parts.Parts(config.changed(settings, small), with_environments=False)
        still = parts.StillActor(run, run.settings.novelty.memory_capacity)
        rate = rates(act=still.act)["act"]
        yield {"size": count, "steps a second": rate, "ms an act": 1e3 * count / rate}
        del run, still


def batch(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """The update, by the number of its sequences."""
    yield from updates(settings, {size: {"learner.batch_size": size} for size in sizes})


def trace(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """The update, by the length of its sequences."""
    yield from updates(settings, {size: {"replay.trace": size, "replay.period": max(1, size // 2)} for size in sizes})


def updates(settings: Settings, changes: Mapping[int, Mapping[str, Any]]) -> Iterator[Row]:
    """The update with the changed settings of each size."""
    from benchmarks import parts, work

    num_envs = settings.environment.num_envs
    for size, own in changes.items():
        # A replay for two batches: a larger one makes no difference to an update, as the table "replay" shows.
        values = config.to_dict(settings)["replay"] | {name.removeprefix("replay."): value for name, value in own.items()}
        period, batch_size = values["period"], own.get("learner.batch_size", settings.learner.batch_size)
        columns = -(-(values["burn_in"] + values["trace"]) // period) + 1 + -(-2 * batch_size // num_envs)
        small = {"replay.min_sequences": 1, "replay.capacity": str(num_envs * columns * period)}
        run = parts.Parts(config.changed(settings, {**small, **own}), with_environments=False)
        rate = rates(update=run.learn)["update"]
        yield {"size": size, "s an update": 1 / rate, "GFLOP/s": work.update(run.settings, run.spec).total * rate / 1e9}
        del run


def fill(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """The act program, by the embeddings that the memories hold."""
    from benchmarks import parts

    run = parts.Parts(config.changed(settings, ONLY_ACTS), with_environments=False)
    still = parts.StillActor(run, 0)  # one for all sizes: its memories are large
    fitting = [size for size in sizes if size <= settings.novelty.memory_capacity]
    found = rates(**{str(size): functools.partial(still.act, size) for size in fitting})
    for size in fitting:
        yield {"size": size, "steps a second": found[str(size)], "ms an act": 1e3 * settings.envs_per_group / found[str(size)]}


def replay(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """Sampling with writing priorities, and appending, by the size of the replay."""
    from benchmarks import parts

    for size in sizes:
        small = {"replay.capacity": str(size), "replay.min_sequences": 1, "learner.batch_size": 8}
        run = parts.Parts(config.changed(settings, small), with_environments=False)
        sampler = parts.StillSampler(run)
        found = rates(sample=sampler.sample, append=sampler.append)
        yield {"size": size, "ms a batch": 1e3 / found["sample"], "ms an append": 1e3 / found["append"]}
        del run, sampler


def devices(settings: Settings, sizes: Sequence[int]) -> Iterator[Row]:
    """What devices send each other in an update and an act. Each number of devices needs its own process."""
    del settings  # each process reads them from the same command line
    for count in sizes:
        switches = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
        found = options.measured_apart("collectives", f"--config.num_devices={count}", JAX_PLATFORMS="cpu", XLA_FLAGS=switches)
        yield {"size": count, **found}


def draw(table: Table, rows: list[Row], path: pathlib.Path) -> None:
    """One panel a column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(table.columns), 3.6), layout="constrained")
    for axis, column in zip(figure.subplots(1, len(table.columns), squeeze=False)[0], table.columns, strict=True):
        axis.plot([row["size"] for row in rows], [row[column] for row in rows], "o-")
        if table.is_logarithmic:
            axis.set_xscale("log", base=2)
            axis.set_xticks([row["size"] for row in rows], [f"{row['size']:,.0f}" for row in rows])
            axis.minorticks_off()
        axis.set(xlabel=table.size, title=column)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


ACTS, UPDATES = ("steps a second", "ms an act"), ("s an update", "GFLOP/s")
SENT = ("collectives an update", "MB an update", "collectives an act", "MB an act")
TABLES = {
    "environments": Table("environments of a group", (16, 64, 256, 1_024, 4_096), ACTS, environments),
    "batch": Table("sequences of a batch", (4, 8, 16, 32, 64), UPDATES, batch),
    "trace": Table("transitions of a sequence", (20, 40, 80, 160), UPDATES, trace),
    "fill": Table("embeddings in each memory", (0, 1_000, 3_000, 10_000, 30_000), ACTS, fill, is_logarithmic=False),
    "replay": Table("timesteps of replay", (61_440, 245_760, 983_040), ("ms a batch", "ms an append"), replay),
    "devices": Table("devices", (1, 2, 4, 8), SENT, devices),
}

if __name__ == "__main__":
    command_line.run(main)
