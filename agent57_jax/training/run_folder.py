"""A run's folder: what lies in it, and that it holds one run."""

import pathlib
from collections.abc import Mapping
from typing import Any

from agent57_jax import config
from agent57_jax.config import Settings, SettingsError

FOLDERS = ("checkpoints", "videos", "tensorboard")  # of a run, any of which may be a link to a larger disk
# What a resumed run may change: how long, how often and on what it runs, not what it learns.
FREE_SETTINGS = ("total_steps", "replay.capacity", "replay.auto_limit", *config.INCIDENTAL_SETTINGS)


def read_settings(workdir: pathlib.Path) -> Settings:
    """The settings of a run.

    Raises:
      SettingsError: if the folder holds none, or one of another version.
    """
    if not (workdir / "config.json").exists():
        raise SettingsError(f"{workdir} holds no run: there is no config.json in it")
    return config.from_dict(config.read_json(workdir / "config.json"))


def refuse_other_run(workdir: pathlib.Path, settings: Settings) -> None:
    """Ends before settings mix with what was learnt by others.

    Raises:
      SettingsError: if config.json has other settings, with those that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    changed = differences(config.flatten(config.read_json(path)), settings, FREE_SETTINGS)
    if changed:
        raise SettingsError(f"{workdir} holds a run with other settings ({'; '.join(changed)}): choose another --workdir")


def differences(before: Mapping[str, Any], settings: Settings, free: tuple[str, ...]) -> list[str]:
    """One phrase for each setting that was another before (flat, as in config.json), but for those that begin like one in `free`."""
    now = config.flatten(config.to_dict(settings))
    return [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in now.items()
        if before.get(name) != value and not name.startswith(free)
    ]


def write_settings(workdir: pathlib.Path, settings: Settings) -> None:
    """Writes config.json, whole or not at all."""
    temporary = workdir / "config.json.tmp"
    temporary.write_text(config.to_json(settings))
    temporary.replace(workdir / "config.json")
