"""What every test relies on. JAX reads its settings when it is first imported, so they are made here, before any test is collected."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from agent57_jax.training.trainer import Trainer
    from tests.trainings import Make

SIMULATED_DEVICES = 8

# The last flag of a name wins, so this one goes behind whatever the user has set.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={SIMULATED_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tests marked `gpu` run with JAX_PLATFORMS=cuda
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"  # a [B] that meets a [B, T] by accident is an error
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# The same examples in every run; no deadline, because the first example of a test compiles its program.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def make() -> "Iterator[Make]":
    """Opens trainings; those that a test only looks at have files and emulators open until its end."""
    from tests import trainings

    opened: list[Trainer] = []

    def open_one(*arguments: Any, **named: Any) -> "Trainer":
        opened.append(trainings.open_training(*arguments, **named))
        return opened[-1]

    yield open_one
    for training in reversed(opened):
        training.close()


@pytest.fixture
def shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `trainings.share_programs`."""
    from tests import trainings

    trainings.share_programs(monkeypatch)


@pytest.fixture(scope="session")
def coin_run(tmp_path_factory: pytest.TempPathFactory) -> "Trainer":
    """A finished run of `tiny.coin_settings`, with videos, that tests only read."""
    from tests import tiny, trainings

    settings = tiny.coin_settings()
    settings.video.period_episodes = 1
    training = trainings.open_training(settings, tmp_path_factory.mktemp("coin") / "run")
    training.run()
    return training
