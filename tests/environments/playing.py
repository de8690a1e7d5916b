"""What the tests of host environments share: making, stepping and closing them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from agent57_jax.types import HostEnvironment, TimeStep


@contextlib.contextmanager
def closing(create: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """`create`, whose environments are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **named: stack.enter_context(contextlib.closing(create(*arguments, **named)))


def start(environment: HostEnvironment) -> TimeStep:
    environment.reset()
    return environment.recv()


def step(environment: HostEnvironment, actions: Any) -> TimeStep:
    """A step with one action for all environments, or with one for each."""
    environment.send(np.broadcast_to(actions, environment.num_envs))
    return environment.recv()


def random_actions(environment: HostEnvironment, num_steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, environment.spec.num_actions, (num_steps, environment.num_envs)).astype(np.int32)


def play(environment: HostEnvironment, num_steps: int, seed: int = 0) -> TimeStep:
    """FIRST and `num_steps` timesteps under random actions, every field [num_steps + 1, E, ...]."""
    timesteps = [start(environment), *(step(environment, actions) for actions in random_actions(environment, num_steps, seed))]
    return jax.tree.map(lambda *rows: np.stack(rows), *timesteps)
