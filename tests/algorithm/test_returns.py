"""What n-step targets and targets with traces have in common: twins, borders, identities, and rlax, which ends a stream in the same way."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.value_transform import IDENTITY, SQUASHED, ValueTransform
from tests.algorithm.streams import (
    CASES,
    ESTIMATORS,
    N_STEP,
    NAMES,
    A,
    Estimator,
    Stream,
    T,
    assert_equals_twin,
    bootstrapped_return,
    make_stream,
    on_policy,
    rlax,
)
from tests.algorithm.twins import TRANSFORMS
from tests.oracles import value_transform as oracle

END = 5  # of the first episode, where a stream has two

each = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
each_case = pytest.mark.parametrize(("estimator", "parameter"), CASES, ids=NAMES)


@each
@pytest.mark.parametrize("length", [1, T])
@settings(max_examples=50)
@given(data=st.data())
def test_equals_its_twin_for_any_borders(estimator: Estimator, length: int, data: st.DataObject) -> None:
    """v: valid, t: valid and terminating, i: invalid, in any order, so also streams that begin or end with a border."""
    borders = data.draw(st.lists(st.sampled_from("vit"), min_size=length, max_size=length))
    parameter = data.draw(st.sampled_from([1, 3, 5]) if estimator is N_STEP else st.floats(0, 1, width=32))
    stream = make_stream(data.draw(st.integers(0, 2**31)), borders=False, length=length)
    discounts = np.where([kind == "t" for kind in borders], np.float32(0), stream.discounts)
    stream = stream._replace(valid=np.array([kind != "i" for kind in borders]), discounts=discounts)
    assert_equals_twin(estimator, stream, parameter, TRANSFORMS["squashed"])


# Identities


@each
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_longest_return_is_all_rewards_with_bootstrap_at_the_end(name: str, estimator: Estimator) -> None:
    """With traces, where the policy is deterministic and the actions are its own: every value in between cancels."""
    transform, apply, invert = TRANSFORMS[name]
    stream = on_policy(make_stream(21, borders=False), last_action=2)
    expected = np.vectorize(apply)(bootstrapped_return(stream, invert(float(stream.values[T, 2]))))
    np.testing.assert_allclose(estimator.targets(stream, estimator.longest, transform), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("borders", [False, True])
def test_the_longest_returns_of_both_are_one_on_policy(borders: bool) -> None:
    for seed in range(22, 25):
        stream = on_policy(make_stream(seed, borders))
        found = [np.asarray(one.targets(stream, one.longest, SQUASHED))[stream.valid] for one in ESTIMATORS.values()]
        np.testing.assert_allclose(*found, rtol=2e-5, atol=2e-5)


# Borders


def scramble_after(stream: Stream, t: int) -> Stream:
    """Replaces everything that comes after x_{t+1}, and all that x_{t+1}'s action brings."""
    other = make_stream(999, borders=False)
    other = other._replace(actions=(stream.actions + 1) % A, discounts=other.discounts / 2)
    states = (np.concatenate([mine[: t + 2], others[t + 2 :]]) for mine, others in zip(stream[:3], other[:3], strict=True))
    transitions = (np.concatenate([mine[: t + 1], others[t + 1 :]]) for mine, others in zip(stream[3:7], other[3:7], strict=True))
    return Stream(*states, *transitions, stream.valid)


def end_episode(stream: Stream, discount: float, border: bool = True) -> Stream:
    """Makes x_{END + 1} the LAST timestep of an episode."""
    discounts, valid = stream.discounts.copy(), stream.valid.copy()
    discounts[END] *= discount
    valid[END + 1] = not border
    return stream._replace(discounts=discounts, valid=valid)


def raised_at_the_end(stream: Stream, by: float) -> Stream:
    values = stream.values.copy()
    values[END + 1] += by
    return stream._replace(values=values)


@each
@pytest.mark.parametrize("border", [True, False], ids=["border", "discount alone"])
def test_termination_cuts(border: bool, estimator: Estimator) -> None:
    stream = end_episode(make_stream(31, borders=False), 0.0, border)
    actual = estimator.targets(stream, estimator.longest, SQUASHED)
    np.testing.assert_allclose(actual[END], oracle.squash(float(stream.rewards[END])), rtol=1e-5)
    # Nothing from x_LAST on matters, its own values included.
    scrambled = estimator.targets(raised_at_the_end(scramble_after(stream, END), 50.0), estimator.longest, SQUASHED)
    np.testing.assert_array_equal(actual[: END + 1], scrambled[: END + 1])
    assert not np.allclose(actual[END + 2 :], scrambled[END + 2 :])


@each
def test_truncation_bootstraps_from_the_last_observation(estimator: Estimator) -> None:
    stream = end_episode(make_stream(32, borders=False), 1.0)
    assert_equals_twin(estimator, stream, estimator.usual, TRANSFORMS["squashed"])
    actual, scrambled, raised = (
        np.asarray(estimator.targets(changed, estimator.longest, SQUASHED))
        for changed in (stream, scramble_after(stream, END), raised_at_the_end(stream, 1.0))
    )
    # The last observation's values matter, nothing after it does.
    np.testing.assert_array_equal(actual[: END + 1], scrambled[: END + 1])
    assert np.all(raised[: END + 1] > actual[: END + 1])
    np.testing.assert_array_equal(raised[END + 2 :], actual[END + 2 :])


@each_case
def test_a_stream_of_two_episodes_is_the_two_episodes(estimator: Estimator, parameter: Any) -> None:
    stream = end_episode(make_stream(33, borders=False), 1.0)
    first = Stream(*(field[: END + 2] for field in stream[:3]), *(field[: END + 1] for field in stream[3:]))
    second = Stream(*(field[END + 2 :] for field in stream))
    actual = estimator.targets(stream, parameter, SQUASHED)
    np.testing.assert_allclose(actual[: END + 1], estimator.targets(first, parameter, SQUASHED), rtol=1e-6)
    np.testing.assert_allclose(actual[END + 2 :], estimator.targets(second, parameter, SQUASHED), rtol=1e-6)


POISONS: dict[str, dict[str, float]] = {
    "nan": {"actions": 1, "mu": np.nan, "rewards": np.nan, "discounts": np.nan},
    "inf": {"actions": 2, "mu": np.inf, "rewards": np.inf, "discounts": np.inf},
    "-inf": {"actions": 3, "mu": -np.inf, "rewards": -np.inf, "discounts": -np.inf},
    "zero": {"actions": 0, "mu": 0.0, "rewards": 0.0, "discounts": 0.0},
    "huge": {"actions": 0, "mu": 1e-30, "rewards": 3e38, "discounts": 1e30},
    "no such action": {"actions": 1000, "mu": 0.5, "rewards": 1.0, "discounts": 1.0},
}


@each
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("how", ["targets", "eager"])
def test_contents_of_invalid_transitions_change_nothing_elsewhere(how: str, poison: str, estimator: Estimator) -> None:
    """Also not compiled: XLA turns a product with a mask into a selection, which would hide a NaN times 0."""
    stream = make_stream(30)
    assert 1 < (~stream.valid).sum() < T / 2
    function: Callable[..., jax.Array] = getattr(estimator, how)
    poisoned = {
        name: np.where(stream.valid, getattr(stream, name), np.asarray(content, getattr(stream, name).dtype))
        for name, content in POISONS[poison].items()
    }
    # A target with traces is of no use where a transition is invalid, its action being none.
    where = stream.valid | (estimator is N_STEP)
    clean, actual = (np.asarray(function(one, estimator.usual, SQUASHED))[where] for one in (stream, stream._replace(**poisoned)))
    np.testing.assert_array_equal(actual, clean)
    assert np.all(np.isfinite(actual))


# Form


@each
def test_no_gradient_passes(estimator: Estimator) -> None:
    stream = make_stream(34)
    floats = {name: field for name, field in stream._asdict().items() if field.dtype == np.float32}
    gradients = jax.grad(lambda fields: jnp.sum(estimator.eager(stream._replace(**fields), estimator.usual, SQUASHED)))(floats)
    assert len(gradients) == 6 and not any(np.any(gradient) for gradient in gradients.values())


@each
def test_wrong_ranks_are_refused(estimator: Estimator) -> None:
    stream = make_stream(0)
    for odd in (stream._replace(rewards=stream.rewards[:, None]), stream._replace(values=stream.values[None])):
        with pytest.raises(AssertionError):
            estimator.eager(odd, estimator.usual, SQUASHED)


# rlax's own inverse cancels in float32, so it gets a wider tolerance.
@pytest.mark.parametrize(
    ("transform", "pair", "tolerance"),
    [
        (SQUASHED, rlax.TxPair(SQUASHED.apply, SQUASHED.invert), 1e-5),
        (SQUASHED, rlax.SIGNED_HYPERBOLIC_PAIR, 2e-3),
        (IDENTITY, rlax.IDENTITY_PAIR, 1e-5),
    ],
    ids=["ours", "rlax", "identity"],
)
@each_case
def test_equals_rlax_without_borders(estimator: Estimator, parameter: Any, transform: ValueTransform, pair: Any, tolerance: float) -> None:
    for seed in range(50, 52):
        stream = end_episode(make_stream(seed, borders=False), 0.0, border=False)
        expected = estimator.rlax(Stream(*map(jnp.asarray, stream)), parameter, pair)
        np.testing.assert_allclose(estimator.targets(stream, parameter, transform), expected, rtol=tolerance, atol=tolerance)
