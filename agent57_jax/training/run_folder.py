"""The settings in a run's folder, and the check that it holds only one run."""

import pathlib
from collections.abc import Mapping
from typing import Any

from agent57_jax import config, paths
from agent57_jax.config import Settings, SettingsError

FOLDERS = ("checkpoints", "videos", "tensorboard")  # of a run; each may be a link to a larger disk
# Settings that a resumed run may change: they affect length, hardware and logging, not what the agent learns.
FREE_SETTINGS = ("total_steps", "replay.capacity", "replay.auto_limit", *config.INCIDENTAL_SETTINGS)


def read_settings(workdir: pathlib.Path) -> Settings:
    """The settings of a run; raises SettingsError if the folder holds none, or one of another version."""
    if not (workdir / "config.json").exists():
        raise SettingsError(f"{workdir} holds no run: there is no config.json in it")
    return config.from_dict(config.read_json(workdir / "config.json"))


def refuse_other_run(workdir: pathlib.Path, settings: Settings) -> None:
    """Raises SettingsError if the folder's run has other settings, naming those that differ."""
    path = workdir / "config.json"
    if not path.exists():
        return
    changed = differences(config.flatten(config.read_json(path)), settings, FREE_SETTINGS)
    if changed:
        raise SettingsError(f"{workdir} holds a run with other settings ({'; '.join(changed)}): choose another --workdir")


def differences(before: Mapping[str, Any], settings: Settings, free: tuple[str, ...]) -> list[str]:
    """A phrase for each setting that differs from `before` (flat names), except those that start with one of `free`."""
    now = config.flatten(config.to_dict(settings))
    return [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now.items()
        if before.get(name) != value and not name.startswith(free)
    ]


def write_settings(workdir: pathlib.Path, settings: Settings) -> None:
    """Writes config.json atomically."""
    with paths.replaced(workdir / "config.json") as temporary:
        temporary.write_text(config.to_json(settings))
