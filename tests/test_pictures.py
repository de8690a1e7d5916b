"""Episodes as people see them: what is drawn."""

import io
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent57_jax.monitoring import pictures


def moment(step: int = 0, ends: bool = False, score: float = 0.0, size: tuple[int, int] = (210, 160), **others: Any) -> pictures.Moment:
    """A timestep whose screen's red says its step."""
    screen = np.zeros((*size, 3), np.uint8)
    screen[..., 0] = step % 256
    values: dict[str, Any] = {
        "policy": 3,
        "num_policies": 8,
        "beta": 0.25,
        "gamma": 0.99,
        "is_greedy": True,
        "intrinsic_reward": 0.5,
        "values": (1.5, 2.5),
        "combined": 2.125,
        "action": "UPFIRE",
        "steps_per_second": 15.0,
    }
    return pictures.Moment(screen, step == 0, ends, score, step, **(values | others))


def episode(length: int, score: float = 310.0, **others: Any) -> list[pictures.Moment]:
    return [moment(step, step == length, score * (step == length), **others) for step in range(length + 1)]


def test_the_caption_says_what_the_agent_thinks() -> None:
    said = dict(pictures.caption(moment(7, score=310.0)))
    assert said == {
        "score": "310",
        "step": "7",
        "episode": "greedy",
        "arm": "3 of 8",
        "beta": "0.2500",
        "gamma": "0.9900",
        "r intrinsic": "0.500",
        "Q extrinsic": "1.500",
        "Q intrinsic": "2.500",
        "Q": "2.125",
        "action": "UPFIRE",
    }
    alone = dict(pictures.caption(moment(0, ends=True, intrinsic_reward=None, values=(1.0,), combined=1.0, is_greedy=False)))
    assert not {"r intrinsic", "Q extrinsic", "Q intrinsic"} & set(alone)
    assert (alone["action"], alone["episode"]) == ("-", "bandit")


@pytest.mark.parametrize("size", [(210, 160), (15, 15), (400, 600), (21, 13)])
def test_the_overlay_hides_nothing_of_the_screen(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    screen = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    frame = pictures.draw(moment()._replace(screen=screen))
    assert frame.dtype == np.uint8 and frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    factor = -(-pictures.VIDEO.min_height // size[0])
    np.testing.assert_array_equal(frame[: size[0] * factor : factor, : size[1] * factor : factor], screen)
    other = pictures.draw(moment(score=311.0)._replace(screen=screen))
    changed = np.argwhere((frame != other).any(axis=-1))
    assert len(changed) and changed[:, 1].min() >= size[1] * factor


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no render\(\), and its observation is float32\[8\]"):
        pictures.screen_of(types.SimpleNamespace(), np.zeros(8, np.float32))
    assert pictures.screen_of(types.SimpleNamespace(), np.ones((4, 5, 1), np.uint8)).shape == (4, 5, 3)
    for shape in ((4, 5), (4, 5, 1), (4, 5, 3)):
        drawn = types.SimpleNamespace(render=lambda _, shape=shape: np.ones(shape, np.uint8))
        assert pictures.screen_of(drawn, np.zeros(8)).shape == (4, 5, 3)
    for odd in (np.ones((4, 5, 4), np.uint8), np.ones((4, 5, 3)), np.ones((0, 5, 3), np.uint8), None):
        with pytest.raises(ValueError, match=r"its render\(\) gives \w+\[.*\], not a picture"):
            pictures.screen_of(types.SimpleNamespace(render=lambda _, odd=odd: odd), np.zeros(8))


def test_an_animation_stays_small() -> None:
    rng = np.random.default_rng(0)
    noise = [moment(step)._replace(screen=rng.integers(0, 256, (210, 160, 3)).astype(np.uint8)) for step in range(40)]
    gif, _, _ = pictures.animation(noise)
    assert len(gif) <= pictures.ANIMATION_BYTES
    with Image.open(io.BytesIO(gif)) as image:
        assert 1 < image.n_frames < 40


def test_a_contact_sheet_spreads_pictures_over_the_episode() -> None:
    sheet = np.asarray(pictures.contact_sheet(episode(200, size=(21, 21)), "a game"))
    reds = [int(sheet[45 + row * (21 * 9 + 48), 17 + column * (21 * 9 + 12), 0]) for row in range(4) for column in range(5)]
    assert reds[0] == 0 and reds[-1] == 200 and max(np.diff(reds)) - min(np.diff(reds)) <= 1
    assert pictures.contact_sheet(episode(1), "two pictures").size[0] < sheet.shape[1]
