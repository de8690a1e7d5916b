"""Whole runs in miniature: what is written, that programs are traced once, and that a stopped run goes on as if it had not stopped."""

import json
import math
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.config import Settings
from agent57_jax.monitoring import metrics
from agent57_jax.training import judging, memory, trainer
from agent57_jax.training.shutdown import Shutdown
from agent57_jax.training.trainer import Trainer
from configs import profiles
from tests import tiny

MADE: list[Trainer] = []


@pytest.fixture(autouse=True)
def no_trainer_stays_open() -> Iterator[None]:
    """A trainer that a test only looks at has files and emulators open."""
    yield
    while MADE:
        MADE.pop().close()


class Stop:
    """Stands in for signals: asks to stop once so many acts have been made."""

    def __init__(self, after_acts: int | None = None) -> None:
        self.after_acts, self.training = after_acts, None

    def __call__(self) -> bool:
        return self.after_acts is not None and self.training is not None and self.training.counters.acts >= self.after_acts


def make(settings: Settings, folder: pathlib.Path, after_acts: int | None = None) -> Trainer:
    stop = Stop(after_acts)
    training = Trainer(config.finalise(settings), folder, stop)
    stop.training = training  # type: ignore[assignment]
    MADE.append(training)
    return training


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def traces(training: Trainer) -> dict[str, int]:
    """Signatures for which each program that has run was traced."""
    programs = {name: value._cache_size() for name, value in vars(training.programs).items() if hasattr(value, "_cache_size")}
    programs["evaluator"] = training.evaluator._act._cache_size()
    return {name: size for name, size in programs.items() if size}


@pytest.mark.parametrize("make_settings", [tiny.coin_settings, tiny.zaxxon_settings])
def test_a_run_trains_evaluates_reports_and_saves(make_settings: Any, tmp_path: pathlib.Path) -> None:
    settings = make_settings()
    training = make(settings, tmp_path)
    training.run()
    counters = training.counters
    assert settings.total_steps <= counters.steps < settings.total_steps + 100
    assert counters.frames == counters.steps * training.parts.spec.frames_per_step
    assert counters.greedy_episodes >= settings.evaluation.greedy_episodes
    written = lines(tmp_path)
    known = metrics.check_key
    for line in written:
        for key, value in line.items():
            if "/" in key:
                known(key)
            assert value is None or math.isfinite(value), key
    assert written[-1]["updates"] == counters.updates > 0
    assert any("evaluation/return" in line for line in written)
    for key in ("loss/extrinsic", "loss/intrinsic", "loss/embedding", "loss/distillation", "gradient_norm/extrinsic"):
        assert any(key in line for line in written), key
    assert sum(line.get("arm/pulls_0", 0) for line in written) >= 1
    # Each program of the loop was traced exactly once.
    found = traces(training)
    loop = {"act"} if settings.environment.num_groups == 2 else {"rollout"}
    assert loop | {"update", "evaluator", "init_replay", "init_learner"} <= set(found)
    assert set(found.values()) == {1}, found
    # The schedule: an inserted sequence is sampled samples_per_insert times, up to one batch.
    inserted = (counters.timesteps - counters.learning_since_timesteps) / settings.replay.period
    assert abs(counters.updates * settings.learner.batch_size - inserted * 1.5) <= 2 * settings.learner.batch_size
    result = judging.evaluate(tmp_path, episodes=3, seed=5)
    assert result["episodes"] == 3 and result["frames_trained"] == counters.frames
    assert json.loads((tmp_path / "evaluation.json").read_text())["returns"] == result["returns"]


def ask_actors(settings: Settings) -> Settings:
    settings.evaluation.arm = config.EvaluationArm.ACTORS
    return settings


def all_that_actors_know(settings: Settings) -> Settings:
    """First priorities of their own errors, too."""
    settings.replay.first_priority = config.FirstPriority.ACTOR
    return ask_actors(settings)


@pytest.mark.parametrize("make_settings", [tiny.coin_settings, tiny.zaxxon_settings])
def test_a_score_is_that_of_the_arm_that_the_actors_know(make_settings: Any, tmp_path: pathlib.Path) -> None:
    """The evaluator has seen two episodes of arm 0, the actors many of all arms, of which arm 1 was the best."""
    settings = ask_actors(make_settings())
    settings.logging.tensorboard = False
    training = make(settings, tmp_path, after_acts=1)
    for state in training.driver.states:
        assert state.bandit is not None
    num_arms = settings.policy.num_policies

    def taught(bandit: Any, arm_of: Any, return_of: Any, episodes: int) -> Any:
        arms = np.array(jax.device_get(bandit.arms))
        returns, recorded = np.zeros(arms.shape, np.float32), np.full(arms.shape[0], episodes, np.int32)
        for episode in range(episodes):
            arms[:, episode] = arm_of(episode)
            returns[:, episode] = return_of(arm_of(episode))
        placed = bandit._replace(arms=arms, returns=returns, recorded=recorded, started=recorded)
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), placed, bandit)

    def know(episode_arm: int) -> float:
        return 50.0 if episode_arm == 1 else 10.0 + episode_arm

    driver = training.driver
    driver.states = [
        state._replace(bandit=taught(state.bandit, lambda episode: episode % num_arms, know, 4 * num_arms)) for state in driver.states
    ]
    own = training.evaluator.state.bandit
    training.evaluator.state = training.evaluator.state._replace(bandit=taught(own, lambda episode: 0, lambda arm: 3.0, 2))
    # Acts of the evaluator alone: actors and learner stand still.
    pooled = training._pooled_arms()
    for _ in range(120):
        training._start_evaluation_act(pooled)
        training._count_evaluation()
    greedy = {episode.policy for episode in training._evaluated if episode.is_greedy}
    assert greedy == {1}
    training._save()
    MADE.remove(training)
    training.close()
    assert judging.evaluate(tmp_path, episodes=2, seed=5)["arm"] == 1
    resumed = make(settings, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed._pooled_arms()), jax.device_get(pooled))


def test_only_an_evaluator_that_asks_the_actors_saves_what_they_say(tmp_path: pathlib.Path) -> None:
    assert "pooled_arms" not in make(tiny.coin_settings(), tmp_path / "own")._state()
    assert "pooled_arms" in make(ask_actors(tiny.coin_settings()), tmp_path / "actors")._state()
    without = ask_actors(tiny.coin_settings())
    profiles.r2d2(without)  # has no bandits that could be asked
    training = make(without, tmp_path / "none")
    assert training._pooled_arms() is None and "pooled_arms" not in training._state()


# What each agent's lines of metrics hold beside what all have, or do not.
NOVELTY = {"novelty/intrinsic_reward", "novelty/alpha", "novelty/distillation_error", "novelty/distillation_deviation", "loss/distillation"}
EPISODIC = {"novelty/episodic_reward", "novelty/mean_squared_distance"}
LEARNT = {"novelty/inverse_accuracy", "loss/embedding", "gradient_norm/embedding"}
SECOND = {f"{name}intrinsic" for name in ("loss/", "gradient_norm/", "actor/value_", "learner/value_", "learner/td_error_")}
MEME = {"loss/policy", "learner/distilled_share", "gradient_norm/all_values"}
MEME |= {f"{name}combined" for name in ("loss/", "learner/value_", "learner/td_error_", "learner/error_scale_", "learner/held_")}
REPORTED = {
    "r2d2": set(),
    "r2d2_retrace": set(),
    "r2d2_bandit": set(),
    "ngu": NOVELTY | EPISODIC | LEARNT,
    "ngu_separate": NOVELTY | EPISODIC | LEARNT | SECOND,
    "agent57": NOVELTY | EPISODIC | LEARNT | SECOND,
    "meme": NOVELTY | EPISODIC | LEARNT | {"actor/value_intrinsic"} | MEME,
    "distillation alone": NOVELTY,
    "random embedding": NOVELTY | EPISODIC,
}
IN_THE_MAZE = ("r2d2", *tiny.ABLATIONS)  # which has more to report of its episodes than the coin room


# The quick one lacks the most; every other means half a minute of compiling.
@pytest.mark.parametrize("agent", [pytest.param(agent, marks=() if agent == "r2d2" else pytest.mark.slow) for agent in REPORTED])
def test_every_agent_trains_resumes_and_is_evaluated(agent: str, tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    if agent in tiny.ABLATIONS:
        profiles.ngu(settings)  # as they are compared: on one network
        tiny.ABLATIONS[agent](settings)
    else:
        profiles.AGENTS[agent](settings)
    if agent in IN_THE_MAZE:
        settings.environment.kind = config.EnvironmentKind.DISCO_MAZE
    settings.total_steps = 400
    settings.evaluation.greedy_episodes = 1
    settings.logging.tensorboard = False
    first = make(settings, tmp_path, after_acts=32)
    first.run()
    assert first.counters.updates > 0
    kept = jax.device_get(first._state())
    second = make(settings, tmp_path)
    resumed = jax.device_get(second._state())
    assert jax.tree.structure(resumed) == jax.tree.structure(kept)
    jax.tree.map(np.testing.assert_array_equal, resumed, kept)
    second.run()
    assert second.counters.updates > first.counters.updates + 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(second.learner)))
    # The schedule: the same number of updates for a timestep, whatever the length of a sequence.
    timesteps = second.counters.timesteps - second.counters.learning_since_timesteps
    assert abs(second.counters.updates * 8 - timesteps / 4 * 1.5) <= 8
    written = {key for line in lines(tmp_path) for key, value in line.items() if value is not None}
    assert written & (NOVELTY | EPISODIC | LEARNT | SECOND | MEME) == REPORTED[agent]
    assert ("episode/intrinsic_return" in written) == bool(REPORTED[agent])
    assert {
        "loss/combined" if agent == "meme" else "loss/extrinsic",
        "evaluation/return",
        "learner/valid_share",
        "episode/return",
    } <= written
    visited = [line[key] for line in lines(tmp_path) for key in line if key.endswith("/visited_fraction")]
    assert all(0 < share < 1 for share in visited)
    assert ({"episode/visited_fraction", "evaluation/visited_fraction"} <= written) == bool(visited) == (agent in IN_THE_MAZE)
    result = judging.evaluate(tmp_path, episodes=2, seed=5)
    assert len(result["returns"]) == 2 and result["updates_trained"] == second.counters.updates
    if settings.bandit.chooser is config.Chooser.FIXED:
        assert result["arm"] == 0  # the exploitative policy


# What a line of metrics holds of the clock and of the process.
OF_THE_CLOCK = ("seconds", "throughput/frames_per_second", "throughput/steps_per_second", "throughput/updates_per_second")
OF_THE_PROCESS = ("throughput/share_", "memory/")


def timeless(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics without what no two runs share."""
    return [
        {key: value for key, value in line.items() if key not in OF_THE_CLOCK and not key.startswith(OF_THE_PROCESS)}
        for line in lines(folder)
    ]


def assert_same_run(ours: Trainer, wanted: Trainer) -> None:
    """Bit for bit: counters but for those of time and starts, parameters, optimisers, replay, statistics, bandits, environments."""
    same = {"seconds", "starts", "checkpoints"}
    assert {k: v for k, v in vars(ours.counters).items() if k not in same} == {
        k: v for k, v in vars(wanted.counters).items() if k not in same
    }
    assert set(ours._state()) == set(wanted._state())
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours._state()), jax.device_get(wanted._state()))


def reporting_after(training: Trainer, *acts: int) -> Trainer:
    """Reports after these acts instead of by the clock."""
    training._report_when_due = lambda: training._report() if training.counters.acts in acts else None  # type: ignore[method-assign]
    return training


def meme(settings: Settings) -> Settings:
    profiles.meme(settings)
    return settings


@pytest.mark.parametrize(
    ("after_acts", "change"),
    [(20, lambda settings: settings), (76, all_that_actors_know), pytest.param(76, meme, marks=pytest.mark.slow)],
)
def test_a_stopped_simulation_continues_bit_for_bit(after_acts: int, change: Any, tmp_path: pathlib.Path) -> None:
    whole = reporting_after(make(change(tiny.coin_settings()), tmp_path / "whole"), after_acts)
    whole.run()
    first = reporting_after(make(change(tiny.coin_settings()), tmp_path / "pieces", after_acts))
    first.run()
    assert 0 < first.counters.steps < whole.counters.steps
    second = reporting_after(make(change(tiny.coin_settings()), tmp_path / "pieces"))
    assert second.counters.updates == first.counters.updates and second.counters.steps == first.counters.steps
    second.run()
    assert_same_run(second, whole)
    assert len(timeless(tmp_path / "whole")) == 2
    assert timeless(tmp_path / "pieces") == timeless(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("make_settings", [tiny.coin_settings, tiny.zaxxon_settings])
def test_the_same_seed_makes_the_same_run(make_settings: Any, tmp_path: pathlib.Path) -> None:
    runs = [reporting_after(make(make_settings(), tmp_path / name), 40, 80) for name in ("a", "b")]
    for training in runs:
        training.run()
    assert_same_run(*runs)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    other = make_settings()
    other.seed += 1
    other = reporting_after(make(other, tmp_path / "c"), 40, 80)
    other.run()
    assert timeless(tmp_path / "c") != timeless(tmp_path / "a")


def test_a_stopped_run_of_host_environments_keeps_all_but_episodes_in_flight(tmp_path: pathlib.Path) -> None:
    first = make(tiny.zaxxon_settings(), tmp_path, after_acts=81)
    first.run()
    kept = jax.device_get({name: tree for name, tree in first._state().items() if name != "evaluator"})
    second = make(tiny.zaxxon_settings(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get({name: second._state()[name] for name in kept}), kept)
    assert second.driver.appended == first.driver.appended
    before = second.counters.updates
    second.run()
    assert second.counters.updates > before
    steps = [line["steps"] for line in lines(tmp_path)]
    assert steps == sorted(steps)
    # No burst and no pause: the schedule knows nothing of the stop.
    inserted = (second.counters.timesteps - (second.counters.learning_since_timesteps or 0)) / 4
    assert abs(second.counters.updates * 8 - inserted * 1.5) <= 16


@pytest.mark.slow
def test_starts_of_a_run_do_not_repeat_episodes(tmp_path: pathlib.Path) -> None:
    def first_frames(folder: pathlib.Path) -> np.ndarray:
        training = make(tiny.zaxxon_settings(), folder, after_acts=40)
        training.run()
        observation: np.ndarray = jax.device_get(training.replay.experience.observation)
        return observation[:, :, 12:20]

    np.testing.assert_array_equal(first_frames(tmp_path / "a"), first_frames(tmp_path / "b"))  # a seed repeats a run
    again = make(tiny.zaxxon_settings(), tmp_path / "a", after_acts=80)
    again.run()
    observation = jax.device_get(again.replay.experience.observation)
    assert not np.array_equal(observation[:, :, 12:20], observation[:, :, 32:40])


def test_a_checkpoint_without_replay_fills_it_again_before_learning(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    inserted = (third.counters.timesteps - third.counters.learning_since_timesteps) / settings.replay.period
    done = third.counters.updates - updates
    assert done > 0 and abs(done * settings.learner.batch_size - inserted * 1.5) <= 2 * settings.learner.batch_size


def test_a_non_finite_update_stops_the_run_and_names_the_tensor(tmp_path: pathlib.Path) -> None:
    training = make(tiny.coin_settings(), tmp_path, after_acts=60)
    training.run()
    training = make(tiny.coin_settings(), tmp_path)
    poisoned = training.replay.experience._replace(extrinsic_reward=training.replay.experience.extrinsic_reward.at[:].set(np.nan))
    training.replay = training.replay._replace(experience=poisoned)
    with pytest.raises(trainer.TrainingError, match=r"loss/extrinsic.*Last good checkpoint: \d+"):
        training.run()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(training.learner)))


def test_lagging_parameters_are_refreshed_by_the_period(tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.actor.refresh_period = 3
    training = make(settings, tmp_path)
    training.run()
    assert training.counters.updates > 0 and traces(training)["copy"] == 1


def test_lagging_parameters_survive_a_stop(tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.actor.refresh_period = 3
    whole = make(settings, tmp_path / "whole")
    whole.run()
    make(settings, tmp_path / "pieces", after_acts=64).run()
    second = make(settings, tmp_path / "pieces")
    second.run()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(second.learner), jax.device_get(whole.learner))


def test_another_task_in_the_same_folder_is_refused_and_a_new_run_has_no_evaluation(tmp_path: pathlib.Path) -> None:
    (tmp_path / "evaluation.json").write_text("of a run whose checkpoints are gone")
    make(tiny.coin_settings(), tmp_path, after_acts=4).run()
    assert (tmp_path / "evaluation.json.1").exists() and not (tmp_path / "evaluation.json").exists()
    (tmp_path / "evaluation.json").write_text("its own")
    settings = tiny.coin_settings()
    settings.policy.beta_max = 0.5
    with pytest.raises(config.SettingsError, match=r"policy.beta_max was 0.3, is 0.5.*another --workdir"):
        make(settings, tmp_path)
    settings = tiny.coin_settings()
    settings.logging.period_seconds = 5.0
    make(settings, tmp_path).close()
    assert (tmp_path / "evaluation.json").read_text() == "its own"


@pytest.mark.slow
def test_what_the_evaluator_did_after_the_last_step_is_saved(tmp_path: pathlib.Path) -> None:
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
    second.close()


@pytest.mark.slow
def test_a_replay_that_sized_itself_keeps_its_size(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.coin_settings()
    settings.replay.capacity = "auto"
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: 30_000_000)
    first = make(settings, tmp_path, after_acts=40)
    first.run()
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: 60_000_000)
    second = make(settings, tmp_path)
    assert second.capacity == first.capacity
    assert make(settings, tmp_path / "other").capacity > first.capacity
    second.close()


def test_an_act_copies_no_episodic_memory(tmp_path: pathlib.Path) -> None:
    settings = tiny.zaxxon_settings()
    settings.novelty.memory_capacity = 4_999  # a size that nothing else has
    training = make(settings, tmp_path)
    timestep = training.driver._environments[0].recv()  # type: ignore[attr-defined]
    arguments = (training.acting, training.driver.states[0], training.driver.shared, training.replay, timestep)
    compiled = training.programs.act.lower(*arguments, training.root, np.uint32(0), np.int32(0)).compile().as_text()
    assert "4,4999,4]" in compiled
    assert not [line for line in compiled.splitlines() if " copy(" in line and "f32[4,4999,4]" in line.split("copy(")[0]]


def test_a_second_signal_soon_after_the_first_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    shutdown = Shutdown()
    shutdown._handle(15, None)
    shutdown._handle(15, None)
    assert shutdown.requested and not ended
    monkeypatch.setattr(shutdown, "_first", shutdown._first - 10)
    shutdown._handle(2, None)
    assert ended == [130]


def test_a_terminal_that_is_gone_stops_the_run_but_not_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", installed.__setitem__)
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("nobody was impatient"))
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    Shutdown()
    assert set(installed) == {signal.SIGINT, signal.SIGTERM}
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    shutdown = Shutdown()
    installed[signal.SIGHUP](signal.SIGHUP, None)
    assert shutdown.requested
    monkeypatch.setattr(shutdown, "_first", shutdown._first - 10)
    installed[signal.SIGHUP](signal.SIGHUP, None)


def test_more_threads_than_cpus_are_a_warning(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent57_jax.training.assembly.available_cpus", lambda: 2)
    settings = tiny.zaxxon_settings()
    settings.environment.num_threads = 64
    make(settings, tmp_path)
    said = capsys.readouterr().out
    assert said.count("warning: environment.num_threads is 64, more than the 2 CPUs that this process may use") == 1


@pytest.mark.slow
def test_more_devices_train_the_same_kind_of_run(tmp_path: pathlib.Path) -> None:
    settings = all_that_actors_know(tiny.coin_settings())
    settings.num_devices = 4
    training = make(settings, tmp_path)
    assert training.mesh.size == 4
    training.run()
    assert training.counters.updates > 0
    # The checkpoint of four devices continues on one.
    settings.num_devices, settings.total_steps = 1, 900
    second = make(settings, tmp_path)
    assert second.counters.updates == training.counters.updates
    second.run()
    assert second.counters.steps >= 900


def test_settings_that_do_not_divide_are_refused(tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.num_devices = 3
    with pytest.raises(config.SettingsError, match="not divisible by the 3 devices"):
        make(settings, tmp_path)
    settings.num_devices = 99
    with pytest.raises(RuntimeError, match="JAX sees only"):
        make(settings, tmp_path)


def test_a_replay_that_cannot_fit_is_refused_with_the_sizes(tmp_path: pathlib.Path) -> None:
    settings = tiny.zaxxon_settings()
    settings.replay.capacity = str(10**9)
    with pytest.raises(config.SettingsError, match=r"at most \d+ timesteps fit .* GiB"):
        make(settings, tmp_path)


# On a CPU some copies between host and device are none, and pass: the same on a GPU says more.
@pytest.mark.parametrize(
    "make_settings",
    [
        tiny.coin_settings,
        tiny.zaxxon_settings,
        pytest.param(tiny.coin_settings, marks=pytest.mark.gpu, id="coin_settings-gpu"),
        pytest.param(tiny.zaxxon_settings, marks=pytest.mark.gpu, id="zaxxon_settings-gpu"),
    ],
)
def test_nothing_crosses_between_host_and_device_but_what_is_sent_on_purpose(make_settings: Any, tmp_path: pathlib.Path) -> None:
    """Observations and counters go up by an explicit copy, actions and reports come down by one; anything else is refused."""
    settings = all_that_actors_know(make_settings())
    settings.evaluation.period_acts = 1
    training = make(settings, tmp_path)
    while training.counters.updates < 2:
        training._act_and_learn()
    before = training.counters.updates
    with jax.transfer_guard("disallow"):
        while training.counters.updates < before + 3:
            training._act_and_learn()


def test_what_fails_at_the_end_keeps_neither_terminal_nor_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make(tiny.coin_settings(), tmp_path)
    MADE.clear()
    assert training.metrics is not None and training._lock is not None
    ended: list[Any] = []
    end_metrics = training.metrics.close

    def fail() -> None:
        end_metrics()
        raise OSError("No space left on device")

    monkeypatch.setattr(training.metrics, "close", fail)
    for part in (training.checkpoints, training.console):
        monkeypatch.setattr(part, "close", lambda part=part, close=part.close: (ended.append(part), close()))
    with pytest.raises(OSError, match="No space left"):
        training.close()
    assert ended == [training.checkpoints, training.console] and training._lock.closed
