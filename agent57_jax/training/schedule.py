"""The run's counters and the arithmetic that says when to learn: counts, never the clock, so that a seed repeats exactly."""

import dataclasses
from typing import NamedTuple

from agent57_jax.config import LearnerSettings, ReplaySettings


@dataclasses.dataclass
class Counters:
    """Where a run is. Python integers: the paper's budget is 42 times what 32 bits hold."""

    steps: int = 0  # agent steps of all environments
    frames: int = 0  # emulator frames
    episodes: int = 0  # training episodes that ended
    acts: int = 0  # acts of one group
    timesteps: int = 0  # timesteps written to the replay; steps and the FIRST of every episode
    updates: int = 0
    evaluation_acts: int = 0
    greedy_episodes: int = 0  # of the evaluator
    checkpoints: int = 0  # written so far; the number of the last one
    starts: int = 0  # processes that have worked on this run
    seconds: float = 0.0  # wall time in the training loop
    learning_since_timesteps: int | None = None  # when the replay was first full enough
    learning_since_updates: int = 0

    def progress(self) -> dict[str, int | float]:
        """The counters that every line of metrics carries."""
        return {
            "frames": self.frames,
            "steps": self.steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`samples_per_insert` as arithmetic: an inserted sequence is sampled so many times."""

    replay: ReplaySettings
    learner: LearnerSettings

    def updates_due(self, counters: Counters, drawable_sequences: int) -> int:
        """Updates owed by now. Notes in `counters` when learning starts: when `min_sequences` can be drawn.

        Sequences are counted as timesteps / period, which spreads evenly what completes in bursts.
        """
        if counters.learning_since_timesteps is None:
            if drawable_sequences < self.replay.min_sequences:
                return 0
            counters.learning_since_timesteps = counters.timesteps
            counters.learning_since_updates = counters.updates
        inserted = (counters.timesteps - counters.learning_since_timesteps) / self.replay.period
        owed = int(inserted * self.replay.samples_per_insert / self.learner.batch_size)
        return max(0, owed - (counters.updates - counters.learning_since_updates))


class Requests(NamedTuple):
    """Actions after an act, requested by any process and executed by all."""

    stop: bool
    report: bool
    save: bool
