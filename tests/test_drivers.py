"""Waiting for updates is told from waiting for acts, in this order, and costs no wait of its own."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax.training.drivers import HostDriver, SimulationDriver
from agent57_jax.training.schedule import Counters
from agent57_jax.training.stopwatch import Stopwatch


class Updates:
    """Stands for an array that comes from updates which take another three seconds, on a clock that moves only where one waits."""

    def __init__(self) -> None:
        self.now, self.waited = 0.0, False

    def block_until_ready(self) -> None:
        self.waited = True
        self.now += 3.0


@pytest.mark.parametrize("kind", [HostDriver, SimulationDriver])
def test_updates_before_an_act_are_waited_for_first(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    updates, get, sent = Updates(), jax.device_get, []

    def fetch(array: Any) -> Any:
        updates.now += 2.0 if updates.waited else 5.0  # who asks for actions alone waits for all that is before them
        return get(array)

    monkeypatch.setattr("agent57_jax.training.stopwatch.time.monotonic", lambda: updates.now)
    monkeypatch.setattr("agent57_jax.training.drivers.jax.device_get", fetch)
    driver = kind.__new__(kind)
    driver._stopwatch = Stopwatch()
    driver._programs = SimpleNamespace(parts=SimpleNamespace(spec=SimpleNamespace(frames_per_step=4)))
    driver._environments = [SimpleNamespace(send=sent.append)]
    counted, counters = np.array([6, 1]), Counters()
    driver._pending = counted if kind is SimulationDriver else (0, jax.numpy.arange(3), counted.tolist)
    driver.complete(counters, updates)
    elapsed, sums = driver._stopwatch.read()
    assert (elapsed, sums) == (5.0, {"learning": 3.0, "acting": 2.0})
    assert (counters.steps, counters.frames, counters.episodes) == (6, 24, 1)
    assert len(sent) == (kind is HostDriver)
