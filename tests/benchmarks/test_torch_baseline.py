"""The PyTorch baseline computes what the agent computes, from the same parameters, also in a process of its own."""

import functools
import types
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from agent57_jax import config, parallel
from agent57_jax.agent import programs
from agent57_jax.agent.learner import LearnerState, UpdateOutput
from agent57_jax.agent.novelty import NoveltyOutput
from agent57_jax.algorithm import policy_family
from agent57_jax.config import Settings
from agent57_jax.networks.q_network import QInputs
from agent57_jax.types import FIRST, LAST, MID, ActingParameters, Batch, EnvironmentSpec, Experience, RecurrentState, SequenceId
from benchmarks.baseline_process import Baseline, BaselineError
from tests import tiny

torch = pytest.importorskip("torch")

from benchmarks.baselines import torch_actor, torch_learner, torch_networks  # noqa: E402  # needs torch

ALL, ROWS = parallel.REPLICATED, parallel.BY_ENVIRONMENT
E = 3
# No two axes alike, so that a swapped pair shows; a memory smaller than the script of the actor's test.
SIZES = types.SimpleNamespace(
    conv_features=(4, 3),
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    num_policies=12,
    torso_size=10,
    lstm_size=6,
    head_size=7,
    embedding_size=4,
    inverse_hidden_size=8,
    distillation_size=9,
    num_neighbours=3,
    memory_capacity=6,
    batch_size=4,
    trace=7,
    train_timesteps=2,
)
# Of the size of the gradients, so that a step shows each of them.
VISIBLE = {"learning_rate": 0.01, "novelty_learning_rate": 0.03, "adam_epsilon": 0.1, "max_gradient_norm": 5.0, "embedding_l2": 0.01}
SPEC = EnvironmentSpec((14, 12, 2), np.dtype("uint8"), 5, tuple("abcde"), 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def parts() -> programs.Parts:
    settings = Settings()
    for section in (settings.network, settings.policy, settings.novelty, settings.replay, settings.learner):
        for name in type(section).__annotations__.keys() & SIZES.__dict__.keys():
            setattr(section, name, getattr(SIZES, name))
    fleet = {"environment.num_envs": E, "environment.num_groups": 1, "replay.period": 3, "replay.min_sequences": E}
    return programs.build(tiny.finalised(settings, fleet | {f"learner.{name}": value for name, value in VISIBLE.items()}), SPEC)


@functools.cache
def random_state() -> LearnerState:
    """Random parameters everywhere (initial biases are 0), empty optimisers."""
    state = jax.eval_shape(parts().learner.init, jax.random.key(0))
    empty, updates = tiny.zeros_like((state.optimiser, state.updates))
    parameters, target, fixed = tiny.random_like((state.parameters, state.target_q, state.random_target), np.random.default_rng(0), 0.3)
    for q in (parameters.q, target):
        for layer in ("Dense_0", "Dense_2"):  # values of several units of return, where the transform bends
            q["heads"][layer]["kernel"] *= np.float32(5)
    return LearnerState(parameters, empty, target, fixed, parameters.embedding["embedding"], None, None, updates)


def one_device(function: Any, in_specs: Any, out_specs: Any, *arguments: Any) -> Any:
    """`function`, compiled for arguments like these on one device; its results are NumPy's."""
    program = parallel.sharded(function, Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,)), in_specs, out_specs)
    # So small, it is compiled for longer than it runs.
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    compiled = program.lower(*arguments).compile(compiler_options=options)
    return lambda *arguments: jax.device_get(compiled(*arguments))


# Conversion of parameters -----------------------------------------------------------------------------------------------------------


def linear(prefix: str, tree: Any) -> dict[str, Any]:
    return {f"{prefix}.weight": np.asarray(tree["kernel"]).T, f"{prefix}.bias": tree["bias"]}


def torso(prefix: str, tree: Any) -> dict[str, Any]:
    found = {}
    for i in range(len(tree)):
        layer = tree[f"Conv_{i}"]
        found |= {f"{prefix}.{2 * i}.weight": np.asarray(layer["kernel"]).transpose(3, 2, 0, 1), f"{prefix}.{2 * i}.bias": layer["bias"]}
    return found


def behind_torso(prefix: str, tree: Any) -> dict[str, Any]:
    """A dense layer over features that are flat as height, width, channels there and as channels, height, width here."""
    channels, height, width = 3, 4, 3
    kernel = np.asarray(tree["kernel"]).reshape(height, width, channels, -1).transpose(2, 0, 1, 3)
    return linear(prefix, {"kernel": kernel.reshape(height * width * channels, -1), "bias": tree["bias"]})


def q_parameters(tree: Any, v: int) -> dict[str, Any]:
    tree = jax.tree.map(lambda leaf: np.array(leaf[v]), tree)
    encoder, heads = tree["encoder"], tree["heads"]
    found = features_parameters(encoder, "encoder.") | linear("lstm.input", encoder["Dense_1"])
    found["lstm.input.bias"][SIZES.lstm_size : 2 * SIZES.lstm_size] += 1  # a constant there, part of the bias here
    found["lstm.recurrent.weight"] = tree["recurrent"].T
    # Flax numbers a layer before those in its argument.
    for name, last, first in (("value", "Dense_0", "Dense_1"), ("advantage", "Dense_2", "Dense_3")):
        found |= linear(f"{name}.0", heads[first]) | linear(f"{name}.2", heads[last])
    return found


def embedding_parameters(tree: Any) -> dict[str, Any]:
    embedding, inverse = tree["embedding"], tree["inverse"]
    return features_parameters(embedding, "encoder.") | linear("inverse.0", inverse["Dense_0"]) | linear("inverse.2", inverse["Dense_1"])


def features_parameters(tree: Any, prefix: str = "") -> dict[str, Any]:
    return torso(f"{prefix}0", tree["Convolutions_0"]) | behind_torso(f"{prefix}1", tree["Dense_0"])


def load(module: Any, values: dict[str, Any]) -> None:
    module.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in values.items()})


def load_novelty(module: Any, state: LearnerState) -> None:
    load(module.embedding, embedding_parameters(state.parameters.embedding))
    load(module.distillation.predictor, features_parameters(state.parameters.predictor))
    load(module.distillation.random_target, features_parameters(state.random_target))


def loaded_learner(state: LearnerState) -> Any:
    learner = torch_learner.Learner(parts().settings, SPEC)
    for networks, tree in ((learner.online, state.parameters.q), (learner.target, state.target_q)):
        for v in range(2):
            load(networks[v], q_parameters(tree, v))
    load_novelty(learner, state)
    return learner


# Batches ----------------------------------------------------------------------------------------------------------------------------


def make_batch() -> Any:
    """Random sequences with every kind of border, as tensors."""
    batch = torch_learner.random_batch(parts().settings, SPEC, seed=1)
    step_type, discount = np.full((4, 8), MID), np.ones((4, 8), np.float32)
    for b, t, d in ((1, 2, 0.0), (2, 3, 1.0), (3, 5, 0.0), (3, 7, 1.0)):
        step_type[b, t], discount[b, t] = LAST, d
        if t < SIZES.trace:
            step_type[b, t + 1] = FIRST
    step_type[2, 0] = FIRST  # begins with an episode
    policy = np.arange(4)[:, None] * 3 + np.cumsum(step_type == FIRST, axis=1)
    return batch._replace(
        extrinsic_reward=3 * batch.extrinsic_reward,
        step_type=torch.tensor(step_type),
        discount=torch.tensor(discount),
        policy=torch.tensor(policy % SIZES.num_policies),
        importance_weight=torch.tensor([0.3, 1.0, 0.7, 0.5]),
    )


def ours(batch: Any) -> Batch:
    """The same batch as the agent's learner takes it."""
    arrays = {name: value.numpy() for name, value in batch._asdict().items()}
    arrays = {name: value.astype(np.int32) if value.dtype == np.int64 else value for name, value in arrays.items()}
    state = RecurrentState(arrays["hidden"].swapaxes(0, 1), arrays["cell"].swapaxes(0, 1), arrays["previous_action"])
    experience = Experience(**{name: arrays[name] for name in Experience._fields})
    return Batch(experience, state, arrays["importance_weight"], SequenceId(*np.zeros((3, SIZES.batch_size), np.int32)))


# Tests ------------------------------------------------------------------------------------------------------------------------------


def test_exploration_rates_equal_ours():
    actor = torch_actor.Actor(parts().settings, SPEC, E)
    np.testing.assert_allclose(actor.epsilon, policy_family.actor_epsilons(np.arange(E), E), rtol=1e-5)


def test_unrolled_values_with_resets_inside_equal_ours():
    batch, state = make_batch(), random_state()
    given = ours(batch)
    x = given.experience
    previous = np.concatenate([given.recurrent_state.previous_action[:, None], x.action[:, :-1]], axis=1)
    inputs = QInputs(x.observation, previous, x.extrinsic_reward, x.intrinsic_reward, x.policy, x.step_type == FIRST)
    arguments = state.parameters.q, given.recurrent_state, inputs
    values, hidden, cell = one_device(parts().learner.q_network.unroll, ALL, ALL, *arguments)(*arguments)
    assert np.any(inputs.is_first[:, 1:])

    is_first = batch.step_type == FIRST
    seen = torch.tensor(previous).long(), batch.extrinsic_reward, batch.intrinsic_reward, batch.policy, is_first
    context = torch_networks.make_context(SPEC.num_actions, SIZES.num_policies, *seen)
    for v in range(2):
        network = torch_networks.QNetwork(parts().settings, SPEC)
        load(network, q_parameters(state.parameters.q, v))
        with torch.no_grad():
            found = network(torch_networks.to_images(batch.observation), context, is_first, batch.hidden[v], batch.cell[v])
        for one, other in zip(found, (values[v], hidden[:, v], cell[:, v]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_losses_priorities_and_steps_equal_ours():
    batch, state = make_batch(), random_state()
    update = one_device(parts().learner.update, (ALL, ROWS), UpdateOutput(ALL, ROWS, ALL), state, ours(batch))
    expected = update(state, ours(batch))
    learner = loaded_learner(state)
    losses, _ = learner.losses(batch)
    for name, loss in losses.items():
        np.testing.assert_allclose(loss.item(), expected.metrics[f"loss/{name}"], rtol=1e-3, err_msg=name)
    norms = [value for name, value in expected.metrics.items() if name.startswith("gradient_norm/")]
    assert min(norms) < VISIBLE["max_gradient_norm"] < max(norms)
    np.testing.assert_allclose(learner.update(batch), expected.priorities, rtol=1e-3)

    # Two updates, so that the moments of Adam count too.
    learner.update(batch)
    after = update(expected.state, ours(batch)).state
    compared = [
        *((learner.online[v], q_parameters(state.parameters.q, v), q_parameters(after.parameters.q, v)) for v in range(2)),
        (learner.embedding, embedding_parameters(state.parameters.embedding), embedding_parameters(after.parameters.embedding)),
        (learner.distillation.predictor, features_parameters(state.parameters.predictor), features_parameters(after.parameters.predictor)),
    ]
    for module, before, wanted in compared:
        for name, value in module.state_dict().items():
            step = wanted[name] - before[name]
            assert np.abs(step).max() > 1e-3, name
            np.testing.assert_allclose(value.numpy() - before[name], step, rtol=1e-3, atol=1e-5, err_msg=name)


def test_targets_are_copied_in_their_period():
    settings = config.changed(parts().settings, {"learner.target_period_updates": 2})
    learner, batch = torch_learner.Learner(settings, SPEC), make_batch()

    def differ() -> bool:
        return any(not torch.equal(a, b) for a, b in zip(learner.online.parameters(), learner.target.parameters(), strict=True))

    assert not differ()
    learner.update(batch)
    assert differ()
    learner.update(batch)
    assert not differ()


def test_intrinsic_reward_equals_ours():
    novelty, state = parts().actor.novelty, random_state()
    assert novelty is not None
    parameters = ActingParameters(None, state.acting_embedding, state.parameters.predictor, state.random_target)
    carried, statistics = jax.device_get((novelty.init_state(E), novelty.init_statistics()))
    actor = torch_actor.Actor(parts().settings, SPEC, E)
    load_novelty(actor, state)
    rng = np.random.default_rng(2)
    places = rng.integers(0, 256, (4, *SPEC.observation_shape)).astype(np.uint8)  # seen again and again: distances of exactly 0
    step = None
    rewards = []
    for t in range(14):
        elsewhere = rng.integers(0, 256, (E, *SPEC.observation_shape)).astype(np.uint8)
        observation = np.where(rng.uniform(size=(E, 1, 1, 1)) < 0.5, places[rng.integers(0, 4, E)], elsewhere)
        step_type = np.array([FIRST if t in starts else MID for starts in ((0,), (0, 4), (0, 4, 5, 11))])
        arguments = parameters, carried, statistics, observation, step_type == FIRST, step_type == LAST
        step = step or one_device(novelty.step, (ALL, ROWS, ALL, ROWS, ROWS, ROWS), NoveltyOutput(ROWS, ALL, ALL, ROWS, ALL), *arguments)
        out = step(*arguments)
        carried, statistics = out.state, out.statistics
        actor.step(torch.tensor(observation), torch.zeros(E), torch.tensor(step_type))
        np.testing.assert_allclose(actor.intrinsic_reward, out.reward, rtol=1e-3, atol=1e-5, err_msg=f"timestep {t}")
        rewards.append(out.reward)
    assert np.any(np.equal(rewards, 0)) and len(np.unique(rewards)) > 20


def test_actor_acts_on_what_its_networks_say():
    torch.manual_seed(0)
    actor = torch_actor.Actor(parts().settings, SPEC, E)
    actor.epsilon = torch.tensor([0.0, 0.5, 1.0])
    length = 12
    observation = torch.randint(256, (E, length, *SPEC.observation_shape), dtype=torch.uint8)
    reward = torch.randn(E, length)
    step_type = torch.full((E, length), MID)
    step_type[:, 0] = step_type[1, 5] = FIRST
    actions, rewards, probabilities = [], [], []
    for t in range(length):
        actions.append(actor.step(observation[:, t], reward[:, t], step_type[:, t]))
        rewards.append(actor.intrinsic_reward)
        probabilities.append(actor.probability)
    action, probability = torch.stack(actions, dim=1), torch.stack(probabilities, dim=1)

    # The whole stream at once.
    is_first = step_type == FIRST
    previous = torch.nn.functional.pad(action[:, :-1], (1, 0))
    policy = torch.arange(E)[:, None].expand(E, length)
    seen = previous, reward, torch.stack(rewards, dim=1), policy, is_first
    context = torch_networks.make_context(SPEC.num_actions, SIZES.num_policies, *seen)
    zeros = torch.zeros(E, SIZES.lstm_size)
    images = torch_networks.to_images(observation)
    with torch.no_grad():
        unrolled = [network(images, context, is_first, zeros, zeros) for network in actor.networks]
    for (_, *wanted), state in zip(unrolled, actor.states, strict=True):
        for one, other in zip(state, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    extrinsic, intrinsic = unrolled[0][0], unrolled[1][0]
    greedy = (extrinsic + torch.tensor(parts().learner.family.betas)[:E, None, None] * intrinsic).argmax(dim=-1)
    assert torch.equal(action[0], greedy[0]) and not torch.equal(action[2], greedy[2])
    share = actor.epsilon[:, None] / SPEC.num_actions
    expected = torch.where(action == greedy, 1 - actor.epsilon[:, None] + share, share.expand(E, length))
    np.testing.assert_allclose(probability, expected, rtol=1e-6)


def test_filled_memories_are_compared_with():
    actor = torch_actor.Actor(parts().settings, SPEC, E, fill=5)
    distances = actor._nearest(actor.memory[:, 3] + 0.0, torch.tensor([False, False, True]))
    assert torch.all(distances[:2, 0] == 0) and torch.all(torch.isfinite(distances[:2]))
    assert torch.all(distances[2] == torch_actor.NO_NEIGHBOUR)  # its episode begins here
    assert actor.inserted.tolist() == [6, 6, 1]
    actor.refill()
    assert actor.inserted.tolist() == [5, 5, 5]


def test_the_reference_runs_in_its_own_process():
    with Baseline(parts().settings, SPEC, fill=3) as reference:
        assert (reference.act(), reference.update()) == (E, 1.0)


def test_settings_that_the_reference_lacks_are_refused():
    settings = config.changed(parts().settings, {"learner.combined_loss": True})
    with pytest.raises(BaselineError, match=r"does not implement learner\.combined_loss=True"):
        Baseline(settings, SPEC, fill=0)
