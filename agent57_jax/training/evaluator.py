"""The evaluator: plays with the learner's parameters for the score (Agent57 §4, App. D).

It runs on one device of any mesh, so that its bandit does not depend on the number of devices. During training its acts are interleaved
with those of the actors; `evaluate.py` runs it alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from agent57_jax import parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import Actor, ActorState, ChosenValues, EpisodeReport
from agent57_jax.agent.novelty import ActingEmbeddings, NoveltyStatistics
from agent57_jax.algorithm.meta_controller import BanditState, PooledArms
from agent57_jax.monitoring.pictures import Moment, screen_of
from agent57_jax.monitoring.video import Spectator
from agent57_jax.types import FIRST, LAST, ActingParameters, HostEnvironment, JaxEnvironment, TimeStep


class Episode(NamedTuple):
    """One finished episode of the evaluator."""

    environment: int
    is_greedy: bool  # played the best arm, for the score
    policy: int
    episode_return: float  # undiscounted, raw rewards
    length: int  # agent steps
    extras: dict[str, float]  # further numbers from the environment


class Glimpse(NamedTuple):
    """Environment 0 at a timestep, on the device, for a spectator."""

    observation: jax.Array | None  # [1, ...]; None for host environments, which draw their own picture
    step_type: jax.Array  # [1]
    action: jax.Array  # [1]
    intrinsic_reward: jax.Array | None  # [1]
    chosen: ChosenValues  # [1, ...]
    report: EpisodeReport  # [1]


class Evaluator:
    """A small fleet of actors that stores nothing and updates only its own bandit."""

    state: ActorState
    embeddings: ActingEmbeddings | None  # for its episodes
    simulation: programs.Simulation | None

    def __init__(
        self,
        actor: Actor,
        environment: HostEnvironment | JaxEnvironment,
        num_envs: int,
        root: jax.Array,
        acts: int = 0,
        spectator: Spectator | None = None,
    ) -> None:
        """`root`: the run's key; `acts`: of a resumed run, to continue its random streams; `spectator` sees environment 0."""
        self._actor = actor
        self._environment: Any = environment
        self._host = cast(HostEnvironment, environment) if hasattr(environment, "recv") else None
        self._root: jax.Array = programs.one_device_copy(root)
        self.acts = acts
        self._spectator = spectator
        self._pending: list[tuple[EpisodeReport, Glimpse | None, np.ndarray | None]] = []  # with screens
        self._action: jax.Array | None = None
        mesh = Mesh(np.array(jax.local_devices()[:1]), (parallel.AXIS,))
        by_env, everywhere = parallel.BY_ENVIRONMENT, parallel.REPLICATED
        self._by_env, self._everywhere = NamedSharding(mesh, by_env), NamedSharding(mesh, everywhere)
        index = jnp.arange(num_envs, dtype=jnp.int32)
        self.state = parallel.sharded(actor.init_state, mesh, by_env, by_env)(index)
        self.embeddings = parallel.sharded(lambda: actor.init_embeddings(1), mesh, (), everywhere)()
        self.simulation = None
        inputs: tuple[Any, ...] = (everywhere, by_env, everywhere, everywhere, everywhere, by_env, everywhere, everywhere)
        donate = (1, 2) if self._host is not None else (1, 2, 5)
        self._act = parallel.sharded(self._act_step, mesh, inputs, (by_env, everywhere, by_env, by_env, by_env), donate)
        if self._host is not None:
            self._host.reset()
        else:
            self.simulation = parallel.sharded(self._init_simulation, mesh, (everywhere, by_env), by_env)(self._root, index)

    def step(self, parameters: ActingParameters, statistics: NoveltyStatistics | None, pooled: PooledArms | None = None) -> list[Episode]:
        """One act in every environment; returns the episodes that end."""
        self.dispatch(parameters, statistics, pooled)
        return self.complete()

    def dispatch(self, parameters: ActingParameters, statistics: NoveltyStatistics | None, pooled: PooledArms | None = None) -> None:
        """Starts an act without waiting, so that updates can be queued behind it. With host environments `complete` must follow.

        Greedy episodes play the best arm of `pooled`, the actors' bandits, or of the evaluator's own bandit if that is None.
        """
        parameters, statistics, pooled = programs.one_device_copy((parameters, statistics, pooled))
        counter = jax.device_put(np.uint32(self.acts % 2**32), self._everywhere)
        self.acts += 1
        screen, source = None, self.simulation
        if self._host is not None:
            received = self._host.recv()
            screen = self._look(lambda: received.observation[0], received.step_type[0] == FIRST)
            source = jax.device_put(received, self._by_env)
        self.state, self.embeddings, result, report, glimpse = self._act(
            parameters, self.state, self.embeddings, statistics, pooled, source, self._root, counter
        )
        if self._host is not None:
            self._action = result
        else:
            self.simulation = result
        self._pending.append((report, glimpse, screen))

    def complete(self) -> list[Episode]:
        """Waits for the started acts and lets the emulators step; returns the episodes that end."""
        if self._host is not None and self._pending:
            self._host.send(jax.device_get(self._action))
        reports = [jax.device_get(report) for report, _, _ in self._pending]
        if self._spectator is not None:
            for _, glimpse, screen in self._pending:
                self._show(self._spectator, glimpse, screen)
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
        """Everything except the bandit, which is a separate item; episodes of host environments restart."""
        if self._host is not None:
            return {"episodes_started": self.state.episodes_started}
        return {"actor": self.state._replace(bandit=None), "embeddings": self.embeddings, "simulation": self.simulation}

    def load(self, bandit: BanditState | None, state: Any) -> None:
        """Continues from a bandit and a result of `state_to_save`."""
        if jax.process_count() > 1:
            bandit, state = programs.one_device_copy((bandit, state))
        if self._host is not None:
            self.state = self.state._replace(bandit=bandit, **state)
        else:
            self.state, self.simulation = state["actor"]._replace(bandit=bandit), state["simulation"]
            self.embeddings = state["embeddings"]

    def close(self) -> None:
        """Closes host environments."""
        if self._host is not None:
            self._host.close()

    def _look(self, observation: Callable[[], np.ndarray], starts: bool) -> np.ndarray | None:
        """The screen of environment 0, if the spectator wants it."""
        if self._spectator is None or not self._spectator.wants(bool(starts)):
            return None
        try:
            return screen_of(self._environment, observation())
        except Exception as error:  # renderers are arbitrary code, and must not end a run
            self._spectator.give_up(f"{type(error).__name__}: {error}")
            return None

    def _show(self, spectator: Spectator, glimpse: Any, screen: np.ndarray | None) -> None:
        if self._host is None:
            # The observation is on the device, and is fetched only when wanted.
            starts = jax.device_get(glimpse.step_type)[0] == FIRST
            screen = self._look(lambda: jax.device_get(glimpse.observation)[0], starts)
        if screen is None:
            return
        step_type, action, intrinsic_reward, chosen, report = jax.device_get(glimpse[1:])
        family, spec = self._actor.family, self._actor.q_network.spec
        policy = int(report.policy[0])
        spectator.see(
            Moment(
                screen=screen,
                starts=bool(step_type[0] == FIRST),
                ends=bool(step_type[0] == LAST),
                score=float(report.episode_return[0]),
                step=int(report.episode_length[0]),
                policy=policy,
                num_policies=len(family.betas),
                beta=float(family.betas[policy]),
                gamma=float(family.gammas[policy]),
                is_greedy=bool(report.is_greedy[0]),
                intrinsic_reward=None if intrinsic_reward is None else float(intrinsic_reward[0]),
                values=tuple(float(value) for value in chosen.separate[0]),
                combined=float(chosen.combined[0]),
                action=spec.action_names[int(action[0])],
                steps_per_second=spec.steps_per_second,
            )
        )

    def _act_step(
        self,
        parameters: ActingParameters,
        state: ActorState,
        embeddings: ActingEmbeddings | None,
        statistics: NoveltyStatistics | None,
        pooled: PooledArms | None,
        source: TimeStep | programs.Simulation,
        root: jax.Array,
        counter: jax.Array,
    ) -> tuple[ActorState, ActingEmbeddings | None, jax.Array | programs.Simulation, EpisodeReport, Glimpse | None]:
        """One act, and the step of a simulation. Returns the actions of host environments or the simulation third."""
        key = parallel.fold_counter(root, programs.EVALUATION_STREAM, counter)
        timestep = source if isinstance(source, TimeStep) else source.timestep
        out = self._actor.act(parameters, state, statistics, self._actor.init_metrics(), timestep, key, embeddings, pooled=pooled)
        glimpse, experience = None, out.experience
        if self._spectator is not None:
            observation = experience.observation if self._host is None else None
            seen = Glimpse(observation, experience.step_type, experience.action, experience.intrinsic_reward, out.chosen, out.report)
            glimpse = jax.tree.map(lambda leaf: leaf[:1], seen)
        result: jax.Array | programs.Simulation = experience.action
        if isinstance(source, programs.Simulation):
            key = parallel.fold_counter(root, programs.EVALUATION_ENVIRONMENT_STREAM, counter)
            result = programs.step_simulation(self._environment, source, key, experience.action)
        return out.state, out.embeddings, result, out.report, glimpse

    def _init_simulation(self, root: jax.Array, index: jax.Array) -> programs.Simulation:
        key = parallel.fold_counter(root, programs.INIT_STREAM, jnp.uint32(2))
        return programs.init_simulation(self._environment, key, index)


def greedy_only(actor: Actor, num_envs: int) -> Actor:
    """The evaluator's actor for `evaluate.py`: every episode plays the best arm."""
    return dataclasses.replace(
        actor, mode=dataclasses.replace(actor.mode, num_actors=num_envs, group_size=num_envs, bandit_episodes=0, greedy_episodes=1)
    )
