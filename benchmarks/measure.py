"""How benchmarks measure: repeats in turn, medians with their spread, and the machine's limits."""

import collections
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rate(NamedTuple):
    """Units a second over several runs."""

    median: float
    lowest: float
    highest: float
    runs: int

    @classmethod
    def of(cls, values: list[float]) -> "Rate":
        """The summary of at least one run."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def timed(run: Callable[[], float], seconds: float) -> float:
    """Units a second: calls `run`, which returns its number of units, until the time is over."""
    units, start = 0.0, time.perf_counter()
    while True:
        units += run()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return units / elapsed


def rounds(tasks: Mapping[str, Callable[[], float]], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Rates of several tasks, measured in turn so that other work on the machine affects all of them alike.

    Args:
      tasks: name -> a call that does some units of work, waits for them and returns their number.
      seconds: for which each task is called in a row, at least once.

    Returns:
      Name -> units a second in each round.
    """
    for run in tasks.values():
        run()  # compiles, and fills caches
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, run in tasks.items():
            values[name].append(timed(run, seconds))
    return values


def in_turn(tasks: Mapping[str, Callable[[], float]], repeats: int, seconds: float) -> dict[str, Rate]:
    """The summary of `rounds`."""
    return {name: Rate.of(rates) for name, rates in rounds(tasks, repeats, seconds).items()}


def median_ratio(rates: Mapping[str, list[float]], over: str, under: str) -> float:
    """The median over the rounds of the ratio of two tasks: a slow moment affects both."""
    return statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True))


def product_rate(dtype: Any = jnp.float32, repeats: int = 5) -> Rate:
    """Floating-point operations a second of a large matrix product on the first device: the limit for networks."""
    size = 2_048 if jax.default_backend() == "cpu" else 8_192
    # Random numbers: a chip that multiplies equal numbers draws less power and may run faster.
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.dot)

    def run() -> float:
        jax.block_until_ready(product(matrix, matrix))
        return 2.0 * size**3

    return in_turn({"product": run}, repeats, 0.5)["product"]


def copy_rate(repeats: int = 5) -> Rate:
    """Bytes a second, read and written together, of copying a large array on the first device: the limit for replay and memories."""
    size = 2**28 if jax.default_backend() == "cpu" else 2**32
    array = jnp.zeros((size // 4,), jnp.float32)
    copy = jax.jit(lambda x: x + 1.0)

    def run() -> float:
        jax.block_until_ready(copy(array))
        return 2.0 * size

    return in_turn({"copy": run}, repeats, 0.5)["copy"]


def peak_host_bytes() -> int:
    """The peak of this process's resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_device_bytes() -> int | None:
    """The peak memory use of the first device; None on a device that does not report it, such as a CPU."""
    found = jax.local_devices()[0].memory_stats()
    return None if not found else int(found["peak_bytes_in_use"])


STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling or reading the cache",
}


class CompileClock:
    """What this process spends on tracing and compiling from now on."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = collections.defaultdict(float)
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self._seconds[event] += duration_secs

    def stages(self) -> dict[str, float]:
        """Seconds of each stage."""
        return {label: round(self._seconds[event], 3) for event, label in STAGES.items()}
