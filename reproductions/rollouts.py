"""Episodes of a trained run in a grid world, timestep by timestep: observations, actions, embeddings, rewards and positions.

The agent plays as in `evaluate.py`: with the parameters and novelty statistics of the last checkpoint, which stay constant, and the
exploration of evaluation. The same folder, seed and number of environments give the same episodes here and there. Other policies can act
in its place. Emulators offer random actions only.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent57_jax import parallel
from agent57_jax.agent import programs
from agent57_jax.agent.actor import ActorState
from agent57_jax.agent.learner import LearnerState, evaluation_parameters
from agent57_jax.agent.novelty import NoveltyStatistics
from agent57_jax.algorithm.meta_controller import BanditState
from agent57_jax.config import EnvironmentKind, Settings, SettingsError
from agent57_jax.environments import factory
from agent57_jax.environments.disco_maze import MOVES, VISITED_FRACTION
from agent57_jax.training import evaluator, judging
from agent57_jax.training.judging import Restored, root_key
from agent57_jax.types import FIRST, LAST, ActingParameters, Array, JaxEnvironment

GRID_WORLDS = (EnvironmentKind.RANDOM_COIN, EnvironmentKind.DISCO_MAZE)
BLOCK_STEPS = 64

# (key, state of one environment) -> its action
Policy = Callable[[jax.Array, Any], jax.Array]


class Timesteps(NamedTuple):
    """Consecutive timesteps of E environments, as NumPy arrays."""

    observation: Array  # [E, T, *observation_shape]
    action: Array  # [E, T] int32, chosen at the observation; ignored at LAST
    step_type: Array  # [E, T] int32
    discount: Array  # [E, T] float32, 0 where the environment terminated
    intrinsic_reward: Array | None  # [E, T] float32; None for an agent without
    embedding: Array | None  # [E, T, D] float32, f(x); None without episodic novelty
    position: Array  # [E, T, 2] int32, row and column of the agent
    is_first_visit: Array  # [E, T] bool, the agent enters its cell for the first time in the episode
    extras: dict[str, Array]  # [E, T] float32 each, further numbers of the environment


class Emulated(NamedTuple):
    """Consecutive timesteps of E environments that step outside JAX."""

    observation: np.ndarray  # [E, T, *observation_shape]
    action: np.ndarray  # [E, T] int32, chosen at the observation; ignored at LAST
    step_type: np.ndarray  # [E, T] int32


class _Carry(NamedTuple):
    """Between two acts."""

    actor: ActorState
    simulation: programs.Simulation
    visited: jax.Array  # [E, rows, columns] bool, cells visited in this episode


def restore(folder: str | os.PathLike[str]) -> Restored:
    """The last checkpoint of a run in a grid world.

    Raises:
      SettingsError: without such a run or a checkpoint; CheckpointError: if it cannot be read.
    """

    def make_environment(settings: Settings) -> JaxEnvironment:
        kind = settings.environment.kind
        if kind not in GRID_WORLDS:
            raise SettingsError(f"{folder} holds a run of {kind.value}, which is not a grid world")
        return factory.make_jax_environment(settings.environment)

    return judging.restore(folder, make_environment)


def play(run: Restored, num_envs: int, seed: int, policy: Policy | None = None, block_steps: int = BLOCK_STEPS) -> Iterator[Timesteps]:
    """Plays without end, in blocks of `block_steps` timesteps, the first of which begins with FIRST everywhere.

    Args:
      policy: chooses the actions instead of the agent, which still embeds observations and is rewarded.
    """
    mesh = parallel.make_mesh(1)
    actor = evaluator.greedy_only(run.parts.evaluation_actor, num_envs)
    embedding_network = None if actor.novelty is None else actor.novelty.embedding
    everywhere, by_env = parallel.REPLICATED, parallel.BY_ENVIRONMENT

    def begin(root: jax.Array, index: jax.Array, bandit: BanditState) -> _Carry:
        simulation = programs.init_simulation(run.environment, parallel.fold_counter(root, programs.INIT_STREAM, jnp.uint32(2)), index)
        rows, columns = run.parts.spec.observation_shape[:2]
        return _Carry(actor.init_state(index)._replace(bandit=bandit), simulation, jnp.zeros((num_envs, rows, columns), bool))

    def block(
        parameters: ActingParameters, statistics: NoveltyStatistics | None, carry: _Carry, root: jax.Array, counter: jax.Array
    ) -> tuple[_Carry, Timesteps]:
        def once(carry: _Carry, act: jax.Array) -> tuple[_Carry, Timesteps]:
            number = counter + act
            state, timestep = carry.simulation.state, carry.simulation.timestep
            key = parallel.fold_counter(root, programs.EVALUATION_STREAM, number)
            out = actor.act(parameters, carry.actor, statistics, actor.init_metrics(), timestep, key)
            action = out.experience.action
            if policy is not None:
                key = parallel.fold_counter(root, programs.ACT_STREAM, number)
                action = jax.vmap(policy)(jax.vmap(lambda index: jax.random.fold_in(key, index))(carry.actor.actor), state)
            cells = jax.vmap(lambda visited, cell: jnp.zeros_like(visited).at[cell[0], cell[1]].set(True))(carry.visited, state.agent)
            before = carry.visited & (timestep.step_type != FIRST)[:, None, None]
            embedding = None if embedding_network is None else embedding_network.embed(parameters.embedding, timestep.observation)
            key = parallel.fold_counter(root, programs.EVALUATION_ENVIRONMENT_STREAM, number)
            simulation = programs.step_simulation(run.environment, carry.simulation, key, action)
            return _Carry(out.state, simulation, before | cells), Timesteps(
                observation=timestep.observation,
                action=action,
                step_type=timestep.step_type,
                discount=timestep.discount,
                intrinsic_reward=out.experience.intrinsic_reward,
                embedding=embedding,
                position=state.agent,
                is_first_visit=~jnp.any(before & cells, axis=(1, 2)),
                extras=timestep.extras,
            )

        carry, timesteps = jax.lax.scan(once, carry, jnp.arange(block_steps, dtype=jnp.uint32))
        return carry, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), timesteps)

    run_block = parallel.sharded(block, mesh, (everywhere, everywhere, by_env, everywhere, everywhere), (by_env, by_env), donate=(2,))
    root = parallel.upload(mesh, everywhere, root_key(seed))
    index = jnp.arange(num_envs, dtype=jnp.int32)
    carry = parallel.sharded(begin, mesh, (everywhere, by_env, by_env), by_env)(root, index, run.bandit)
    parameters = evaluation_parameters(run.learner)
    number = 0
    while True:
        carry, timesteps = run_block(parameters, run.statistics, carry, root, np.uint32(number))
        number += block_steps
        yield Timesteps(*jax.device_get(timesteps))


def at_random(key: jax.Array, state: Any) -> jax.Array:
    """Every action with the same probability."""
    del state
    return jax.random.randint(key, (), 0, len(MOVES), jnp.int32)


def along_corridors(key: jax.Array, state: Any) -> jax.Array:
    """In the disco maze: every action that does not hit a wall with the same probability."""
    target = state.agent[None] + jnp.asarray(MOVES)  # [A, 2]
    is_free = state.corridor[target[:, 0], target[:, 1]]
    return jax.random.categorical(key, jnp.where(is_free, 0.0, -jnp.inf)).astype(jnp.int32)


def emulate_at_random(folder: str | os.PathLike[str], num_envs: int, timesteps: int, seed: int) -> tuple[Restored, Emulated]:
    """The run of a folder, and timesteps of emulators of its task with uniformly random actions.

    Raises:
      SettingsError: without a checkpoint; CheckpointError: if it cannot be read.
    """
    run = judging.restore(folder, lambda settings: factory.make_host_environment(settings.environment, num_envs, seed, "judging"))
    environment = run.environment
    generator = np.random.default_rng(seed)
    actions = generator.integers(0, environment.spec.num_actions, (timesteps, num_envs), np.int32)
    environment.reset()
    seen = []
    for action in actions:
        seen.append(environment.recv())
        environment.send(action)
    environment.recv()
    environment.close()
    observation, step_type = (np.stack([getattr(timestep, name) for timestep in seen], axis=1) for name in ("observation", "step_type"))
    return run, Emulated(observation, actions.T, step_type)


def initial_learner(run: Restored) -> LearnerState:
    """The learner as the run began."""

    def init(root: jax.Array) -> LearnerState:
        return run.parts.learner.init(parallel.fold_counter(root, programs.INIT_STREAM, jnp.uint32(0)))

    learner: LearnerState = jax.jit(init)(root_key(run.settings.seed))
    return learner


def embed(run: Restored, parameters: Any, observation: np.ndarray) -> np.ndarray:
    """f(x) under any acting parameters of the run's embedding: [E, T, *observation_shape] -> [E, T, D]."""
    network = run.parts.learner.embedding
    assert network is not None
    one_timestep = jax.jit(network.embed)
    return np.stack([np.asarray(one_timestep(parameters, observation[:, t])) for t in range(observation.shape[1])], axis=1)


def guess_actions(run: Restored, learner: LearnerState, observation: np.ndarray) -> np.ndarray:
    """Inverse dynamics' most probable action of each transition: [E, T, *observation_shape] -> [E, T - 1] int."""
    network = run.parts.learner.embedding
    assert network is not None
    guess = jax.jit(lambda parameters, pair: jnp.argmax(network.action_logits(parameters, pair)[:, 0], axis=-1))
    pairs = (observation[:, t : t + 2] for t in range(observation.shape[1] - 1))
    return np.stack([np.asarray(guess(learner.parameters.embedding, pair)) for pair in pairs], axis=1)


def visits(folder: str | os.PathLike[str], episodes: int, seed: int) -> dict[str, Any]:
    """Intrinsic rewards of a run in the disco maze on first and on repeated visits of a cell within an episode.

    The start of an episode does not count, because there is no memory to compare with, nor does walking into a wall. Every environment
    plays a fixed number of episodes, so that short episodes are not preferred over long ones.

    Returns:
      "first", "repeated": mean r^i over timesteps of the kind, None where there was none.
      "visited_fraction": mean over episodes of the share of corridor cells that an episode visits.

    Raises:
      SettingsError: without a checkpoint of a maze, or without an intrinsic reward; CheckpointError: if it cannot be read.
    """
    run = restore(folder)
    if run.settings.environment.kind is not EnvironmentKind.DISCO_MAZE or run.statistics is None:
        raise SettingsError(f"{folder} must hold a run in the disco maze with an intrinsic reward")
    quota = judging.quotas(episodes)
    ended = np.zeros(len(quota), int)
    rewards: dict[str, list[np.ndarray]] = {"first": [], "repeated": []}
    fractions: list[float] = []
    for block in play(run, len(quota), seed):
        assert block.intrinsic_reward is not None
        is_last = block.step_type == LAST
        before = ended[:, None] + np.cumsum(is_last, axis=1) - is_last  # [E, T] episodes that have ended before the timestep
        counted = before < quota[:, None]
        moved = counted & (block.step_type != FIRST) & ~(is_last & (block.discount == 0))  # the rest hit a wall
        rewards["first"].append(block.intrinsic_reward[moved & block.is_first_visit])
        rewards["repeated"].append(block.intrinsic_reward[moved & ~block.is_first_visit])
        fractions += block.extras[VISITED_FRACTION][counted & is_last].tolist()
        ended += np.sum(is_last, axis=1)
        if np.all(ended >= quota):
            break
    every = {kind: np.concatenate(parts).astype(np.float64) for kind, parts in rewards.items()}
    return {kind: float(each.mean()) if each.size else None for kind, each in every.items()} | {
        "visited_fraction": float(np.mean(fractions))
    }
