"""Two drivers over the one act step: groups of host environments in turn, or JAX environments in a scan.

A driver owns the environments and the actors' state. `dispatch` starts acts without waiting for their result, so that updates can be
queued behind them; `complete` then waits for the acts alone.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent.actor import ActorState
from agent57_jax.agent.programs import Programs, Shared, Simulation
from agent57_jax.agent.replay import ReplayState
from agent57_jax.training.schedule import Counters
from agent57_jax.training.stopwatch import Stopwatch
from agent57_jax.types import FIRST, LAST, ActingParameters, HostEnvironment


class Driver(Protocol):
    """What the trainer needs of a driver."""

    shared: Shared
    appended: list[int]  # timesteps written per environment, of every group
    states: list[ActorState]  # the actors of every group; a simulation has one

    def dispatch(self, parameters: ActingParameters, store: ReplayState, counters: Counters) -> ReplayState:
        """Starts the next acts; returns the replay with them. `store` is consumed."""

    def complete(self, counters: Counters, learnt: jax.Array) -> None:
        """Waits for the acts, sends actions to the environments, counts.

        Args:
          learnt: comes from the updates that were queued before the acts. They are waited for first, which costs nothing and tells
            their time from that of the acts.
        """

    def state_to_save(self) -> Any:
        """What a checkpoint keeps of the actors."""

    def load(self, state: Any) -> None:
        """Continues from a tree of the form of `state_to_save`."""

    def close(self) -> None:
        """Ends the environments."""


class HostDriver:
    """Groups of host environments: one group's emulators run while the device acts for another."""

    def __init__(self, programs: Programs, environments: list[HostEnvironment], root: jax.Array, stopwatch: Stopwatch) -> None:
        self._programs, self._environments, self._root, self._stopwatch = programs, environments, root, stopwatch
        self.shared: Shared = programs.init_shared()
        self.appended = [0] * len(environments)
        self.states: list[ActorState] = [programs.init_actor(programs.actor_index(group)) for group in range(len(environments))]
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
        counted = parallel.start_sum(mesh, (int(steps), int(ends)))  # before the act: behind it are updates
        self.states[group], self.shared, store, action = self._programs.act(
            parameters, self.states[group], self.shared, store, uploaded, self._root, counter, number
        )
        self._pending = group, action, counted
        counters.acts += 1
        counters.timesteps += self._programs.parts.settings.envs_per_group
        self.appended[group] += 1
        return store

    def complete(self, counters: Counters, learnt: jax.Array) -> None:
        """Fetches the actions, lets the group's emulators run, and counts what all processes did."""
        assert self._pending is not None
        group, action, counted = self._pending
        with self._stopwatch("learning"):
            learnt.block_until_ready()
        with self._stopwatch("acting"):
            actions = parallel.local_rows(action)
        self._environments[group].send(actions)
        steps, episodes = counted()
        counters.steps += steps
        counters.frames += steps * self._programs.parts.spec.frames_per_step
        counters.episodes += episodes

    def state_to_save(self) -> Any:
        """Bandits and episode counts; emulators cannot be saved, so episodes in flight start anew and with them all the rest."""
        return [{"bandit": state.bandit, "episodes_started": state.episodes_started} for state in self.states]

    def load(self, state: Any) -> None:
        """Puts saved bandits into fresh actors."""
        self.states = [fresh._replace(**saved) for fresh, saved in zip(self.states, state, strict=True)]

    def close(self) -> None:
        """Ends the emulators."""
        for environment in self._environments:
            environment.close()


class SimulationDriver:
    """JAX environments: environment, act and append run in one scan on the device."""

    def __init__(self, programs: Programs, root: jax.Array, stopwatch: Stopwatch) -> None:
        self._programs, self._root, self._stopwatch = programs, root, stopwatch
        self.shared: Shared = programs.init_shared()
        self.appended = [0]
        index = programs.actor_index(0)
        self.states: list[ActorState] = [programs.init_actor(index)]
        self._simulation: Simulation = programs.init_simulation(root, index)
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

    def complete(self, counters: Counters, learnt: jax.Array) -> None:
        """Reads how many steps and episodes the acts were."""
        with self._stopwatch("learning"):
            learnt.block_until_ready()
        with self._stopwatch("acting"):
            steps, episodes = jax.device_get(self._pending).tolist()
        counters.steps += steps
        counters.frames += steps * self._programs.parts.spec.frames_per_step
        counters.episodes += episodes

    def state_to_save(self) -> Any:
        """Everything: such a run continues bit for bit."""
        return {"actor": self.states[0], "simulation": self._simulation}

    def load(self, state: Any) -> None:
        """Continues where the saved run stood."""
        self.states[0], self._simulation = state["actor"], state["simulation"]

    def close(self) -> None:
        """Nothing runs outside the device."""
