"""Arms over time: what a picture shows is what the lines said, in a bounded number of columns."""

import numpy as np
import pytest

from agent57_jax.monitoring import heat_map
from agent57_jax.monitoring.heat_map import MAX_COLUMNS, ArmHistory


def line(number: int, pulls: list[float]) -> dict[str, float | None]:
    """Arm j has return 10 j + number."""
    arms: dict[str, float | None] = {f"arm/pulls_{arm}": pull for arm, pull in enumerate(pulls)}
    return {"steps": 100 * number, **arms, **{f"arm/return_{arm}": 10.0 * arm + number for arm, pull in enumerate(pulls) if pull}}


def history(*lines: dict[str, float | None]) -> ArmHistory:
    made = ArmHistory()
    for one in lines:
        made.add(one)
    return made


def test_shares_and_returns_stand_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(heat_map, "draw", lambda matrix, steps: drawn.append((matrix, steps)))
    history(line(1, [3.0, 1.0]), {"steps": 200}, line(3, [0.0, 0.0, 2.0])).pictures()
    (share, steps), (mean, _) = drawn
    nothing = np.nan
    np.testing.assert_array_equal(share, [[0.75, nothing, 0.0], [0.25, nothing, 0.0], [0.0, nothing, 1.0]])
    np.testing.assert_array_equal(mean, [[1.0, nothing, nothing], [11.0, nothing, nothing], [nothing, nothing, 23.0]])
    assert steps == 300


def test_columns_are_bounded_and_no_episode_is_lost() -> None:
    made = history(*(line(number, [1.0, 3.0]) for number in range(5 * MAX_COLUMNS + 3)))
    pulls = made._pulls
    assert MAX_COLUMNS // 2 < pulls.shape[1] <= MAX_COLUMNS
    assert pulls.sum() == 4 * (5 * MAX_COLUMNS + 3)
    assert set(pulls[0, :-1]) == {8.0}  # so many lines a column, the last one being filled
    np.testing.assert_array_equal(pulls[1], 3 * pulls[0])
    numbers = np.arange(5 * MAX_COLUMNS + 3, dtype=float)
    np.testing.assert_array_equal(made._returns[0, :-1], numbers[: 8 * (pulls.shape[1] - 1)].reshape(-1, 8).sum(axis=1))


def test_nothing_is_drawn_before_an_episode_ends_and_null_is_no_return() -> None:
    assert history({"steps": 0}, line(1, [0.0, 0.0])).pictures() == {}
    made = history({"steps": 5, "arm/pulls_0": 2.0, "arm/return_0": None})
    assert made.pictures().keys() == {"heat_map/arm_share", "heat_map/arm_return"}


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (32, 256), (200, 7)])
def test_cells_have_the_colour_of_their_value(rows: int, columns: int) -> None:
    matrix = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    matrix[-1, -1] = np.nan
    if rows * columns == 1:
        matrix[0, 0] = 0.0
    picture = heat_map.draw(matrix, 1_234_567.0)
    assert picture.dtype == np.uint8
    height, width = max(6, 192 // rows), 512 // columns
    expected = heat_map.coloured(matrix / (np.nanmax(matrix) or 1.0))
    np.testing.assert_array_equal(picture[height // 2 : rows * height : height, 28 + width // 2 : 28 + columns * width : width], expected)
    assert picture[rows * height + 4 :].any()  # the steps


def test_brightness_rises_with_the_value() -> None:
    assert (np.diff(heat_map.coloured(np.linspace(0, 1, 20)).astype(int) @ [299, 587, 114]) > 0).all()
    assert heat_map.coloured(np.array([np.nan, np.inf])).tolist() == [list(heat_map._NOTHING)] * 2
