"""Conversion of settings to plain values and JSON, and their frozen copy."""

import copy
import dataclasses
import enum
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from agent57_jax.config.settings import Settings, SettingsError, to_dict
from agent57_jax.config.validation import problems


def to_json(settings: Settings) -> str:
    """The text of a run's config.json."""
    return json.dumps(to_dict(settings), indent=2) + "\n"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The plain values in a run's config.json; raises SettingsError if it is not a JSON object, OSError if it cannot be opened."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise SettingsError(f"{path} is damaged, it is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} is damaged: it holds {values!r} instead of settings")
    return values


def changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A finalised copy with other plain `values`, under names such as "replay.trace"; raises SettingsError if they cannot work."""
    plain = to_dict(settings)
    for name, value in values.items():
        *sections, field = name.split(".")
        section = plain
        for part in sections:
            section = section[part]
        section[field] = value
    return from_dict(plain)


def typed(current: Any, value: Any, name: str) -> Any:
    """Converts a plain value to the type of `current`, an enum or a tuple; raises SettingsError with the setting's `name`."""
    if isinstance(current, enum.Enum) and not isinstance(value, type(current)):
        words = [member.value for member in type(current)]
        if value not in words:
            raise SettingsError(f"{name} is {value!r}, but must be one of {', '.join(words)}")
        return type(current)(value)
    return tuple(value) if isinstance(value, list) else value


def from_dict(values: dict[str, Any]) -> Settings:
    """Settings from the plain values of `to_dict`; raises SettingsError for unknown or missing keys, as in another version's file."""

    def fill(section: Any, mapping: Any, path: str) -> None:
        if not isinstance(mapping, dict):
            raise SettingsError(f"config.json: {path.removesuffix('.') or 'the file'} is {mapping!r}, but must be an object")
        names = {field.name for field in dataclasses.fields(section)}
        odd = sorted(names ^ set(mapping))
        if odd:
            raise SettingsError(f"config.json does not fit this version of agent57_jax: {', '.join(path + name for name in odd)}")
        for name, value in mapping.items():
            current = getattr(section, name)
            if dataclasses.is_dataclass(current):
                fill(current, value, f"{path}{name}.")
            else:
                setattr(section, name, typed(current, value, f"config.json: {path}{name}"))

    settings = Settings()
    fill(settings, values, "")
    return finalise(settings)


def finalise(settings: Settings) -> Settings:
    """Validates the settings and returns a frozen copy; raises SettingsError with all problems."""
    found = problems(settings)
    if found:
        raise SettingsError("\n".join(found))
    frozen = copy.deepcopy(settings)
    frozen.freeze()
    return frozen
