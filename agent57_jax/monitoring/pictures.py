"""Pictures of an episode with the agent's values beside the screen, animations, contact sheets."""

import functools
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont


class Look(NamedTuple):
    """Sizes of a picture in pixels."""

    min_height: int  # of the screen; a smaller one is scaled up by a whole factor
    panel_width: int
    margin: int
    font_size: int
    line_height: int


VIDEO = Look(400, 200, 12, 16, 26)
SMALL = Look(200, 132, 6, 12, 16)  # of animations
ANIMATION_SECONDS = 10.0  # longer episodes play faster
ANIMATION_BYTES = 1_000_000
SHEET_COLUMNS, SHEET_ROWS = 5, 4
FONT_SIZE = 16
CELL_WIDTH, CELL_HEIGHT = 200, 210  # maximum size of a picture in a contact sheet, pixels
BACKGROUND, PALE, BRIGHT = (24, 24, 28), (150, 150, 160), (245, 245, 245)


class Moment(NamedTuple):
    """A timestep of a watched environment, with the agent's action and values."""

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
    values: tuple[float, ...]  # transformed values of the action: extrinsic and intrinsic, or one for both
    combined: float  # the value that the policy maximises
    action: str
    steps_per_second: float  # the game's normal speed


def screen_of(environment: Any, observation: np.ndarray) -> np.ndarray:
    """The picture of environment 0, [height, width, 3] uint8: the environment's rendering, or else its observation.

    Grey pictures may be [height, width] or [height, width, 1]. Raises ValueError for other shapes, and what `render` raises.
    """
    if hasattr(environment, "render"):
        screen, where = np.asarray(environment.render(0)), "its render() gives"
    elif hasattr(environment, "picture"):
        screen, where = np.asarray(environment.picture(observation)), "its picture() gives"
    else:
        screen, where = observation, "it has no render(), and its observation is"
    size = f"{screen.dtype}{list(screen.shape)}"
    if screen.ndim == 2:
        screen = screen[..., None]
    if screen.dtype != np.uint8 or screen.ndim != 3 or screen.shape[-1] not in (1, 3) or not screen.size:
        raise ValueError(f"{where} {size}, not a picture")
    return np.broadcast_to(screen, (*screen.shape[:2], 3))


def number(value: float) -> str:
    """A short form of a number; whole ones without a decimal point."""
    if not math.isfinite(value):
        return str(float(value))
    if value == round(value) and abs(value) < 1e15:
        return str(round(value))
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.1f}"


def caption(moment: Moment) -> list[tuple[str, str]]:
    """Names and values to show beside the picture."""
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
    return ImageFont.load_default(size)  # reads the font file on every call


@functools.cache
def _panel(names: tuple[str, ...], height: int, look: Look) -> Any:
    """The area beside the picture with the names, without values."""
    panel = Image.new("RGB", (look.panel_width, height), BACKGROUND)
    pen = ImageDraw.Draw(panel)
    for row, name in enumerate(names):
        pen.text((look.margin, (row + 0.5) * look.line_height), name, PALE, _font(look.font_size))
    return panel


def draw(moment: Moment, look: Look = VIDEO) -> np.ndarray:
    """The screen and the caption to its right: [height, width, 3] uint8; height and width are even, as encoders require."""
    lines = caption(moment)
    factor = -(-look.min_height // moment.screen.shape[0])  # a whole number keeps pixels equal in size
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
    """A looping GIF of at most ANIMATION_SECONDS and ANIMATION_BYTES, its width and height."""
    duration = min((moments[-1].step - moments[0].step) / moments[0].steps_per_second, ANIMATION_SECONDS)
    # A median cut takes five times as long and 50% more bytes for no visible gain.
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
    """A Pillow image with a title and up to SHEET_ROWS x SHEET_COLUMNS evenly spaced pictures, each with step, arm and score."""
    count = min(len(moments), SHEET_ROWS * SHEET_COLUMNS)
    chosen = [moments[round(index)] for index in np.linspace(0, len(moments) - 1, count)]
    height, width = chosen[0].screen.shape[:2]
    fit = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    # Small pictures grow by a whole factor, which keeps pixels equal in size; large ones shrink.
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
