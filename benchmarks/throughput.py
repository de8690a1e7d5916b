"""Throughput of every part of a run, compared with the machine's own limits.

    python -m benchmarks.throughput --config=configs/zaxxon.py [--config.NAME=VALUE ...] [--parts=acting,learner] [--json=FILE]

Parts: environments (EnvPool alone and through our adapter), acting (environments, the act program and the append to the replay), device
(the act program alone), learner (updates alone), together (acting and learning at the settings' ratio), baseline (the act program and the
update next to plain PyTorch, from requirements-bench.txt), compile (all programs, without and with the cache of an earlier start).
`--ratios=1.5,6` measures `together` at several numbers of samples per insert (replay.samples_per_insert). Rates are medians of
several runs. The replay is full from the start, so that learning need not wait.
"""

import functools
import tempfile
import time
from typing import Any, NamedTuple

from absl import flags

from agent57_jax import config
from agent57_jax.commands import command_line
from agent57_jax.config import Precision, Settings
from benchmarks import options

PARTS = ("environments", "device", "acting", "learner", "together", "baseline", "compile")
_CONFIG = options.config()
_PARTS = flags.DEFINE_list("parts", [part for part in PARTS if part != "baseline"], "what to measure")
_REPEATS = options.repeats()
_SECONDS = options.seconds()
_FILL = flags.DEFINE_integer("fill", 1_000, "embeddings in each episodic memory while the act program is measured alone", lower_bound=0)
_UPDATES = flags.DEFINE_integer("updates_per_run", 4, "updates of a run of learning, and of acting and learning together", lower_bound=1)
_RATIOS = flags.DEFINE_list(
    "ratios", [], "samples per insert at which acting and learning together are measured; default: that of the settings"
)
_JSON = options.json()


class Row(NamedTuple):
    """One measurement and its limit."""

    part: str
    name: str
    unit: str  # of the rate, a second
    rate: Any  # measure.Rate
    roof: float | None = None  # limit in the same unit; None where there is none
    roof_is: str = ""


def main() -> None:
    """Measures, prints the table, writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    unknown = [part for part in _PARTS.value if part not in PARTS]
    if unknown:
        command_line.fail(f"--parts: there is no part '{unknown[0]}'; parts are {', '.join(PARTS)}")
    try:
        compiling = compile_times() if "compile" in _PARTS.value else None  # first, while this process holds no device
    except RuntimeError as error:
        command_line.fail(str(error))
    command_line.prepare_jax(whole_device=True)

    from agent57_jax.config import SettingsError
    from agent57_jax.parallel import DeviceError
    from benchmarks import measure, reports
    from benchmarks.baseline_process import BaselineError

    clock = measure.CompileClock()
    try:
        rows, facts = measured(settings, set(_PARTS.value))
    except (SettingsError, DeviceError, BaselineError, OSError) as error:
        command_line.fail(str(error))
    facts |= {"peak host bytes": measure.peak_host_bytes(), "peak device bytes": measure.peak_device_bytes()}
    facts["seconds of this process"] = clock.stages()
    if compiling is not None:
        facts["compile seconds"] = compiling
    print(reports.aligned(table(rows)))
    for name, value in facts.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    measurements = [
        {"part": row.part, "name": row.name, "unit": row.unit, **row.rate._asdict(), "roof": row.roof, "roof is": row.roof_is}
        for row in rows
    ]
    reports.write_json(_JSON.value, "throughput", {"rows": measurements, "facts": facts}, settings)


def measured(settings: Settings, wanted: set[str]) -> tuple[list[Row], dict[str, Any]]:
    """Rows and facts of the wanted parts."""
    import jax
    import jax.numpy as jnp

    from benchmarks import measure, parts, work

    is_cpu = jax.default_backend() == "cpu"
    measured_in_turn = functools.partial(measure.in_turn, repeats=_REPEATS.value, seconds=_SECONDS.value)
    devices = settings.num_devices or len(jax.devices())
    products = compute = measure.product_rate(jnp.float32, _REPEATS.value)
    rows = [Row("machine", "matrix product", "FLOP", products)]
    if settings.precision.compute is Precision.BFLOAT16:
        compute = measure.product_rate(jnp.bfloat16, _REPEATS.value)
        rows.append(Row("machine", "matrix product, bfloat16", "FLOP", compute))
    rows.append(Row("machine", "memory, read and written", "byte", measure.copy_rate(_REPEATS.value)))
    raw = None
    if "environments" in wanted and settings.is_host_environment:
        tasks, close = parts.raw_and_adapter(settings)
        rates = measured_in_turn(tasks)
        close()
        raw = rates.get("raw", rates["adapter"])  # Gymnasium has no other interface
        if "raw" in rates:
            rows.append(Row("environments", "EnvPool alone", "step", raw))
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
    capacity = settings.novelty.memory_capacity
    fill = min(_FILL.value, capacity)
    if "device" in wanted:
        still = parts.StillActor(run, fill)
        rate = measured_in_turn({"act": still.act})["act"]
        rows.append(Row("device", f"act program, {fill} memories", "step", rate, act_roof, "matrix products"))
        del still
    if "acting" in wanted:
        # On a CPU, emulators and networks take turns on the same cores; on a GPU machine they run at the same time.
        roof = None if raw is None else 1 / (1 / raw.median + 1 / act_roof) if is_cpu else min(raw.median, act_roof)
        for held in sorted({fill, capacity}):
            run.fill_memories(held)
            rate = measured_in_turn({"acting": run.act})["acting"]
            rows.append(Row("acting", f"environments, act, append; {held:,} memories", "step", rate, roof, "EnvPool and matrix products"))
    if "learner" in wanted:
        # A wait after each update would measure latency; on a CPU nothing overlaps.
        learn = functools.partial(run.learn, 1 if is_cpu else _UPDATES.value)
        rows.append(Row("learner", "update", "update", measured_in_turn({"update": learn})["update"], update_roof, "matrix products"))
    if "together" in wanted:
        run.fill_memories(fill)
        for ratio in [float(x) for x in _RATIOS.value] or [settings.replay.samples_per_insert]:
            run.settings = config.changed(run.settings, {"replay.samples_per_insert": ratio})
            steps, updates = together(run)
            at = f" at ratio {ratio:g}" if _RATIOS.value else ""
            rows.append(Row("together", f"acting while learning{at}", "step", steps))
            rows.append(Row("together", f"learning while acting{at}", "update", updates))
    run.close()
    if "baseline" in wanted:
        from benchmarks.baseline_process import Baseline

        still = parts.StillActor(run, fill)
        with Baseline(settings, run.spec, fill) as baseline:
            pairs = {"act": (still.act, baseline.act, "step"), "update": (run.learn, baseline.update, "update")}
            for name, (ours, theirs, unit) in pairs.items():
                rates = measured_in_turn({"ours": ours, "PyTorch": theirs})
                rows.append(Row("baseline", f"{name}, PyTorch", unit, rates["PyTorch"]))
                rows.append(Row("baseline", f"{name}, ours", unit, rates["ours"], rates["PyTorch"].median, "PyTorch"))
    return rows, facts


def together(run: Any) -> tuple[Any, Any]:
    """Steps and updates a second of the trainer's loop, over whole cycles from update to update."""
    from benchmarks.measure import Rate

    run.counters.learning_since_timesteps, run.counters.learning_since_updates = run.counters.timesteps, run.counters.updates
    run.act_and_learn(1)
    run.wait()
    steps, updates = [], []
    for _ in range(_REPEATS.value):
        before, taken, start = run.counters.updates, 0.0, time.perf_counter()
        while run.counters.updates - before < _UPDATES.value or time.perf_counter() - start < _SECONDS.value:
            taken += run.act_and_learn(1)
        run.wait()
        elapsed = time.perf_counter() - start
        steps.append(taken / elapsed)
        updates.append((run.counters.updates - before) / elapsed)
    return Rate.of(steps), Rate.of(updates)


def compile_times() -> dict[str, float]:
    """Seconds that two starts spend on tracing and compiling everything, the first without a cache, the second with the first one's."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (options.measured_apart("compile_time", JAX_COMPILATION_CACHE_DIR=cache)["seconds"] for _ in range(2))
    return {"cold": cold, "from the cache": warm}


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """Lines of cells: rates with their spread, and the share of the roof."""
    from benchmarks.reports import readable

    lines: list[tuple[str, ...]] = [("part", "what", "median /s", "lowest to highest", "unit", "of its roof")]
    for row in rows:
        rate = row.rate
        share = "" if row.roof is None else f"{rate.median / row.roof:.0%} of {readable(row.roof)} ({row.roof_is})"
        lines.append((row.part, row.name, readable(rate.median), f"{readable(rate.lowest)} to {readable(rate.highest)}", row.unit, share))
    return lines


if __name__ == "__main__":
    command_line.run(main)
