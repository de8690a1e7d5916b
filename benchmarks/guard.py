"""A guard against getting slower: ratios that do not depend on how fast the machine is today, each with a floor or a ceiling.

    python -m benchmarks.guard [--json=FILE]                        # `make bench-smoke`: about two minutes

Both sides of each ratio are measured in turn in this process, and the median of the rounds counts. Exit code 1 if one is beyond its limit.
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_JSON = options.json()
_REPEATS = options.repeats()
_SECONDS = options.seconds()


# What the code reaches beside PyTorch on two cores with AVX-512, less what such a measurement varies by. The aim is 1, at every batch.
REFERENCE_FLOOR = 0.65
Rounds = dict[str, list[float]]


class Ratio(NamedTuple):
    """A measured ratio and its limit."""

    name: str
    value: float
    limit: float
    is_floor: bool  # else a ceiling

    @property
    def holds(self) -> bool:
        """Whether it is on the right side of its limit."""
        return self.value >= self.limit if self.is_floor else self.value <= self.limit


def settings_of(num_envs: int = 32, memory_capacity: int = 30_000, replay: int = 20_480) -> Settings:
    """The paper's networks with 18 actions, 32 policies and 10 neighbours, and a fleet, a batch and a replay for a small machine."""
    from agent57_jax import config
    from configs import zaxxon

    settings = zaxxon.get_config()
    settings.environment.num_envs = num_envs
    settings.novelty.memory_capacity = memory_capacity
    settings.replay.capacity = str(replay)
    settings.replay.trace = settings.replay.period = 40
    settings.replay.min_sequences = 1
    settings.learner.batch_size = 8
    settings.num_devices = 1
    return config.finalise(settings)


def adapter(rates: Callable[..., Rounds]) -> list[Ratio]:
    """EnvPool through our adapter against EnvPool alone. Emulators keep both cores busy and are slowed by whatever else runs there: many
    short rounds find the moments in which both sides had them.
    """
    from benchmarks import measure, parts

    tasks, close = parts.raw_and_adapter(settings_of(num_envs=64))
    found = rates(tasks, 5)
    close()
    return [Ratio("adapter / EnvPool alone, steps a second", measure.median_ratio(found, "adapter", "raw"), 0.95, True)]


def novelty(rates: Callable[..., Rounds]) -> list[Ratio]:
    """Acts with memories of a high and of a low fill, and of a large and of a small capacity at the same fill."""
    import functools

    from benchmarks import measure, parts

    large, small = (parts.Parts(settings_of(memory_capacity=size), with_environments=False) for size in (30_000, 1_200))
    actors = [parts.StillActor(run, 1_000) for run in (large, small)]
    tasks = {
        "fill 1,000 of 30,000": functools.partial(actors[0].act, 1_000),
        "fill 1,000 of 1,200": functools.partial(actors[1].act, 1_000),
        "fill 30,000": functools.partial(actors[0].act, 29_999),
    }
    found = rates(tasks)
    return [
        Ratio(
            "act at fill 1,000: capacity 30,000 / capacity 1,200, time",
            measure.median_ratio(found, "fill 1,000 of 1,200", "fill 1,000 of 30,000"),
            1.25,
            False,
        ),
        Ratio("act: fill 30,000 / fill 1,000, time", measure.median_ratio(found, "fill 1,000 of 30,000", "fill 30,000"), 2.0, False),
    ]


def replay(rates: Callable[..., Rounds]) -> list[Ratio]:
    """Appending to, and sampling from, a large and a small replay; bytes of a timestep."""
    from benchmarks import measure, parts

    runs = {size: parts.Parts(settings_of(replay=size), with_environments=False) for size in (10_240, 327_680)}
    samplers = {size: parts.StillSampler(run) for size, run in runs.items()}
    small, large = runs
    found = rates(
        {f"append {size}": sampler.append for size, sampler in samplers.items()}
        | {f"sample {size}": s.sample for size, s in samplers.items()}
    )

    def ratio(task: str) -> float:
        return measure.median_ratio(found, f"{task} {small}", f"{task} {large}")

    return [
        Ratio(
            "append: replay 32 times as large / small, time", measure.median_ratio(found, f"append {small}", f"append {large}"), 1.5, False
        ),
        Ratio(
            "sample: replay 32 times as large / small, time", measure.median_ratio(found, f"sample {small}", f"sample {large}"), 2.0, False
        ),
        Ratio("bytes of a stored timestep", runs[large].bytes_per_timestep(), 7_400, False),
    ]


def programs(rates: Callable[..., Rounds]) -> list[Ratio]:
    """How often act and update are traced in several calls."""
    del rates
    from benchmarks import parts

    run = parts.Parts(settings_of(num_envs=8))
    for _ in range(4):
        run.act()
        run.learn()
    traces = [run.programs.act._cache_size(), run.programs.update._cache_size()]
    run.close()
    return [Ratio(f"programs of the {name}", float(count), 1.0, False) for name, count in zip(("act", "update"), traces, strict=True)]


def reference(rates: Callable[..., Rounds]) -> list[Ratio]:
    """Ours against plain PyTorch."""
    from benchmarks import baseline_process, measure, parts

    settings = settings_of()
    run = parts.Parts(settings, with_environments=False)
    still = parts.StillActor(run, 1_000)
    with baseline_process.Baseline(settings, run.spec, 1_000) as baseline:
        found = rates({"ours": still.act, "PyTorch": baseline.act})
        learnt = rates({"ours": run.learn, "PyTorch": baseline.update})
    return [
        Ratio("acts a second, ours / PyTorch", measure.median_ratio(found, "ours", "PyTorch"), REFERENCE_FLOOR, True),
        Ratio("updates a second, ours / PyTorch", measure.median_ratio(learnt, "ours", "PyTorch"), REFERENCE_FLOOR, True),
    ]


def main() -> None:
    """Measures all ratios and says which are beyond their limit."""
    command_line.prepare_jax(whole_device=False)

    from agent57_jax.config import SettingsError
    from benchmarks import measure, reports
    from benchmarks.baseline_process import BaselineError
    from reproductions import records

    def rates(tasks: Any, split: int = 1) -> Rounds:
        return measure.rounds(tasks, _REPEATS.value * split, _SECONDS.value / split)

    found: list[Ratio] = []
    for part in (adapter, novelty, replay, programs, reference):
        try:
            ratios = part(rates)
        except (BaselineError, SettingsError, OSError) as error:
            command_line.fail(f"{part.__name__}: {error}")
        for ratio in ratios:
            found.append(ratio)
            word = "ok" if ratio.holds else "BEYOND ITS LIMIT"
            print(f"{ratio.name}: {ratio.value:.3g} ({'at least' if ratio.is_floor else 'at most'} {ratio.limit:g}): {word}", flush=True)
    if _JSON.value:
        records.write_json(pathlib.Path(_JSON.value), reports.record("guard", {"ratios": [ratio._asdict() for ratio in found]}))
    if not all(ratio.holds for ratio in found):
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main)
