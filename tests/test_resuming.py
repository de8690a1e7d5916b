"""A stopped run goes on as if it had not stopped, and only as what it was."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.config import Settings
from agent57_jax.training import memory
from agent57_jax.training.trainer import Trainer
from configs import profiles
from tests import tiny
from tests.trainings import Make, all_that_actors_know, assert_equal, metrics_of

pytestmark = pytest.mark.usefixtures("shared_programs")

# What a line of metrics holds of the clock and of the process.
OF_THE_CLOCK = ("seconds", "throughput/frames_per_second", "throughput/steps_per_second", "throughput/updates_per_second")
OF_THE_PROCESS = ("throughput/share_", "memory/")


def timeless(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics without what no two runs share."""
    return [
        {key: value for key, value in line.items() if key not in OF_THE_CLOCK and not key.startswith(OF_THE_PROCESS)}
        for line in metrics_of(folder)
    ]


def assert_same_run(ours: Trainer, wanted: Trainer) -> None:
    """Bit for bit: counters but for those of time and starts, parameters, optimisers, replay, statistics, bandits, environments."""
    own = dict.fromkeys(("seconds", "starts", "checkpoints"))
    assert vars(ours.counters) | own == vars(wanted.counters) | own
    assert set(ours._state()) == set(wanted._state())
    assert_equal(ours._state(), wanted._state())


def reporting_after(training: Trainer, *acts: int) -> Trainer:
    """Reports after these acts instead of by the clock."""
    training._report_when_due = lambda: training._report() if training.counters.acts in acts else None  # type: ignore[method-assign]
    return training


def assert_pace(training: Trainer, updates: int = 0) -> None:
    """No burst and no pause: since learning began, updates follow from what was inserted, whatever stops there were."""
    counters, settings = training.counters, training.settings
    assert counters.learning_since_timesteps is not None
    inserted = (counters.timesteps - counters.learning_since_timesteps) / settings.replay.period
    done = counters.updates - updates
    assert done > 0 and abs(done * settings.learner.batch_size - inserted * 1.5) <= 2 * settings.learner.batch_size


def lagging(settings: Settings) -> None:
    """Parameters of the actors that are older than the learner's, with all that actors know."""
    all_that_actors_know(settings).actor.refresh_period = 3


@pytest.mark.parametrize(
    ("after_acts", "change"), [(20, profiles.agent57), (76, lagging), pytest.param(76, profiles.meme, marks=pytest.mark.slow)]
)
def test_a_stopped_simulation_continues_bit_for_bit(after_acts: int, change: Any, make: Make, tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    change(settings)
    whole = reporting_after(make(settings, tmp_path / "whole"), after_acts)
    whole.run()
    first = reporting_after(make(settings, tmp_path / "pieces", after_acts))
    first.run()
    assert 0 < first.counters.steps < whole.counters.steps and 0 < first.counters.updates < whole.counters.updates
    second = reporting_after(make(settings, tmp_path / "pieces"))
    assert second.counters.updates == first.counters.updates and second.counters.steps == first.counters.steps
    second.run()
    assert_same_run(second, whole)
    assert len(timeless(tmp_path / "whole")) == 2
    assert timeless(tmp_path / "pieces") == timeless(tmp_path / "whole")
    assert whole.programs.copy._cache_size() == (settings.actor.refresh_period > 1)


@pytest.mark.slow
@pytest.mark.parametrize("make_settings", [tiny.coin_settings, tiny.zaxxon_settings])
def test_the_same_seed_makes_the_same_run(make_settings: Any, make: Make, tmp_path: pathlib.Path) -> None:
    settings, other = make_settings(), make_settings()
    other.seed += 1
    runs = [reporting_after(make(chosen, tmp_path / name), 40, 80) for chosen, name in ((settings, "a"), (settings, "b"), (other, "c"))]
    for training in runs:
        training.run()
    assert_same_run(*runs[:2])
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b") != timeless(tmp_path / "c")


def test_a_stopped_run_of_host_environments_keeps_all_but_episodes_in_flight(make: Make, tmp_path: pathlib.Path) -> None:
    first = make(tiny.zaxxon_settings(), tmp_path, after_acts=81)
    first.run()
    kept = jax.device_get({name: tree for name, tree in first._state().items() if name != "evaluator"})
    second = make(tiny.zaxxon_settings(), tmp_path)
    assert_equal({name: second._state()[name] for name in kept}, kept)
    assert second.driver.appended == first.driver.appended
    before = second.counters.updates
    second.run()
    assert second.counters.updates > before
    steps = [line["steps"] for line in metrics_of(tmp_path)]
    assert steps == sorted(steps)
    assert_pace(second)


@pytest.mark.slow
def test_starts_of_a_run_do_not_repeat_episodes(make: Make, tmp_path: pathlib.Path) -> None:
    def frames_after(acts: int) -> np.ndarray:
        training = make(tiny.zaxxon_settings(), tmp_path, after_acts=acts)
        training.run()
        observation: np.ndarray = jax.device_get(training.replay.experience.observation)
        return observation

    frames_after(40)
    again = frames_after(80)
    assert not np.array_equal(again[:, :, 12:20], again[:, :, 32:40])


def test_a_checkpoint_without_replay_fills_it_again_before_learning(
    make: Make, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny.coin_settings()
    settings.checkpoint.save_replay = False
    make(settings, tmp_path, after_acts=60).run()
    second = make(settings, tmp_path, after_acts=64)
    updates = second.counters.updates
    assert second.counters.learning_since_timesteps is None
    assert f"has no replay: acting until {settings.replay.min_sequences} sequences are stored" in capsys.readouterr().out
    second.run()
    assert second.counters.updates == updates > 0
    # And when it is full, learning goes on at its pace.
    third = make(settings, tmp_path)
    third.run()
    assert third.counters.learning_since_updates == updates
    assert_pace(third, updates)


def test_another_task_in_the_same_folder_is_refused_and_a_new_run_has_no_evaluation(make: Make, tmp_path: pathlib.Path) -> None:
    (tmp_path / "evaluation.json").write_text("of a run whose checkpoints are gone")
    make(tiny.coin_settings(), tmp_path, after_acts=4).run()
    assert (tmp_path / "evaluation.json.1").exists() and not (tmp_path / "evaluation.json").exists()
    (tmp_path / "evaluation.json").write_text("its own")
    with pytest.raises(config.SettingsError, match=r"policy.beta_max was 0.3, is 0.5.*another --workdir"):
        make(config.changed(tiny.coin_settings(), {"policy.beta_max": 0.5}), tmp_path)
    make(config.changed(tiny.coin_settings(), {"logging.period_seconds": 5.0}), tmp_path)
    assert (tmp_path / "evaluation.json").read_text() == "its own"


@pytest.mark.slow
def test_what_the_evaluator_did_after_the_last_step_is_saved(make: Make, tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.evaluation.period_acts = 100_000  # all of the evaluation comes at the end
    settings.checkpoint.period_seconds = 0.3
    settings.total_steps = 100
    stopped = make(settings, tmp_path)
    stopped.should_stop = lambda: stopped.counters.evaluation_acts >= 3
    stopped.run()
    assert stopped.counters.steps >= 100 and stopped.counters.greedy_episodes == 0 and not stopped.is_finished
    first = make(settings, tmp_path)
    first.run()
    assert first.counters.greedy_episodes >= settings.evaluation.greedy_episodes and first.is_finished
    second = make(settings, tmp_path)
    assert second.counters.greedy_episodes == first.counters.greedy_episodes
    assert int(second.evaluator.state.bandit.recorded[0]) == int(first.evaluator.state.bandit.recorded[0]) > 0


@pytest.mark.slow
def test_a_replay_that_sized_itself_keeps_its_size(make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.coin_settings()
    settings.replay.capacity = "auto"
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: 30_000_000)
    first = make(settings, tmp_path, after_acts=40)
    first.run()
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: 60_000_000)
    assert make(settings, tmp_path).capacity == first.capacity
    assert make(settings, tmp_path / "other").capacity > first.capacity
