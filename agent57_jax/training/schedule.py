"""The run's counters and when to learn. Only counts matter, never the clock, so that a seed repeats exactly."""

import dataclasses
from typing import NamedTuple

from agent57_jax.config import LearnerSettings, ReplaySettings


@dataclasses.dataclass
class Counters:
    """The progress of a run, in Python integers: the paper's budget is 42 times what 32 bits hold."""

    steps: int = 0  # agent steps of all environments
    frames: int = 0  # emulator frames
    episodes: int = 0  # finished training episodes
    acts: int = 0  # acts of one group
    timesteps: int = 0  # written to the replay: steps and the FIRST of every episode
    updates: int = 0
    evaluation_acts: int = 0
    greedy_episodes: int = 0  # of the evaluator
    checkpoints: int = 0  # number of the last one
    starts: int = 0  # of this run, with resumes
    seconds: float = 0.0  # wall time in the training loop
    learning_since_timesteps: int | None = None  # when the replay first held `min_sequences`
    learning_since_updates: int = 0

    def progress(self) -> dict[str, int | float]:
        """The counters in every line of metrics."""
        counts = {name: getattr(self, name) for name in ("frames", "steps", "updates", "episodes")}
        return {**counts, "seconds": round(self.seconds, 3)}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Keeps the ratio `samples_per_insert` between sampled and inserted sequences."""

    replay: ReplaySettings
    learner: LearnerSettings

    def updates_due(self, counters: Counters, drawable_sequences: int) -> int:
        """Updates owed by now. Learning starts once `min_sequences` can be drawn, which is noted in `counters`."""
        if counters.learning_since_timesteps is None:
            if drawable_sequences < self.replay.min_sequences:
                return 0
            counters.learning_since_timesteps = counters.timesteps
            counters.learning_since_updates = counters.updates
        # Not the completed sequences, which come in bursts.
        inserted = (counters.timesteps - counters.learning_since_timesteps) / self.replay.period
        owed = int(inserted * self.replay.samples_per_insert / self.learner.batch_size)
        return max(0, owed - (counters.updates - counters.learning_since_updates))


class Requests(NamedTuple):
    """Actions requested by any process and executed by all, after an act."""

    stop: bool
    report: bool
    save: bool
