"""Runs commands side by side, each on its own share of the cores, and passes signals on to them."""

import collections
import dataclasses
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

POLL_SECONDS = 0.2
TAIL_LINES = 15


class JobError(RuntimeError):
    """Commands failed; the message names each with the last lines of its log."""


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """SIGINT or SIGTERM arrived, and all commands have ended."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclasses.dataclass(frozen=True)
class Job:
    """One command."""

    name: str
    command: Sequence[str]
    log: pathlib.Path  # standard output and standard error are appended
    is_done: Callable[[], bool]  # whether the command, having ended without an error, has done its work
    then: "Job | None" = None  # runs next, if this one is done
    has_enough: Callable[[], bool] | None = None  # polled while the command runs; SIGTERM ends it once this is true


def shares(cores: Sequence[int], workers: int) -> list[list[int]]:
    """Equal parts of the cores, one a worker, for at most as many workers as cores; leftover cores stay idle."""
    workers = min(workers, len(cores))
    size = len(cores) // workers
    return [list(cores[worker * size : (worker + 1) * size]) for worker in range(workers)]


def tail(path: pathlib.Path) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class Supervisor:
    """Runs jobs, `workers` at a time. Inside its `with` block, it handles SIGINT and SIGTERM.

    Each command inherits its own CPU affinity, from which JAX takes its number of threads.
    """

    def __init__(self, workers: int, directory: pathlib.Path, keep_open: Sequence[int] = (), gpus: Sequence[str] = ()) -> None:
        """Args:
        workers: commands at a time; at most one per core.
        directory: where the commands run.
        keep_open: file descriptors that they inherit.
        gpus: a GPU for each worker, as in CUDA_VISIBLE_DEVICES; empty: all workers see all GPUs.
        """
        self.shares = shares(sorted(os.sched_getaffinity(0)), workers)
        self._gpus, self._directory, self._keep_open = tuple(gpus), directory, tuple(keep_open)
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}  # by the number of the share
        self._asked_to_end: set[int] = set()  # numbers of shares
        self._stopped_by: int | None = None
        self._is_running_jobs = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Supervisor":
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, jobs: Sequence[Job], total: int | None = None, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs all jobs and prints a line when one starts and when it ends. A failed job does not stop the others.

        Args:
          jobs: in the order in which they start.
          total: number of jobs including those that were done before, which count as the first ones.
          after_each: called after each job.

        Raises:
          JobError: after the others have ended, if one failed.
          Stopped: after all have ended, if a signal arrived.
        """
        own = sum(1 + (job.then is not None) for job in jobs)
        total = own if total is None else total
        ended = total - own
        waiting = collections.deque(jobs)
        failures: list[str] = []
        is_announced = False
        self._is_running_jobs = True
        try:
            while self._running or (waiting and self._stopped_by is None):
                for share in range(len(self.shares)):
                    if share not in self._running and waiting and self._stopped_by is None:
                        self._start(share, waiting.popleft())
                time.sleep(POLL_SECONDS)
                if self._stopped_by is not None and not is_announced:
                    is_announced = True
                    print(f"{signal.Signals(self._stopped_by).name}: waiting for the running commands to save and end", flush=True)
                for share, (job, process, start) in list(self._running.items()):
                    if process.poll() is None:
                        if share not in self._asked_to_end and job.has_enough is not None and job.has_enough():
                            self._asked_to_end.add(share)
                            process.send_signal(signal.SIGTERM)
                        continue
                    del self._running[share]
                    self._asked_to_end.discard(share)
                    ended += 1
                    failure = self._failure(job, process.returncode)
                    verb = "failed" if failure else "finished" if job.is_done() else "stopped"
                    print(f"[{ended}/{total}] {job.name} {verb} in {time.monotonic() - start:.0f} s", flush=True)
                    if failure:
                        print(failure, flush=True)
                        failures.append(failure)
                    elif job.then is not None:
                        waiting.appendleft(job.then)
                    after_each()
        finally:
            self._is_running_jobs = False
            for _, process, _ in self._running.values():  # only after an exception above
                process.kill()
        if self._stopped_by is not None:
            raise Stopped(self._stopped_by)
        if failures:
            raise JobError(f"{len(failures)} of {own} commands failed\n" + "\n".join(failures))

    def _start(self, share: int, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[share]
        elif len(self.shares) > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environment:
            # The commands share one GPU; a training run alone would take almost all of its memory.
            environment.setdefault("XLA_CLIENT_MEM_FRACTION", f"{0.9 / len(self.shares):.3f}")
        own = os.sched_getaffinity(0)
        with job.log.open("ab") as log:
            log.write(f"$ {' '.join(('python', *job.command[1:]))}\n".encode())
            log.flush()
            streams: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            os.sched_setaffinity(0, self.shares[share])  # the child inherits it
            try:
                process = subprocess.Popen(list(job.command), cwd=self._directory, env=environment, pass_fds=self._keep_open, **streams)
            finally:
                os.sched_setaffinity(0, own)
        self._running[share] = (job, process, time.monotonic())
        print(f"{job.name} starts; log: {self._relative(job.log)}", flush=True)
        if self._stopped_by is not None:  # the signal arrived while the process was being started
            process.send_signal(self._stopped_by)

    def _failure(self, job: Job, code: int) -> str | None:
        if self._stopped_by is not None:
            if code in (0, -self._stopped_by, 128 + self._stopped_by):
                return None
        elif code == 0 and job.is_done():
            return None
        reason = f"exit code {code}" if code else "it ended before it was done"
        return f"{job.name} failed ({reason}); the end of {self._relative(job.log)}:\n{tail(job.log)}"

    def _relative(self, path: pathlib.Path) -> pathlib.Path:
        return path.relative_to(self._directory) if path.is_relative_to(self._directory) else path

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Passes the signal on. `run` raises Stopped after all have ended; outside it, there is nothing to wait for."""
        self._stopped_by = number
        for _, process, _ in list(self._running.values()):
            process.send_signal(number)
        if not self._is_running_jobs:
            raise Stopped(number)
