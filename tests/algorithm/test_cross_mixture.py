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


def literal_mixture(losses: np.ndarray, policy: np.ndarray, eta: float) -> float:
    """Sum over transitions of eta L_j + (1 - eta) / (N - 1) sum_{j' != j} L_j', from losses [N, B, T]."""
    number = len(losses)
    total = 0.0
    for b, t in np.ndindex(policy.shape):
        for n in range(number):
            total += (eta if n == policy[b, t] else (1.0 - eta) / (number - 1)) * float(losses[n, b, t])
    return total


@pytest.mark.parametrize(("num_policies", "eta"), [(2, 0.5), (5, 0.5), (5, 0.2), (5, 1.0)])
def test_shares_give_the_mixture(num_policies: int, eta: float) -> None:
    policy = policies(num_policies)[:40]
    losses = np.random.default_rng(0).uniform(size=(num_policies, *policy.shape))
    shares = np.asarray(mixture_shares(policy, num_policies, 1.0 - eta))
    np.testing.assert_allclose(np.sum(shares * losses), literal_mixture(losses, policy, eta), rtol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, rtol=1e-6)


def test_drawing_a_policy_for_each_sequence_expects_the_mixture() -> None:
    before = policies(3)
    after = np.asarray(mixed_policies(jax.random.key(2), before, 3, 0.4))
    trained = np.mean(np.arange(3)[:, None, None] == after[None], axis=1)
    np.testing.assert_allclose(trained, np.mean(mixture_shares(before, 3, 0.4), axis=1), atol=0.03)
