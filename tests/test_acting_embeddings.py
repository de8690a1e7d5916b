"""What actors embed with: one set of parameters from the first timestep of an episode to the last."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.learner import acting_parameters
from agent57_jax.agent.novelty import ActingEmbeddings, Novelty
from agent57_jax.config import NoveltySettings
from agent57_jax.environments import factory
from agent57_jax.training.evaluator import Evaluator
from agent57_jax.types import ActingParameters
from tests import tiny
from tests.oracles.acting_embeddings import Generations

GROUP_SIZE = 4
ROWS, ALL = parallel.BY_ENVIRONMENT, parallel.REPLICATED


class Named:
    """Parameters are a number, and so is every embedding by them."""

    def init(self, key: jax.Array) -> Any:
        del key
        return {"embedding": {"number": jnp.zeros(())}}

    def embed(self, parameters: Any, observation: jax.Array) -> jax.Array:
        return jnp.broadcast_to(parameters["number"], (observation.shape[0], 1))


class NoError:
    """A distillation that is always right."""

    def error(self, predictor: Any, target: Any, observation: jax.Array) -> jax.Array:
        del predictor, target
        return jnp.zeros(observation.shape[0])


SETTINGS = NoveltySettings(memory_capacity=64, embedding_size=1)
NOVELTY = Novelty(SETTINGS, Named(), NoError())  # type: ignore[arg-type]


@functools.cache
def program(num_devices: int) -> Any:
    """`Novelty.step` over so many devices."""

    def step(learnt: Any, state: Any, statistics: Any, embeddings: Any, is_first: jax.Array, group: jax.Array) -> tuple[Any, Any, Any]:
        parameters = ActingParameters(None, learnt, None, None)
        out = NOVELTY.step(
            parameters, state, statistics, jnp.zeros((is_first.shape[0], 1)), is_first, jnp.zeros_like(is_first), embeddings, group
        )
        return out.state, out.statistics, out.embeddings

    return parallel.sharded(step, parallel.make_mesh(num_devices), (ALL, ROWS, ALL, ALL, ROWS, ALL), (ROWS, ALL, ALL))


def embedded(num_devices: int, firsts: np.ndarray) -> np.ndarray:
    """What each actor embedded with, [T, G, E], where episodes begin at `firsts`; each act finds other parameters learnt, a number."""
    step, num_groups = program(num_devices), firsts.shape[1]
    states = [NOVELTY.init_state(GROUP_SIZE) for _ in range(num_groups)]
    statistics, embeddings = NOVELTY.init_statistics(), NOVELTY.init_embeddings(num_groups)
    found = np.zeros(firsts.shape)
    for t, g in np.ndindex(firsts.shape[:2]):
        learnt = {"number": jnp.float32(version(t, g, num_groups))}
        states[g], statistics, embeddings = jax.device_get(step(learnt, states[g], statistics, embeddings, firsts[t, g], np.int32(g)))
        memory = states[g].memory
        found[t, g] = memory.embeddings[np.arange(GROUP_SIZE), (memory.inserted - 1) % SETTINGS.memory_capacity, 0]
    return found


def version(t: int, g: int, num_groups: int) -> int:
    return 1 + t * num_groups + g


@pytest.mark.parametrize("seed", range(18))
def test_embeds_as_its_twin(seed: int) -> None:
    rng, num_groups, num_devices = np.random.default_rng(seed), 1 + seed % 3, (1, 2, 4)[seed // 3 % 3]
    firsts = rng.random((30, num_groups, GROUP_SIZE)) < (0.1, 0.5)[seed // 9]
    firsts[0] = True  # an environment begins with an episode
    found, twin = embedded(num_devices, firsts), Generations(num_groups, GROUP_SIZE)
    for t, g in np.ndindex(firsts.shape[:2]):
        assert found[t, g].tolist() == twin.act(g, float(version(t, g, num_groups)), firsts[t, g].tolist())


def test_an_actor_that_begins_anew_does_not_hold_up_the_others() -> None:
    """As after a resume, when emulators start with new episodes: what was counted before their first act is counted again."""
    saved = ActingEmbeddings({"number": jnp.float32(1)}, {"number": jnp.float32(2)}, jnp.int32(7), jnp.array([3, 4]))
    statistics, step = NOVELTY.init_statistics(), program(1)
    everyone = np.ones(GROUP_SIZE, bool)
    for group in range(2):
        _, statistics, saved = step(
            {"number": jnp.float32(3)}, NOVELTY.init_state(GROUP_SIZE), statistics, saved, everyone, np.int32(group)
        )
    assert saved.users_of_old.tolist() == [0, 0] and saved.number == 7
    state, _, saved = step({"number": jnp.float32(3)}, NOVELTY.init_state(GROUP_SIZE), statistics, saved, everyone, np.int32(0))
    assert (saved.number, saved.old["number"], saved.new["number"]) == (8, 2, 3)
    assert saved.users_of_old.tolist() == [0, GROUP_SIZE]
    assert np.all(state.memory.embeddings[:, 0] == 3)


def test_the_evaluator_has_generations_of_its_own() -> None:
    settings = config.finalise(tiny.coin_settings())
    environment = factory.make_jax_environment(settings.environment)
    parts, mesh = programs.build(settings, environment.spec), parallel.make_mesh(1)
    root = parallel.upload(mesh, ALL, np.asarray(jax.random.key_data(jax.random.key(0))))
    learner = parallel.sharded(lambda: parts.learner.init(jax.random.key(1)), mesh, (), ALL)()
    statistics = parallel.sharded(parts.actor.init_statistics, mesh, (), ALL)()
    evaluator = Evaluator(parts.evaluation_actor, environment, 2, root)
    used, numbers = [], []
    for _ in range(60):
        evaluator.step(acting_parameters(learner), statistics)
        state, embeddings = jax.device_get((evaluator.state, evaluator.embeddings))
        used.append(state.novelty.generation)
        numbers.append(int(embeddings.number))
    assert numbers[0] == 1 and numbers[-1] > 3
    starts = np.diff(used, axis=0) != 0
    assert starts.sum() > 4 and np.all(np.diff(np.flatnonzero(starts[:, 0])) > 1)  # not at every timestep
    assert np.all(np.array(numbers)[:, None] - used <= 1)
