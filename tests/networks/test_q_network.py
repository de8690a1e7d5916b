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

from agent57_jax.config import NetworkSettings, Precision, RewardInputs, Torso
from agent57_jax.networks.q_network import QInputs, QNetwork
from agent57_jax.types import EnvironmentSpec, RecurrentState
from tests.oracles import q_network as oracle

B, T, A, N, V, H = 3, 9, 4, 5, 2, 6

SMALL = {"torso_size": 8, "lstm_size": H, "head_size": 10}
DENSE = NetworkSettings(torso=Torso.DENSE, dense_features=(12, 7), **SMALL)
GRID = NetworkSettings(conv_features=(4, 6), conv_kernels=(3, 3), conv_strides=(1, 1), **SMALL)
VECTOR_SPEC = EnvironmentSpec((3,), np.dtype("float32"), A, ("noop",) * A, 1)
GRID_SPEC = EnvironmentSpec((15, 15, 3), np.dtype("uint8"), A, ("noop",) * A, 1)
ATARI_SPEC = EnvironmentSpec((84, 84, 1), np.dtype("uint8"), 18, ("noop",) * 18, 4)
PAPER = QNetwork(NetworkSettings(), ATARI_SPEC, num_policies=32, num_values=2)

KINDS = ["vector", "grid"]


@functools.cache
def network(kind: str, precision: Precision = Precision.FLOAT32, num_values: int = V) -> QNetwork:
    settings, spec = {"vector": (DENSE, VECTOR_SPEC), "grid": (GRID, GRID_SPEC)}[kind]
    return QNetwork(settings, spec, N, num_values, precision)


@functools.cache
def initial_parameters(kind: str, num_values: int = V) -> Any:
    """Parameters with biases that are not zero, which they are at first."""
    parameters = jax.jit(network(kind, num_values=num_values).init)(jax.random.key(1))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), parameters)


@functools.cache
def compiled(kind: str, precision: Precision, num_values: int) -> Any:
    return jax.jit(network(kind, precision, num_values).unroll)


def unroll(
    kind: str, parameters: Any, state: RecurrentState, inputs: QInputs, precision: Precision = Precision.FLOAT32, num_values: int = V
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, hidden and cell state as NumPy; one program a kind and number of timesteps."""
    values, hidden, cell = jax.device_get(compiled(kind, precision, num_values)(parameters, state, inputs))
    return values, hidden, cell


def inputs_for(kind: str) -> QInputs:
    """Random streams with starts of episodes inside: the first stream begins with one, the last has none, one has two in a row."""
    rng = np.random.default_rng(0)
    is_first = np.zeros((B, T), bool)
    is_first[0, [0, 4]] = is_first[1, [3, 4, 8]] = True
    spec = network(kind).spec
    if spec.observation_dtype == np.uint8:
        observation: np.ndarray = rng.integers(0, 256, (B, T, *spec.observation_shape)).astype(np.uint8)
    else:
        observation = rng.normal(size=(B, T, *spec.observation_shape)).astype(np.float32)
    return QInputs(
        observation=observation,
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


def edit(array: Any, index: Any, value: Any) -> np.ndarray:
    """A copy with something else at `index`."""
    copy = np.array(array)
    copy[index] = value
    return copy


# Values


@pytest.mark.parametrize("num_values", [1, 2])
def test_equals_the_twin(num_values: int) -> None:
    parameters, state, inputs = initial_parameters("vector", num_values), state_for(num_values=num_values), inputs_for("vector")
    got = unroll("vector", parameters, state, inputs, num_values=num_values)
    expected = oracle.unroll(parameters, state.hidden, state.cell, *inputs, num_actions=A, num_policies=N)
    for ours, twins in zip(got, expected, strict=True):
        assert ours.shape == twins.shape and ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, twins, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected[0]) > 0.5, "values that hardly differ would hide a mistake"


def test_the_output_scale_multiplies_the_first_values() -> None:
    def first_values(scale: float) -> np.ndarray:
        q_network = QNetwork(dataclasses.replace(DENSE, output_scale=scale), VECTOR_SPEC, N, V)
        return np.asarray(jax.jit(lambda: q_network.unroll(q_network.init(jax.random.key(1)), state_for(), inputs_for("vector"))[0])())

    np.testing.assert_allclose(first_values(0.01), 0.01 * first_values(1.0), rtol=1e-4, atol=1e-6)
    assert not first_values(0.0).any()


def test_a_shared_torso_and_logarithmic_rewards_equal_the_twin() -> None:
    settings = dataclasses.replace(DENSE, shared_torso=True, reward_inputs=RewardInputs.LOGARITHMIC)
    shared = QNetwork(settings, VECTOR_SPEC, N, V)
    parameters, state, inputs = jax.jit(shared.init)(jax.random.key(1)), state_for(), inputs_for("vector")
    inputs = inputs._replace(extrinsic_reward=300 * inputs.extrinsic_reward, intrinsic_reward=30 * inputs.intrinsic_reward)
    got = jax.device_get(jax.jit(shared.unroll)(parameters, state, inputs))
    expected = oracle.unroll(parameters, state.hidden, state.cell, *inputs, A, N, logarithmic_rewards=True)
    for ours, twins in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, twins, rtol=1e-4, atol=1e-5)
    raw = oracle.unroll(parameters, state.hidden, state.cell, *inputs, A, N)
    assert np.abs(raw[0] - expected[0]).max() > 0.1


def with_policy_heads(num_values: int = V, has_policy: bool = True) -> QNetwork:
    settings = dataclasses.replace(DENSE, policy_heads=True)
    return QNetwork(settings, VECTOR_SPEC, N, num_values, has_policy=has_policy)


@pytest.mark.parametrize(("num_values", "has_policy"), [(V, True), (1, False)])
def test_heads_per_policy_equal_the_twin(num_values: int, has_policy: bool) -> None:
    network = with_policy_heads(num_values, has_policy)
    parameters, state, inputs = jax.jit(network.init)(jax.random.key(1)), state_for(1), inputs_for("vector")
    outputs, *after = jax.device_get(jax.jit(network.unroll)(parameters, state, inputs))
    expected, *twins = oracle.unroll(parameters, state.hidden, state.cell, *inputs, A, N)
    assert outputs.shape == expected.shape == (num_values + has_policy, B, T, N, A)
    for ours, twin in zip((outputs, *after), (expected, *twins), strict=True):
        np.testing.assert_allclose(ours, twin, rtol=1e-4, atol=1e-5)
    chosen = np.asarray(network.of_policy(outputs, inputs.policy))
    for b, t in np.ndindex(B, T):
        np.testing.assert_array_equal(chosen[:, b, t], outputs[:, b, t, inputs.policy[b, t]])
    # The policy is no input: the outputs of all are there whichever acts.
    other = inputs._replace(policy=(inputs.policy + 1) % N)
    np.testing.assert_array_equal(jax.jit(network.unroll)(parameters, state, other)[0], outputs)


def test_the_policy_head_trains_nothing_but_itself() -> None:
    network = with_policy_heads()
    parameters, state, inputs = jax.jit(network.init)(jax.random.key(1)), state_for(1), inputs_for("vector")
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(network.unroll(p, state, inputs)[0][-1]))))(parameters)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(leaf != 0) == ("'policy'" in str(path[0])), path


def test_a_shared_convolutional_torso_gives_what_separate_equal_ones_give() -> None:
    shared = QNetwork(dataclasses.replace(GRID, shared_torso=True), GRID_SPEC, N, V)
    parameters, state, inputs = jax.jit(shared.init)(jax.random.key(1)), state_for(), inputs_for("grid")
    separate = {name: part for name, part in parameters.items() if name != "torso"}
    encoder = separate["encoder"] | {"Convolutions_0": jax.tree.map(lambda leaf: np.stack([leaf] * V), parameters["torso"])}
    expected = unroll("grid", separate | {"encoder": encoder}, state, inputs)
    for ours, theirs in zip(jax.jit(shared.unroll)(parameters, state, inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_step_by_step_equals_one_unroll(kind: str) -> None:
    """T unrolls of one timestep that hand on the state, as the actor does, with starts of episodes on the way."""
    parameters, state, inputs = initial_parameters(kind), state_for(), inputs_for(kind)
    values, hidden, cell = unroll(kind, parameters, state, inputs)
    steps = []
    for t in range(T):
        now = jax.tree.map(lambda field, t=t: field[:, t : t + 1], inputs)
        value, *after = unroll(kind, parameters, state, now)
        state = RecurrentState(*after, state.previous_action)
        steps.append(value)
    np.testing.assert_allclose(values, np.concatenate(steps, axis=2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hidden, state.hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cell, state.cell, rtol=1e-5, atol=1e-5)


def test_an_unroll_may_be_cut_anywhere() -> None:
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    values, hidden, _ = unroll("vector", parameters, state, inputs)
    for cut in (1, 4, 6):
        head, tail = (jax.tree.map(lambda field, part=part: field[:, part], inputs) for part in (slice(0, cut), slice(cut, None)))
        first, *middle = unroll("vector", parameters, state, head)
        second, end, _ = unroll("vector", parameters, RecurrentState(*middle, state.previous_action), tail)
        np.testing.assert_allclose(values, np.concatenate([first, second], axis=2), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(hidden, end, rtol=1e-5, atol=1e-5)


# Resets


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_nothing_reaches_across_the_start_of_an_episode(bad: float) -> None:
    """Stream 0 starts at t = 0: its state is of no account, nor are action and rewards at FIRST. Streams do not mix."""
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
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


@pytest.mark.parametrize("bad", [3.0, np.nan, np.inf])
def test_the_past_of_a_new_episode_is_irrelevant(bad: float) -> None:
    """What happened before t = 4 of stream 0 changes its values there and no later; a NaN of the old episode stays in it."""
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    values, hidden, cell = unroll("vector", parameters, state, inputs)
    odd = inputs._replace(
        observation=edit(inputs.observation, (0, slice(0, 4)), bad),
        extrinsic_reward=edit(inputs.extrinsic_reward, (0, slice(0, 4)), bad),
    )
    odd_values, odd_hidden, odd_cell = unroll("vector", parameters, state, odd)
    np.testing.assert_array_equal(odd_values[:, 0, 4:], values[:, 0, 4:])
    np.testing.assert_array_equal(odd_values[:, 1:], values[:, 1:])
    assert not np.any(np.isclose(odd_values[:, 0, :4], values[:, 0, :4]).all(axis=-1))
    np.testing.assert_array_equal(odd_hidden, hidden)
    np.testing.assert_array_equal(odd_cell, cell)


def test_no_gradient_reaches_across_the_start_of_an_episode() -> None:
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")

    def late_value(hidden: jax.Array, cell: jax.Array, observation: jax.Array) -> jax.Array:
        """Of the last timestep: streams 0 and 1 have begun an episode since, stream 2 has not."""
        entered = RecurrentState(hidden, cell, state.previous_action)
        return jnp.sum(network("vector").unroll(parameters, entered, inputs._replace(observation=observation))[0][:, :, -1, 0])

    gradients = jax.device_get(jax.jit(jax.grad(late_value, argnums=(0, 1, 2)))(state.hidden, state.cell, inputs.observation))
    for gradient in gradients[:2]:
        assert not np.any(gradient[:2]) and np.all(np.any(gradient[2] != 0, axis=-1))
    by_time = np.any(gradients[2] != 0, axis=2)
    np.testing.assert_array_equal(by_time, [[False] * 4 + [True] * 5, [False] * 8 + [True], [True] * 9])


def test_the_state_before_an_episode_is_zero() -> None:
    state = network("vector").initial_state(7)
    assert state.hidden.shape == state.cell.shape == (7, V, H) and state.previous_action.shape == (7,)
    assert state.hidden.dtype == state.cell.dtype == jnp.float32 and state.previous_action.dtype == jnp.int32
    assert not any(np.any(leaf) for leaf in state)
    # A FIRST is an entry with this state.
    parameters, inputs = initial_parameters("vector"), inputs_for("vector")
    start = jax.tree.map(lambda field: field[:, :1], inputs)._replace(is_first=np.ones((B, 1), bool))
    entered = unroll("vector", parameters, state_for(), start)
    for ours, theirs in zip(entered, unroll("vector", parameters, network("vector").initial_state(B), start), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Inputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["observation", "previous_action", "extrinsic_reward", "intrinsic_reward", "policy", "is_first"])
def test_every_input_matters_from_its_timestep_on(kind: str, field: str) -> None:
    """Stream 2, where no episode starts: a change at t = 5 leaves 0..4 and the other streams alone and changes every network at 5..8."""
    parameters, state, inputs = initial_parameters(kind), state_for(), inputs_for(kind)
    values = unroll(kind, parameters, state, inputs)[0]
    old = getattr(inputs, field)
    new = {
        "observation": old[2, 0],
        "previous_action": (old[2, 5] + 1) % A,
        "policy": (old[2, 5] + 1) % N,
        "is_first": True,
    }.get(field, old[2, 5] + 1.0)
    changed = unroll(kind, parameters, state, inputs._replace(**{field: edit(old, (2, 5), new)}))[0]
    np.testing.assert_array_equal(changed[:, :2], values[:, :2])
    np.testing.assert_array_equal(changed[:, 2, :5], values[:, 2, :5])
    assert np.all(np.abs(changed[:, 2, 5:] - values[:, 2, 5:]).max(axis=-1) > 1e-6)


def test_every_action_and_policy_has_an_input_of_its_own() -> None:
    """Changing one weight of the context changes values only where its entry is 1; the two rewards come in between."""
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    single = jax.tree.map(lambda field: field[:, :1], inputs)._replace(is_first=np.zeros((B, 1), bool))
    last = parameters["encoder"]["Dense_2"]
    torso_size = network("vector").settings.torso_size
    for action, policy in ((0, 4), (1, 0), (2, 3), (3, 1), (0, 2)):
        now = single._replace(
            previous_action=np.full((B, 1), action, np.int32),
            policy=np.full((B, 1), policy, np.int32),
            extrinsic_reward=np.zeros((B, 1), np.float32),
            intrinsic_reward=np.full((B, 1), 2.0, np.float32),
        )
        values = unroll("vector", parameters, state, now)[0]
        heard = []
        for index in range(A + 2 + N):
            encoder = {**parameters["encoder"], "Dense_2": {**last, "kernel": edit(last["kernel"], (slice(None), torso_size + index), 1.0)}}
            if np.any(unroll("vector", {**parameters, "encoder": encoder}, state, now)[0] != values):
                heard.append(index)
        assert heard == [action, A + 1, A + 2 + policy]


# Heads and parameters


def heads_of(parameters: Any, **layers: Any) -> Any:
    return {**parameters, "heads": {**parameters["heads"], **layers}}


def test_a_common_shift_of_the_advantages_changes_nothing() -> None:
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    values = unroll("vector", parameters, state, inputs)[0]
    advantage = parameters["heads"]["Dense_2"]
    shifted = heads_of(parameters, Dense_2={"kernel": advantage["kernel"] + 0.3, "bias": advantage["bias"] - 5.0})
    np.testing.assert_allclose(unroll("vector", shifted, state, inputs)[0], values, atol=1e-5)
    # While the mean over the actions is V alone, and a shift of V moves all actions alike.
    bias = advantage["bias"] + np.eye(A, dtype=np.float32)[1:2]
    moved = unroll("vector", heads_of(parameters, Dense_2={**advantage, "bias": bias}), state, inputs)[0] - values
    np.testing.assert_allclose(moved, np.broadcast_to([-1 / A, 1 - 1 / A, -1 / A, -1 / A], moved.shape), atol=1e-5)
    value = parameters["heads"]["Dense_0"]
    raised = unroll("vector", heads_of(parameters, Dense_0={**value, "bias": value["bias"] + 2.0}), state, inputs)[0]
    np.testing.assert_allclose(raised, values + 2.0, atol=1e-5)


def test_without_advantages_every_action_has_the_value_of_the_state() -> None:
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    values = unroll("vector", parameters, state, inputs)[0]
    flat = heads_of(parameters, Dense_2=jax.tree.map(np.zeros_like, parameters["heads"]["Dense_2"]))
    state_value = unroll("vector", flat, state, inputs)[0]
    np.testing.assert_array_equal(np.ptp(state_value, axis=-1), np.zeros((V, B, T)))
    np.testing.assert_allclose(values.mean(axis=-1), state_value[..., 0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_functions_share_nothing(kind: str) -> None:
    """Whatever is done to one network's parameters or state leaves the other's values and state as they were."""
    parameters, state, inputs = initial_parameters(kind), state_for(), inputs_for(kind)
    expected = unroll(kind, parameters, state, inputs)
    for changed in range(V):
        other = 1 - changed
        odd_parameters = jax.tree.map(lambda leaf, changed=changed: edit(leaf, changed, leaf[changed] + 0.5), parameters)
        odd_state = state._replace(hidden=edit(state.hidden, (slice(None), changed), 0.7))
        for got in (unroll(kind, odd_parameters, state, inputs), unroll(kind, parameters, odd_state, inputs)):
            np.testing.assert_array_equal(got[0][other], expected[0][other])
            assert np.any(got[0][changed] != expected[0][changed])
            for ours, theirs in zip(got[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(ours[:, other], theirs[:, other])
                assert np.any(ours[:, changed] != theirs[:, changed])


def test_the_value_functions_start_from_different_parameters() -> None:
    parameters = jax.device_get(jax.jit(network("vector").init)(jax.random.key(0)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        assert leaf.shape[0] == V and leaf.dtype == jnp.float32
        assert "bias" in str(path[-1]) or np.all(leaf[0] != leaf[1]), path
    # The recurrent matrix keeps the scale of what passes through it: variance 1 / H.
    assert 0.5 / H < np.var(parameters["recurrent"]) < 2.0 / H


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_used(kind: str) -> None:
    parameters, state, inputs = initial_parameters(kind), state_for(), inputs_for(kind)
    gradients = jax.device_get(jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(network(kind).unroll(p, state, inputs)[0]))))(parameters))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), path
        assert all(np.any(leaf[v] != 0) for v in range(V)), path


# The paper's sizes


def test_number_of_parameters_of_the_paper() -> None:
    """By hand, for 84x84x1 frames, 18 actions and 32 policies."""
    convolutions = (8 * 8 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64)
    torso = 7 * 7 * 64 * 512 + 512
    lstm = (512 + 18 + 1 + 1 + 32) * 4 * 512 + 4 * 512 + 512 * 4 * 512
    value = 512 * 512 + 512 + 512 * 1 + 1
    advantage = 512 * 512 + 512 + 512 * 18 + 18
    one = convolutions + torso + lstm + value + advantage
    assert one == 4_418_739
    shapes = jax.eval_shape(PAPER.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2 * one
    single = dataclasses.replace(PAPER, num_values=1)
    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(single.init, jax.random.key(0)))) == one
    # Without an intrinsic reward the LSTM has one input less.
    without = dataclasses.replace(single, has_intrinsic_reward=False)
    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(without.init, jax.random.key(0)))) == one - 4 * 512


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("num_values", [1, 2])
def test_shapes_at_the_sizes_of_the_paper(precision: Precision, num_values: int) -> None:
    paper = dataclasses.replace(PAPER, precision=precision, num_values=num_values)
    parameters = jax.eval_shape(paper.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {np.dtype("float32")}
    for batch, length in ((64, 161), (128, 1)):
        rows = (batch, length)
        number = jax.ShapeDtypeStruct(rows, jnp.float32)
        index = jax.ShapeDtypeStruct(rows, jnp.int32)
        observation = jax.ShapeDtypeStruct((*rows, 84, 84, 1), jnp.uint8)
        inputs = QInputs(observation, index, number, number, index, jax.ShapeDtypeStruct(rows, jnp.bool_))
        state = jax.eval_shape(lambda batch=batch: paper.initial_state(batch))
        values, hidden, cell = jax.eval_shape(paper.unroll, parameters, state, inputs)
        assert values.shape == (num_values, batch, length, 18) and hidden.shape == cell.shape == (batch, num_values, 512)
        assert values.dtype == hidden.dtype == cell.dtype == jnp.float32


# Precision


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_used_inside_and_float32_outside(kind: str) -> None:
    parameters, state, inputs = initial_parameters(kind), state_for(), inputs_for(kind)
    half = network(kind, Precision.BFLOAT16)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0)))} == {np.dtype("float32")}
    expected = unroll(kind, parameters, state, inputs)
    got = unroll(kind, parameters, state, inputs, Precision.BFLOAT16)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.05)
        assert np.any(ours != theirs), "bfloat16 was not used"


def test_every_product_but_the_heads_is_taken_in_the_precision_of_the_settings() -> None:
    """Two torso layers, the dense layer behind them, input and recurrence of the LSTM, each one product for both networks; four heads."""
    parameters, state, inputs = initial_parameters("vector"), state_for(), inputs_for("vector")
    for precision, expected in ((Precision.FLOAT32, {"f32": 5 + 4}), (Precision.BFLOAT16, {"bf16": 5, "f32": 4})):
        text = str(jax.make_jaxpr(network("vector", precision).unroll)(parameters, state, inputs))
        assert collections.Counter(re.findall(r":(\w+)\[[\d,]*\] = dot_general", text)) == expected
