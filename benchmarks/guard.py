"""Detects performance regressions: ratios that do not depend on how fast the machine is today, each with a limit.

    python -m benchmarks.guard [--json=FILE]                        # `make bench-smoke`: about two minutes

Both sides of each ratio are measured in turn in this process, and the median of the rounds counts. Exit code 1 if a limit is exceeded.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_JSON = options.json()
_REPEATS = options.repeats()
_SECONDS = options.seconds()

# Measured against PyTorch on two cores with AVX-512, less the variation between measurements. The aim is 1 at every batch size.
REFERENCE_FLOOR = 0.65
Tasks = Mapping[str, Callable[[], float]]


class Ratio(NamedTuple):
    """A measured ratio and its limit."""

    name: str
    value: float
    limit: float
    is_floor: bool = False  # else a ceiling

    @property
    def holds(self) -> bool:
        """Whether it is on the right side of its limit."""
        return self.value >= self.limit if self.is_floor else self.value <= self.limit


def settings_of(num_envs: int = 32, memory_capacity: int = 30_000, replay: int = 20_480) -> Settings:
    """The paper's networks with 18 actions, 32 policies and 10 neighbours; fleet, batch and replay for a small machine."""
    from agent57_jax import config
    from configs import zaxxon

    sizes = {
        "environment.num_envs": num_envs,
        "novelty.memory_capacity": memory_capacity,
        "replay.capacity": str(replay),
        "replay.trace": 40,
        "replay.period": 40,
        "replay.min_sequences": 1,
        "learner.batch_size": 8,
        "num_devices": 1,
    }
    return config.changed(zaxxon.get_config(), sizes)


def ratios(tasks: Tasks, *pairs: tuple[str, str], split: int = 1) -> list[float]:
    """For each pair of tasks, the rate of the first over that of the second; all tasks are measured in turn.

    Args:
      split: so many times as many rounds, each shorter by the same factor.
    """
    from benchmarks import measure

    found = measure.rounds(tasks, _REPEATS.value * split, _SECONDS.value / split)
    return [measure.median_ratio(found, over, under) for over, under in pairs]


def adapter() -> list[Ratio]:
    """EnvPool through our adapter against EnvPool alone.

    Emulators use all cores and slow down with other work there, so there are many short rounds.
    """
    from benchmarks import parts

    tasks, close = parts.raw_and_adapter(settings_of(num_envs=64))
    (found,) = ratios(tasks, ("adapter", "raw"), split=5)
    close()
    return [Ratio("adapter / EnvPool alone, steps a second", found, 0.95, is_floor=True)]


def novelty() -> list[Ratio]:
    """Acts with memories of a high and of a low fill, and of a large and of a small capacity at the same fill."""
    from benchmarks import parts

    large, small = (parts.Parts(settings_of(memory_capacity=size), with_environments=False) for size in (30_000, 1_200))
    act_large, act_small = (parts.StillActor(run, 1_000).act for run in (large, small))
    tasks = {
        "small": functools.partial(act_small, 1_000),
        "large": functools.partial(act_large, 1_000),
        "full": functools.partial(act_large, 29_999),
    }
    by_capacity, by_fill = ratios(tasks, ("small", "large"), ("large", "full"))
    return [
        Ratio("act at fill 1,000: capacity 30,000 / capacity 1,200, time", by_capacity, 1.25),
        Ratio("act: fill 30,000 / fill 1,000, time", by_fill, 2.0),
    ]


def replay() -> list[Ratio]:
    """Appending to, and sampling from, a large and a small replay; bytes of a timestep."""
    from benchmarks import parts

    small, large = (parts.Parts(settings_of(replay=size), with_environments=False) for size in (10_240, 327_680))
    of_small, of_large = parts.StillSampler(small), parts.StillSampler(large)
    tasks = {
        "append, small": of_small.append,
        "append, large": of_large.append,
        "sample, small": of_small.sample,
        "sample, large": of_large.sample,
    }
    append, sample = ratios(tasks, ("append, small", "append, large"), ("sample, small", "sample, large"))
    return [
        Ratio("append: replay 32 times as large / small, time", append, 1.5),
        Ratio("sample: replay 32 times as large / small, time", sample, 2.0),
        Ratio("bytes of a stored timestep", large.bytes_per_timestep(), 7_400),
    ]


def programs() -> list[Ratio]:
    """How often act and update are traced in several calls."""
    from benchmarks import parts

    run = parts.Parts(settings_of(num_envs=8))
    for _ in range(4):
        run.act()
        run.learn()
    run.close()
    traced = {"act": run.programs.act, "update": run.programs.update}
    return [Ratio(f"programs of the {name}", float(program._cache_size()), 1.0) for name, program in traced.items()]


def reference() -> list[Ratio]:
    """Ours against plain PyTorch."""
    from benchmarks import baseline_process, parts

    settings = settings_of()
    run = parts.Parts(settings, with_environments=False)
    still = parts.StillActor(run, 1_000)
    with baseline_process.Baseline(settings, run.spec, 1_000) as baseline:
        (acts,) = ratios({"ours": still.act, "PyTorch": baseline.act}, ("ours", "PyTorch"))
        (updates,) = ratios({"ours": run.learn, "PyTorch": baseline.update}, ("ours", "PyTorch"))
    return [
        Ratio("acts a second, ours / PyTorch", acts, REFERENCE_FLOOR, is_floor=True),
        Ratio("updates a second, ours / PyTorch", updates, REFERENCE_FLOOR, is_floor=True),
    ]


def main() -> None:
    """Measures all ratios and says which exceed their limit."""
    command_line.prepare_jax(whole_device=False)

    from agent57_jax.config import SettingsError
    from benchmarks import reports
    from benchmarks.baseline_process import BaselineError

    found: list[Ratio] = []
    for part in (adapter, novelty, replay, programs, reference):
        try:
            measured = part()
        except (BaselineError, SettingsError, OSError) as error:
            command_line.fail(f"{part.__name__}: {error}")
        found += measured
        for ratio in measured:
            word = "ok" if ratio.holds else "BEYOND ITS LIMIT"
            print(f"{ratio.name}: {ratio.value:.3g} ({'at least' if ratio.is_floor else 'at most'} {ratio.limit:g}): {word}", flush=True)
    reports.write_json(_JSON.value, "guard", {"ratios": [ratio._asdict() for ratio in found]})
    if not all(ratio.holds for ratio in found):
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main)
