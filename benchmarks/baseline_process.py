"""The PyTorch baseline in a process of its own, so that the threads of the two libraries never run at the same time."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import jax

from agent57_jax import config
from agent57_jax.config import Settings
from agent57_jax.types import EnvironmentSpec

# The reference implements only the default of these settings, and comparing other values would compare different work.
FIXED = (
    *("novelty.reward", "novelty.embedding", "policy.separate_networks", "network.shared_torso", "network.policy_heads", "network.torso"),
    *("learner.targets", "learner.normalise_errors", "learner.bootstrap", "learner.combined_loss", "learner.distil_policy"),
    *("replay.burn_in", "precision.compute"),
)
_RUNS: dict[str, Callable[[], Any]] = {}  # in the reference's process: what can be timed


class BaselineError(RuntimeError):
    """The reference cannot run; the message says why."""


def _beyond_the_reference(settings: Settings) -> str | None:
    """The first thing in which the reference would differ from these settings."""
    if jax.default_backend() != "cpu" or settings.num_devices not in (None, 1):
        return "more than one CPU device"
    default, own = (config.flatten(config.to_dict(each)) for each in (Settings(), settings))
    return next((f"{name}={own[name]}" for name in FIXED if own[name] != default[name]), None)


def _start(settings: Settings, spec: EnvironmentSpec, fill: int) -> None:
    """Makes actor and learner in the reference's process."""
    import torch

    from agent57_jax.types import MID
    from benchmarks.baselines.torch_actor import Actor
    from benchmarks.baselines.torch_learner import Learner, random_batch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    rows = settings.envs_per_group
    actor, learner = Actor(settings, spec, rows, fill), Learner(settings, spec)
    observation = torch.randint(256, (rows, *spec.observation_shape), dtype=torch.uint8)
    reward, step_type = torch.randn(rows), torch.full((rows,), MID)
    batch = random_batch(settings, spec, seed=0)

    def act() -> None:
        actor.refill()
        actor.step(observation, reward, step_type)

    def update() -> None:
        learner.update(batch)

    _RUNS.update(act=act, update=update)


def _run(name: str) -> None:
    _RUNS[name]()


class Baseline:
    """An actor and a learner in PyTorch with the settings' sizes and numbers."""

    def __init__(self, settings: Settings, spec: EnvironmentSpec, fill: int) -> None:
        """`fill`: embeddings in each episodic memory.

        Raises:
          BaselineError: if PyTorch is missing, or for settings that the reference does not implement.
        """
        other = _beyond_the_reference(settings)
        if other:
            raise BaselineError(f"the PyTorch baseline does not implement {other}; leave out the part 'baseline'")
        self._rows = settings.envs_per_group
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._ask(_start, settings, spec, fill)
        except BaselineError:
            self._process.shutdown()
            raise

    def act(self) -> float:
        """One act; agent steps."""
        self._ask(_run, "act")
        return float(self._rows)

    def update(self) -> float:
        """One update; updates."""
        self._ask(_run, "update")
        return 1.0

    def __enter__(self) -> "Baseline":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.shutdown()

    def _ask(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._process.submit(function, *arguments).result()
        except ImportError as error:
            raise BaselineError(f"the PyTorch reference: {error}; pip install -r requirements-bench.txt") from error
        except BrokenProcessPool as error:
            raise BaselineError(f"the PyTorch reference: {error}") from error
