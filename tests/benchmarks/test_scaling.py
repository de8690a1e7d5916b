"""The calculation of what a network costs."""

import pytest

from benchmarks import scaling

NETWORK = scaling.Network(box=8, inside=100.0, between=10.0, latency_inside=2.0, latency_between=1.0)


def test_one_gpu_sends_nothing() -> None:
    assert scaling.cost(NETWORK, 1, 5, 800.0) == (0, 0, 0)


def test_a_box_sends_inside_alone() -> None:
    # 7/8 of the sum go round twice.
    assert scaling.cost(NETWORK, 8, 3, 800.0) == (1400.0, 0, pytest.approx(14.0 + 3 * 2.0))


def test_boxes_share_what_goes_between_them() -> None:
    found = scaling.cost(NETWORK, 64, 3, 800.0)
    assert found.bytes_inside == 1400.0
    assert found.bytes_between == pytest.approx(2 * 7 / 8 * 100)
    assert found.seconds == pytest.approx(14.0 + 17.5 + 3 * (2.0 + 3.0))


def test_more_gpus_never_cost_less() -> None:
    costs = [scaling.cost(NETWORK, gpus, 10, 1e3).seconds for gpus in (1, 2, 4, 8, 16, 64, 512)]
    assert costs == sorted(costs)
