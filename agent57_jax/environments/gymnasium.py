"""Any discrete Gymnasium environment as timesteps of this project, in processes of its own."""

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
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from agent57_jax.environments import gymnasium_process
from agent57_jax.environments.gymnasium_process import Description, Task
from agent57_jax.environments.host import HostBatch, available_cpus
from agent57_jax.types import EnvironmentSpec, HostEnvironmentError, TimeStep

END_SECONDS = 10.0  # that all processes together have for closing their environments


class _Process:
    """An interpreter that calls a function of `gymnasium_process`, and the channel to it."""

    def __init__(self, function: str, *files: int) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        passed = theirs.fileno(), *files
        # A new interpreter: a fork of this one would copy locks that JAX's threads hold.
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {gymnasium_process.__name__} import {function}; {function}{passed}"],
            pass_fds=passed,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the trainer alone
        )
        theirs.close()  # else the end of theirs would go unnoticed here
        self.end = os.pidfd_open(self.process.pid)  # becomes readable when the process ends

    def ask(self, question: Any) -> None:
        """Sends and does not wait."""
        with contextlib.suppress(OSError):  # the process is gone, and `answer` will say so
            self.connection.send(question)

    def answer(self, task_id: str) -> tuple[str, Any]:
        """The next answer: ("done", result) or ("failed", one line); a HostEnvironmentError if the process is gone."""
        try:
            # A process that was forked off holds the channel open, so the channel alone does not tell the end.
            if self.connection not in wait([self.connection, self.end]) and not self.connection.poll():
                raise EOFError
            state, result = self.connection.recv()
            return state, result
        except (EOFError, OSError) as error:
            wait([self.end], END_SECONDS)  # the channel may close a moment earlier
            code = self.kill()
            raise HostEnvironmentError(
                f"a process of {task_id} died (exit code {code}; -9 means killed, perhaps because memory ran out)"
            ) from error

    def kill(self) -> int:
        """Ends the process and all that it started, and returns its exit code. A process that has ended keeps its code."""
        if self.process.returncode is None:  # no other process gets its number before we have waited for it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


class GymnasiumEnvironment(HostBatch):
    """A batch of one Gymnasium environment. A few processes each step a share of the batch, one environment after another.

    In a single process, Python environments would run one at a time; with one process per environment, most processes would be idle.
    Observations come through shared memory.

    A timestep is LAST when the environment is terminated or truncated; its discount is 0 if it is terminated, else 1. An agent step is
    one `step` of the environment and counts as one frame.
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
          num_envs, seeds: E, and one seed for each environment in [0, 2^31).
          num_processes: never more than `num_envs`; None takes `available_cpus()`.
          max_episode_steps: agent steps until an episode is truncated; a shorter limit of the environment stays.
          render_mode: "rgb_array" makes `render` draw what the environment can draw.

        Raises:
          ValueError: one line, for an environment that can't be made or that the networks can't take.
        """
        super().__init__(num_envs, seeds)
        task = Task(task_id, max_episode_steps, render_mode is not None)
        description = _describe(task)
        self.spec = EnvironmentSpec(
            observation_shape=description.observation_shape,
            observation_dtype=description.observation_dtype,
            num_actions=len(description.action_names),
            action_names=description.action_names,
            frames_per_step=1,
        )
        if description.steps_per_second is not None:
            self.spec = self.spec._replace(steps_per_second=description.steps_per_second)
        self._task_id = task_id
        self._asked = ""  # the last question to all processes
        shares = np.array_split(np.arange(num_envs), min(num_envs, num_processes or available_cpus()))
        self._rows = [slice(int(share[0]), int(share[-1]) + 1) for share in shares]  # of the batch, by process
        self._shown: list[np.ndarray] = []  # the observations of each process, in shared memory
        self._workers: list[_Process] = []
        for rows in self._rows:
            own = list(seeds[rows])
            memory = os.memfd_create("observations")
            os.truncate(memory, len(own) * math.prod(self.spec.observation_shape) * self.spec.observation_dtype.itemsize)
            self._workers.append(_Process("serve", memory))
            self._shown.append(gymnasium_process.as_rows(mmap.mmap(memory, 0), description))
            os.close(memory)
            self._workers[-1].ask((task, description, own))
        self._end = weakref.finalize(self, _end, self._workers)
        self._observation = np.empty(0)  # the last one

    def _reset(self) -> None:
        self._ask_all("reset", *(() for _ in self._workers))

    def _send(self, actions: np.ndarray) -> None:
        self._ask_all("step", *((actions[rows],) for rows in self._rows))

    def _recv(self) -> TimeStep:
        answers = [self._answer(worker) for worker in self._workers]
        self._observation = np.concatenate(self._shown)
        reward, ends = np.zeros(self.num_envs, np.float32), np.zeros((2, self.num_envs), np.bool_)
        if self._asked == "step":
            reward, ends = (np.concatenate(parts, axis=-1) for parts in zip(*answers, strict=True))
        return self._episodes.timestep(self._observation.copy(), reward, terminated=ends[0], done=ends[0] | ends[1])

    def _render(self, index: int) -> np.ndarray:
        """An environment that draws nothing shows its observation, if that is an image."""
        worker, rows = next(pair for pair in zip(self._workers, self._rows, strict=True) if index < pair[1].stop)
        worker.ask(("render", index - rows.start))
        picture = self._answer(worker)
        if picture is None and self.spec.observation_shape[-1] in (1, 3) and len(self.spec.observation_shape) == 3:
            picture = np.broadcast_to(self._observation[index], (*self.spec.observation_shape[:2], 3))
        if picture is None:
            raise ValueError(f'{self._task_id} draws no pictures: it was made without render_mode or has no "rgb_array"')
        return np.array(picture)

    def _close(self) -> None:
        self._end()

    def _ask_all(self, name: str, *arguments: tuple[Any, ...]) -> None:
        for worker, values in zip(self._workers, arguments, strict=True):
            worker.ask((name, *values))
        self._asked = name

    def _answer(self, worker: _Process) -> Any:
        state, result = worker.answer(self._task_id)
        if state == "failed":
            raise HostEnvironmentError(f"{self._task_id} failed: {result}")
        return result


def _describe(task: Task) -> Description:
    """The spaces of an environment, which a process of its own makes for a moment.

    Raises:
      ValueError: one line, for an environment that can't be made, ends its process, or that the networks can't take.
    """
    process = _Process("tell")
    try:
        process.ask(task)
        state, result = process.answer(task.task_id)
    except HostEnvironmentError as error:
        raise ValueError(str(error)) from error
    finally:
        _end([process], seconds=0)
    if state == "failed":
        raise ValueError(result)
    description: Description = result
    return description


def _end(workers: Sequence[_Process], seconds: float | None = None) -> None:
    """Processes end when their channel closes. Those that do not are killed, and so is everything that they started."""
    for worker in workers:
        worker.connection.close()
    deadline, running = time.monotonic() + (END_SECONDS if seconds is None else seconds), {worker.end for worker in workers}
    while running and (ended := wait(running, max(deadline - time.monotonic(), 0))):
        running.difference_update(ended)
    for worker in workers:
        worker.kill()
        os.close(worker.end)
