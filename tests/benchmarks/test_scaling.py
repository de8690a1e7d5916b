"""The calculation of what a network costs."""

import pytest

from benchmarks import scaling

NETWORK = scaling.Network(box=8, inside=100.0, between=10.0, latency_inside=2.0, latency_between=1.0)


@pytest.mark.parametrize(
    ("gpus", "inside", "between", "seconds"),
    [
        (1, 0, 0, 0),  # sends nothing
        (8, 2 * 7 / 8 * 800, 0, 14.0 + 3 * 2.0),  # 7/8 of the sum go round twice
        (64, 2 * 7 / 8 * 800, 2 * 7 / 8 * 100, 14.0 + 17.5 + 3 * (2.0 + 3.0)),  # the GPUs of a box share what goes between boxes
    ],
)
def test_sums_go_round_inside_boxes_and_between_them(gpus: int, inside: float, between: float, seconds: float) -> None:
    assert scaling.cost(NETWORK, gpus, 3, 800.0) == pytest.approx((inside, between, seconds))


def test_more_gpus_never_cost_less() -> None:
    costs = [scaling.cost(NETWORK, gpus, 10, 1e3).seconds for gpus in (1, 2, 4, 8, 16, 64, 512)]
    assert costs == sorted(costs)
