"""What the adapters of host environments share: seeds, CPUs, and the bookkeeping of episodes."""

import hashlib
import os
from pathlib import Path

import numpy as np

from agent57_jax.types import FIRST, LAST, MID, TimeStep

# The lowest two bits of a seed; training's leave the higher one free.
_STREAM_BITS = {"training": (0b0, 1), "evaluation": (0b01, 2), "judging": (0b11, 2)}


def hashed_seeds(root_seed: int, stream: str, count: int) -> list[int]:
    """Distinct seeds for `count` environments, unrelated to each other and to those of other streams and root seeds.

    Counted up (`seed + i`, as EnvPool would by itself) they would make runs with neighbouring seeds share almost all episodes.

    Args:
      root_seed: the run's seed.
      stream: name of the stream: "training", "evaluation" or "judging". No seed of one is ever a seed of another, whatever the root seeds:
        their lowest bits differ.
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

    A container with two CPUs on a machine with 96 still sees 96 processors, and 96 threads on a quota of two mostly wait.

    Args:
      cgroup_root: where the control groups are mounted.
      membership: the file that names the groups of this process.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for directory in _cgroup_directories(cgroup_root, membership) if (quota := _cgroup_quota(directory)) is not None]
    return max(1, int(min([float(cpus), *quotas])))


def _cgroup_directories(root: Path, membership: Path) -> list[Path]:
    """Directories of this process's groups and of all groups above them, each of which may hold a quota."""
    directories = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, group = line.split(":", 2)
        mounts = [root] if not controllers else [root / "cpu", root / "cpu,cpuacct"] if "cpu" in controllers.split(",") else []
        # In a container the named group may lie outside of what is mounted; the mount itself is then the container's group.
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


def checked_actions(actions: np.ndarray, num_envs: int, num_actions: int) -> np.ndarray:
    """The same as [E] int32.

    Raises:
      ValueError: unless they are integers of shape [E] in [0, num_actions). Most environments would take others silently.
    """
    actions = np.asarray(actions)
    if actions.shape != (num_envs,) or actions.dtype.kind not in "iu":
        raise ValueError(f"actions must be integers of shape ({num_envs},), not {actions.dtype} of shape {actions.shape}")
    if actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"actions must lie in 0..{num_actions - 1}, not in {actions.min()}..{actions.max()}")
    return actions.astype(np.int32)


class Episodes:
    """Step types, returns and lengths of a batch of environments each of which starts anew in the step after its LAST."""

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
        """The environments of these rows have just shown the FIRST of a new episode.

        Raises:
          ValueError: for one that was not at its end.
        """
        if not self._is_first[rows].all():
            raise ValueError("only an episode that has ended can be followed by a new one")
        self._is_first[rows], self._return[rows], self._length[rows] = False, 0.0, 0

    def timestep(self, observation: np.ndarray, reward: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> TimeStep:
        """The timestep [E] of what the environments have just shown; `done` is true at any end, `terminated` where it is the task's own."""
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
