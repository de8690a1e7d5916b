"""The policy that is distilled from action values."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent57_jax.algorithm.policy_distillation import distillation_losses, tempered_policy
from tests.algorithm.twins import assert_equals_twin, floats
from tests.oracles import policy_distillation as oracle

ROWS, A = 6, 4
EPSILON = 0.1
LOGITS = floats(-8, 8, ROWS, A)

losses_of = jax.jit(distillation_losses)


@settings(max_examples=60)
@given(new=LOGITS, old=LOGITS, values=LOGITS, limit=st.sampled_from([0.0, 0.3, 2.0, np.inf]))
def test_equals_its_twin(new: np.ndarray, old: np.ndarray, values: np.ndarray, limit: float) -> None:
    found, near = losses_of(new, old, values, EPSILON, limit)
    for row in range(ROWS):
        pi = oracle.policy(new[row])
        if abs(oracle.divergence(oracle.policy(old[row]), pi) - limit) < 1e-4:
            continue  # rounding decides
        loss, is_near = oracle.distillation_loss(new[row], old[row], values[row], EPSILON, limit)
        assert near[row] == is_near
        np.testing.assert_allclose(found[row], loss, rtol=1e-4, atol=1e-5)


def test_the_tempered_policy_equals_its_twin_and_at_one_it_is_the_policy() -> None:
    twin = np.vectorize(oracle.policy, signature="(a),()->(a)")
    assert_equals_twin(tempered_policy, twin, LOGITS, st.sampled_from([0.25, 0.5, 1.0, 3.0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tempered_policy(random(0), 1.0), jax.nn.softmax(random(0)), rtol=1e-6)


def random(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 3.0, (200, A)).astype(np.float32)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_number_is_not_hidden(which: int) -> None:
    arguments = [random(6)[:1], random(7)[:1], random(8)[:1]]
    arguments[which][0, 0] = np.nan
    found, near = losses_of(*arguments, EPSILON, 0.5)
    assert near[0] and (which == 1 or np.isnan(found[0]))
