"""How cost grows: with environments, batch, trace, memories, replay and devices.

    python -m benchmarks.growth --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--tables=fill,replay] [--results=DIR]

Each table is measured in one process, its sizes in turn, and written as DIR/growth_TABLE.json with a picture beside it. Tables:
environments (the act program against the size of a group), batch and trace (the update), fill (the act program against what the episodic
memories hold, at one capacity), replay (sampling a batch, writing its priorities and appending, against the replay's size), devices (what
an update and an act send between simulated devices, counted from the compiled programs).
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from absl import flags

from agent57_jax import command_line, config
from agent57_jax.config import Settings

_CONFIG = command_line.define_config()
TABLES = ("environments", "batch", "trace", "fill", "replay", "devices")
_TABLES = flags.DEFINE_list("tables", list(TABLES), "which tables")
_REPEATS = flags.DEFINE_integer("repeats", 5, "runs of each measurement", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "length of each run", lower_bound=0.0)
_RESULTS = flags.DEFINE_string("results", "benchmarks/results", "folder for records and pictures")
_ENVIRONMENTS = flags.DEFINE_list("environments", ["16", "64", "256", "1024", "4096"], "environments of a group")
_BATCHES = flags.DEFINE_list("batches", ["4", "8", "16", "32", "64"], "sequences of a batch")
_TRACES = flags.DEFINE_list("traces", ["20", "40", "80", "160"], "transitions of a sequence")
_FILLS = flags.DEFINE_list("fills", ["0", "1000", "3000", "10000", "30000"], "embeddings in a memory")
_REPLAYS = flags.DEFINE_list("replays", ["40960", "204800", "1024000"], "timesteps of replay")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "simulated devices")


@dataclasses.dataclass(frozen=True)
class Table:
    """One measured dependency."""

    name: str
    size: str  # what grows, with its unit
    columns: tuple[str, ...]
    rows: list[dict[str, float]]
    is_logarithmic: bool = True


def main() -> None:
    """Measures what is asked for, prints and writes it."""
    settings = command_line.complete_settings(_CONFIG.value)
    unknown = [name for name in _TABLES.value if name not in TABLES]
    if unknown:
        command_line.fail(f"--tables: there is no table '{unknown[0]}'; tables are {', '.join(TABLES)}")
    command_line.prepare_jax(whole_device=True)

    import jax

    from agent57_jax.config import SettingsError
    from reproductions import records

    makers: dict[str, Callable[[Settings], Table]] = {
        "environments": environments,
        "batch": lambda s: updates(s, "batch", "learner.batch_size", "sequences", [int(x) for x in _BATCHES.value]),
        "trace": lambda s: updates(s, "trace", "replay.trace", "transitions", [int(x) for x in _TRACES.value]),
        "fill": fill,
        "replay": replay,
        "devices": devices,
    }
    for name in _TABLES.value:
        try:
            table = makers[name](settings)
        except SettingsError as error:
            command_line.fail(f"{name}: {str(error).replace(chr(10), '; ')}")
        print(text(table), flush=True)
        path = pathlib.Path(_RESULTS.value) / f"growth_{name}.json"
        record = {
            "benchmark": f"growth: {name}",
            "command": " ".join(["python -m benchmarks.growth", *sys.argv[1:]]),
            "date": records.now()[:10],
            "git": records.git_state(),
            "machine": records.machine() | {"device": jax.devices()[0].device_kind},
            "size": table.size,
            "rows": table.rows,
            "settings": config.to_dict(settings),
        }
        records.write_json(path, records.rounded(record))
        draw(table, path.with_suffix(".png"))
        print(f"wrote {path} and its picture", flush=True)


def environments(settings: Settings) -> Table:
    """The act program alone, against the environments of a group."""
    from benchmarks import measure, parts

    rows = []
    for count in (int(x) for x in _ENVIRONMENTS.value):
        # A replay of the least size, and memories no larger than is compared: neither is what grows here.
        num_envs = count * settings.environment.num_groups
        small = {
            "environment.num_envs": num_envs,
            "novelty.memory_capacity": 1_000,
            "replay.capacity": str(num_envs * (settings.replay.span + settings.replay.period)),
            "replay.min_sequences": 1,
        }
        run = parts.Parts(config.changed(settings, small), with_environments=False)
        still = parts.StillActor(run, 1_000)
        rate = measure.in_turn({"act": still.act}, _REPEATS.value, _SECONDS.value)["act"]
        rows.append({"size": count, "steps a second": rate.median, "ms an act": 1e3 * count / rate.median})
        del run, still
    return Table("environments", "environments of a group", ("steps a second", "ms an act"), rows)


def updates(settings: Settings, table: str, setting: str, unit: str, sizes: Sequence[int]) -> Table:
    """The update, against the length or the number of its sequences."""
    from benchmarks import measure, parts, work

    rows = []
    for size in sizes:
        values = {setting: size, "replay.min_sequences": 1}
        if table == "trace":
            values["replay.period"] = max(1, size // 2)
        run = parts.Parts(config.changed(settings, values), with_environments=False)
        rate = measure.in_turn({"update": run.update}, _REPEATS.value, _SECONDS.value)["update"]
        flops = work.update(run.settings, run.spec)
        rows.append({"size": size, "s an update": 1 / rate.median, "GFLOP/s": flops * rate.median / 1e9})
        del run
    return Table(table, f"{unit} of a {table}", ("s an update", "GFLOP/s"), rows)


def fill(settings: Settings) -> Table:
    """The act program, against the embeddings that the memories hold."""
    from benchmarks import measure, parts

    run = parts.Parts(settings, with_environments=False)
    sizes = [size for size in (int(x) for x in _FILLS.value) if size <= settings.novelty.memory_capacity]
    still = parts.StillActor(run, 0)  # one for all sizes: its memories are large
    tasks = {str(size): functools.partial(still.act, size) for size in sizes}
    rates = measure.in_turn(tasks, _REPEATS.value, _SECONDS.value)
    rows = [
        {"size": size, "steps a second": rates[str(size)].median, "ms an act": 1e3 * settings.envs_per_group / rates[str(size)].median}
        for size in sizes
    ]
    return Table("fill", "embeddings in each memory", ("steps a second", "ms an act"), rows, is_logarithmic=False)


def replay(settings: Settings) -> Table:
    """Sampling with writing back, and appending, against the size of the replay."""
    from benchmarks import measure, parts

    rows = []
    for size in (int(x) for x in _REPLAYS.value):
        run = parts.Parts(config.changed(settings, {"replay.capacity": str(size), "replay.min_sequences": 1}), with_environments=False)
        sampler = parts.StillSampler(run)
        rates = measure.in_turn({"sample": sampler.sample, "append": sampler.append}, _REPEATS.value, _SECONDS.value)
        rows.append({"size": size, "ms a batch": 1e3 / rates["sample"].median, "ms an append": 1e3 / rates["append"].median})
        del run, sampler
    return Table("replay", "timesteps of replay", ("ms a batch", "ms an append"), rows)


def devices(settings: Settings) -> Table:
    """What devices tell each other in an update and in an act. Each number of devices is a process of its own."""
    rows = []
    for count in (int(x) for x in _DEVICES.value):
        simulated = f"--xla_force_host_platform_device_count={count}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {simulated}".strip()}
        overrides = [argument for argument in sys.argv[1:] if argument.startswith("--config")]
        command = [sys.executable, "-m", "benchmarks.collectives", *overrides, f"--config.num_devices={count}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            command_line.fail(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        rows.append({"size": count, **json.loads(done.stdout.splitlines()[-1])})
    return Table("devices", "devices", ("collectives an update", "MB an update", "collectives an act", "MB an act"), rows)


def text(table: Table) -> str:
    """Aligned columns."""
    lines = [(table.size, *table.columns)]
    lines += [(f"{row['size']:,.0f}", *(f"{row[column]:,.4g}" for column in table.columns)) for row in table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def draw(table: Table, path: pathlib.Path) -> None:
    """One panel a column."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(table.columns), figsize=(5.0 * len(table.columns), 3.6), layout="constrained", squeeze=False)
    for axis, column in zip(axes[0], table.columns, strict=True):
        axis.plot([row["size"] for row in table.rows], [row[column] for row in table.rows], "o-")
        if table.is_logarithmic:
            axis.set_xscale("log", base=2)
            axis.set_xticks([row["size"] for row in table.rows], [f"{row['size']:,.0f}" for row in table.rows])
            axis.minorticks_off()
        axis.set_xlabel(table.size)
        axis.set_title(column)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    command_line.run(main)
