"""Which policies a batch trains."""

import jax
import numpy as np
import pytest

from agent57_jax.algorithm.cross_mixture import mixed_policies, mixture_shares

B, T = 4_000, 3


def policies(num_policies: int) -> np.ndarray:
    """Episodes end inside the sequences, so that policies change there."""
    return np.array(np.arange(B)[:, None] + np.array([0, 0, 1]), np.int32) % num_policies


@pytest.mark.parametrize("num_policies", [2, 5])
def test_a_share_of_the_sequences_trains_the_others_equally(num_policies: int) -> None:
    before = policies(num_policies)
    after = np.asarray(mixed_policies(jax.random.key(0), before, num_policies, 0.5))
    assert after.min() >= 0 and after.max() < num_policies
    offset = (after - before) % num_policies
    assert np.all(offset == offset[:, :1]), "one offset for all timesteps of a sequence"
    shares = np.bincount(offset[:, 0], minlength=num_policies) / B
    np.testing.assert_allclose(shares, [0.5, *[0.5 / (num_policies - 1)] * (num_policies - 1)], atol=0.03)


def test_none_or_all_may_train_others_and_one_policy_has_none() -> None:
    before, key = policies(3), jax.random.key(1)
    np.testing.assert_array_equal(mixed_policies(key, before, 3, 0.0), before)
    assert np.all(np.asarray(mixed_policies(key, before, 3, 1.0)) != before)
    np.testing.assert_array_equal(mixed_policies(key, policies(1), 1, 1.0), policies(1))
    np.testing.assert_array_equal(mixture_shares(policies(1), 1, 0.5), np.ones((1, B, T)))


@pytest.mark.parametrize(("num_policies", "eta"), [(2, 0.5), (5, 0.5), (5, 0.2), (5, 1.0)])
def test_shares_give_the_mixture(num_policies: int, eta: float) -> None:
    """Sum over transitions of eta L_j + (1 - eta) / (N - 1) sum_{j' != j} L_j'."""
    policy = policies(num_policies)[:40]
    expected = np.zeros((num_policies, *policy.shape))
    for n, b, t in np.ndindex(expected.shape):
        expected[n, b, t] = eta if n == policy[b, t] else (1.0 - eta) / (num_policies - 1)
    np.testing.assert_allclose(mixture_shares(policy, num_policies, 1.0 - eta), expected, rtol=1e-5)
