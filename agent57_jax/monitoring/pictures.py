"""Pictures of an episode with what the agent thinks beside, animations, contact sheets."""

import functools
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont


class Look(NamedTuple):
    """Sizes in pixels of a picture with what the agent thinks beside it."""

    min_height: int  # of the screen; a smaller one grows by a whole factor
    panel_width: int
    margin: int
    font_size: int
    line_height: int


VIDEO = Look(400, 200, 12, 16, 26)
SMALL = Look(200, 132, 6, 12, 16)  # of animations
ANIMATION_SECONDS = 10.0  # a longer episode is shown faster
ANIMATION_BYTES = 1_000_000
SHEET_COLUMNS, SHEET_ROWS = 5, 4
FONT_SIZE = 16
CELL_WIDTH, CELL_HEIGHT = 200, 210  # pixels of a picture in a contact sheet, at most
BACKGROUND, PALE, BRIGHT = (24, 24, 28), (150, 150, 160), (245, 245, 245)


class Moment(NamedTuple):
    """A timestep of the environment that is watched, with the action that the agent chose there."""

    screen: np.ndarray  # [height, width, 3] uint8
    starts: bool  # FIRST
    ends: bool  # LAST: the action is ignored
    score: float  # sum of raw rewards so far
    step: int  # agent steps of this episode so far
    policy: int  # arm j
    num_policies: int
    beta: float
    gamma: float
    is_greedy: bool  # plays the best arm, for the score
    intrinsic_reward: float | None
    values: tuple[float, ...]  # of the chosen action: extrinsic and intrinsic, or one for both; transformed values
    combined: float  # what the policy maximises
    action: str
    steps_per_second: float  # speed of the game


def screen_of(environment: Any, observation: np.ndarray) -> np.ndarray:
    """The picture of environment 0, [height, width, 3] uint8: the environment's own if it draws one, else its observation.

    Pictures in grey, [height, width] or [height, width, 1], are drawn as such.

    Raises:
      ValueError: if what it draws, or without that the observation, is no picture; what a failing `render` raises.
    """
    source = next((name for name in ("render", "picture") if hasattr(environment, name)), None)
    if source is None:
        screen, where = observation, "it has no render(), and its observation is"
    else:
        screen, where = (
            np.asarray(environment.render(0) if source == "render" else environment.picture(observation)),
            f"its {source}() gives",
        )
    size = f"{screen.dtype}{list(screen.shape)}"
    if screen.ndim == 2:
        screen = screen[..., None]
    if screen.dtype != np.uint8 or screen.ndim != 3 or screen.shape[-1] not in (1, 3) or not screen.size:
        raise ValueError(f"{where} {size}, not a picture")
    return np.broadcast_to(screen, (*screen.shape[:2], 3))


def number(value: float) -> str:
    """A number in a few characters; whole ones without a point."""
    if not math.isfinite(value):
        return str(float(value))
    if value == round(value) and abs(value) < 1e15:
        return str(round(value))
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.1f}"


def caption(moment: Moment) -> list[tuple[str, str]]:
    """What stands beside the picture: names and values."""
    names = ("Q extrinsic", "Q intrinsic") if len(moment.values) == 2 else ()
    return [
        ("score", number(moment.score)),
        ("step", str(moment.step)),
        ("episode", "greedy" if moment.is_greedy else "bandit"),
        ("arm", f"{moment.policy} of {moment.num_policies}"),
        ("beta", f"{moment.beta:.4f}"),
        ("gamma", f"{moment.gamma:.4f}"),
        *([] if moment.intrinsic_reward is None else [("r intrinsic", f"{moment.intrinsic_reward:.3f}")]),
        *((name, f"{value:.3f}") for name, value in zip(names, moment.values, strict=False)),
        ("Q", f"{moment.combined:.3f}"),
        ("action", "-" if moment.ends else moment.action),
    ]


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)  # reads the font anew each time


@functools.cache
def _panel(names: tuple[str, ...], height: int, look: Look) -> Any:
    """What stands beside the picture, without the values."""
    panel = Image.new("RGB", (look.panel_width, height), BACKGROUND)
    pen = ImageDraw.Draw(panel)
    for row, name in enumerate(names):
        pen.text((look.margin, (row + 0.5) * look.line_height), name, PALE, _font(look.font_size))
    return panel


def draw(moment: Moment, look: Look = VIDEO) -> np.ndarray:
    """The screen and, to its right, what the agent thinks: [height, width, 3] uint8, both even as encoders need them."""
    lines = caption(moment)
    factor = -(-look.min_height // moment.screen.shape[0])  # whole, so that all pixels stay alike
    screen_height, screen_width = (factor * size for size in moment.screen.shape[:2])
    height, width = max(screen_height, look.line_height * (len(lines) + 1)), screen_width + look.panel_width
    image = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    screen = Image.fromarray(np.ascontiguousarray(moment.screen))
    image.paste(screen.resize((screen_width, screen_height), Image.Resampling.NEAREST), (0, 0))
    image.paste(_panel(tuple(name for name, _ in lines), height, look), (screen_width, 0))
    pen = ImageDraw.Draw(image)
    for row, (_, value) in enumerate(lines):
        pen.text((width - look.margin, (row + 0.5) * look.line_height), value, BRIGHT, _font(look.font_size), anchor="ra")
    return np.asarray(image)


def animation(moments: Sequence[Moment]) -> tuple[bytes, int, int]:
    """A GIF that plays for ever, of at most ANIMATION_SECONDS and ANIMATION_BYTES; its width and height."""
    duration = min((moments[-1].step - moments[0].step) / moments[0].steps_per_second, ANIMATION_SECONDS)
    # A median cut takes five times as long, and half as many bytes more, for nothing that could be seen.
    way: dict[str, Any] = {"method": Image.Quantize.FASTOCTREE, "dither": Image.Dither.NONE}
    frames = [Image.fromarray(draw(moment, SMALL)).quantize(64, **way) for moment in moments]
    while True:
        file = io.BytesIO()
        milliseconds = max(20, round(1000 * duration / len(frames)))
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
        if file.tell() <= ANIMATION_BYTES or len(frames) == 1:
            return file.getvalue(), frames[0].width, frames[0].height
        frames = frames[::2]


def contact_sheet(moments: Sequence[Moment], title: str) -> Any:
    """A Pillow image: up to SHEET_ROWS x SHEET_COLUMNS pictures, evenly spread, each with step, score and arm below, under a title."""
    count = min(len(moments), SHEET_ROWS * SHEET_COLUMNS)
    chosen = [moments[round(index)] for index in np.linspace(0, len(moments) - 1, count)]
    height, width = chosen[0].screen.shape[:2]
    fit = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    # Whole factors keep the pixels of a small picture alike; a large one is reduced.
    factor = int(fit) if fit >= 1 else fit
    size = round(width * factor), round(height * factor)
    way = Image.Resampling.NEAREST if fit >= 1 else Image.Resampling.LANCZOS
    margin, below, head = 12, 48, 40
    columns = min(SHEET_COLUMNS, count)
    step_x, step_y = max(size[0], CELL_WIDTH * 3 // 4) + margin, size[1] + below
    sheet = Image.new("RGB", (margin + columns * step_x, head + -(-count // columns) * step_y), BACKGROUND)
    pen, font, small = ImageDraw.Draw(sheet), _font(FONT_SIZE + 2), _font(FONT_SIZE - 2)
    pen.text((margin, 9), title, BRIGHT, font)
    for index, moment in enumerate(chosen):
        x, y = margin + index % columns * step_x, head + index // columns * step_y
        sheet.paste(Image.fromarray(np.ascontiguousarray(moment.screen)).resize(size, way), (x, y))
        pen.text((x, y + size[1] + 3), f"step {moment.step}   arm {moment.policy}", PALE, small)
        pen.text((x, y + size[1] + 21), f"score {number(moment.score)}", BRIGHT, small)
    return sheet
