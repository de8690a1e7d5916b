"""Config files by name or path, and names of settings. Does not import JAX."""

import difflib
import functools
import os
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from agent57_jax import config
from agent57_jax.config import Settings, SettingsError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"  # beside the package, in a checkout and where pip has installed it


def settings(preset: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of a run, validated and frozen.

    Args:
      preset: a config file and, after a colon, a profile, an agent or both: "cartpole:smoke", "zaxxon:laptop,ngu", "my/own.py". A name
        without ".py" is a file in configs/. The file is Python code, and is run.
      overrides: dotted names and values, such as {"seed": 1, "learner.targets": "retrace"}; see docs/configuration.md.

    Raises SettingsError (a ValueError) for an invalid file, name or value, with one line per problem.
    """
    path, _, argument = located(preset).partition(":")
    if not os.path.isfile(path):
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "profiles"))
        raise SettingsError(f"no config file {path}. Available names: {names}")
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
    """Replaces the name of a config file without ".py", or with "~", by its path; what follows the colon stays."""
    name, colon, argument = preset.partition(":")
    named = FOLDER / f"{name}.py"
    return f"{named}{colon}{argument}" if name.isidentifier() and named.exists() else os.path.expanduser(preset)


def setting_names(settings: Settings) -> list[str]:
    """Dotted names of all settings."""
    return list(config.flatten(config.to_dict(settings)))


def unknown(name: str) -> str | None:
    """An error message if no setting has this dotted name, with the nearest one; else None."""
    names = setting_names(Settings())
    return None if name in names else f"no setting '{name}'. Did you mean {difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]}?"
