"""Whole runs in miniature: what is written, that programs are traced once, and that a run which cannot go on says why."""

import json
import math
import os
import pathlib
import signal
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.monitoring import metrics
from agent57_jax.training import judging
from agent57_jax.training.shutdown import Shutdown
from agent57_jax.training.trainer import Trainer
from configs import profiles
from tests import tiny
from tests.trainings import Make, all_that_actors_know, ask_actors, assert_equal, is_finite, learn, metrics_of

BOTH = pytest.mark.parametrize("make_settings", [tiny.coin_settings, tiny.zaxxon_settings])


def traces(training: Trainer) -> dict[str, int]:
    """Signatures for which each program that has run was traced."""
    programs = {name: value._cache_size() for name, value in vars(training.programs).items() if hasattr(value, "_cache_size")}
    programs["evaluator"] = training.evaluator._act._cache_size()
    return {name: size for name, size in programs.items() if size}


def test_a_run_in_the_coin_room_trains_evaluates_reports_and_saves(coin_run: Trainer) -> None:
    check_run(coin_run, {"rollout"})


def test_a_run_of_a_game_trains_evaluates_reports_and_saves(make: Make, tmp_path: pathlib.Path) -> None:
    training = make(tiny.zaxxon_settings(), tmp_path)
    training.run()
    check_run(training, {"act"})


def check_run(training: Trainer, loop: set[str]) -> None:
    settings, counters = training.settings, training.counters
    assert settings.total_steps <= counters.steps < settings.total_steps + 100
    assert counters.frames == counters.steps * training.parts.spec.frames_per_step
    assert counters.greedy_episodes >= settings.evaluation.greedy_episodes
    written = metrics_of(training.workdir)
    for line in written:
        for key, value in line.items():
            if "/" in key:
                metrics.check_key(key)
            assert value is None or math.isfinite(value), key
    assert written[-1]["updates"] == counters.updates > 0
    keys = {key for line in written for key in line}
    assert {"evaluation/return", "loss/extrinsic", "loss/intrinsic", "loss/embedding", "loss/distillation"} <= keys
    assert "gradient_norm/extrinsic" in keys
    assert sum(line.get("arm/pulls_0", 0) for line in written) >= 1
    # Each program of the loop was traced exactly once.
    found = traces(training)
    assert loop | {"update", "evaluator", "init_replay", "init_learner"} <= set(found)
    assert set(found.values()) == {1}, found
    # The schedule: an inserted sequence is sampled samples_per_insert times, up to one batch.
    inserted = (counters.timesteps - counters.learning_since_timesteps) / settings.replay.period
    assert abs(counters.updates * settings.learner.batch_size - inserted * 1.5) <= 2 * settings.learner.batch_size
    result = judging.evaluate(training.workdir, episodes=3, seed=5)
    assert result["episodes"] == 3 and result["frames_trained"] == counters.frames
    assert json.loads((training.workdir / "evaluation.json").read_text())["returns"] == result["returns"]


@BOTH
def test_a_score_is_that_of_the_arm_that_the_actors_know(make_settings: Any, make: Make, tmp_path: pathlib.Path) -> None:
    """The evaluator has seen two episodes of arm 0, the actors many of all arms, of which arm 1 was the best."""
    settings = ask_actors(make_settings())
    settings.logging.tensorboard = False
    training = make(settings, tmp_path)
    num_arms = settings.policy.num_policies

    def taught(state: Any, played: np.ndarray, return_of: np.ndarray) -> Any:
        """The actors' or the evaluator's state after episodes of these arms."""
        bandit, episodes = state.bandit, len(played)
        arms, returns = np.array(jax.device_get(bandit.arms)), np.zeros(bandit.returns.shape, np.float32)
        arms[:, :episodes], returns[:, :episodes] = played, return_of[played]
        recorded = np.full(len(arms), episodes, np.int32)
        placed = bandit._replace(arms=arms, returns=returns, recorded=recorded, started=recorded)
        return state._replace(bandit=jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), placed, bandit))

    driver, return_of = training.driver, np.where(np.arange(num_arms) == 1, 50.0, 10.0 + np.arange(num_arms))
    driver.states = [taught(state, np.arange(4 * num_arms) % num_arms, return_of) for state in driver.states]
    training.evaluator.state = taught(training.evaluator.state, np.zeros(2, int), np.full(num_arms, 3.0))
    # Acts of the evaluator alone: actors and learner stand still.
    pooled = training._pooled_arms()
    for _ in range(120):
        training._start_evaluation_act(pooled)
        training._count_evaluation()
    greedy = {episode.policy for episode in training._evaluated if episode.is_greedy}
    assert greedy == {1}
    training._save()
    training.close()
    assert judging.evaluate(tmp_path, episodes=2, seed=5)["arm"] == 1
    assert_equal(make(settings, tmp_path)._pooled_arms(), pooled)


def test_only_an_evaluator_that_asks_the_actors_saves_what_they_say(make: Make, tmp_path: pathlib.Path) -> None:
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
def test_every_agent_trains_resumes_and_is_evaluated(agent: str, make: Make, shared_programs: None, tmp_path: pathlib.Path) -> None:
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
    assert jax.tree.structure(second._state()) == jax.tree.structure(kept)
    assert_equal(second._state(), kept)
    second.run()
    assert second.counters.updates > first.counters.updates + 3
    assert is_finite(second.learner)
    # The schedule: the same number of updates for a timestep, whatever the length of a sequence.
    timesteps = second.counters.timesteps - second.counters.learning_since_timesteps
    assert abs(second.counters.updates * 8 - timesteps / 4 * 1.5) <= 8
    seen = [(key, value) for line in metrics_of(tmp_path) for key, value in line.items() if value is not None]
    written = {key for key, _ in seen}
    assert written & (NOVELTY | EPISODIC | LEARNT | SECOND | MEME) == REPORTED[agent]
    assert ("episode/intrinsic_return" in written) == bool(REPORTED[agent])
    loss = "loss/combined" if agent == "meme" else "loss/extrinsic"
    assert {loss, "evaluation/return", "learner/valid_share", "episode/return"} <= written
    visited = [value for key, value in seen if key.endswith("/visited_fraction")]
    assert all(0 < share < 1 for share in visited)
    assert ({"episode/visited_fraction", "evaluation/visited_fraction"} <= written) == bool(visited) == (agent in IN_THE_MAZE)
    result = judging.evaluate(tmp_path, episodes=2, seed=5)
    assert len(result["returns"]) == 2 and result["updates_trained"] == second.counters.updates
    if settings.bandit.chooser is config.Chooser.FIXED:
        assert result["arm"] == 0  # the exploitative policy


def test_an_act_copies_no_episodic_memory(make: Make, tmp_path: pathlib.Path) -> None:
    settings = tiny.zaxxon_settings()
    settings.novelty.memory_capacity = 4_999  # a size that nothing else has
    training = make(settings, tmp_path)
    timestep = training.driver._environments[0].recv()  # type: ignore[attr-defined]
    arguments = (training.acting, training.driver.states[0], training.driver.shared, training.replay, timestep)
    compiled = training.programs.act.lower(*arguments, training.root, np.uint32(0), np.int32(0)).compile().as_text()
    assert "4,4999,4]" in compiled
    assert not [line for line in compiled.splitlines() if " copy(" in line and "f32[4,4999,4]" in line.split("copy(")[0]]


def test_a_second_signal_is_the_same_request_unless_somebody_is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is gone stops the run, but not under nohup, and is never impatient."""
    installed: dict[int, Any] = {}
    ended: list[int] = []
    monkeypatch.setattr(signal, "signal", installed.__setitem__)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    Shutdown()
    assert set(installed) == {signal.SIGINT, signal.SIGTERM}
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    for first, second, codes in ((signal.SIGTERM, signal.SIGINT, [130]), (signal.SIGHUP, signal.SIGHUP, [])):
        shutdown = Shutdown()
        installed[first](first, None)
        installed[first](first, None)
        assert shutdown.requested and not ended
        monkeypatch.setattr(shutdown, "_first", shutdown._first - 10)
        installed[second](second, None)
        assert ended == codes
        ended.clear()


def test_more_threads_than_cpus_are_a_warning(
    make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent57_jax.training.assembly.available_cpus", lambda: 2)
    settings = tiny.zaxxon_settings()
    settings.environment.num_threads = 64
    make(settings, tmp_path)
    said = capsys.readouterr().out
    assert said.count("warning: environment.num_threads is 64, more than the 2 CPUs that this process may use") == 1


@pytest.mark.parametrize(
    ("make_settings", "changes", "error", "message"),
    [
        (tiny.coin_settings, {"num_devices": 3}, config.SettingsError, "not divisible by the 3 devices"),
        (tiny.coin_settings, {"num_devices": 99}, RuntimeError, "JAX sees only"),
        (tiny.zaxxon_settings, {"replay.capacity": str(10**9)}, config.SettingsError, r"at most \d+ timesteps fit .* GiB"),
    ],
)
def test_what_this_machine_cannot_serve_is_refused(
    make_settings: Any, changes: dict[str, Any], error: type[Exception], message: str, make: Make, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(error, match=message):
        make(config.changed(make_settings(), changes), tmp_path)


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
def test_nothing_crosses_between_host_and_device_but_what_is_sent_on_purpose(
    make_settings: Any, make: Make, shared_programs: None, tmp_path: pathlib.Path
) -> None:
    """Observations and counters go up by an explicit copy, actions and reports come down by one; anything else is refused."""
    settings = all_that_actors_know(make_settings())
    settings.evaluation.period_acts = 1
    training = make(settings, tmp_path)
    learn(training, 2)
    with jax.transfer_guard("disallow"):
        learn(training, training.counters.updates + 3)


def test_what_fails_at_the_end_keeps_neither_terminal_nor_folder(
    make: Make, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make(tiny.coin_settings(), tmp_path)
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
