"""Config files by name or path, and names of settings; before JAX starts."""

import dataclasses
import difflib
import functools
import os
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

from agent57_jax import config
from agent57_jax.config import Section, Settings, SettingsError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"  # beside the package, in a checkout and where pip has installed it


def settings(preset: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a run, checked and frozen.

    Args:
      preset: a config file and, behind a colon, a profile, an agent or both: "cartpole:smoke", "zaxxon:laptop,ngu", "my/own.py". A name
        without ".py" is one of the files in configs/. The file is Python code, which is run.
      overrides: dotted names and values, as {"seed": 1, "learner.targets": "retrace"}; docs/configuration.md lists all with their units.

    Raises:
      SettingsError: (a ValueError) for a file, a name or a value that cannot work; the message has a line for each problem.
    """
    path, _, argument = located(preset).partition(":")
    if not os.path.isfile(path):
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "profiles"))
        raise SettingsError(f"no config file {path}. By name there are: {names}")
    try:
        get_config = runpy.run_path(path)["get_config"]
        made = get_config(argument) if argument else get_config()
    except Exception as error:  # a config file is code, which can raise anything
        raise SettingsError(f"{type(error).__name__} in {path}: {error}") from error
    if not isinstance(made, Settings):
        raise SettingsError(f"{path} does not return agent57_jax.config.Settings")
    for name, value in (overrides or {}).items():
        if (message := unknown(name)) is not None:
            raise SettingsError(message)
        *sections, field = name.split(".")
        section = functools.reduce(getattr, sections, made)
        setattr(section, field, config.typed(getattr(section, field), value, name))
    return config.finalise(made)


def located(preset: str) -> str:
    """The path of a config file that is named without ".py", or with "~"; what stands behind its colon stays."""
    name, colon, argument = preset.partition(":")
    named = FOLDER / f"{name}.py"
    return f"{named}{colon}{argument}" if name.isidentifier() and named.exists() else os.path.expanduser(preset)


def setting_names(section: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from setting_names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def unknown(name: str) -> str | None:
    """What to say of a dotted name that no setting has, with the nearest one; None if it has."""
    names = list(setting_names(Settings()))
    return None if name in names else f"no setting '{name}'. Did you mean {difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]}?"
