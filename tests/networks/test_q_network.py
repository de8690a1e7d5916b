"""The Q-networks against a twin in float64, their resets, and what each input and each parameter may change."""

import collections
import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent57_jax.config import NetworkSettings, Precision, RewardInputs
from agent57_jax.networks import lstm
from agent57_jax.networks.q_network import QInputs, QNetwork
from agent57_jax.types import RecurrentState
from tests.networks import builders
from tests.networks.builders import A, assert_close
from tests.oracles import q_network as oracle

B, T, N, V, H = 3, 9, 5, 2, 6

SMALL = {"torso_size": 8, "lstm_size": H, "head_size": 10}
DENSE, GRID = (dataclasses.replace(settings, **SMALL) for settings in (builders.VECTOR_SETTINGS, builders.GRID_SETTINGS))
TASKS = {"vector": (DENSE, builders.VECTOR), "grid": (GRID, builders.GRID)}
PAPER = QNetwork(NetworkSettings(), builders.ATARI, num_policies=32, num_values=2)


@functools.cache
def network(kind: str, precision: Precision = Precision.FLOAT32) -> QNetwork:
    return QNetwork(*TASKS[kind], N, V, precision)


@functools.cache
def initial_parameters(kind: str, output_scale: float = 1.0) -> Any:
    settings, task = TASKS[kind]
    return jax.device_get(jax.jit(QNetwork(dataclasses.replace(settings, output_scale=output_scale), task, N, V).init)(jax.random.key(1)))


@functools.cache
def compiled(kind: str) -> Any:
    return jax.jit(network(kind).unroll)


def unroll(kind: str, *arguments: Any) -> tuple[np.ndarray, ...]:
    """Values, hidden and cell state."""
    values: tuple[np.ndarray, ...] = jax.device_get(compiled(kind)(*arguments))
    return values


def inputs_for(kind: str) -> QInputs:
    """Random streams with starts of episodes inside: the first stream begins with one, the last has none, one has two in a row."""
    rng = np.random.default_rng(0)
    is_first = np.zeros((B, T), bool)
    is_first[0, [0, 4]] = is_first[1, [3, 4, 8]] = True
    return QInputs(
        observation=builders.observations(TASKS[kind][1], B, T),
        previous_action=rng.integers(0, A, (B, T)).astype(np.int32),
        extrinsic_reward=rng.normal(size=(B, T)).astype(np.float32),
        intrinsic_reward=rng.normal(size=(B, T)).astype(np.float32),
        policy=rng.integers(0, N, (B, T)).astype(np.int32),
        is_first=is_first,
    )


def state_for(num_values: int = V) -> RecurrentState:
    rng = np.random.default_rng(1)
    hidden, cell = (rng.normal(size=(B, num_values, H)).astype(np.float32) for _ in range(2))
    return RecurrentState(hidden, cell, np.zeros((B,), np.int32))


def case(kind: str = "vector") -> tuple[Any, RecurrentState, QInputs]:
    """Parameters with biases, a state and inputs."""
    return builders.with_biases(initial_parameters(kind)), state_for(), inputs_for(kind)


def edit(array: Any, index: Any, value: Any) -> np.ndarray:
    """A copy with something else at `index`."""
    copy = np.array(array)
    copy[index] = value
    return copy


HEADS = dataclasses.replace(DENSE, policy_heads=True)


@pytest.mark.parametrize(
    ("settings", "num_values", "has_policy"),
    [
        pytest.param(DENSE, 1, False, id="1"),
        pytest.param(DENSE, 2, False, id="2"),
        pytest.param(dataclasses.replace(DENSE, shared_torso=True, reward_inputs=RewardInputs.LOGARITHMIC), 2, False, id="shared torso"),
        pytest.param(HEADS, 1, False, id="heads per policy"),
        pytest.param(HEADS, 2, True, id="heads per policy, distilled policy"),
    ],
)
def test_equals_the_twin(settings: NetworkSettings, num_values: int, has_policy: bool) -> None:
    q_network = QNetwork(settings, builders.VECTOR, N, num_values, has_policy=has_policy)
    parameters, program = builders.with_biases(jax.jit(q_network.init)(jax.random.key(1))), jax.jit(q_network.unroll)
    state, inputs = state_for(1 if settings.policy_heads else num_values), inputs_for("vector")
    is_logarithmic = settings.reward_inputs is RewardInputs.LOGARITHMIC
    if is_logarithmic:
        inputs = inputs._replace(extrinsic_reward=300 * inputs.extrinsic_reward, intrinsic_reward=30 * inputs.intrinsic_reward)
    got = outputs, *_ = jax.device_get(program(parameters, state, inputs))
    expected = oracle.unroll(parameters, state.hidden, state.cell, *inputs, A, N, is_logarithmic)
    for ours, twins in zip(got, expected, strict=True):
        assert ours.shape == twins.shape and ours.dtype == jnp.float32
    assert_close(got, expected, rtol=1e-4)
    assert np.ptp(expected[0]) > 0.5, "values that hardly differ would hide a mistake"
    if settings.policy_heads:
        assert outputs.shape == (num_values + has_policy, B, T, N, A)
        chosen = np.asarray(q_network.of_policy(outputs, inputs.policy))
        for b, t in np.ndindex(B, T):
            np.testing.assert_array_equal(chosen[:, b, t], outputs[:, b, t, inputs.policy[b, t]])
        # The policy is no input: the outputs of all are there whichever acts.
        other = inputs._replace(policy=(inputs.policy + 1) % N)
        np.testing.assert_array_equal(program(parameters, state, other)[0], outputs)


def test_the_output_scale_multiplies_the_first_values() -> None:
    scales = (0.1, 1.0, 0.0)
    parameters = [initial_parameters("vector", output_scale=scale) for scale in scales]
    tenth, whole, none = (unroll("vector", first, state_for(), inputs_for("vector"))[0] for first in parameters)
    assert_close(tenth, 0.1 * whole, rtol=1e-4, atol=1e-6)
    assert whole.any() and not none.any()


def test_the_policy_head_trains_nothing_but_itself() -> None:
    q_network = QNetwork(HEADS, builders.VECTOR, N, V, has_policy=True)
    parameters, state, inputs = jax.jit(q_network.init)(jax.random.key(1)), state_for(1), inputs_for("vector")
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(q_network.unroll(p, state, inputs)[0][-1]))))(parameters)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(leaf != 0) == ("'policy'" in str(path[0])), path


def test_a_shared_convolutional_torso_gives_what_separate_equal_ones_give() -> None:
    shared = QNetwork(dataclasses.replace(GRID, shared_torso=True), builders.GRID, N, V)
    parameters, state, inputs = jax.jit(shared.init)(jax.random.key(1)), state_for(), inputs_for("grid")
    separate = {name: part for name, part in parameters.items() if name != "torso"}
    encoder = separate["encoder"] | {"Convolutions_0": jax.tree.map(lambda leaf: np.stack([leaf] * V), parameters["torso"])}
    expected = unroll("grid", separate | {"encoder": encoder}, state, inputs)
    assert_close(jax.jit(shared.unroll)(parameters, state, inputs), expected, rtol=1e-4)


def test_joined_lstms_give_what_separate_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    (online, state, inputs), target, found = case(), initial_parameters("vector"), []

    def loss(online: Any) -> tuple[jax.Array, Any]:
        outputs = network("vector").unroll_online_and_target(online, target, state, inputs, burn_in=2)
        return jnp.sum(jnp.sin(outputs[0])) + jnp.sum(jnp.cos(outputs[1])), outputs

    for is_joined in (False, True):  # on a CPU, on a GPU
        monkeypatch.setattr(lstm, "joins_parts", lambda is_joined=is_joined: is_joined)
        found.append(jax.jit(jax.grad(loss, has_aux=True))(online))
    assert_close(*found, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_nothing_reaches_across_the_start_of_an_episode(bad: float) -> None:
    """Stream 0 starts at t = 0: its state is of no account, nor are action and rewards at FIRST. Streams do not mix."""
    parameters, state, inputs = case()
    expected = unroll("vector", parameters, state, inputs)
    odd_state = state._replace(hidden=edit(state.hidden, 0, bad), cell=edit(state.cell, 0, bad))
    first = inputs.is_first
    odd_inputs = inputs._replace(
        previous_action=edit(inputs.previous_action, first, [0, 1, -1, 99, 3]),
        extrinsic_reward=edit(inputs.extrinsic_reward, first, bad),
        intrinsic_reward=edit(inputs.intrinsic_reward, first, bad),
    )
    for ours, theirs in zip(unroll("vector", parameters, odd_state, odd_inputs), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.all(np.isfinite(ours))


def test_the_state_before_an_episode_is_zero() -> None:
    state = network("vector").initial_state(7)
    assert state.hidden.shape == state.cell.shape == (7, V, H) and state.previous_action.shape == (7,)
    assert state.hidden.dtype == state.cell.dtype == jnp.float32 and state.previous_action.dtype == jnp.int32
    assert not any(np.any(leaf) for leaf in state)


def test_the_value_functions_share_nothing() -> None:
    """Whatever is done to one network's parameters or state leaves the other's values and state as they were."""
    parameters, state, inputs = case("grid")
    expected = unroll("grid", parameters, state, inputs)
    for changed in range(V):
        other = 1 - changed
        odd_parameters = jax.tree.map(lambda leaf, changed=changed: edit(leaf, changed, leaf[changed] + 0.5), parameters)
        odd_state = state._replace(hidden=edit(state.hidden, (slice(None), changed), 0.7))
        for got in (unroll("grid", odd_parameters, state, inputs), unroll("grid", parameters, odd_state, inputs)):
            np.testing.assert_array_equal(got[0][other], expected[0][other])
            assert np.any(got[0][changed] != expected[0][changed])
            for ours, theirs in zip(got[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(ours[:, other], theirs[:, other])
                assert np.any(ours[:, changed] != theirs[:, changed])


def test_the_value_functions_start_from_different_parameters() -> None:
    parameters = initial_parameters("vector")
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        assert leaf.shape[0] == V and leaf.dtype == jnp.float32
        assert "bias" in str(path[-1]) or np.all(leaf[0] != leaf[1]), path
    # The recurrent matrix keeps the scale of what passes through it: variance 1 / H.
    assert 0.5 / H < np.var(parameters["recurrent"]) < 2.0 / H


def test_number_of_parameters_of_the_paper() -> None:
    """For 84x84x1 frames, 18 actions and 32 policies."""
    torso = 7 * 7 * 64 * 512 + 512
    lstm = (512 + 18 + 1 + 1 + 32) * 4 * 512 + 4 * 512 + 512 * 4 * 512
    value = 512 * 512 + 512 + 512 * 1 + 1
    advantage = 512 * 512 + 512 + 512 * 18 + 18
    one = builders.PAPER_CONVOLUTIONS + torso + lstm + value + advantage
    assert one == 4_418_739
    single = dataclasses.replace(PAPER, num_values=1)
    without = dataclasses.replace(single, has_intrinsic_reward=False)  # the LSTM has one input less
    for q_network, expected in ((PAPER, 2 * one), (single, one), (without, one - 4 * 512)):
        assert builders.size_of(jax.eval_shape(q_network.init, jax.random.key(0))) == expected


@pytest.mark.parametrize("kind", TASKS)
def test_bfloat16_is_used_inside_and_float32_outside(kind: str) -> None:
    parameters, state, inputs = case(kind)
    assert builders.dtypes_of(jax.eval_shape(network(kind, Precision.BFLOAT16).init, jax.random.key(0))) == {np.dtype("float32")}
    expected, got = unroll(kind, parameters, state, inputs), jax.jit(network(kind, Precision.BFLOAT16).unroll)(parameters, state, inputs)
    assert_close(got, expected, rtol=1e-7, atol=0.05)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == jnp.float32 and np.any(ours != theirs), "bfloat16 was not used"


def test_every_product_but_the_heads_is_taken_in_the_precision_of_the_settings() -> None:
    """Two torso layers, the dense layer behind them, input and recurrence of the LSTM, each one product for both networks; four heads."""
    parameters, state, inputs = case()
    for precision, expected in ((Precision.FLOAT32, {"f32": 5 + 4}), (Precision.BFLOAT16, {"bf16": 5, "f32": 4})):
        text = str(jax.make_jaxpr(network("vector", precision).unroll)(parameters, state, inputs))
        assert collections.Counter(re.findall(r":(\w+)\[[\d,]*\] = dot_general", text)) == expected
