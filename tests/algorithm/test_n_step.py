"""n-step double Q-learning against its twin; test_returns.py has what it shares with traces."""

import pytest

from tests.algorithm.streams import N_STEP, T, assert_equals_twin, make_stream
from tests.algorithm.twins import TRANSFORMS


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("number", [1, 2, 3, 5, T - 1, T, 2 * T])
def test_equals_the_sum_that_is_written_out(name: str, number: int) -> None:
    for seed in range(6):
        assert_equals_twin(N_STEP, make_stream(seed), number, TRANSFORMS[name])
