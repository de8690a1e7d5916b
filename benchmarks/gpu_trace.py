"""Where the device's time goes: a profiler trace of acts, of updates and of both together, each reduced to a table.

    python -m benchmarks.gpu_trace --config=configs/zaxxon.py [--few] [--json=FILE] [--config.NAME=VALUE ...]

For each: kernels by their total time, how many there are for an act or an update, how long the device is busy, gaps between kernels,
copies, and what the host spends waiting. On a CPU the threads of XLA stand for the device's streams, and calls within calls count twice.
"""

import collections
import itertools
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import flags

from agent57_jax.commands import command_line
from benchmarks import options

_CONFIG = options.config()
_FEW = flags.DEFINE_bool("few", False, "a single act and update of each")
_JSON = options.json()
ROWS = 40  # kernels in a table
STREAM = re.compile(r"^Stream")  # lines of a device's plane; further ones say the same by program or by layer
THREAD = re.compile(r"XLA")  # lines of the host's plane that stand for streams on a CPU
COPY = re.compile(r"memcpy|memset|copy-(start|done)", re.IGNORECASE)
WAIT = re.compile(r"await|block(host)?until|synchroni|wait for", re.IGNORECASE)
GAP_NS = 1_000.0  # what is shorter is the distance of two kernels in a row


def main() -> None:
    """Traces, prints the tables, writes the record."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=True)

    from benchmarks import gpu_report, parts, reports

    run = parts.Parts(settings)
    run.fill_memories(min(1_000, settings.novelty.memory_capacity))
    acts, updates, cycles = (1, 1, 1) if _FEW.value else (20, 5, 3)

    def act() -> None:
        for _ in range(acts):
            run.act()

    def together() -> None:
        run.act_and_learn(cycles)
        run.wait()

    run.counters.learning_since_timesteps, run.counters.learning_since_updates = run.counters.timesteps, run.counters.updates
    tables = {}
    for name, work, units in (("acts", act, acts), ("updates", lambda: run.learn(updates), updates), ("together", together, cycles)):
        work()  # compiles
        tables[name] = {"units": units, **traced(work)}
        row = tables[name]
        print(f"\n{name}: {row['kernels'] / units:.0f} kernels each, {1e3 * row['seconds'] / units:.2f} ms each, busy {row['busy']:.0%}")
        lines = [("kernel", "times", "ms", "share")]
        lines += [(one["name"][:80], str(one["count"]), f"{one['ms']:.3f}", f"{one['share']:.1%}") for one in row["table"][:15]]
        print(reports.aligned(lines), flush=True)
        gpu_report.keep(_JSON.value, reports.record("gpu_trace", {"traces": tables}, settings))
    run.close()
    gpu_report.keep(_JSON.value, reports.record("gpu_trace", {"traces": tables}, settings), is_whole=True)


def traced(work: Callable[[], Any]) -> dict[str, Any]:
    """The table of what `work` does and waits for."""
    import jax

    asked = jax.profiler.ProfileOptions()
    asked.python_tracer_level = 0  # which would slow down what it watches
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=asked):
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return {"seconds": seconds, **reduced(jax.profiler.ProfileData.from_file(str(file)).planes, seconds)}


def reduced(planes: Iterable[Any], seconds: float) -> dict[str, Any]:
    """Tables of a trace `seconds` long, from planes with lines of events that have a name, `start_ns` and `duration_ns`."""
    planes = list(planes)
    devices, kind = [plane for plane in planes if plane.name.startswith("/device:")], STREAM
    if not devices:
        devices, kind = [plane for plane in planes if plane.name == "/host:CPU"], THREAD
    kernels = [event for plane in devices for line in plane.lines if kind.search(line.name) for event in line.events if event.duration_ns]
    waits = [event for plane in planes if plane.name == "/host:CPU" for line in plane.lines for event in line.events]
    gaps = [gap for gap in between(kernels) if gap > GAP_NS]
    table = totals(kernels, seconds)
    return {
        "devices": [plane.name for plane in devices],
        "kernels": sum(1 for event in kernels if not COPY.search(event.name)),
        "busy": sum(end - start for start, end in merged(kernels)) / 1e9 / seconds,
        "gaps": {"count": len(gaps), "ms": sum(gaps) / 1e6, "longest ms": max(gaps, default=0.0) / 1e6},
        "copies": [row for row in table if COPY.search(row["name"])],
        "host waits": [row for row in totals(waits, seconds) if WAIT.search(row["name"])][:ROWS],
        "table": table[:ROWS],
    }


def totals(events: Iterable[Any], seconds: float) -> list[dict[str, Any]]:
    """A row for each name, the longest in all first."""
    found: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        found[event.name].append(event.duration_ns)
    rows: list[dict[str, Any]] = [
        {"name": name, "count": len(ns), "ms": sum(ns) / 1e6, "share": sum(ns) / 1e9 / seconds} for name, ns in found.items()
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def merged(events: Iterable[Any]) -> Iterator[tuple[float, float]]:
    """Spans in which at least one event runs."""
    begun: tuple[float, float] | None = None
    for start, end in sorted((event.start_ns, event.start_ns + event.duration_ns) for event in events):
        if begun is None or start > begun[1]:
            if begun is not None:
                yield begun
            begun = start, end
        else:
            begun = begun[0], max(begun[1], end)
    if begun is not None:
        yield begun


def between(events: Iterable[Any]) -> list[float]:
    """Nanoseconds between the spans."""
    spans = list(merged(events))
    return [after[0] - before[1] for before, after in itertools.pairwise(spans)]


if __name__ == "__main__":
    command_line.run(main)
