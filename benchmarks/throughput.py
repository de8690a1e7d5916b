"""Throughput of every part of a run, each held against the machine's own limit.

    python -m benchmarks.throughput --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--parts=acting,learner] [--json=FILE]

Parts: environments (EnvPool alone and through our adapter), acting (environments, the act program and the append to the replay), device
(the act program alone), learner (updates alone), together (acting and learning at the settings' ratio), baseline (the act program and the
update beside the same sizes in plain PyTorch, which requirements-bench.txt brings), compile (all programs, without and with the cache of
an earlier start). `--ratios=1.5,6` measures `together` at several replay ratios: samples of a sequence for each insert. Rates are medians
of several runs. The replay is full from the start, so that learning need not wait.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Precision, Settings
from benchmarks import options

_CONFIG = options.config()
_PARTS = flags.DEFINE_list("parts", ["environments", "device", "acting", "learner", "together", "compile"], "what to measure")
_REPEATS = options.repeats()
_SECONDS = options.seconds()
_FILL = flags.DEFINE_integer("fill", 1_000, "embeddings in each episodic memory while the act program is measured alone", lower_bound=0)
_UPDATES = flags.DEFINE_integer("updates_per_run", 4, "updates of a run of learning, and of acting and learning together", lower_bound=1)
_RATIOS = flags.DEFINE_list("ratios", [], "replay ratios at which acting and learning together are measured; default: the settings' one")
_JSON = options.json()

PARTS = ("environments", "device", "acting", "learner", "together", "baseline", "compile")


class Row(NamedTuple):
    """One measurement and its limit."""

    part: str
    name: str
    unit: str  # of the rate, a second
    rate: Any  # measure.Rate
    roof: float | None  # the same unit; None where there is none
    roof_is: str


def main() -> None:
    """Measures, prints the table, writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    unknown = [part for part in _PARTS.value if part not in PARTS]
    if unknown:
        command_line.fail(f"--parts: there is no part '{unknown[0]}'; parts are {', '.join(PARTS)}")
    cold = compile_times() if "compile" in _PARTS.value else None  # first, while this process holds no device
    command_line.prepare_jax(whole_device=True)

    from agent57_jax.config import SettingsError
    from agent57_jax.parallel import DeviceError
    from benchmarks import measure, reports
    from benchmarks.baseline_process import BaselineError
    from reproductions import records

    clock = measure.CompileClock()
    try:
        rows, facts = measured(settings, set(_PARTS.value))
    except (SettingsError, DeviceError, BaselineError, OSError) as error:
        command_line.fail(str(error))
    facts |= {"peak host bytes": measure.peak_host_bytes(), "peak device bytes": measure.peak_device_bytes()}
    facts |= {"seconds of this process": clock.stages(), "of its programs found in the cache": clock.found_in_cache()}
    if cold is not None:
        facts["compile seconds"] = cold
    print(reports.aligned(table(rows)))
    for name, value in facts.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    if _JSON.value:
        measurements = [
            {"part": row.part, "name": row.name, "unit": row.unit, **row.rate._asdict(), "roof": row.roof, "roof is": row.roof_is}
            for row in rows
        ]
        records.write_json(pathlib.Path(_JSON.value), reports.record("throughput", {"rows": measurements, "facts": facts}, settings))
        print(f"wrote {_JSON.value}")


def measured(settings: Settings, wanted: set[str]) -> tuple[list[Row], dict[str, Any]]:
    """Rows and facts of the parts that are wanted."""
    import jax
    import jax.numpy as jnp

    from benchmarks import measure, parts, work

    repeats, seconds = _REPEATS.value, _SECONDS.value
    rows: list[Row] = []
    devices = settings.num_devices or len(jax.devices())
    products = compute = measure.product_rate(jnp.float32, repeats)
    copies = measure.copy_rate(repeats)
    rows.append(Row("machine", "matrix product", "FLOP", products, None, ""))
    if settings.precision.compute is Precision.BFLOAT16:
        compute = measure.product_rate(jnp.bfloat16, repeats)
        rows.append(Row("machine", "matrix product, bfloat16", "FLOP", compute, None, ""))
    rows.append(Row("machine", "memory, read and written", "byte", copies, None, ""))
    raw = None
    if "environments" in wanted and settings.is_host_environment:
        tasks, close = parts.raw_and_adapter(settings)
        rates = measure.in_turn(tasks, repeats, seconds)
        close()
        raw = rates.get("raw", rates["adapter"])  # Gymnasium has no other way
        if "raw" in rates:
            rows.append(Row("environments", "EnvPool alone", "step", raw, None, ""))
        rows.append(Row("environments", "our adapter", "step", rates["adapter"], raw.median if "raw" in rates else None, "EnvPool alone"))

    run = parts.Parts(settings, with_environments=bool(wanted & {"acting", "together"}))
    act, update = work.act(settings, run.spec), work.update(settings, run.spec)
    act_roof, update_roof = (devices * one.rate(compute.median, products.median) for one in (act, update))
    facts: dict[str, Any] = {
        "FLOP of an act of one environment": act.total,
        "FLOP of an update": update.total,
        "bytes of a stored timestep": run.bytes_per_timestep(),
        "bytes of its observation": work.stored_bytes_of_frame(run.spec),
        "replay timesteps": run.capacity,
    }
    if "device" in wanted:
        fill = min(_FILL.value, settings.novelty.memory_capacity)
        still = parts.StillActor(run, fill)
        rate = measure.in_turn({"act": still.act}, repeats, seconds)["act"]
        rows.append(Row("device", f"act program, {fill} memories", "step", rate, act_roof, "matrix products"))
        del still
    if "acting" in wanted:
        fills = sorted({min(fill, settings.novelty.memory_capacity) for fill in (_FILL.value, settings.novelty.memory_capacity)})
        # On a CPU emulators and networks take turns on the same cores; beside a device they run at the same time.
        roof = None if raw is None else 1 / (1 / raw.median + 1 / act_roof) if is_cpu() else min(raw.median, act_roof)
        for fill in fills:
            run.fill_memories(fill)
            rate = measure.in_turn({"acting": run.act}, repeats, seconds)["acting"]
            rows.append(Row("acting", f"environments, act, append; {fill:,} memories", "step", rate, roof, "EnvPool and matrix products"))
    if "learner" in wanted:
        # Waited for one by one they would be latencies; on a CPU there is nothing to overlap.
        learn = functools.partial(run.learn, 1 if is_cpu() else _UPDATES.value)
        rate = measure.in_turn({"update": learn}, repeats, seconds)["update"]
        rows.append(Row("learner", "update", "update", rate, update_roof, "matrix products"))
    if "together" in wanted:
        run.fill_memories(min(_FILL.value, settings.novelty.memory_capacity))
        for ratio in [float(x) for x in _RATIOS.value] or [settings.replay.samples_per_insert]:
            run.settings = config.changed(run.settings, {"replay.samples_per_insert": ratio})
            steps, updates = together(run, repeats)
            at = f" at ratio {ratio:g}" if _RATIOS.value else ""
            rows.append(Row("together", f"acting while learning{at}", "step", steps, None, ""))
            rows.append(Row("together", f"learning while acting{at}", "update", updates, None, ""))
    run.close()
    if "baseline" in wanted:
        rows += beside_baseline(settings, run, repeats, seconds)
    return rows, facts


def together(run: Any, repeats: int) -> tuple[Any, Any]:
    """Steps and updates a second of the trainer's loop, over whole cycles from update to update."""
    import time

    from benchmarks.measure import Rate

    run.counters.learning_since_timesteps, run.counters.learning_since_updates = run.counters.timesteps, run.counters.updates
    run.act_and_learn(1)
    run.wait()
    steps, updates = [], []
    for _ in range(repeats):
        before, taken, start = run.counters.updates, 0.0, time.perf_counter()
        while run.counters.updates - before < _UPDATES.value or time.perf_counter() - start < _SECONDS.value:
            taken += run.act_and_learn(1)
        run.wait()
        elapsed = time.perf_counter() - start
        steps.append(taken / elapsed)
        updates.append((run.counters.updates - before) / elapsed)
    return Rate.of(steps), Rate.of(updates)


def beside_baseline(settings: Settings, run: Any, repeats: int, seconds: float) -> list[Row]:
    """Our act program and update in turn with the same sizes in PyTorch, which runs in a process of its own."""
    from benchmarks import baseline_process, measure, parts

    still = parts.StillActor(run, min(_FILL.value, settings.novelty.memory_capacity))
    with baseline_process.Baseline(settings, run.spec, min(_FILL.value, settings.novelty.memory_capacity)) as baseline:
        acts = measure.in_turn({"ours": still.act, "PyTorch": baseline.act}, repeats, seconds)
        updates = measure.in_turn({"ours": run.learn, "PyTorch": baseline.update}, repeats, seconds)
    return [
        Row("baseline", "act, PyTorch", "step", acts["PyTorch"], None, ""),
        Row("baseline", "act, ours", "step", acts["ours"], acts["PyTorch"].median, "PyTorch"),
        Row("baseline", "update, PyTorch", "update", updates["PyTorch"], None, ""),
        Row("baseline", "update, ours", "update", updates["ours"], updates["PyTorch"].median, "PyTorch"),
    ]


def is_cpu() -> bool:
    """Whether JAX computes on the CPU."""
    import jax

    return jax.default_backend() == "cpu"


def compile_times() -> dict[str, float]:
    """Seconds that two starts spend on tracing and compiling everything, the first without a cache, the second with the first one's."""
    with tempfile.TemporaryDirectory() as cache:
        command = [
            sys.executable,
            "-m",
            "benchmarks.compile_time",
            *options.config_arguments(),
        ]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        found = []
        for _ in range(2):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                command_line.fail(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
            found.append(json.loads(done.stdout.splitlines()[-1])["seconds"])
    return {"cold": found[0], "from the cache": found[1]}


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Lines of cells: rates with their spread, and the share of the roof."""
    from benchmarks import reports

    lines: list[tuple[str, ...]] = [("part", "what", "median /s", "lowest to highest", "unit", "of its roof")]
    for row in rows:
        share = "" if row.roof is None else f"{row.rate.median / row.roof:.0%} of {reports.readable(row.roof)} ({row.roof_is})"
        spread = f"{reports.readable(row.rate.lowest)} to {reports.readable(row.rate.highest)}"
        lines.append((row.part, row.name, reports.readable(row.rate.median), spread, row.unit, share))
    return lines


if __name__ == "__main__":
    command_line.run(main)
