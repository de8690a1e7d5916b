"""Streams of transitions, and the estimators of returns that tests run on them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from agent57_jax.algorithm.n_step import transformed_n_step_targets
from agent57_jax.algorithm.retrace import retrace_coefficients, transformed_trace_targets
from agent57_jax.algorithm.value_transform import ValueTransform
from tests.algorithm.twins import Transform
from tests.oracles import n_step, retrace

T, A = 12, 4
GAMMA = 0.97


class Stream(NamedTuple):
    """What a return may depend on; the last three end the arguments of every estimator and its twin."""

    values: Any  # [T + 1, A] of the target network
    online: Any  # [T + 1, A] of the online network
    policy: Any  # [T + 1, A]
    actions: Any  # [T]
    mu: Any  # [T]
    rewards: Any  # [T]
    discounts: Any  # [T]
    valid: Any  # [T]


def make_stream(seed: int, borders: bool = True, length: int = T) -> Stream:
    """A random stream; with borders, some transitions end an episode (half of them terminate) and the next one is invalid."""
    rng = np.random.default_rng(seed)
    values, online, logits = rng.normal(0.0, 3.0, (3, length + 1, A)).astype(np.float32)
    discounts = np.full(length, GAMMA, np.float32)
    valid = np.ones(length, bool)
    if borders:
        t = int(rng.integers(0, 4))
        while t < length:
            discounts[t] *= rng.integers(0, 2)
            valid[t + 1 : t + 2] = False
            t += int(rng.integers(2, 6))
    actions, mu = rng.integers(0, A, length).astype(np.int32), rng.uniform(0.05, 1.0, length).astype(np.float32)
    policy = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Stream(values, online, policy, actions, mu, rng.normal(0.0, 2.0, length).astype(np.float32), discounts, valid)


def on_policy(stream: Stream, last_action: int = 2) -> Stream:
    """The same with the actions of a deterministic policy, which is greedy in the online values; `last_action` is that at x_T."""
    policy = np.eye(A, dtype=np.float32)[np.append(stream.actions, last_action)]
    return stream._replace(online=policy, policy=policy, mu=np.ones_like(stream.mu))


def at_actions(values: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.array([values[t, action] for t, action in enumerate(actions)])


def bootstrapped_return(stream: Stream, value: float) -> np.ndarray:
    """Of a stream without borders: all rewards to its end, and what is left there."""
    length = len(stream.rewards)
    left = [GAMMA ** (length - t) * value for t in range(length)]
    return np.array([sum(GAMMA ** (s - t) * float(stream.rewards[s]) for s in range(t, length)) + left[t] for t in range(length)])


def n_step_targets(stream: Stream, number: int, transform: ValueTransform) -> jax.Array:
    """n-step double Q-learning."""
    return transformed_n_step_targets(stream.values, stream.online, *stream[5:], number, transform)


def retrace_targets(stream: Stream, trace_lambda: float, transform: ValueTransform) -> jax.Array:
    """Traces with the coefficients of Retrace, as the learner composes them."""
    coefficients = retrace_coefficients(stream.policy, stream.actions, stream.mu, trace_lambda)
    return transformed_trace_targets(stream.values, stream.policy, stream.actions, coefficients, *stream[5:], transform)


def n_step_twin(stream: Stream, number: int, transform: Transform) -> np.ndarray:
    return n_step.n_step_targets(stream.values, stream.online, *stream[5:], number, transform.apply, transform.invert)


def retrace_twin(stream: Stream, trace_lambda: float, transform: Transform) -> np.ndarray:
    coefficients = retrace.retrace_coefficients(stream.policy, stream.actions, stream.mu, trace_lambda)
    return retrace.trace_targets(stream.values, stream.policy, stream.actions, coefficients, *stream[5:], transform.apply, transform.invert)


class Estimator(NamedTuple):
    """Targets of a stream, with a parameter: how many steps, or lambda."""

    eager: Callable[[Stream, Any, ValueTransform], jax.Array]
    targets: Callable[[Stream, Any, ValueTransform], jax.Array]  # compiled
    twin: Callable[[Stream, Any, Transform], np.ndarray]  # NaN where a transition has no target
    shortest: Any
    usual: Any
    longest: Any


N_STEP = Estimator(n_step_targets, jax.jit(n_step_targets, static_argnums=(1, 2)), n_step_twin, shortest=1, usual=5, longest=T)
RETRACE = Estimator(retrace_targets, jax.jit(retrace_targets, static_argnums=2), retrace_twin, shortest=0.0, usual=0.95, longest=1.0)
ESTIMATORS = {"n-step": N_STEP, "retrace": RETRACE}


def assert_equals_twin(estimator: Estimator, stream: Stream, parameter: Any, transform: Transform) -> None:
    """Everywhere where a transition has a target; the others are finite."""
    actual = estimator.targets(stream, parameter, transform.ours)
    expected = estimator.twin(stream, parameter, transform)
    assert actual.shape == stream.rewards.shape and actual.dtype == np.float32
    assert np.all(np.isfinite(actual))
    has_target = ~np.isnan(expected)
    assert np.all(has_target | ~stream.valid)
    np.testing.assert_allclose(np.asarray(actual)[has_target], expected[has_target], rtol=2e-5, atol=2e-5)
