"""What the adapters of host environments share: seeds, CPUs, the order of calls, and the bookkeeping of episodes."""

import abc
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent57_jax.types import FIRST, LAST, MID, EnvironmentSpec, TimeStep

# The lowest two bits of a seed; training's leave the higher one free.
_STREAM_BITS = {"training": (0b0, 1), "evaluation": (0b01, 2), "judging": (0b11, 2)}


def hashed_seeds(root_seed: int, stream: str, count: int) -> list[int]:
    """Distinct seeds for `count` environments, unrelated to each other and to those of other streams and root seeds.

    With EnvPool's own `seed + i`, runs with neighbouring seeds would share almost all episodes.

    Args:
      root_seed: the run's seed.
      stream: "training", "evaluation" or "judging". The lowest bits of their seeds differ, so no two streams ever share a seed.
      count: number of seeds. A longer list begins with the shorter one.

    Returns:
      Integers in [0, 2^31).
    """
    bits, width = _STREAM_BITS[stream]
    seeds: dict[int, None] = {}  # a set that keeps its order
    index = 0
    while len(seeds) < count:
        digest = hashlib.sha256(f"{root_seed}/{stream}/{index}".encode()).digest()
        seeds[int.from_bytes(digest[:4], "little") >> 1 >> width << width | bits] = None
        index += 1
    return list(seeds)


def available_cpus(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that this process may use: its affinity, bounded by the CPU quota of its control groups (v1 and v2), rounded down, at least 1.

    A container with a quota of two CPUs still sees all processors of its machine, and so many threads would mostly wait.

    Args:
      cgroup_root: where the control groups are mounted.
      membership: the file that names the groups of this process.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for directory in _cgroup_directories(cgroup_root, membership) if (quota := _cgroup_quota(directory)) is not None]
    return max(1, int(min([float(cpus), *quotas])))


def _cgroup_directories(root: Path, membership: Path) -> list[Path]:
    """Directories of this process's groups and of all groups above them. Each may hold a quota."""
    directories = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, group = line.split(":", 2)
        mounts = [root] if not controllers else [root / "cpu", root / "cpu,cpuacct"] if "cpu" in controllers.split(",") else []
        # In a container the named group may lie outside the mount, which is then the container's own group.
        parts = Path(group.strip("/")).parts
        directories += [mount.joinpath(*parts[:depth]) for mount in mounts for depth in range(len(parts) + 1)]
    return directories


def _cgroup_quota(directory: Path) -> float | None:
    """CPUs that the group in `directory` may use, None without a limit."""
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


class HostBatch(abc.ABC):
    """A `HostEnvironment` that checks calls and arguments; adapters fill in the methods with an underscore.

    The environments step between `send` and `recv`. Observations are uint8 images [height, width, channels] or float32 vectors [size].
    """

    spec: EnvironmentSpec

    def __init__(self, num_envs: int, seeds: Sequence[int]) -> None:
        """Raises ValueError unless there is one of the `seeds` for each environment."""
        if len(seeds) != num_envs:
            raise ValueError(f"{num_envs} environments need {num_envs} seeds, not {len(seeds)}")
        self.num_envs = num_envs
        self._episodes = Episodes(num_envs)
        self._is_started = self._is_closed = False
        self._in_flight = False  # a timestep is owed to the caller

    def reset(self) -> None:
        """Starts an episode in every environment, also in the middle of another; `recv` then returns FIRST everywhere."""
        self._check_open()
        if self._in_flight:
            self.recv()
        self._reset()
        self._episodes.restart()
        self._is_started = self._in_flight = True

    def send(self, actions: np.ndarray) -> None:
        """Starts a step and returns at once. A row whose last timestep was LAST starts a new episode and ignores its action.

        Args:
          actions: [E] integers in [0, num_actions).

        Raises:
          ValueError: for any other shape, type or value. Most environments would take them silently.
          RuntimeError: before the first `recv`, or when the step before has not been received.
        """
        self._check_idle("send() comes after reset() and recv(), once for each recv()")
        actions, most = np.asarray(actions), self.spec.num_actions - 1
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers of shape ({self.num_envs},), not {actions.dtype} of shape {actions.shape}")
        if actions.min() < 0 or actions.max() > most:
            raise ValueError(f"actions must lie in 0..{most}, not in {actions.min()}..{actions.max()}")
        self._send(actions.astype(np.int32))
        self._in_flight = True

    def recv(self) -> TimeStep:
        """Waits for the step and returns its timestep, row e from environment e. The arrays belong to the caller.

        Raises:
          HostEnvironmentError: one line, when an environment failed.
          RuntimeError: when no step is under way.
        """
        self._check_open()
        if not self._in_flight:
            raise RuntimeError("recv() comes after reset() or send(): nothing is under way")
        self._in_flight = False
        return self._recv()

    def render(self, index: int) -> np.ndarray:
        """The picture of environment `index` now, uint8 [height, width, 3]; the final one after a LAST timestep.

        Raises:
          ValueError: for an index without environment, or an environment without pictures.
          RuntimeError: before the first `recv` or while a step is under way.
        """
        self._check_idle("render() comes after recv()")
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no environment {index}: they are 0..{self.num_envs - 1}")
        return self._render(index)

    def close(self) -> None:
        """Ends the threads or processes of the environments. Closing twice is fine."""
        if not self._is_closed:
            self._is_closed = True
            self._close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this environment is closed")

    def _check_idle(self, message: str) -> None:
        self._check_open()
        if not self._is_started or self._in_flight:
            raise RuntimeError(message)

    @abc.abstractmethod
    def _reset(self) -> None: ...

    @abc.abstractmethod
    def _send(self, actions: np.ndarray) -> None: ...

    @abc.abstractmethod
    def _recv(self) -> TimeStep: ...

    @abc.abstractmethod
    def _render(self, index: int) -> np.ndarray: ...

    @abc.abstractmethod
    def _close(self) -> None: ...


class Episodes:
    """Step types, returns and lengths of a batch of environments that restart in the step after LAST."""

    def __init__(self, num_envs: int) -> None:
        self._is_first = np.ones(num_envs, np.bool_)  # the coming timestep starts an episode
        self._return = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int32)

    def restart(self) -> None:
        """All environments were reset: their next timesteps are FIRST."""
        self._is_first[:] = True

    def coming_length(self) -> np.ndarray:
        """[E] int32: agent steps of each episode after the coming timestep; 0 where that starts one."""
        return np.where(self._is_first, 0, self._length + 1).astype(np.int32)

    def start(self, rows: np.ndarray) -> None:
        """These rows have just shown the FIRST of a new episode.

        Raises:
          ValueError: for one that was not at its end.
        """
        if not self._is_first[rows].all():
            raise ValueError("only an episode that has ended can be followed by a new one")
        self._is_first[rows], self._return[rows], self._length[rows] = False, 0.0, 0

    def timestep(self, observation: np.ndarray, reward: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> TimeStep:
        """The next timestep [E]; `done` is true at any end, `terminated` at the task's own end."""
        first = self._is_first
        reward = np.where(first, np.float32(0), reward).astype(np.float32)
        self._return = np.where(first, 0.0, self._return + reward)
        self._length = self.coming_length()
        step_type = np.where(first, FIRST, np.where(done, LAST, MID)).astype(np.int32)
        self._is_first = done
        return TimeStep(
            observation=observation,
            reward=reward,
            discount=np.where(terminated, np.float32(0), np.float32(1)),
            step_type=step_type,
            episode_return=self._return.astype(np.float32),
            episode_length=self._length.copy(),
            extras={},
        )
