"""What an agent lacks costs nothing: no parameter, no state, no statistic, no metric, no byte of the replay and no convolution of it."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.learner import LearnerState, acting_parameters
from agent57_jax.config import Embedding, IntrinsicReward, Settings
from agent57_jax.environments import factory
from agent57_jax.monitoring.metrics import is_declared
from agent57_jax.networks import convolutions
from agent57_jax.training import memory
from agent57_jax.types import EnvironmentSpec, TimeStep
from configs import profiles
from tests import tiny

SPEC = EnvironmentSpec((5, 5, 3), np.dtype("uint8"), 4, ("a", "b", "c", "d"), 1)
ATARI = EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, tuple(str(action) for action in range(18)), 4)
NUM_LAYERS = 2  # convolutions of a torso
AGENTS = {**profiles.AGENTS, **tiny.ABLATIONS}


def make_settings(agent: str) -> Settings:
    settings = tiny.coin_settings()
    settings.network.conv_features, settings.network.conv_kernels, settings.network.conv_strides = (4, 3), (3, 2), (1, 1)
    AGENTS[agent](settings)
    return config.finalise(settings)


class Shapes(NamedTuple):
    """Everything that a run of an agent holds, as shapes."""

    parts: programs.Parts
    learner: LearnerState
    actor: Any
    shared: programs.Shared
    replay: Any


@functools.cache
def shapes(agent: str) -> Shapes:
    settings = make_settings(agent)
    parts = programs.build(settings, SPEC)
    store = memory.make_replay(parts, 800)
    return Shapes(
        parts,
        jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32)),
        jax.eval_shape(parts.actor.init_state, jax.ShapeDtypeStruct((settings.envs_per_group,), np.int32)),
        jax.eval_shape(lambda: programs.init_shared(parts)),
        jax.eval_shape(lambda: store.init(parts.actor.q_network.initial_state(1))),
    )


@functools.cache
def measured(agent: str) -> set[str]:
    """Keys of what is measured of an update."""
    parts = shapes(agent).parts
    made = programs.Programs(parts, parallel.make_mesh(1), memory.make_replay(parts, 800), None)
    return set(jax.eval_shape(made.init_update_metrics).total)


def names(tree: Any) -> set[str]:
    """The path of every leaf."""
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def matching(agent: str, *words: str) -> set[str]:
    """Leaves of an agent's states, of the learner's to the replay's, that have one of the words in their path."""
    return {name for tree in shapes(agent)[1:] for name in names(tree) if any(word in name for word in words)}


# States -----------------------------------------------------------------------------------------------------------------------------


NOVELTY = "novelty", "intrinsic", "embedding", "predictor", "random_target", "distillation", "episodic", "memory", "alpha"


@pytest.mark.parametrize(
    ("agent", "absent"),
    [
        ("r2d2", (*NOVELTY, "bandit")),
        ("r2d2_retrace", (*NOVELTY, "bandit")),
        ("r2d2_bandit", NOVELTY),
        ("ngu", ("bandit",)),
        ("ngu_separate", ("bandit",)),
        ("distillation alone", ("embedding", "memory", "squared_distance", "episodic")),
    ],
)
def test_an_agent_holds_and_measures_nothing_of_what_it_lacks(agent: str, absent: tuple[str, ...]) -> None:
    assert not matching(agent, *absent)
    assert not [name for name in measured(agent) if any(word in name for word in absent)]
    for word in absent:
        assert matching("agent57", word), f"the word for it is no longer {word}"


@pytest.mark.parametrize("agent", ["r2d2", "r2d2_retrace", "r2d2_bandit"])
def test_an_agent_without_intrinsic_reward_has_one_network_with_one_input_less(agent: str) -> None:
    found, whole = shapes(agent), shapes("agent57")
    assert acting_parameters(found.learner)[1:] == (None, None, None, None)
    kernels = [one.learner.parameters.q["encoder"]["Dense_1"]["kernel"].shape for one in (whole, found)]
    assert kernels[0][1] - kernels[1][1] == 1 + whole.parts.actor.num_policies - found.parts.actor.num_policies
    for one, number in ((whole, 2), (found, 1)):
        networks = one.learner.parameters.q, one.learner.target_q, one.learner.optimiser.q
        assert {leaf.shape[0] for leaf in jax.tree.leaves(networks)} == {number}
        assert one.replay.recurrent_state.hidden.shape[3] == one.actor.recurrent.hidden.shape[1] == number
        assert one.shared.metrics.action_value.shape == (number,)


def test_a_random_embedding_has_no_optimiser_and_no_inverse_dynamics() -> None:
    found, learnt = shapes("random embedding"), shapes("agent57")
    assert found.learner.parameters.embedding is None
    assert names(found.learner.acting_embedding) == names(learnt.learner.acting_embedding)
    embedding = matching("random embedding", "embedding")
    assert all(name.startswith(("acting_embedding", "novelty/memory")) for name in embedding)
    assert matching("agent57", "embeddings/old") and matching("agent57", "embeddings/new")
    assert "novelty/inverse_accuracy" not in measured("random embedding")
    assert found.actor.novelty.memory == learnt.actor.novelty.memory and found.shared.statistics == learnt.shared.statistics
    assert found.actor.novelty.generation is None and found.shared.embeddings is None


def test_meme_has_one_network_with_last_layers_for_each_policy() -> None:
    found, whole = shapes("meme"), shapes("agent57")
    q, N, A = found.learner.parameters.q, found.parts.actor.num_policies, SPEC.num_actions
    assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(q))
    assert q["heads"]["Dense_0"]["bias"].shape == (1, 2, N) and q["heads"]["Dense_2"]["bias"].shape == (1, 2, N * A)
    assert q["policy"]["Dense_0"]["bias"].shape == (1, N * A)
    # j is no input: the LSTM sees N numbers less.
    inputs = [one.learner.parameters.q["encoder"]["Dense_1"]["kernel"].shape[1] for one in (whole, found)]
    assert inputs[0] - inputs[1] == N
    assert found.replay.recurrent_state.hidden.shape[3] == 1 and whole.replay.recurrent_state.hidden.shape[3] == 2
    assert found.learner.error_variance.shape == (1, N)  # of the one loss
    assert not matching("agent57", "policy/Dense") and "loss/policy" not in measured("agent57")


def test_an_intrinsic_reward_is_four_bytes_of_a_timestep_and_nothing_else_of_the_replay() -> None:
    with_reward, without = shapes("ngu"), shapes("r2d2_bandit")
    assert with_reward.parts.settings.replay == without.parts.settings.replay
    assert memory.tree_bytes(with_reward.replay) - memory.tree_bytes(without.replay) == 4 * 800
    assert names(with_reward.replay) - names(without.replay) == {"experience/intrinsic_reward"}


@pytest.mark.parametrize(("agent", "limit"), [("agent57", 5_000_000), ("r2d2_retrace", 5_000_000), ("r2d2", 4_000_000)])
def test_a_replay_that_sizes_itself_takes_what_the_agents_paper_has(agent: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.parallel, "host_memory_available_bytes", lambda: 10**12)
    settings = Settings()
    AGENTS[agent](settings)
    parts = programs.build(config.finalise(settings), ATARI)
    unit = 256 * settings.replay.period
    assert memory.plan(parts, 1)[0] == limit // unit * unit


# Programs ---------------------------------------------------------------------------------------------------------------------------


@functools.cache
def lowered(agent: str) -> tuple[str, str]:
    """Act and update as they go to a GPU's compiler, with convolutions as such."""
    found = shapes(agent)
    made = programs.Programs(found.parts, parallel.make_mesh(1), memory.make_replay(found.parts, 800), None)
    num_envs = found.parts.settings.envs_per_group

    def row(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_envs, *shape), dtype)

    numbers = row(np.float32), row(np.float32), row(np.int32), row(np.float32), row(np.int32)
    timestep = TimeStep(row(np.uint8, *SPEC.observation_shape), *numbers, extras={})
    root, counter, group = jax.ShapeDtypeStruct((2,), np.uint32), jax.ShapeDtypeStruct((), np.uint32), jax.ShapeDtypeStruct((), np.int32)
    acting = acting_parameters(found.learner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "uses_patches", lambda: False)
        act = made.act.lower(acting, found.actor, found.shared, found.replay, timestep, root, counter, group)
        update = made.update.lower(found.learner, found.replay, jax.eval_shape(made.init_update_metrics), root, counter, group)
    return act.as_text(), update.as_text()


@pytest.mark.parametrize("agent", AGENTS)
def test_convolutions_are_those_of_the_networks_that_an_agent_has(agent: str) -> None:
    """Forward once a layer; backward once for its kernel and, but for the first layer, once for its input.

    The first layers of all Q-networks that are trained are one convolution, and so are those of the targets.
    """
    settings = shapes(agent).parts.settings
    forward, backward = NUM_LAYERS, 2 * NUM_LAYERS - 1
    further = settings.num_networks * (NUM_LAYERS - 1)
    has_episodic, has_lifelong = settings.novelty.reward is IntrinsicReward.NGU, settings.novelty.reward is not IntrinsicReward.NONE
    is_learnt = settings.novelty.embedding is Embedding.LEARNT
    act = 1 + further + has_episodic * (1 + is_learnt) * forward + 2 * has_lifelong * forward  # a learnt embedding of two generations
    update = 2 * (1 + further) + 1 + 2 * further  # online and target, back through the online ones
    update += 2 * (1 + further) * (settings.replay.burn_in > 0)  # and both through the burn-in, where nothing comes back
    update += (forward + backward) * (has_episodic and is_learnt)
    update += (2 * forward + backward) * has_lifelong
    found = [text.count("stablehlo.convolution") for text in lowered(agent)]
    assert found == [act, update] == {"r2d2": [2, 11], "agent57": [11, 23]}.get(agent, found)


# Metrics ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_every_metric_of_every_agents_learner_is_declared(agent: str) -> None:
    assert {"loss/combined" if agent == "meme" else "loss/extrinsic", "replay/age", "replay/priority_sum"} <= measured(agent)
    assert [name for name in measured(agent) if not is_declared(name)] == []


@pytest.mark.parametrize("kind", [kind for kind in config.EnvironmentKind if kind is not config.EnvironmentKind.ENVPOOL])
def test_what_an_environment_reports_of_its_episodes_is_declared(kind: config.EnvironmentKind) -> None:
    settings = config.EnvironmentSettings(kind=kind, grid_size=21, max_episode_steps=50)
    environment = factory.make_jax_environment(settings)
    timestep = jax.eval_shape(environment.init, jax.random.key(0))[1]
    assert tuple(timestep.extras) == environment.spec.extras
    assert all((value.shape, value.dtype) == ((), np.float32) for value in timestep.extras.values())
    for name in environment.spec.extras:
        assert is_declared(f"episode/{name}") and is_declared(f"evaluation/{name}")
