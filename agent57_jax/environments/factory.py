"""From settings to environments. An adapter is imported when it is needed: a grid world must not require EnvPool."""

from collections.abc import Callable
from typing import Any

from agent57_jax.config import EnvironmentKind, EnvironmentSettings, SettingsError
from agent57_jax.environments.disco_maze import DiscoMaze
from agent57_jax.environments.host import hashed_seeds
from agent57_jax.environments.random_coin import RandomCoin
from agent57_jax.environments.shifting_corridor import ShiftingCorridor
from agent57_jax.types import HostEnvironment, JaxEnvironment


def make_host_environment(
    settings: EnvironmentSettings, num_envs: int, seed: int, stream: str, skip: int = 0, render_mode: str | None = None
) -> HostEnvironment:
    """`num_envs` environments that step outside JAX.

    Args:
      seed: the run's seed.
      stream: "training", "evaluation" or "judging"; none shares a seed with another.
      skip: environments of the stream that others (groups, processes, an earlier start of this run) own.

    Raises:
      SettingsError: when the task cannot be made; one line that says why.
    """
    common: dict[str, Any] = {
        "task_id": settings.task_id,
        "num_envs": num_envs,
        "seeds": hashed_seeds(seed, stream, skip + num_envs)[skip:],
        "max_episode_steps": settings.max_episode_steps,
        "render_mode": render_mode,
    }
    try:
        if settings.kind is EnvironmentKind.GYMNASIUM:
            return _gymnasium_environment()(**common, num_processes=settings.num_threads)
        from agent57_jax.environments.envpool import EnvPoolEnvironment

        return EnvPoolEnvironment(
            **common,
            num_threads=settings.num_threads,
            frame_skip=settings.action_repeat_frames,
            noop_max=settings.noop_max,
            repeat_action_probability=settings.repeat_action_probability,
            frame_size=settings.frame_size,
        )
    except ValueError as error:  # the adapter refuses in one line
        raise SettingsError(str(error)) from error


def _gymnasium_environment() -> Callable[..., HostEnvironment]:
    try:
        from agent57_jax.environments.gymnasium import GymnasiumEnvironment
    except ModuleNotFoundError as error:
        raise SettingsError("environment.kind=gymnasium needs Gymnasium: pip install -e '.[gymnasium]' in the repository") from error
    return GymnasiumEnvironment


def make_jax_environment(settings: EnvironmentSettings) -> JaxEnvironment:
    """One grid world as pure functions."""
    if settings.kind is EnvironmentKind.DISCO_MAZE:
        return DiscoMaze(settings.grid_size, settings.max_episode_steps)
    if settings.kind is EnvironmentKind.SHIFTING_CORRIDOR:
        return ShiftingCorridor(settings.grid_size, settings.max_episode_steps, settings.phase_steps)
    return RandomCoin(settings.grid_size, settings.max_episode_steps)
