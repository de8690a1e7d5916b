"""The Python interface, also of the commands: train in a folder, read metrics, evaluate an agent and watch it play."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from agent57_jax import paths
from agent57_jax.config import Settings, SettingsError
from agent57_jax.monitoring import metrics
from agent57_jax.monitoring.metric_lines import read_lines
from agent57_jax.monitoring.pictures import Moment
from agent57_jax.monitoring.video import Spectator
from agent57_jax.training import judging, run_folder
from agent57_jax.training.checkpoint import CheckpointError
from agent57_jax.training.trainer import Trainer, TrainingError
from agent57_jax.types import RunError


def train(settings: Settings, workdir: str | os.PathLike[str], should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Trains until `settings.total_steps`; a run in the folder continues from its last checkpoint.

    Args:
      settings: from `agent57_jax.settings`.
      workdir: folder of the run; created if missing.
      should_stop: called at every act; True saves and returns. `agent57_jax.Shutdown` returns True after a signal such as Ctrl-C, which
        otherwise raises KeyboardInterrupt and loses the work since the last checkpoint.

    Returns:
      Whether the run is complete, rather than stopped.

    Raises:
      SettingsError: (a ValueError) for settings that do not work with task, devices, memory or folder.
      RunError: if the run cannot start; TrainingError, a subclass, if it cannot continue. OSError for a folder that cannot be written.
    """
    training = Trainer(settings, paths.local(os.fspath(workdir)), should_stop)
    try:
        training.run()
    except (CheckpointError, OSError) as error:
        raise TrainingError(str(error)) from error
    return training.is_finished


def open_run(workdir: str | os.PathLike[str]) -> "Run":
    """The run in a folder, finished or still training, or an agent in agents/; raises SettingsError if there is none."""
    return Run(pathlib.Path(paths.local(os.fspath(workdir))))


class Run:
    """A run's folder, from `open_run`."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self.workdir = workdir
        self.settings = run_folder.read_settings(workdir)

    def metrics(self, keys: str = "*") -> dict[str, np.ndarray]:
        """The metrics as columns, float64 or int64, one value per line: `pandas.DataFrame(run.metrics())`.

        `keys` is a pattern such as "evaluation/*"; the counters always match. docs/metrics.md lists the keys and their units. A value is
        NaN where it is missing or not finite. Raises SettingsError if there are no metrics yet, or a line is damaged.
        """
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            raise SettingsError(f"{self.workdir} has no metrics yet: there is no metrics.jsonl in it")
        lines = list(read_lines(path))
        values = {key: [line.get(key) for line in lines] for key in metrics.columns(lines, keys)}
        return {key: np.array([np.nan if value is None else value for value in column]) for key, column in values.items()}

    def evaluate(self, episodes: int = 100, seed: int = 0, make_spectator: Callable[[str, int], Spectator] | None = None) -> dict[str, Any]:
        """Plays greedy episodes with the last checkpoint and writes evaluation.json.

        Args:
          episodes: number of episodes, at least 1.
          seed: of environments and random actions, at least 0.
          make_spectator: from the game's name and the number of episodes in environment 0, makes the spectator of that environment.

        Returns:
          The content of evaluation.json, with "mean" and "returns" of the episodes and "hns", the human-normalised score or None; and its
          "path", or None with a "problem" if it could not be written.

        Raises SettingsError (a ValueError) if there is no checkpoint yet, or for numbers out of range, RunError if the checkpoint cannot be
        read or the environments fail.
        """
        _check(episodes, seed)
        return judging.evaluate(self.workdir, episodes, seed, make_spectator)

    def play(self, episodes: int = 1, seed: int = 0) -> Iterator[Moment]:
        """Plays greedy episodes with the last checkpoint; arguments and errors as of `evaluate`, and RunError if it cannot be drawn.

        Yields every timestep: `screen` [height, width, 3] uint8, the name of the `action`, the raw `score` so far, arm, rewards and values.
        The last of an episode has `ends`.
        """
        _check(episodes, seed)
        opened = judging.open_run(self.workdir, 1, seed, is_watched=True)
        seen = _Seen()
        with contextlib.closing(judging.acts(opened, np.array([episodes]), seed, seen)) as acts:
            for _ in acts:
                yield from seen.moments
                seen.moments.clear()


class _Seen:
    def __init__(self) -> None:
        self.moments: list[Moment] = []

    def wants(self, starts: bool) -> bool:
        return True

    def see(self, moment: Moment) -> None:
        self.moments.append(moment)

    def give_up(self, reason: str) -> None:
        raise RunError(f"this environment cannot be drawn: {reason}; evaluate plays it without pictures")


def _check(episodes: int, seed: int) -> None:
    for name, value, low in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < low:
            raise SettingsError(f"{name} is {value}, but must be at least {low}")
