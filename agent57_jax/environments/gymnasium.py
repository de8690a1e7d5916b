"""Any discrete Gymnasium environment behind our timesteps, in processes of its own."""

import contextlib
import math
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from agent57_jax.environments import gymnasium_process
from agent57_jax.environments.gymnasium_process import Description, Task
from agent57_jax.environments.host import Episodes, available_cpus, checked_actions
from agent57_jax.types import EnvironmentSpec, HostEnvironmentError, TimeStep

END_SECONDS = 10.0  # that processes have, all together, for closing their environments


class _Process(NamedTuple):
    """An interpreter that runs an environment's code."""

    process: subprocess.Popen[bytes]  # first of a group of its own, with what the environments start
    end: int  # file descriptor that becomes readable when the process ends
    connection: Connection


class _Worker(NamedTuple):
    """A process with some of the environments."""

    process: subprocess.Popen[bytes]
    end: int
    connection: Connection
    observations: np.ndarray  # its rows, in shared memory
    rows: slice  # of the batch


class GymnasiumEnvironment:
    """A batch of one Gymnasium environment, a `HostEnvironment`. Its processes step between `send` and `recv`.

    Each of a few processes steps its share of the environments one after another and writes what they show into shared memory. Python
    environments would hold each other up in one process, and a process for each of them is mostly waiting.

    Observations are uint8 images [height, width, channels] or float32 vectors [size], as the environment's Box says. A timestep is LAST
    when the environment is terminated or truncated; its discount is 0 if it is terminated, else 1. An agent step, and a frame, is one
    `step` of the environment.
    """

    def __init__(
        self,
        task_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_processes: int | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Makes the environments; `reset` starts them.

        Args:
          task_id: a Gymnasium id such as "CartPole-v1" or "package:Id-v0", or an entry point "module:Class".
          num_envs: E.
          seeds: one for each environment, in [0, 2^31).
          num_processes: that step them; None takes `available_cpus()`. Never more than `num_envs`.
          max_episode_steps: agent steps until an episode is truncated; a shorter limit of the environment itself stays.
          render_mode: "rgb_array" lets `render` draw what the environment can draw.

        Raises:
          ValueError: one line, for an environment that can't be made or that no network here takes.
        """
        if len(seeds) != num_envs:
            raise ValueError(f"{num_envs} environments need {num_envs} seeds, not {len(seeds)}")
        task = Task(task_id, max_episode_steps, render_mode is not None)
        # Made once before, for its spaces and so that what is wrong with it is said at once.
        self._description = _describe(task)
        self.spec = EnvironmentSpec(
            observation_shape=self._description.observation_shape,
            observation_dtype=self._description.observation_dtype,
            num_actions=len(self._description.action_names),
            action_names=self._description.action_names,
            frames_per_step=1,
        )
        if self._description.steps_per_second is not None:
            self.spec = self.spec._replace(steps_per_second=self._description.steps_per_second)
        self.num_envs = num_envs
        self._task_id = task_id
        self._episodes = Episodes(num_envs)
        self._asked = ""  # the question that is under way
        self._observation: np.ndarray | None = None  # the last one that was shown
        shares = np.array_split(np.arange(num_envs), min(num_envs, num_processes or available_cpus()))
        self._workers = [self._start(task, slice(share[0], share[-1] + 1), seeds) for share in map(np.ndarray.tolist, shares)]
        self._end = weakref.finalize(self, _end, self._workers)

    def _start(self, task: Task, rows: slice, seeds: Sequence[int]) -> _Worker:
        """A process with the environments of some rows."""
        own = list(seeds[rows])
        memory = os.memfd_create("observations")
        os.truncate(memory, len(own) * math.prod(self.spec.observation_shape) * self.spec.observation_dtype.itemsize)
        worker = _Worker(*_run("serve", memory), gymnasium_process.as_rows(mmap.mmap(memory, 0), self._description), rows)
        os.close(memory)
        self._ask(worker, task, self._description, own)
        return worker

    def reset(self) -> None:
        """Starts an episode in every environment, whatever went on there; `recv` then returns FIRST everywhere."""
        self._check_open()
        if self._asked:
            self.recv()
        self._ask_all("reset", [() for _ in self._workers])
        self._episodes.restart()

    def send(self, actions: np.ndarray) -> None:
        """Starts a step and returns at once. A row whose last timestep was LAST starts a new episode; its action is ignored.

        Args:
          actions: [E] integers in [0, num_actions), wherever the environment's own numbers start.

        Raises:
          ValueError: for any other shape, type or value.
          RuntimeError: before the first `recv`, or when the step before has not been received.
        """
        self._check_open()
        if self._asked or self._observation is None:
            raise RuntimeError("send() comes after reset() and recv(), once for each recv()")
        actions = checked_actions(actions, self.num_envs, self.spec.num_actions)
        self._ask_all("step", [(actions[worker.rows],) for worker in self._workers])

    def recv(self) -> TimeStep:
        """Waits for the step and returns its timestep, row e from environment e. The arrays belong to the caller.

        Raises:
          HostEnvironmentError: one line, when an environment raised an exception or its process is gone.
        """
        self._check_open()
        if not self._asked:
            raise RuntimeError("recv() comes after reset() or send(): nothing is under way")
        asked, self._asked = self._asked, ""
        answers = [self._answer(worker) for worker in self._workers]
        self._observation = np.concatenate([worker.observations for worker in self._workers])
        reward, ends = np.zeros(self.num_envs, np.float32), np.zeros((2, self.num_envs), np.bool_)
        if asked == "step":
            reward, ends = (np.concatenate(parts, axis=-1) for parts in zip(*answers, strict=True))
        return self._episodes.timestep(self._observation.copy(), reward, terminated=ends[0], done=ends[0] | ends[1])

    def render(self, index: int) -> np.ndarray:
        """The picture of environment `index` now, uint8 [height, width, 3]; its observation, where that is an image and it draws none.

        Raises:
          ValueError: for an environment that is not there or shows no picture.
          RuntimeError: before the first `recv` or while a step is under way.
        """
        self._check_open()
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no environment {index}: they are 0..{self.num_envs - 1}")
        if self._asked or self._observation is None:
            raise RuntimeError("render() comes after recv()")
        worker = next(worker for worker in self._workers if index < worker.rows.stop)
        self._ask(worker, "render", index - worker.rows.start)
        picture = self._answer(worker)
        if picture is None and self.spec.observation_shape[-1] in (1, 3) and len(self.spec.observation_shape) == 3:
            picture = np.broadcast_to(self._observation[index], (*self.spec.observation_shape[:2], 3)).copy()
        if picture is None:
            raise ValueError(f'{self._task_id} draws no pictures: it was made without render_mode or has no "rgb_array"')
        return np.array(picture)

    def close(self) -> None:
        """Ends the processes. Closing twice is fine."""
        self._end()

    def _check_open(self) -> None:
        if not self._end.alive:
            raise RuntimeError("this environment is closed")

    def _ask_all(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        for worker, values in zip(self._workers, arguments, strict=True):
            self._ask(worker, name, *values)
        self._asked = name

    def _ask(self, worker: _Worker, *question: Any) -> None:
        with contextlib.suppress(OSError):  # a process that is gone; its answer will say so
            worker.connection.send(question)

    def _answer(self, worker: _Worker) -> Any:
        state, answer = _received(self._task_id, worker)
        if state == "failed":
            raise HostEnvironmentError(f"{self._task_id} failed: {answer}")
        return answer


def _run(function: str, *files: int) -> _Process:
    """Calls a function of `gymnasium_process` with a channel to here and these files.

    In a new interpreter: a fork of this one would copy locks that JAX's threads hold.
    """
    ours, theirs = multiprocessing.Pipe()
    passed = theirs.fileno(), *files
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {gymnasium_process.__name__} import {function}; {function}{passed}"],
        pass_fds=passed,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for the trainer alone
    )
    theirs.close()  # else its end would not be seen here
    return _Process(process, os.pidfd_open(process.pid), ours)


def _describe(task: Task) -> Description:
    """What a process of its own says of the environment.

    Raises:
      ValueError: one line, for an environment that can't be made, ends its process, or that no network here takes.
    """
    started = _run("tell")
    try:
        with contextlib.suppress(OSError):  # a process that is gone; its answer will say so
            started.connection.send(task)
        state, answer = _received(task.task_id, started)
    except HostEnvironmentError as error:
        raise ValueError(str(error)) from error
    finally:
        _kill(started)  # and what it has left behind
        started.connection.close()
        os.close(started.end)
    if state == "failed":
        raise ValueError(answer)
    description: Description = answer
    return description


def _received(task_id: str, worker: _Process | _Worker) -> tuple[str, Any]:
    """The next answer of a process; a HostEnvironmentError if it is gone."""
    try:
        # A process that was forked off holds the channel open, so that its end alone does not tell.
        if worker.connection not in wait([worker.connection, worker.end]) and not worker.connection.poll():
            raise EOFError
        state, answer = worker.connection.recv()
        return state, answer
    except (EOFError, OSError) as error:
        wait([worker.end], END_SECONDS)  # its channel may be closed a moment before
        code = _kill(worker)
        raise HostEnvironmentError(f"a process of {task_id} is gone (exit code {code}; -9: killed, perhaps for memory)") from error


def _end(workers: Sequence[_Worker]) -> None:
    """Processes end when their connection does; those that do not are killed, and so is what they leave behind."""
    for worker in workers:
        worker.connection.close()
    deadline, running = time.monotonic() + END_SECONDS, {worker.end for worker in workers}
    while running and (ended := wait(running, max(deadline - time.monotonic(), 0))):
        running.difference_update(ended)
    for worker in workers:
        _kill(worker)
        os.close(worker.end)


def _kill(worker: _Process | _Worker) -> int:
    """Ends a process and all that it started, and returns its exit code; one that had ended keeps that."""
    if worker.process.returncode is None:  # until it is waited for, nobody else gets its number
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    return worker.process.wait()
