"""How benchmarks measure, on a clock that is told what to say."""

import time
from collections.abc import Callable

import pytest

from benchmarks import measure


class Clock:
    """Time that passes only when work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.took: list[float] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def task(self, units: float, seconds: float) -> Callable[[], float]:
        def run() -> float:
            self.now += seconds
            self.took.append(seconds)
            return units

        return run


def test_a_rate_is_units_over_the_time_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert measure.timed(clock.task(units=8, seconds=0.5), seconds=3.0) == pytest.approx(16.0)
    # One call even if no time is given, and the whole of a call that goes on beyond the end.
    assert measure.timed(clock.task(units=3, seconds=2.0), seconds=0.0) == pytest.approx(1.5)
    assert measure.timed(clock.task(units=3, seconds=2.0), seconds=3.0) == pytest.approx(1.5)


def test_tasks_are_measured_in_turn_after_a_call_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    rates = measure.in_turn({"fast": clock.task(1, seconds=0.5), "slow": clock.task(1, seconds=2.0)}, repeats=3, seconds=0.0)
    assert clock.took == [0.5, 2.0] * 4
    assert rates == {"fast": measure.Rate(2.0, 2.0, 2.0, 3), "slow": measure.Rate(0.5, 0.5, 0.5, 3)}


def test_a_rate_has_its_spread() -> None:
    assert measure.Rate.of([3.0, 1.0, 2.0, 10.0, 2.5]) == measure.Rate(median=2.5, lowest=1.0, highest=10.0, runs=5)


def test_a_ratio_pairs_the_rounds() -> None:
    # The second round fell into a slow moment of both, the third into one of the first task alone.
    rates = {"ours": [10.0, 1.0, 2.0], "theirs": [5.0, 0.5, 4.0]}
    assert measure.median_ratio(rates, "ours", "theirs") == 2.0
    with pytest.raises(ValueError, match="zip"):
        measure.median_ratio(rates | {"ours": [1.0]}, "ours", "theirs")


def test_the_machines_roofs_are_positive_numbers() -> None:
    assert measure.product_rate(repeats=1).median > 1e8
    assert measure.copy_rate(repeats=1).median > 1e7
    assert measure.peak_host_bytes() > 2**26
