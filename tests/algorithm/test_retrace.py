"""Transformed Retrace against its twin, against rlax, and against the identities it must satisfy."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.retrace import retrace_coefficients, soft_watkins_coefficients, transformed_trace_targets
from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform
from tests.oracles import retrace as oracle
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


def transformed_retrace_targets(
    values: Any, policy: Any, actions: Any, mu: Any, rewards: Any, discounts: Any, valid: Any, trace_lambda: Any, transform: ValueTransform
) -> jax.Array:
    """Targets with the coefficients of Retrace, as the learner composes them."""
    coefficients = retrace_coefficients(policy, actions, mu, trace_lambda)
    return transformed_trace_targets(values, policy, actions, coefficients, rewards, discounts, valid, transform)


targets = jax.jit(transformed_retrace_targets, static_argnames="transform")


class Stream(NamedTuple):
    """The first seven arguments of the function, in order."""

    values: Any  # [T + 1, A]
    policy: Any  # [T + 1, A]
    actions: Any  # [T]
    mu: Any  # [T]
    rewards: Any  # [T]
    discounts: Any  # [T]
    valid: Any  # [T]


def make_stream(seed: int, borders: bool = True, length: int = T) -> Stream:
    """A random stream; with borders, some transitions end an episode (half of them terminate) and the next one is invalid."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.standard_normal((length + 1, A))
    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
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
        policy=policy.astype(np.float32),
        actions=rng.integers(0, A, length).astype(np.int32),
        mu=rng.uniform(0.05, 1.0, length).astype(np.float32),
        rewards=(2.0 * rng.standard_normal(length)).astype(np.float32),
        discounts=discounts.astype(np.float32),
        valid=valid,
    )


def at_actions(values: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.array([values[t, action] for t, action in enumerate(actions)])


def one_step_targets(stream: Stream) -> np.ndarray:
    """h(r + gamma d E_pi h^-1(Q)) in float64."""
    result = []
    for t in range(len(stream.actions)):
        expected = sum(float(p) * value_oracle.unsquash(q) for p, q in zip(stream.policy[t + 1], stream.values[t + 1], strict=True))
        result.append(value_oracle.squash(float(stream.rewards[t]) + float(stream.discounts[t]) * expected))
    return np.array(result)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("trace_lambda", [0.0, 0.5, 0.95, 1.0])
def test_equals_the_double_sum(name: str, trace_lambda: float) -> None:
    transform, apply, invert = TRANSFORMS[name]
    for seed in range(12):
        stream = make_stream(seed)
        actual = targets(*stream, trace_lambda, transform)
        assert actual.shape == (T,) and actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, oracle.retrace_targets(*stream, trace_lambda, apply, invert), rtol=2e-5, atol=2e-5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), trace_lambda=st.floats(0, 1, width=32), borders=st.lists(st.sampled_from("vit"), min_size=T, max_size=T))
def test_equals_the_double_sum_for_any_borders(seed: int, trace_lambda: float, borders: list[str]) -> None:
    """v: valid, t: valid and terminating, i: invalid, in any order, so also streams that begin or end with a border."""
    stream = make_stream(seed, borders=False)
    valid = np.array([kind != "i" for kind in borders])
    discounts = np.where([kind == "t" for kind in borders], np.float32(0), stream.discounts)
    stream = stream._replace(valid=valid, discounts=discounts)
    np.testing.assert_allclose(
        targets(*stream, trace_lambda, SQUASHED), oracle.retrace_targets(*stream, trace_lambda), rtol=2e-5, atol=2e-5
    )


def test_streams_of_one_transition() -> None:
    stream = make_stream(3, borders=False, length=1)
    np.testing.assert_allclose(targets(*stream, 0.95, SQUASHED), one_step_targets(stream), rtol=1e-5, atol=1e-5)
    invalid = stream._replace(valid=np.array([False]))
    np.testing.assert_allclose(targets(*invalid, 0.95, SQUASHED), at_actions(stream.values, stream.actions), rtol=1e-5)


def test_lambda_zero_is_the_one_step_expected_backup() -> None:
    stream = make_stream(20, borders=False)
    np.testing.assert_allclose(targets(*stream, 0.0, SQUASHED), one_step_targets(stream), rtol=1e-5, atol=1e-5)


def test_actions_that_the_target_policy_never_takes_cut_the_trace() -> None:
    """c = 0 from pi(a_t | x_t) = 0, with lambda = 1."""
    stream = make_stream(21, borders=False)
    policy = stream.policy.copy()
    for t, action in enumerate(stream.actions):
        policy[t, action] = 0.0
        policy[t] /= policy[t].sum()
    stream = stream._replace(policy=policy)
    np.testing.assert_allclose(targets(*stream, 1.0, SQUASHED), one_step_targets(stream), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_on_policy_lambda_one_is_the_return_with_bootstrap(name: str) -> None:
    """Actions drawn from a deterministic target policy: every value in between cancels."""
    transform, apply, invert = TRANSFORMS[name]
    stream = make_stream(22, borders=False)
    next_actions = np.append(stream.actions, 2)
    stream = stream._replace(policy=np.eye(A, dtype=np.float32)[next_actions], mu=np.ones(T, np.float32))
    expected = []
    for t in range(T):
        total = sum(GAMMA ** (s - t) * float(stream.rewards[s]) for s in range(t, T))
        expected.append(apply(total + GAMMA ** (T - t) * invert(float(stream.values[T, 2]))))
    np.testing.assert_allclose(targets(*stream, 1.0, transform), expected, rtol=1e-5, atol=2e-5)


def test_on_policy_lambda_one_with_action_independent_values_is_the_return_with_bootstrap() -> None:
    """A stochastic policy; the expectation equals each action's value, so that values in between cancel again."""
    stream = make_stream(23, borders=False)
    values = np.repeat(stream.values[:, :1], A, axis=1)
    stream = stream._replace(values=values, mu=at_actions(stream.policy, stream.actions))
    expected = []
    for t in range(T):
        total = sum(GAMMA ** (s - t) * float(stream.rewards[s]) for s in range(t, T))
        expected.append(total + GAMMA ** (T - t) * float(values[T, 0]))
    np.testing.assert_allclose(targets(*stream, 1.0, IDENTITY), expected, rtol=1e-5, atol=2e-5)


def test_traces_are_clipped_at_one() -> None:
    """A behaviour probability below the target policy's counts as equal to it."""
    stream = make_stream(24)
    pi_a = at_actions(stream.policy, stream.actions)
    equal = targets(*stream._replace(mu=pi_a), 0.95, SQUASHED)
    np.testing.assert_allclose(targets(*stream._replace(mu=pi_a / 50), 0.95, SQUASHED), equal, rtol=1e-6)
    assert not np.allclose(targets(*stream._replace(mu=np.minimum(1.0, 2 * pi_a)), 0.95, SQUASHED), equal, rtol=1e-3)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.6, 1.0])
def test_values_that_satisfy_the_bellman_equation_stay(trace_lambda: float) -> None:
    """Every delta is 0, so no behaviour, trace or lambda moves the target."""
    stream = make_stream(25, borders=False)
    q = np.vectorize(value_oracle.unsquash)(stream.values.astype(np.float64))
    expected = (stream.policy[1:] * q[1:]).sum(-1)
    rewards = at_actions(q, stream.actions) - stream.discounts * expected
    stream = stream._replace(rewards=rewards.astype(np.float32))
    np.testing.assert_allclose(targets(*stream, trace_lambda, SQUASHED), at_actions(stream.values, stream.actions), rtol=1e-4, atol=1e-4)


def scramble_after(stream: Stream, t: int) -> Stream:
    """Replaces everything that comes after x_{t+1}, and all that x_{t+1}'s action brings."""
    other = make_stream(999)
    return Stream(
        values=np.concatenate([stream.values[: t + 2], other.values[t + 2 :]]),
        policy=np.concatenate([stream.policy[: t + 2], other.policy[t + 2 :]]),
        actions=np.concatenate([stream.actions[: t + 1], (stream.actions[t + 1 :] + 1) % A]),
        mu=np.concatenate([stream.mu[: t + 1], other.mu[t + 1 :]]),
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
    stream = end_episode(make_stream(26, borders=False), end, 0.0)
    actual = targets(*stream, 0.95, SQUASHED)
    np.testing.assert_allclose(actual[end], value_oracle.squash(float(stream.rewards[end])), rtol=1e-5)
    # Nothing from x_LAST on matters, its own values included.
    scrambled = scramble_after(stream, end)
    values = scrambled.values.copy()
    values[end + 1] += 50.0
    scrambled = targets(*scrambled._replace(values=values), 0.95, SQUASHED)
    np.testing.assert_array_equal(actual[: end + 1], scrambled[: end + 1])
    assert not np.allclose(actual[end + 2 :], scrambled[end + 2 :])


def test_termination_cuts_without_a_border_too() -> None:
    """A discount of 0 alone ends the sum."""
    end = 5
    stream = make_stream(27, borders=False)
    discounts = stream.discounts.copy()
    discounts[end] = 0.0
    stream = stream._replace(discounts=discounts)
    actual = targets(*stream, 1.0, SQUASHED)
    np.testing.assert_allclose(actual[end], value_oracle.squash(float(stream.rewards[end])), rtol=1e-5)
    np.testing.assert_array_equal(actual[: end + 1], targets(*scramble_after(stream, end), 1.0, SQUASHED)[: end + 1])


def test_truncation_bootstraps_from_the_last_observation() -> None:
    end = 5
    stream = end_episode(make_stream(28, borders=False), end, GAMMA)
    actual = targets(*stream, 0.95, SQUASHED)
    np.testing.assert_allclose(actual[end], one_step_targets(stream)[end], rtol=1e-5)
    # The last observation's values matter, nothing after it does.
    np.testing.assert_array_equal(actual[: end + 1], targets(*scramble_after(stream, end), 0.95, SQUASHED)[: end + 1])
    values = stream.values.copy()
    values[end + 1] += 1.0
    moved = targets(*stream._replace(values=values), 0.95, SQUASHED)
    assert np.all(moved[: end + 1] > actual[: end + 1])
    np.testing.assert_array_equal(moved[end + 2 :], actual[end + 2 :])


def test_a_stream_of_two_episodes_is_the_two_episodes() -> None:
    end = 6
    stream = end_episode(make_stream(29, borders=False), end, GAMMA)
    first = Stream(*(field[: end + 2] for field in stream[:2]), *(field[: end + 1] for field in stream[2:]))
    second = Stream(*(field[end + 2 :] for field in stream))
    actual = targets(*stream, 0.95, SQUASHED)
    np.testing.assert_allclose(actual[: end + 1], targets(*first, 0.95, SQUASHED), rtol=1e-6)
    np.testing.assert_allclose(actual[end + 2 :], targets(*second, 0.95, SQUASHED), rtol=1e-6)


POISONS: dict[str, dict[str, float | int]] = {
    "nan": {"actions": 1, "mu": np.nan, "rewards": np.nan, "discounts": np.nan},
    "inf": {"actions": 2, "mu": np.inf, "rewards": np.inf, "discounts": np.inf},
    "-inf": {"actions": 3, "mu": -np.inf, "rewards": -np.inf, "discounts": -np.inf},
    "zero": {"actions": 0, "mu": 0.0, "rewards": 0.0, "discounts": 0.0},
    "huge": {"actions": 0, "mu": 1e-30, "rewards": 3e38, "discounts": 1e30},
    "no such action": {"actions": 1000, "mu": 0.5, "rewards": 1.0, "discounts": 1.0},
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("function", [targets, transformed_retrace_targets], ids=["jit", "eager"])
def test_contents_of_invalid_transitions_change_nothing_elsewhere(poison: str, function: Callable[..., jax.Array]) -> None:
    """Also not compiled: XLA turns a product with a mask into a selection, which would hide a NaN times 0."""
    stream = make_stream(30)
    assert 1 < (~stream.valid).sum() < T / 2
    clean = function(*stream, 0.95, SQUASHED)
    poisoned = stream._asdict()
    for name, content in POISONS[poison].items():
        poisoned[name] = np.where(stream.valid, poisoned[name], np.asarray(content, poisoned[name].dtype))
    actual = function(*poisoned.values(), 0.95, SQUASHED)
    np.testing.assert_array_equal(actual[stream.valid], clean[stream.valid])
    assert np.all(np.isfinite(actual[stream.valid]))


def test_target_of_an_invalid_transition_is_its_value() -> None:
    stream = make_stream(33)
    actual = targets(*stream, 0.95, SQUASHED)
    np.testing.assert_allclose(actual[~stream.valid], at_actions(stream.values, stream.actions)[~stream.valid], rtol=1e-5)


def test_no_gradient_passes() -> None:
    stream = make_stream(34)

    def total(values: jax.Array, policy: jax.Array, rewards: jax.Array) -> jax.Array:
        return jnp.sum(transformed_retrace_targets(values, policy, *stream[2:4], rewards, *stream[5:], 0.95, SQUASHED))

    for gradient in jax.grad(total, argnums=(0, 1, 2))(jnp.asarray(stream.values), jnp.asarray(stream.policy), jnp.asarray(stream.rewards)):
        assert not np.asarray(gradient).any()


def test_vmap_equals_the_loop() -> None:
    streams = [make_stream(seed) for seed in range(40, 46)]
    batch = Stream(*(np.stack(fields) for fields in zip(*streams, strict=True)))
    batched = jax.vmap(lambda *stream: transformed_retrace_targets(*stream, 0.95, SQUASHED))(*batch)
    assert batched.shape == (6, T)
    for row, stream in enumerate(streams):
        np.testing.assert_allclose(batched[row], targets(*stream, 0.95, SQUASHED), rtol=1e-6)


def test_wrong_ranks_are_refused() -> None:
    stream = make_stream(0)
    with pytest.raises(AssertionError):
        transformed_retrace_targets(*stream._replace(rewards=stream.rewards[:, None]), 0.95, SQUASHED)
    with pytest.raises(AssertionError):
        transformed_retrace_targets(*stream._replace(values=stream.values[None]), 0.95, SQUASHED)


OURS_IN_RLAX = rlax.TxPair(SQUASHED.apply, SQUASHED.invert)


# rlax's own inverse cancels in float32, so it gets a wider tolerance.
@pytest.mark.parametrize(
    ("transform", "pair", "tolerance"),
    [(SQUASHED, OURS_IN_RLAX, 1e-5), (SQUASHED, rlax.SIGNED_HYPERBOLIC_PAIR, 2e-3), (IDENTITY, rlax.IDENTITY_PAIR, 1e-5)],
    ids=["ours", "rlax", "identity"],
)
@pytest.mark.parametrize("trace_lambda", [0.0, 0.95, 1.0])
def test_equals_rlax_without_borders(transform: ValueTransform, pair: Any, tolerance: float, trace_lambda: float) -> None:
    """rlax returns target - Q(x_{t-1}, a_{t-1}) and names by t what follows the step: values, action, pi and mu at x_1..x_T.

    The action and mu at x_T, the end of the stream, don't enter: rlax drops the last trace.
    """
    for seed in range(50, 55):
        stream = make_stream(seed, borders=False)
        discounts = stream.discounts.copy()
        discounts[4] = 0.0  # a termination; rlax knows no border after it
        stream = stream._replace(discounts=discounts)
        errors = rlax.transformed_retrace(
            q_tm1=jnp.asarray(stream.values[:-1]),
            q_t=jnp.asarray(stream.values[1:]),
            a_tm1=jnp.asarray(stream.actions),
            a_t=jnp.append(stream.actions[1:], 0),
            r_t=jnp.asarray(stream.rewards),
            discount_t=jnp.asarray(stream.discounts),
            pi_t=jnp.asarray(stream.policy[1:]),
            mu_t=jnp.append(stream.mu[1:], 1.0),
            lambda_=trace_lambda,
            tx_pair=pair,
        )
        expected = np.asarray(errors) + at_actions(stream.values, stream.actions)
        np.testing.assert_allclose(targets(*stream, trace_lambda, transform), expected, rtol=tolerance, atol=tolerance)


# Soft Watkins ---------------------------------------------------------------------------------------------------------------------------

soft_watkins = jax.jit(soft_watkins_coefficients)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), trace_lambda=st.floats(0, 1, width=32), tolerance=st.floats(0, 2, width=32))
def test_soft_watkins_equals_its_twin(seed: int, trace_lambda: float, tolerance: float) -> None:
    """Coefficients, and targets with them, on streams with borders; values of both signs."""
    stream = make_stream(seed)
    online = np.random.default_rng(seed).normal(0.0, 2.0, (T + 1, A)).astype(np.float32)
    found = soft_watkins(online, stream.policy, stream.actions, trace_lambda, tolerance)
    expected = oracle.soft_watkins_coefficients(online, stream.policy, stream.actions, trace_lambda, tolerance)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    shared = (stream.rewards, stream.discounts, stream.valid)
    np.testing.assert_allclose(
        transformed_trace_targets(stream.values, stream.policy, stream.actions, found, *shared, SQUASHED),
        oracle.trace_targets(stream.values, stream.policy, stream.actions, expected, *shared),
        rtol=2e-5,
        atol=2e-5,
    )


def test_soft_watkins_never_cuts_with_endless_tolerance_and_only_behind_greedy_actions_without() -> None:
    stream = make_stream(4, borders=False)
    greedy = np.eye(A, dtype=np.float32)[np.argmax(stream.values, axis=-1)]
    best = np.argmax(stream.values[:-1], axis=-1)
    np.testing.assert_allclose(soft_watkins(stream.values, greedy, stream.actions, 0.95, 1e9), 0.95)
    np.testing.assert_allclose(soft_watkins(stream.values, greedy, stream.actions, 0.95, 0.0), 0.95 * (stream.actions == best))


def test_soft_watkins_goes_on_behind_an_action_that_is_nearly_greedy() -> None:
    """At kappa 0.01 a value of 0.995 beside 1, or of -1.005 beside -1, is good enough; 0.98 and -1.02 are not."""
    values = np.array([[1.0, 0.995], [1.0, 0.98], [-1.0, -1.005], [-1.0, -1.02]], np.float32)
    policy, actions = np.tile(np.array([1.0, 0.0], np.float32), (4, 1)), np.ones(4, np.int32)
    np.testing.assert_allclose(soft_watkins(values, policy, actions, 1.0, 0.01), [1, 0, 1, 0])
