"""n-step double Q-learning against its twin; test_returns.py has what it shares with traces."""

import numpy as np
import pytest

from agent57_jax.algorithm.value_transform import SQUASHED
from tests.algorithm.streams import N_STEP, A, T, assert_equals_twin, greedy, make_stream
from tests.algorithm.twins import TRANSFORMS


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("number", [1, 2, 3, 5, T - 1, T, 2 * T])
def test_equals_the_sum_that_is_written_out(name: str, number: int) -> None:
    for seed in range(6):
        assert_equals_twin(N_STEP, make_stream(seed), number, TRANSFORMS[name])


def test_the_online_network_chooses_and_the_target_network_tells() -> None:
    stream = make_stream(30)
    chosen = np.eye(A, dtype=bool)[greedy(stream)]
    assert np.mean(chosen.argmax(axis=1) != np.argmax(stream.values, axis=1)) > 0.5
    actual, louder, others, raised = (
        np.asarray(N_STEP.targets(changed, 3, SQUASHED))
        for changed in (
            stream,
            stream._replace(online=(100.0 + 7.0 * stream.online).astype(np.float32)),
            stream._replace(values=np.where(chosen, stream.values, 50.0).astype(np.float32)),
            stream._replace(values=np.where(chosen, stream.values + 1.0, stream.values).astype(np.float32)),
        )
    )
    np.testing.assert_array_equal(louder, actual)  # the size of the online values is of no account, only which is the largest
    np.testing.assert_array_equal(others, actual)  # of the target values only the chosen one counts, though another may be larger
    assert np.any(raised > actual + 0.01)
