"""Whole runs in tests: what they have written, whether two are the same, and programs that trainings of the same settings share."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.agent import programs
from agent57_jax.config import Settings
from agent57_jax.training.trainer import Trainer

Make = Callable[..., Trainer]  # of settings, a folder and, to stop there, a number of acts


def open_training(settings: Settings, folder: pathlib.Path, after_acts: int | None = None) -> Trainer:
    """A training that stops, as by a signal, once it has made so many acts."""
    training = Trainer(config.finalise(settings), folder, lambda: after_acts is not None and training.counters.acts >= after_acts)
    return training


def learn(training: Trainer, updates: int) -> None:
    """Acts until so many updates have been made."""
    while training.counters.updates < updates:
        training._act_and_learn()


def metrics_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All lines of metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal(found: Any, wanted: Any) -> None:
    """Two trees of arrays are the same, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(wanted))


def is_finite(tree: Any) -> bool:
    """Whether all of a tree's numbers are finite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))


def ask_actors(settings: Settings) -> Settings:
    """The evaluator plays the arm that the actors know."""
    settings.evaluation.arm = config.EvaluationArm.ACTORS
    return settings


def all_that_actors_know(settings: Settings) -> Settings:
    """The same, and first priorities of their own errors."""
    settings.replay.first_priority = config.FirstPriority.ACTOR
    return ask_actors(settings)


def share_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets trainings with the same settings use the same programs, so that a test which needs several of them traces once.

    Not for tests that count traces or change what programs are made of.
    """
    monkeypatch.setattr(programs, "Programs", _shared)


_PROGRAMS: dict[Any, programs.Programs] = {}
_make = programs.Programs


def _shared(parts: programs.Parts, mesh: Any, store: Any, environment: Any = None) -> programs.Programs:
    key = (config.to_json(parts.settings), mesh, store.capacity_per_env, type(environment))
    if key not in _PROGRAMS:
        _PROGRAMS[key] = _make(parts, mesh, store, environment)
    return _PROGRAMS[key]
