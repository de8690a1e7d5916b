"""Waiting for updates is told from waiting for acts, in this order, and costs no wait of its own."""

from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax.training.drivers import HostDriver, SimulationDriver
from agent57_jax.training.schedule import Counters
from agent57_jax.training.stopwatch import Stopwatch


class Clock:
    """Time that passes only where something is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Updates:
    """Stands for an array that comes from updates which take another three seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.waited = clock, 0

    def block_until_ready(self) -> None:
        self.waited += 1
        self.clock.wait(3.0)


class Environment:
    """Takes actions."""

    def __init__(self) -> None:
        self.sent: list[np.ndarray] = []

    def send(self, actions: np.ndarray) -> None:
        self.sent.append(actions)


@pytest.mark.parametrize("kind", [HostDriver, SimulationDriver])
def test_updates_before_an_act_are_waited_for_first(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("agent57_jax.training.stopwatch.time.monotonic", lambda: clock.now)
    get = jax.device_get

    def fetch(array: Any) -> Any:
        clock.wait(2.0 if updates.waited else 5.0)  # who asks for actions alone waits for all that is before them
        return get(array)

    updates, environment = Updates(clock), Environment()
    monkeypatch.setattr("agent57_jax.training.drivers.jax.device_get", fetch)
    driver = kind.__new__(kind)
    driver._stopwatch = Stopwatch()
    spec = type("Spec", (), {"frames_per_step": 4})
    driver._programs = type("Programs", (), {"parts": type("Parts", (), {"spec": spec})})
    driver._environments = [environment]
    counted = np.array([6, 1])
    driver._pending = counted if kind is SimulationDriver else (0, jax.numpy.arange(3), counted.tolist)
    counters = Counters()
    driver.complete(counters, updates)
    elapsed, sums = driver._stopwatch.read()
    assert sums == {"learning": 3.0, "acting": 2.0}
    assert elapsed == 5.0
    assert (counters.steps, counters.frames, counters.episodes) == (6, 24, 1)
    assert len(environment.sent) == (kind is HostDriver)
