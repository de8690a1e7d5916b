"""Training runs of the learning benchmark as jobs: they stop when their budget is used up, and resume where they were interrupted.

The clock is wall-clock time from the start of a run's process, with imports, environments and compilation, summed over its starts.
Work lost to a kill is not counted. learning.json in a run's folder records how long each start took before its training loop began; the
time since then is `seconds` in its metrics.
"""

import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from benchmarks import learning_curves
from benchmarks.learning_tasks import Run
from reproductions import common, folders, records
from reproductions.jobs import Job

STATE = "learning.json"


def read_state(folder: pathlib.Path) -> dict[str, Any]:
    """What is known of a run besides its metrics."""
    found = records.read_json(folder / STATE)
    return found if isinstance(found, dict) else {"starts": [], "ended": None}


def saved_seconds(folder: pathlib.Path) -> float:
    """The loop's time at the last complete checkpoint, 0 without one."""
    meta = records.read_json(folder / "checkpoints" / str(folders.latest_checkpoint(folder)) / "meta" / "metadata")
    try:
        return float(meta["content"]["counters"]["seconds"])
    except (TypeError, KeyError, ValueError):
        return 0.0


def curve(run: Run) -> list[learning_curves.Point]:
    """The points of a run so far.

    Raises:
      DamageError: for metrics that cannot be read.
    """
    return learning_curves.points(folders.read_metrics(run.folder), read_state(run.folder)["starts"], run.budget)


def reason_to_end(run: Run, stop_when_solved: bool) -> str | None:
    """Why the run should end; None if it should continue.

    Returns:
      "budget", "solved", or "finished" for a run of ours that has made all steps of its profile before its time was up.

    Raises:
      DamageError: for metrics that cannot be read.
    """
    line = folders.last_metrics(run.folder)
    if line is None:
        return None
    seconds = learning_curves.clock(line["seconds"], read_state(run.folder)["starts"])
    if run.budget.share(seconds, line["steps"]) >= 1:
        return "budget"
    if not run.is_peer and line["steps"] >= _total_steps(run.folder):
        return "finished"
    if stop_when_solved and learning_curves.first_reached(curve(run), run.thresholds[-1]):
        return "solved"
    return None


def _total_steps(folder: pathlib.Path) -> float:
    """Steps after which train.py ends a run by itself."""
    settings = records.read_json(folder / "config.json")
    return float(settings["total_steps"]) if isinstance(settings, dict) and "total_steps" in settings else math.inf


def is_trained(run: Run, stop_when_solved: bool) -> bool:
    """Whether the run has come to its end and saved it.

    Raises:
      DamageError: for metrics that cannot be read.
    """
    line = folders.last_metrics(run.folder)
    if line is None or folders.saved_steps(run.folder) < line["steps"]:
        return False
    return reason_to_end(run, stop_when_solved) is not None


class Watch:
    """Follows one start of a run. Make it before the run starts."""

    def __init__(self, run: Run, stop_when_solved: bool, facts: Mapping[str, Any]) -> None:
        """`facts`: what learning.json is to say of where the run runs."""
        self._run, self._stop_when_solved = run, stop_when_solved
        self._resumed_at = saved_seconds(run.folder)
        self._metrics = run.folder / "metrics.jsonl"
        self._before = self._file()
        self._started: float | None = None
        state = read_state(run.folder)
        # A start that saved no checkpoint does not count.
        self._state = {
            "task": run.task,
            "agent": run.agent,
            "seed": run.seed,
            **facts,
            "budget": dataclasses.asdict(run.budget),
            "starts": [start for start in state["starts"] if start["after_seconds"] < self._resumed_at],
            "ended": None,
        }
        self._has_reported = False
        self._seen: Any = None
        self._reason: str | None = None

    def has_enough(self) -> bool:
        """Whether training should stop. The time of the first call is taken as the start of training."""
        try:
            reason = self._look()
        except folders.DamageError:  # `is_done` says which
            return True
        # With a budget of steps, and at the end of its profile, it ends by itself.
        return reason == "solved" or (reason == "budget" and self._run.budget.steps is None)

    def _look(self) -> str | None:
        """Why the run has had enough, None if it has not; notes how long the start took when its first line is there."""
        if self._started is None:
            self._started = time.monotonic()
        line = self._line()
        if line is None:
            return None
        if not self._has_reported:
            self._has_reported = True
            setup = time.monotonic() - self._started - (line["seconds"] - self._resumed_at)
            self._state["starts"].append({"after_seconds": self._resumed_at, "setup_seconds": records.rounded(max(setup, 0.0))})
            self._save()
        if line["steps"] != self._seen:
            self._seen = line["steps"]
            self._reason = reason_to_end(self._run, self._stop_when_solved)
        return self._reason

    def is_done(self) -> bool:
        """Whether the training, which has ended, has had enough; notes why."""
        try:
            if self._look() is None or not is_trained(self._run, self._stop_when_solved):
                return False
        except folders.DamageError as error:
            print(f"{self._run.name}: {error}", flush=True)
            return False
        self._state["ended"] = self._reason
        self._save()
        return True

    def _save(self) -> None:
        records.write_json(self._run.folder / STATE, self._state)

    def _file(self) -> tuple[int, int] | None:
        try:
            status = self._metrics.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _line(self) -> Mapping[str, Any] | None:
        """The last line of metrics of this start. A run writes a new file when it resumes, which begins with the old lines."""
        if self._file() == self._before:
            return None
        line = folders.last_metrics(self._run.folder)
        return line if line is not None and line["seconds"] > self._resumed_at else None


def train_command(run: Run, peers_python: str) -> list[str]:
    """The command line of a run."""
    if not run.is_peer:
        return common.train_command(run.training, run.folder)
    budget = f"--minutes={run.budget.minutes}" if run.budget.steps is None else f"--steps={run.budget.steps}"
    return [*_peer(run, peers_python), budget]


def _peer(run: Run, peers_python: str) -> list[str]:
    overrides = [f"--config.{name}={value}" for name, value in run.overrides.items()]
    names = [f"--task={run.task}", f"--agent={run.agent}", f"--seed={run.seed}", f"--workdir={run.folder}", f"--profile={run.profile}"]
    return [peers_python, "-m", "benchmarks.peers", *names, *overrides]


def evaluation_job(run: Run, episodes: int, peers_python: str) -> Job:
    """The job that plays greedy episodes with what a run has learnt."""
    job = dataclasses.replace(common.evaluation_job(run.folder, episodes, run.seed), name=f"evaluation of {run.name}")
    if not run.is_peer:
        return job
    return dataclasses.replace(job, command=[*_peer(run, peers_python), f"--evaluate={episodes}"])


def training_job(run: Run, episodes: int, peers_python: str, stop_when_solved: bool, facts: Mapping[str, Any]) -> Job:
    """The job that trains or resumes a run, and then evaluates it."""
    watch = Watch(run, stop_when_solved, facts)
    return Job(
        name=run.name,
        command=train_command(run, peers_python or sys.executable),
        log=run.folder / "train.log",
        is_done=watch.is_done,
        then=evaluation_job(run, episodes, peers_python),
        has_enough=watch.has_enough,
    )
