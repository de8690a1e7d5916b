"""n-step double Q-learning against its twin, against rlax, against Retrace, and against the identities it must satisfy."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.n_step import transformed_n_step_targets
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform
from tests.algorithm.test_retrace import transformed_retrace_targets
from tests.oracles import n_step as oracle
from tests.oracles import value_transform as value_oracle

with warnings.catch_warnings():
    # One of its dependencies touches a deprecated name of jax on import.
    warnings.simplefilter("ignore", DeprecationWarning)
    import rlax

T, A = 12, 4
GAMMA = 0.97

TRANSFORMS: dict[str, tuple[ValueTransform, Callable[[float], float], Callable[[float], float]]] = {
    "squashed": (SQUASHED, value_oracle.squash, value_oracle.unsquash),
    "identity": (IDENTITY, value_oracle.identity, value_oracle.identity),
}
STEPS = [1, 2, 3, 5, T - 1, T, 2 * T]

targets = jax.jit(transformed_n_step_targets, static_argnames=("n_step", "transform"))


class Stream(NamedTuple):
    """The first five arguments of the function, in order."""

    values: Any  # [T + 1, A] of the target network
    online: Any  # [T + 1, A]
    rewards: Any  # [T]
    discounts: Any  # [T]
    valid: Any  # [T]


def make_stream(seed: int, borders: bool = True, length: int = T) -> Stream:
    """A random stream; with borders, some transitions end an episode (half of them terminate) and the next one is invalid."""
    rng = np.random.default_rng(seed)
    discounts = np.full(length, GAMMA)
    valid = np.ones(length, bool)
    if borders:
        t = int(rng.integers(0, 4))
        while t < length:
            discounts[t] = GAMMA * rng.integers(0, 2)
            valid[t + 1 : t + 2] = False
            t += int(rng.integers(2, 6))
    return Stream(
        values=(3.0 * rng.standard_normal((length + 1, A))).astype(np.float32),
        online=(3.0 * rng.standard_normal((length + 1, A))).astype(np.float32),
        rewards=(2.0 * rng.standard_normal(length)).astype(np.float32),
        discounts=discounts.astype(np.float32),
        valid=valid,
    )


def double_q(stream: Stream, invert: Callable[[float], float] = value_oracle.unsquash) -> np.ndarray:
    """h^-1 of the target network's value of the online network's best action, [T + 1]."""
    return np.array([invert(float(q[np.argmax(online)])) for q, online in zip(stream.values, stream.online, strict=True)])


def assert_equals_twin(
    stream: Stream, n_step: int, transform: ValueTransform, apply: Callable[[float], float], invert: Callable[[float], float]
) -> None:
    actual = np.asarray(targets(*stream, n_step, transform))
    assert actual.shape == stream.rewards.shape and actual.dtype == np.float32
    expected = oracle.n_step_targets(*stream, n_step, apply, invert)
    np.testing.assert_array_equal(np.isnan(expected), ~stream.valid)
    np.testing.assert_allclose(actual[stream.valid], expected[stream.valid], rtol=2e-5, atol=2e-5)
    assert np.all(np.isfinite(actual))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("n_step", STEPS)
def test_equals_the_sum_that_is_written_out(name: str, n_step: int) -> None:
    for seed in range(12):
        assert_equals_twin(make_stream(seed), n_step, *TRANSFORMS[name])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), n_step=st.sampled_from([1, 3, 5]), borders=st.lists(st.sampled_from("vit"), min_size=T, max_size=T))
def test_equals_the_sum_for_any_borders(seed: int, n_step: int, borders: list[str]) -> None:
    """v: valid, t: valid and terminating, i: invalid, in any order, so also streams that begin or end with a border."""
    stream = make_stream(seed, borders=False)
    valid = np.array([kind != "i" for kind in borders])
    discounts = np.where([kind == "t" for kind in borders], np.float32(0), stream.discounts)
    assert_equals_twin(stream._replace(valid=valid, discounts=discounts), n_step, *TRANSFORMS["squashed"])


def test_streams_of_one_transition() -> None:
    stream = make_stream(3, borders=False, length=1)
    expected = value_oracle.squash(float(stream.rewards[0]) + GAMMA * double_q(stream)[1])
    for n_step in (1, 5):
        np.testing.assert_allclose(targets(*stream, n_step, SQUASHED), [expected], rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(targets(*stream._replace(valid=np.array([False])), 5, SQUASHED)))


# Identities


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_step_is_double_q_learning(name: str) -> None:
    transform, apply, invert = TRANSFORMS[name]
    stream = make_stream(20)
    values = double_q(stream, invert)
    expected = [apply(float(stream.rewards[t]) + float(stream.discounts[t]) * values[t + 1]) for t in range(T)]
    np.testing.assert_allclose(
        np.asarray(targets(*stream, 1, transform))[stream.valid], np.array(expected)[stream.valid], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_steps_beyond_the_stream_are_the_return_with_bootstrap_at_its_end(name: str) -> None:
    transform, apply, invert = TRANSFORMS[name]
    stream = make_stream(21, borders=False)
    bootstrap = double_q(stream, invert)[T]
    expected = []
    for t in range(T):
        total = sum(GAMMA ** (s - t) * float(stream.rewards[s]) for s in range(t, T))
        expected.append(apply(total + GAMMA ** (T - t) * bootstrap))
    for n_step in (T, T + 1, 3 * T):
        np.testing.assert_allclose(targets(*stream, n_step, transform), expected, rtol=1e-5, atol=2e-5)
    # One step less leaves the first target alone, which then ends one step earlier.
    shorter = np.asarray(targets(*stream, T - 1, transform))
    np.testing.assert_allclose(shorter[1:], expected[1:], rtol=1e-5, atol=2e-5)
    assert abs(shorter[0] - expected[0]) > 1e-3


@pytest.mark.parametrize("borders", [False, True])
def test_all_steps_are_retrace_with_traces_of_one(borders: bool) -> None:
    """Actions of the online network's greedy policy, which is the target policy: every value in between cancels, up to each border."""
    for seed in range(22, 28):
        stream = make_stream(seed, borders)
        greedy = np.argmax(stream.online, axis=1)
        policy = np.eye(A, dtype=np.float32)[greedy]
        shared = stream.rewards, stream.discounts, stream.valid
        traces = transformed_retrace_targets(stream.values, policy, greedy[:-1], np.ones(T, np.float32), *shared, 1.0, SQUASHED)
        np.testing.assert_allclose(
            np.asarray(targets(*stream, T, SQUASHED))[stream.valid], np.asarray(traces)[stream.valid], rtol=2e-5, atol=2e-5
        )


def test_one_step_is_retrace_without_traces() -> None:
    stream = make_stream(28)
    greedy = np.argmax(stream.online, axis=1)
    actions, mu = np.random.default_rng(0).integers(0, A, T), np.full(T, 0.3, np.float32)
    shared = stream.rewards, stream.discounts, stream.valid
    one_step = transformed_retrace_targets(stream.values, np.eye(A, dtype=np.float32)[greedy], actions, mu, *shared, 0.0, SQUASHED)
    np.testing.assert_allclose(
        np.asarray(targets(*stream, 1, SQUASHED))[stream.valid], np.asarray(one_step)[stream.valid], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("n_step", [1, 5, T])
def test_values_that_satisfy_the_bellman_equation_stay(n_step: int) -> None:
    """Whatever the number of steps, the target of a transition is the value of its state."""
    stream = make_stream(29)
    values = double_q(stream)
    rewards = values[:-1] - stream.discounts * values[1:]
    expected = np.array([value_oracle.squash(value) for value in values[:-1]])
    actual = targets(*stream._replace(rewards=rewards.astype(np.float32)), n_step, SQUASHED)
    np.testing.assert_allclose(np.asarray(actual)[stream.valid], expected[stream.valid], rtol=1e-4, atol=1e-4)


def test_the_online_network_chooses_and_the_target_network_tells() -> None:
    stream = make_stream(30)
    online_best, target_best = np.argmax(stream.online, axis=1), np.argmax(stream.values, axis=1)
    assert np.mean(online_best != target_best) > 0.5
    actual = targets(*stream, 3, SQUASHED)
    # The size of the online values is of no account, only which is the largest.
    louder = (100.0 + 7.0 * stream.online).astype(np.float32)
    np.testing.assert_array_equal(targets(*stream._replace(online=louder), 3, SQUASHED), actual)
    # Of the target values only the chosen one counts, though another may be larger.
    chosen = np.eye(A, dtype=bool)[online_best]
    others = np.where(chosen, stream.values, 50.0).astype(np.float32)
    np.testing.assert_array_equal(targets(*stream._replace(values=others), 3, SQUASHED), actual)
    raised = np.where(chosen, stream.values + 1.0, stream.values).astype(np.float32)
    assert np.any(np.asarray(targets(*stream._replace(values=raised), 3, SQUASHED)) > np.asarray(actual) + 0.01)
    # With one network for both it is Q-learning: the largest value.
    same = np.asarray(targets(stream.values, stream.values, *stream[2:], 1, SQUASHED))
    largest = [value_oracle.unsquash(float(values.max())) for values in stream.values[1:]]
    expected = [value_oracle.squash(float(r) + float(d) * v) for r, d, v in zip(stream.rewards, stream.discounts, largest, strict=True)]
    np.testing.assert_allclose(same[stream.valid], np.array(expected)[stream.valid], rtol=1e-5, atol=1e-5)


# Borders


def scramble_after(stream: Stream, t: int) -> Stream:
    """Replaces everything that comes after x_{t+1}."""
    other = make_stream(999)
    return Stream(
        values=np.concatenate([stream.values[: t + 2], other.values[t + 2 :]]),
        online=np.concatenate([stream.online[: t + 2], other.online[t + 2 :]]),
        rewards=np.concatenate([stream.rewards[: t + 1], other.rewards[t + 1 :]]),
        discounts=np.concatenate([stream.discounts[: t + 1], other.discounts[t + 1 :]]),
        valid=stream.valid,
    )


def end_episode(stream: Stream, t: int, discount: float) -> Stream:
    """Makes x_{t+1} the LAST timestep of an episode."""
    discounts, valid = stream.discounts.copy(), stream.valid.copy()
    discounts[t], valid[t + 1] = discount, False
    return stream._replace(discounts=discounts, valid=valid)


def test_termination_cuts() -> None:
    end = 5
    stream = end_episode(make_stream(31, borders=False), end, 0.0)
    actual = targets(*stream, 5, SQUASHED)
    np.testing.assert_allclose(actual[end], value_oracle.squash(float(stream.rewards[end])), rtol=1e-5)
    # Nothing from x_LAST on matters, its own values included.
    scrambled = scramble_after(stream, end)
    values = scrambled.values.copy()
    values[end + 1] += 50.0
    scrambled = targets(*scrambled._replace(values=values), 5, SQUASHED)
    np.testing.assert_array_equal(actual[: end + 1], scrambled[: end + 1])
    assert not np.allclose(actual[end + 2 :], scrambled[end + 2 :])


def test_truncation_bootstraps_from_the_last_observation() -> None:
    end = 5
    stream = end_episode(make_stream(32, borders=False), end, GAMMA)
    actual = np.asarray(targets(*stream, 5, SQUASHED))
    bootstrap = double_q(stream)[end + 1]
    for back in range(5):  # the transitions whose five steps reach the end or would go beyond it
        t = end - back
        total = sum(GAMMA ** (s - t) * float(stream.rewards[s]) for s in range(t, end + 1)) + GAMMA ** (end + 1 - t) * bootstrap
        np.testing.assert_allclose(actual[t], value_oracle.squash(total), rtol=1e-5)
    # The last observation's values matter, nothing after it does.
    np.testing.assert_array_equal(actual[: end + 1], targets(*scramble_after(stream, end), 5, SQUASHED)[: end + 1])
    values = stream.values.copy()
    values[end + 1] += 1.0
    moved = np.asarray(targets(*stream._replace(values=values), 5, SQUASHED))
    np.testing.assert_array_equal(moved[: end + 1] > actual[: end + 1], [False, True, True, True, True, True])
    np.testing.assert_array_equal(moved[end + 2 :], actual[end + 2 :])


@pytest.mark.parametrize("n_step", [1, 5, T])
def test_a_stream_of_two_episodes_is_the_two_episodes(n_step: int) -> None:
    end = 6
    stream = end_episode(make_stream(33, borders=False), end, GAMMA)
    first = Stream(*(field[: end + 2] for field in stream[:2]), *(field[: end + 1] for field in stream[2:]))
    second = Stream(*(field[end + 2 :] for field in stream))
    actual = targets(*stream, n_step, SQUASHED)
    np.testing.assert_allclose(actual[: end + 1], targets(*first, n_step, SQUASHED), rtol=1e-6)
    np.testing.assert_allclose(actual[end + 2 :], targets(*second, n_step, SQUASHED), rtol=1e-6)


POISONS: dict[str, dict[str, float]] = {
    "nan": {"rewards": np.nan, "discounts": np.nan},
    "inf": {"rewards": np.inf, "discounts": np.inf},
    "-inf": {"rewards": -np.inf, "discounts": -np.inf},
    "zero": {"rewards": 0.0, "discounts": 0.0},
    "huge": {"rewards": 3e38, "discounts": 1e30},
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("function", [targets, transformed_n_step_targets], ids=["jit", "eager"])
def test_contents_of_invalid_transitions_change_nothing(poison: str, function: Callable[..., jax.Array]) -> None:
    """Also not compiled: XLA turns a product with a mask into a selection, which would hide a NaN times 0."""
    stream = make_stream(30)
    assert 1 < (~stream.valid).sum() < T / 2
    clean = function(*stream, 5, SQUASHED)
    poisoned = stream._asdict()
    for name, content in POISONS[poison].items():
        poisoned[name] = np.where(stream.valid, poisoned[name], np.asarray(content, poisoned[name].dtype))
    actual = function(*poisoned.values(), 5, SQUASHED)
    np.testing.assert_array_equal(actual, clean)
    assert np.all(np.isfinite(actual))


# Form


def test_no_gradient_passes() -> None:
    stream = make_stream(34)

    def total(values: jax.Array, online: jax.Array, rewards: jax.Array) -> jax.Array:
        return jnp.sum(transformed_n_step_targets(values, online, rewards, *stream[3:], 5, SQUASHED))

    for gradient in jax.grad(total, argnums=(0, 1, 2))(*(jnp.asarray(field) for field in stream[:3])):
        assert not np.asarray(gradient).any()


def test_vmap_equals_the_loop() -> None:
    streams = [make_stream(seed) for seed in range(40, 46)]
    batch = Stream(*(np.stack(fields) for fields in zip(*streams, strict=True)))
    batched = jax.vmap(lambda *stream: transformed_n_step_targets(*stream, 5, SQUASHED))(*batch)
    assert batched.shape == (6, T)
    for row, stream in enumerate(streams):
        np.testing.assert_allclose(batched[row], targets(*stream, 5, SQUASHED), rtol=1e-6)


def test_wrong_ranks_are_refused() -> None:
    stream = make_stream(0)
    for odd in (stream._replace(rewards=stream.rewards[:, None]), stream._replace(values=stream.values[None])):
        with pytest.raises(AssertionError):
            transformed_n_step_targets(*odd, 5, SQUASHED)


# Against rlax, which ends a stream in the same way


OURS_IN_RLAX = rlax.TxPair(SQUASHED.apply, SQUASHED.invert)


# rlax's own inverse cancels in float32, so it gets a wider tolerance.
@pytest.mark.parametrize(
    ("transform", "pair", "tolerance"),
    [(SQUASHED, OURS_IN_RLAX, 1e-5), (SQUASHED, rlax.SIGNED_HYPERBOLIC_PAIR, 2e-3), (IDENTITY, rlax.IDENTITY_PAIR, 1e-5)],
    ids=["ours", "rlax", "identity"],
)
@pytest.mark.parametrize("n_step", [1, 5, T])
def test_equals_rlax_without_borders(transform: ValueTransform, pair: Any, tolerance: float, n_step: int) -> None:
    """rlax returns target - Q(x_{t-1}, a_{t-1}), takes the chosen action as an argument, and knows no border after a termination."""
    for seed in range(50, 55):
        stream = make_stream(seed, borders=False)
        discounts = stream.discounts.copy()
        discounts[4] = 0.0
        stream = stream._replace(discounts=discounts)
        errors = rlax.transformed_n_step_q_learning(
            q_tm1=jnp.asarray(stream.online[:-1]),
            a_tm1=jnp.zeros(T, jnp.int32),
            target_q_t=jnp.asarray(stream.values[1:]),
            a_t=jnp.argmax(stream.online[1:], axis=1),
            r_t=jnp.asarray(stream.rewards),
            discount_t=jnp.asarray(stream.discounts),
            n=n_step,
            tx_pair=pair,
        )
        expected = np.asarray(errors) + stream.online[:-1, 0]
        np.testing.assert_allclose(targets(*stream, n_step, transform), expected, rtol=tolerance, atol=tolerance)
