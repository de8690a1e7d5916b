"""What a run starts with: environments, recorder, header lines."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from agent57_jax.config import Settings
from agent57_jax.environments import factory
from agent57_jax.environments.host import available_cpus
from agent57_jax.monitoring import video
from agent57_jax.types import HostEnvironment, JaxEnvironment


def make_environments(settings: Settings, start: int, is_recorded: bool) -> tuple[list[HostEnvironment], Any, JaxEnvironment | None]:
    """Host groups (none for JAX environments), the evaluator's environment, the JAX environment (None for host ones).

    Args:
      start: number of earlier starts of the run; each start has its own seeds, so that it does not repeat earlier episodes.
      is_recorded: whether the evaluator's environment renders its frames.
    """
    environment, count = settings.environment, settings.evaluation.num_envs
    if not settings.is_host_environment:
        simulated = factory.make_jax_environment(environment)
        return [], simulated, simulated
    processes, process = jax.process_count(), jax.process_index()
    local = settings.envs_per_group // processes
    first = start * environment.num_envs + process * local  # a start does not repeat the episodes of earlier ones
    groups = [
        factory.make_host_environment(environment, local, settings.seed, "training", skip=first + group * settings.envs_per_group)
        for group in range(environment.num_groups)
    ]
    skip, mode = (start * processes + process) * count, "rgb_array" if is_recorded else None
    return groups, factory.make_host_environment(environment, count, settings.seed, "evaluation", skip=skip, render_mode=mode), None


def make_recorder(
    settings: Settings,
    workdir: pathlib.Path,
    steps: Callable[[], int],
    warn: Callable[[str], None],
    animate: Callable[[bytes, int, int], None],
) -> video.Recorder | None:
    """The recorder of evaluation episodes (see `video.Recorder`); None, and a warning, if a package is missing."""
    missing = video.missing_packages()
    if missing is not None:
        warn(f"no episodes are recorded: {missing}, or --config.video.period_episodes=0")
        return None
    has_viewer = settings.logging.tensorboard or settings.logging.wandb
    return video.Recorder(workdir / "videos", settings.video, steps, warn, animate if has_viewer else None)


def header(settings: Settings, mesh: Mesh, capacity: int, table: Mapping[str, int]) -> list[str]:
    """Lines that describe the run; `table`: bytes per device of each part, shown in GiB."""
    name = settings.environment.task_id if settings.is_host_environment else settings.environment.kind.value
    width = max(len(part) for part in table)
    return [
        f"{name}: {settings.environment.num_envs} environments, {settings.policy.num_policies} policies, "
        f"batch {settings.learner.batch_size} x {settings.replay.trace}, replay {capacity} timesteps",
        f"{mesh.size} device(s): {mesh.devices.flat[0].device_kind}; memory of each in GiB:",
        *(f"  {part:{width}}  {size / 2**30:8.3f}" for part, size in table.items()),
    ]


def thread_warning(settings: Settings) -> str | None:
    """A warning if there are more emulator threads than CPUs."""
    threads, available = settings.environment.num_threads, available_cpus()
    if not settings.is_host_environment or threads is None or threads <= available:
        return None
    return f"environment.num_threads is {threads}, more than the {available} CPUs that this process may use: emulators will mostly wait"
