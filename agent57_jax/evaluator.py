"""The evaluator: plays with the learner's parameters, for the score (Agent57 App. D).

It runs on one device, whatever the mesh: a few environments need no more, and its bandit is then the same for every number of devices.
During training its acts are interleaved with those of the actors; `evaluate.py` runs it alone.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from agent57_jax import parallel, programs
from agent57_jax.actor import Actor, ActorState, EpisodeReport
from agent57_jax.algorithm.meta_controller import BanditState
from agent57_jax.novelty import NoveltyStatistics
from agent57_jax.types import ActingParameters, HostEnvironment, JaxEnvironment, TimeStep


class Episode(NamedTuple):
    """One finished episode of the evaluator."""

    environment: int
    is_greedy: bool  # played the bandit's best arm; such episodes are the score
    policy: int
    episode_return: float  # undiscounted, raw rewards
    length: int  # agent steps
    extras: dict[str, float]  # what else the environment reports about it


class Evaluator:
    """A small fleet that plays but stores nothing and teaches only its own bandit."""

    state: ActorState
    simulation: programs.Simulation | None

    def __init__(self, actor: Actor, environment: HostEnvironment | JaxEnvironment, num_envs: int, root: jax.Array, acts: int = 0) -> None:
        """`root` is the run's key; `acts` continues the random streams of a restored run."""
        self._actor = actor
        self._environment: Any = environment
        self._host = cast(HostEnvironment, environment) if hasattr(environment, "recv") else None
        self._root: jax.Array = programs.one_device_copy(root)
        self.acts = acts
        self._pending: list[EpisodeReport] = []
        self._action: jax.Array | None = None
        mesh = Mesh(np.array(jax.local_devices()[:1]), (parallel.AXIS,))
        by_env, everywhere = parallel.BY_ENVIRONMENT, parallel.REPLICATED
        self._by_env, self._everywhere = NamedSharding(mesh, by_env), NamedSharding(mesh, everywhere)
        index = jnp.arange(num_envs, dtype=jnp.int32)
        self.state = parallel.sharded(actor.init_state, mesh, by_env, by_env)(index)
        self.simulation = None
        inputs: tuple[Any, ...] = (everywhere, by_env, everywhere, by_env, everywhere, everywhere)
        if self._host is not None:
            self._act = parallel.sharded(self._act_host, mesh, inputs, (by_env, by_env, by_env), donate=(1,))
            self._host.reset()
        else:
            self._act = parallel.sharded(self._act_simulated, mesh, inputs, (by_env, by_env, by_env), donate=(1, 3))
            self.simulation = parallel.sharded(self._init_simulation, mesh, (everywhere, by_env), by_env)(self._root, index)

    def step(self, parameters: ActingParameters, statistics: NoveltyStatistics | None) -> list[Episode]:
        """One act in every environment; returns the episodes that it finds finished."""
        self.dispatch(parameters, statistics)
        return self.complete()

    def dispatch(self, parameters: ActingParameters, statistics: NoveltyStatistics | None) -> None:
        """Starts an act without waiting for it, so that updates can be queued behind it. Host environments need `complete` in between."""
        parameters, statistics = programs.one_device_copy((parameters, statistics))
        counter = jax.device_put(np.uint32(self.acts % 2**32), self._everywhere)
        self.acts += 1
        if self._host is not None:
            timestep = jax.device_put(self._host.recv(), self._by_env)
            self.state, self._action, report = self._act(parameters, self.state, statistics, timestep, self._root, counter)
        else:
            self.state, self.simulation, report = self._act(parameters, self.state, statistics, self.simulation, self._root, counter)
        self._pending.append(report)

    def complete(self) -> list[Episode]:
        """Waits for the acts that were started and lets the emulators run; returns the episodes that they find finished."""
        if self._host is not None and self._pending:
            self._host.send(jax.device_get(self._action))
        reports = [EpisodeReport(*jax.device_get(report)) for report in self._pending]
        self._pending.clear()
        return [
            Episode(
                environment=int(i),
                is_greedy=bool(report.is_greedy[i]),
                policy=int(report.policy[i]),
                episode_return=float(report.episode_return[i]),
                length=int(report.episode_length[i]),
                extras={name: float(values[i]) for name, values in report.extras.items()},
            )
            for report in reports
            for i in np.flatnonzero(report.finished)
        ]

    def state_to_save(self) -> Any:
        """All but the bandit, which is saved by itself; episodes of host environments start anew, with all that belongs to them."""
        if self._host is not None:
            return {"episodes_started": self.state.episodes_started}
        return {"actor": self.state._replace(bandit=None), "simulation": self.simulation}

    def load(self, bandit: BanditState | None, state: Any) -> None:
        """Continues from a bandit and a tree of the form of `state_to_save`."""
        if jax.process_count() > 1:
            bandit, state = programs.one_device_copy((bandit, state))
        if self._host is not None:
            self.state = self.state._replace(bandit=bandit, **state)
        else:
            self.state, self.simulation = state["actor"]._replace(bandit=bandit), state["simulation"]

    def close(self) -> None:
        """Ends the emulators."""
        if self._host is not None:
            self._host.close()

    def _act_host(
        self,
        parameters: ActingParameters,
        state: ActorState,
        statistics: NoveltyStatistics | None,
        timestep: TimeStep,
        root: jax.Array,
        counter: jax.Array,
    ) -> tuple[ActorState, jax.Array, EpisodeReport]:
        key = parallel.fold_counter(root, programs.EVALUATION_STREAM, counter)
        out = self._actor.act(parameters, state, statistics, self._actor.init_metrics(), timestep, key)
        return out.state, out.experience.action, out.report

    def _act_simulated(
        self,
        parameters: ActingParameters,
        state: ActorState,
        statistics: NoveltyStatistics | None,
        simulation: programs.Simulation,
        root: jax.Array,
        counter: jax.Array,
    ) -> tuple[ActorState, programs.Simulation, EpisodeReport]:
        state, action, report = self._act_host(parameters, state, statistics, simulation.timestep, root, counter)
        key = parallel.fold_counter(root, programs.EVALUATION_ENVIRONMENT_STREAM, counter)
        return state, programs.step_simulation(self._environment, simulation, key, action), report

    def _init_simulation(self, root: jax.Array, index: jax.Array) -> programs.Simulation:
        key = parallel.fold_counter(root, programs.INIT_STREAM, jnp.uint32(2))
        return programs.init_simulation(self._environment, key, index)


def greedy_only(actor: Actor, num_envs: int) -> Actor:
    """The evaluator's actor for `evaluate.py`: every episode plays the bandit's best arm."""
    return dataclasses.replace(
        actor, mode=dataclasses.replace(actor.mode, num_actors=num_envs, group_size=num_envs, bandit_episodes=0, greedy_episodes=1)
    )
