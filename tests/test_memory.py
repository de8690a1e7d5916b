"""The table of bytes: what is in it, that it comes before the bytes are taken, and what does not fit is refused in words."""

import pathlib

import jax
import pytest

from agent57_jax import config
from agent57_jax.agent import programs
from agent57_jax.agent.programs import Parts
from agent57_jax.config import Settings
from agent57_jax.environments import factory
from agent57_jax.training import memory
from agent57_jax.training.trainer import Trainer
from tests import tiny

GIB = 2**30


def built(settings: Settings) -> Parts:
    settings = config.finalise(settings)
    return programs.build(settings, factory.make_jax_environment(settings.environment).spec)


def filling(monkeypatch: pytest.MonkeyPatch, device: int, host: int) -> Settings:
    """A replay that sizes itself, and a device with memory of its own."""
    monkeypatch.setattr(memory.parallel, "device_memory_bytes", lambda: (0, device))
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: host)
    settings = tiny.coin_settings()
    settings.replay.capacity, settings.replay.auto_limit = "auto", 10**9
    return settings


def test_the_table_is_what_a_run_takes(tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    _, table = memory.plan(built(settings), 1)
    training = Trainer(config.finalise(settings), tmp_path, lambda: False)
    learner, actors = training.learner, training.driver.states[0]
    assert table["parameters and targets"] == memory.tree_bytes(learner._replace(optimiser=None))
    assert table["optimisers"] == memory.tree_bytes(learner.optimiser)
    assert table["episodic memories"] == memory.tree_bytes(actors.novelty)
    assert table["other state of the actors"] == memory.tree_bytes(actors) - table["episodic memories"]
    assert table["evaluator"] == memory.tree_bytes(training.evaluator.state)
    assert table["replay"] == memory.tree_bytes(training.replay) == table["replay while it is saved"]
    assert table["one update (estimate)"] > 0
    training.close()


def test_the_table_comes_before_what_it_tells_of(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError("no room")

    settings = tiny.coin_settings()
    monkeypatch.setattr(programs.Programs, "__init__", refuse)
    with pytest.raises(MemoryError):
        Trainer(config.finalise(settings), tmp_path, lambda: False)
    text = capsys.readouterr().out
    assert "memory of each in GiB" in text
    for row in ("parameters and targets", "optimisers", "episodic memories", "one update (estimate)", "replay", "free"):
        assert f"\n  {row}" in text


@pytest.mark.parametrize("num_devices", [1, 4])
def test_auto_fills_a_device_and_not_more(num_devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = filling(monkeypatch, GIB // 10, 10 * GIB)
    parts = built(settings)
    capacity, table = memory.plan(parts, num_devices)
    assert table["free"] >= 0
    limit = int(GIB // 10 * memory.DEVICE_SHARE)
    on_device = sum(size for name, size in table.items() if not name.startswith("host"))
    assert on_device == limit
    assert table["free"] * num_devices < memory.replay_bytes(parts, capacity) / 50
    assert table["host, while a checkpoint is saved"] >= table["replay"] * num_devices
    # One period more does not fit.
    settings.replay.capacity = str(capacity + settings.environment.num_envs * settings.replay.period * (1 + capacity // 100))
    with pytest.raises(config.SettingsError, match=rf"at most {capacity} timesteps fit"):
        memory.plan(built(settings), num_devices)


def test_a_replay_that_the_host_could_not_pass_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = filling(monkeypatch, GIB, GIB // 20)
    through_host, _ = memory.plan(built(settings), 1)
    assert memory.replay_bytes(built(settings), through_host) <= GIB // 20 * memory.HOST_SHARE
    settings.checkpoint.save_replay = False
    without, table = memory.plan(built(settings), 1)
    assert without > 10 * through_host
    assert table["host, while a checkpoint is saved"] < GIB // 20
    settings.checkpoint.save_replay = True
    settings.replay.capacity = str(2 * through_host)
    with pytest.raises(config.SettingsError, match=rf"at most {through_host} timesteps fit .* host, .* set checkpoint.save_replay=False"):
        memory.plan(built(settings), 1)


def test_bytes_of_a_tree_need_no_arrays() -> None:
    shapes = {"a": jax.ShapeDtypeStruct((3, 5), "float32"), "b": [jax.ShapeDtypeStruct((7,), "uint8")]}
    assert memory.tree_bytes(shapes) == 67
