"""What n-step targets and targets with traces have in common: twins, borders, identities, and rlax, which ends a stream in the same way."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.value_transform import SQUASHED
from tests.algorithm.streams import (
    ESTIMATORS,
    N_STEP,
    RETRACE,
    Estimator,
    Stream,
    T,
    assert_equals_twin,
    at_actions,
    bootstrapped_return,
    make_stream,
    on_policy,
)
from tests.algorithm.twins import TRANSFORMS

each = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


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


@each
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_longest_return_is_all_rewards_with_bootstrap_at_the_end(name: str, estimator: Estimator) -> None:
    """With traces, where the policy is deterministic and the actions are its own: every value in between cancels."""
    transform, apply, invert = TRANSFORMS[name]
    stream = on_policy(make_stream(21, borders=False), last_action=2)
    expected = np.vectorize(apply)(bootstrapped_return(stream, invert(float(stream.values[T, 2]))))
    np.testing.assert_allclose(estimator.targets(stream, estimator.longest, transform), expected, rtol=1e-5, atol=2e-5)


@each
@pytest.mark.parametrize("discount", [0.0, 1.0], ids=["terminated", "truncated"])
def test_a_stream_of_two_episodes_is_the_two_episodes(discount: float, estimator: Estimator) -> None:
    stream, end = make_stream(33, borders=False), 5  # the first one's last transition
    stream.discounts[end] *= discount
    stream.valid[end + 1] = False
    first = Stream(*(field[: end + 2] for field in stream[:3]), *(field[: end + 1] for field in stream[3:]))
    second = Stream(*(field[end + 2 :] for field in stream))
    for parameter in (estimator.shortest, estimator.usual, estimator.longest):
        actual = estimator.targets(stream, parameter, SQUASHED)
        np.testing.assert_allclose(actual[: end + 1], estimator.targets(first, parameter, SQUASHED), rtol=1e-6)
        np.testing.assert_allclose(actual[end + 2 :], estimator.targets(second, parameter, SQUASHED), rtol=1e-6)


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


@each
def test_wrong_ranks_are_refused(estimator: Estimator) -> None:
    stream = make_stream(0)
    for odd in (stream._replace(rewards=stream.rewards[:, None]), stream._replace(values=stream.values[None])):
        with pytest.raises(AssertionError):
            estimator.eager(odd, estimator.usual, SQUASHED)


def test_equals_rlax_without_borders() -> None:
    stream = make_stream(50, borders=False)
    values, online, policy, actions, mu, rewards, discounts, _ = map(jnp.asarray, stream)
    discounts = discounts.at[5].set(0.0)
    stream, pair = stream._replace(discounts=discounts), rlax.TxPair(*SQUASHED)
    best = jnp.argmax(online[1:], axis=1)
    for number in (1, 5, T):
        errors = rlax.transformed_n_step_q_learning(online[:-1], actions, values[1:], best, rewards, discounts, number, tx_pair=pair)
        targets = errors + at_actions(online, actions)
        np.testing.assert_allclose(N_STEP.targets(stream, number, SQUASHED), targets, rtol=1e-5, atol=1e-5)
    # It names by t what follows the step; action and mu at x_T do not enter.
    following = jnp.append(actions[1:], 0), rewards, discounts, policy[1:], jnp.append(mu[1:], 1.0)
    for trace_lambda in (0.0, 0.95, 1.0):
        errors = rlax.transformed_retrace(values[:-1], values[1:], actions, *following, trace_lambda, tx_pair=pair)
        targets = errors + at_actions(values, actions)
        np.testing.assert_allclose(RETRACE.targets(stream, trace_lambda, SQUASHED), targets, rtol=1e-5, atol=1e-5)
