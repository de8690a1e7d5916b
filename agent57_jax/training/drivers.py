"""Two drivers over the one act step: groups of host environments in turn, or JAX environments in a scan."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.actor import ActorState
from agent57_jax.agent.programs import Programs, Shared, Simulation
from agent57_jax.agent.replay import ReplayState
from agent57_jax.training.schedule import Counters
from agent57_jax.training.stopwatch import Stopwatch
from agent57_jax.types import FIRST, LAST, ActingParameters, HostEnvironment


class Driver(abc.ABC):
    """Owns the environments and the actors' state.

    `dispatch` starts acts without waiting for them, so that updates can be queued behind them; `complete` then waits for the acts alone.
    """

    _environments: Sequence[HostEnvironment] = ()

    def __init__(self, programs: Programs, root: jax.Array, stopwatch: Stopwatch, num_groups: int) -> None:
        self._programs, self._root, self._stopwatch = programs, root, stopwatch
        self.shared: Shared = programs.init_shared()
        self.appended = [0] * num_groups  # timesteps written per environment of each group
        self.states: list[ActorState] = [programs.init_actor(programs.actor_index(group)) for group in range(num_groups)]

    @abc.abstractmethod
    def dispatch(self, parameters: ActingParameters, store: ReplayState, counters: Counters) -> ReplayState:
        """Starts the next acts; returns the replay after them. `store` is consumed."""

    def complete(self, counters: Counters, learnt: jax.Array) -> None:
        """Waits for the acts, lets the emulators step, and counts. `learnt`, of earlier updates, is awaited first to measure their time."""
        with self._stopwatch("learning"):
            learnt.block_until_ready()
        steps, episodes = self._finish()
        counters.steps += steps
        counters.frames += steps * self._programs.parts.spec.frames_per_step
        counters.episodes += episodes

    @abc.abstractmethod
    def _finish(self) -> list[int]:
        """Waits for the acts; returns their steps and finished episodes, over all processes."""

    @abc.abstractmethod
    def state_to_save(self) -> Any:
        """What a checkpoint keeps of the actors."""

    @abc.abstractmethod
    def load(self, state: Any) -> None:
        """Continues from the result of `state_to_save`."""

    def close(self) -> None:
        """Closes the host environments."""
        for environment in self._environments:
            environment.close()


class HostDriver(Driver):
    """Groups of host environments: one group's emulators run while the device acts for another."""

    def __init__(self, programs: Programs, environments: list[HostEnvironment], root: jax.Array, stopwatch: Stopwatch) -> None:
        super().__init__(programs, root, stopwatch, len(environments))
        self._environments = environments
        self._pending: tuple[int, jax.Array, Callable[[], list[int]]] | None = None
        for environment in environments:
            environment.reset()

    def dispatch(self, parameters: ActingParameters, store: ReplayState, counters: Counters) -> ReplayState:
        """Receives from the next group and starts its act."""
        group = counters.acts % len(self._environments)
        with self._stopwatch("environment"):
            timestep = self._environments[group].recv()
        mesh = self._programs.mesh
        counter, number = parallel.upload(mesh, parallel.REPLICATED, (np.uint32(counters.acts % 2**32), np.int32(group)))
        uploaded = parallel.upload(mesh, parallel.BY_ENVIRONMENT, timestep)
        steps, ends = np.count_nonzero(timestep.step_type != FIRST), np.count_nonzero(timestep.step_type == LAST)
        counted = parallel.start_sum(mesh, (int(steps), int(ends)))  # before the act: updates follow it
        self.states[group], self.shared, store, action = self._programs.act(
            parameters, self.states[group], self.shared, store, uploaded, self._root, counter, number
        )
        self._pending = group, action, counted
        counters.acts += 1
        counters.timesteps += self._programs.parts.settings.envs_per_group
        self.appended[group] += 1
        return store

    def _finish(self) -> list[int]:
        assert self._pending is not None
        group, action, counted = self._pending
        with self._stopwatch("acting"):
            actions = parallel.local_rows(action)
        self._environments[group].send(actions)
        return counted()

    def state_to_save(self) -> Any:
        """Bandits and episode counts. Emulators cannot be saved, so their episodes restart."""
        return [{"bandit": state.bandit, "episodes_started": state.episodes_started} for state in self.states]

    def load(self, state: Any) -> None:
        """Puts saved bandits into fresh actors."""
        self.states = [fresh._replace(**saved) for fresh, saved in zip(self.states, state, strict=True)]


class SimulationDriver(Driver):
    """JAX environments: environment, act and append run in one scan on the device."""

    def __init__(self, programs: Programs, root: jax.Array, stopwatch: Stopwatch) -> None:
        super().__init__(programs, root, stopwatch, 1)
        self._simulation: Simulation = programs.init_simulation(root, programs.actor_index(0))
        self._pending: jax.Array | None = None

    def dispatch(self, parameters: ActingParameters, store: ReplayState, counters: Counters) -> ReplayState:
        """Starts `acts_per_dispatch` acts."""
        settings = self._programs.parts.settings
        counter = parallel.upload(self._programs.mesh, parallel.REPLICATED, np.uint32(counters.acts % 2**32))
        self._simulation, self.states[0], self.shared, store, self._pending = self._programs.rollout(
            parameters, self._simulation, self.states[0], self.shared, store, self._root, counter
        )
        counters.acts += settings.actor.acts_per_dispatch
        counters.timesteps += settings.actor.acts_per_dispatch * settings.envs_per_group
        self.appended[0] += settings.actor.acts_per_dispatch
        return store

    def _finish(self) -> list[int]:
        with self._stopwatch("acting"):
            counts: list[int] = jax.device_get(self._pending).tolist()
        return counts

    def state_to_save(self) -> Any:
        """Everything, so that a resumed run continues bit for bit."""
        return {"actor": self.states[0], "simulation": self._simulation}

    def load(self, state: Any) -> None:
        """Continues where the saved run stopped."""
        self.states[0], self._simulation = state["actor"], state["simulation"]
