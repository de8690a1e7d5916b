"""The parts of a run that are timed one by one: they do what a run does."""

from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax import config
from benchmarks import parts
from tests import tiny


@pytest.fixture(scope="module")
def zaxxon() -> Any:
    run = parts.Parts(config.finalise(tiny.zaxxon_settings()))
    yield run
    run.close()


def test_the_replay_is_full_and_every_complete_sequence_can_be_drawn(zaxxon: parts.Parts) -> None:
    store = zaxxon.store
    state = parts.filled_replay(zaxxon.programs)
    assert np.all(jax.device_get(state.appended) == store.capacity_per_env)
    starts = np.arange(store.num_columns) * store.settings.period
    complete = starts + store.settings.span < store.capacity_per_env
    assert complete.any()
    priority = jax.device_get(state.priority)
    np.testing.assert_array_equal(priority > 0, np.broadcast_to(complete, priority.shape))


def test_acting_and_learning_keep_the_ratio_of_the_settings(zaxxon: parts.Parts) -> None:
    counters, settings = zaxxon.counters, zaxxon.settings
    counters.learning_since_timesteps, counters.learning_since_updates = counters.timesteps, counters.updates
    timesteps, updates = counters.timesteps, counters.updates
    steps = zaxxon.act_and_learn(12)
    assert counters.updates - updates >= 12
    assert 0 < steps <= counters.timesteps - timesteps
    per_update = settings.learner.batch_size * settings.replay.period / settings.replay.samples_per_insert
    assert (counters.timesteps - timesteps) / (counters.updates - updates) == pytest.approx(per_update, rel=0.15)


def test_act_and_update_say_how_much_they_did(zaxxon: parts.Parts) -> None:
    before = int(zaxxon.learner.updates)
    assert zaxxon.learn() == 1.0
    assert int(zaxxon.learner.updates) == before + 1
    assert zaxxon.learn(3) == 3.0
    assert int(zaxxon.learner.updates) == before + 4
    taken = [zaxxon.act() for _ in range(4)]
    assert all(0 <= steps <= zaxxon.settings.envs_per_group for steps in taken)
    assert sum(taken) > 0


def test_memories_hold_what_they_are_said_to_hold(zaxxon: parts.Parts) -> None:
    still = parts.StillActor(zaxxon, 40)
    for fill, held in ((None, 40), (None, 40), (7, 7), (0, 0), (None, 40)):
        assert still.act(fill) == zaxxon.settings.envs_per_group
        memory = jax.device_get(still._state.novelty.memory)
        assert np.all(memory.inserted == held + 1)
        assert len(np.unique(memory.embeddings[0, :, 0])) > 30  # neighbours differ from each other


def test_the_fleets_memories_are_filled(zaxxon: parts.Parts) -> None:
    for _ in range(4):
        zaxxon.act()  # every group is past its first timestep, which empties memories
    zaxxon.fill_memories(20)
    zaxxon.act()
    inserted = [jax.device_get(state.novelty.memory.inserted) for state in zaxxon.driver.states]
    assert np.all(np.concatenate(inserted) <= 21) and np.concatenate(inserted).max() == 21


def test_the_sampler_draws_and_appends(zaxxon: parts.Parts) -> None:
    sampler = parts.StillSampler(zaxxon)
    before = jax.device_get(zaxxon.replay.appended).sum()
    assert sampler.sample() == sampler.append() == sampler.append() == 1.0
    assert jax.device_get(zaxxon.replay.appended).sum() == before + 2


@pytest.mark.slow
def test_a_simulated_run_has_the_same_parts() -> None:
    run = parts.Parts(config.finalise(tiny.coin_settings()))
    assert run.act() > 0
    assert run.learn() == 1.0
    assert run.act_and_learn(3) > 0


def test_envpool_and_the_adapter_take_the_same_steps() -> None:
    cart = config.changed(tiny.zaxxon_settings(), {"environment.kind": "gymnasium", "environment.task_id": "CartPole-v1"})
    for settings, names in ((config.finalise(tiny.zaxxon_settings()), {"raw", "adapter"}), (cart, {"adapter"})):
        tasks, close = parts.raw_and_adapter(settings)
        assert {name: [task() for _ in range(3)] for name, task in tasks.items()} == {name: [8.0] * 3 for name in names}
        close()
