"""The schedule's arithmetic: what is owed follows from counts alone."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from agent57_jax.config import LearnerSettings, ReplaySettings
from agent57_jax.training.schedule import Counters, Schedule


def make_schedule(samples_per_insert: float = 1.5, period: int = 80, batch_size: int = 64, min_sequences: int = 10) -> Schedule:
    replay = ReplaySettings(period=period, samples_per_insert=samples_per_insert, min_sequences=min_sequences)
    return Schedule(replay, LearnerSettings(batch_size=batch_size))


def learn(schedule: Schedule, counters: Counters, drawable: int) -> int:
    """Does what is due, as the trainer does."""
    due = schedule.updates_due(counters, drawable)
    counters.updates += due
    return due


def test_nothing_is_due_before_the_replay_is_full_enough_and_no_burst_comes_after() -> None:
    schedule, counters = make_schedule(min_sequences=10), Counters()
    for _ in range(50):
        counters.timesteps += 10_000
        assert learn(schedule, counters, drawable=9) == 0 and counters.learning_since_timesteps is None
    assert learn(schedule, counters, drawable=10) == 0  # what came before is not owed
    assert counters.learning_since_timesteps == 500_000
    # One update for every 64 x 80 / 1.5 timesteps.
    for timesteps, updates in ((3413, 0), (1, 1), (0, 0)):
        counters.timesteps += timesteps
        assert learn(schedule, counters, 10) == updates
    # Once learning, it goes on whatever can be drawn.
    counters.timesteps += 3414
    assert learn(schedule, counters, drawable=3) == 1


@given(
    samples_per_insert=st.floats(0.01, 20.0),
    period=st.integers(1, 80),
    batch_size=st.integers(1, 128),
    increments=st.lists(st.integers(0, 5_000), min_size=1, max_size=60),
)
def test_inserted_sequences_are_sampled_so_many_times(
    samples_per_insert: float, period: int, batch_size: int, increments: list[int]
) -> None:
    schedule, counters = make_schedule(samples_per_insert, period, batch_size), Counters(timesteps=123, updates=7)
    assert learn(schedule, counters, 10) == 0
    for increment in increments:
        counters.timesteps += increment
        assert learn(schedule, counters, 10) >= 0
        sampled = (counters.updates - 7) * batch_size
        owed = (counters.timesteps - 123) / period * samples_per_insert
        # Never ahead, and behind by less than one update.
        assert owed - batch_size - 1e-6 * owed <= sampled <= owed * (1 + 1e-9)


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=40), st.data())
def test_the_sum_does_not_depend_on_how_timesteps_are_split_or_when_a_run_stops(increments: list[int], data: st.DataObject) -> None:
    schedule = make_schedule(1.7, 3, 16)
    whole, split = Counters(), Counters()
    assert schedule.updates_due(whole, 10) == schedule.updates_due(split, 10) == 0
    whole.timesteps += sum(increments)
    learn(schedule, whole, 10)
    stop = data.draw(st.integers(0, len(increments)))
    for i, increment in enumerate(increments):
        if i == stop:  # a checkpoint keeps the counters as JSON
            split = Counters(**json.loads(json.dumps(dataclasses.asdict(split))))
        split.timesteps += increment
        learn(schedule, split, 10)
    assert split.updates == whole.updates


def test_a_refilled_replay_starts_a_new_account() -> None:
    schedule, counters = make_schedule(1.0, 1, 1, min_sequences=10), Counters()
    learn(schedule, counters, 10)
    counters.timesteps += 100
    assert learn(schedule, counters, 10) == 100
    # A run resumed without its replay forgets when learning started.
    counters.learning_since_timesteps = None
    counters.timesteps += 50
    assert learn(schedule, counters, 9) == 0
    counters.timesteps += 50
    assert learn(schedule, counters, 10) == 0
    assert (counters.learning_since_timesteps, counters.learning_since_updates) == (200, 100)
    counters.timesteps += 5
    assert learn(schedule, counters, 10) == 5


def test_progress_reports_the_counters_that_metrics_carry() -> None:
    counters = Counters(steps=2**40, frames=2**42, episodes=3, updates=2, seconds=1.23456)
    assert counters.progress() == {"frames": 2**42, "steps": 2**40, "updates": 2, "episodes": 3, "seconds": 1.235}
