"""Heat maps of the arms over time."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_COLUMNS = 256  # once full, neighbouring columns are added up
PICTURE_WIDTH = 512  # maximum width of the map in pixels
_MARGIN, _ROW_GAP = 28, 16  # pixels left of and below the map, for numbers
_NOTHING = (60, 60, 66)  # no episode ended here
_NUMBERS = (230, 230, 230)
_COLOURS = np.array([(14, 10, 48), (96, 24, 120), (196, 50, 90), (246, 140, 40), (252, 248, 190)], np.float64)  # low to high


class ArmHistory:
    """Episodes and returns of every arm over the lines of metrics, in at most MAX_COLUMNS columns of equally many lines."""

    def __init__(self) -> None:
        self.lines = 0
        self._per_column = 1  # lines
        self._steps = 0.0
        self._pulls = np.zeros((1, 0))  # [N, columns]
        self._returns = np.zeros((1, 0))  # [N, columns], sums over episodes

    def add(self, line: Mapping[str, float | None]) -> None:
        """Adds the arms of one line of metrics."""
        if self.lines % self._per_column == 0:
            if self._pulls.shape[1] == MAX_COLUMNS:
                self._pulls, self._returns = (x.reshape(len(x), -1, 2).sum(axis=2) for x in (self._pulls, self._returns))
                self._per_column *= 2
            self._pulls, self._returns = (np.pad(x, ((0, 0), (0, 1))) for x in (self._pulls, self._returns))
        self.lines += 1
        self._steps = float(line["steps"] or 0)
        for key, pulls in line.items():
            if not key.startswith("arm/pulls_") or not pulls:
                continue
            arm = int(key.rpartition("_")[2])
            if arm >= len(self._pulls):
                self._pulls, self._returns = (np.pad(x, ((0, arm + 1 - len(x)), (0, 0))) for x in (self._pulls, self._returns))
            self._pulls[arm, -1] += pulls
            self._returns[arm, -1] += pulls * (line.get(f"arm/return_{arm}") or 0.0)

    def pictures(self) -> dict[str, np.ndarray]:
        """Each arm's share of the episodes and its mean return, arm 0 at the top; empty before the first episode."""
        total = self._pulls.sum(axis=0)
        if not total.any():
            return {}
        share = np.divide(self._pulls, total, out=np.full_like(self._pulls, np.nan), where=total > 0)
        mean = np.divide(self._returns, self._pulls, out=np.full_like(self._pulls, np.nan), where=self._pulls > 0)
        return {"heat_map/arm_share": draw(share, self._steps), "heat_map/arm_return": draw(mean, self._steps)}


def draw(matrix: np.ndarray, steps: float) -> np.ndarray:
    """Draws a matrix [N, columns] as uint8 [height, width, 3], with row numbers, a scale from 0 or less, and `steps` at the right end."""
    rows, columns = matrix.shape
    high = float(np.nanmax(matrix))
    low = min(0.0, float(np.nanmin(matrix)))
    cell_height, cell_width = max(6, 192 // rows), max(1, PICTURE_WIDTH // columns)
    height, width = rows * cell_height, columns * cell_width
    bar = _MARGIN + width + 8
    image = Image.new("RGB", (bar + 8 + 4 + 48, height + _ROW_GAP))
    cells = Image.fromarray(coloured((matrix - low) / ((high - low) or 1.0)))
    image.paste(cells.resize((width, height), Image.Resampling.NEAREST), (_MARGIN, 0))
    image.paste(Image.fromarray(np.tile(coloured(np.linspace(1, 0, height))[:, None], (1, 8, 1))), (bar, 0))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    for row in range(0, rows, -(-14 // cell_height)):  # as many numbers as fit
        pen.text((_MARGIN - 4, int((row + 0.5) * cell_height)), f"{row}", _NUMBERS, font, anchor="rm")
    pen.text((bar + 12, 0), f"{high:.3g}", _NUMBERS, font, anchor="la")
    pen.text((bar + 12, height), f"{low:.3g}", _NUMBERS, font, anchor="ls")
    pen.text((_MARGIN, height + 3), "0", _NUMBERS, font, anchor="la")
    pen.text((_MARGIN + width, height + 3), f"{steps:.3g}", _NUMBERS, font, anchor="ra")
    return np.asarray(image)


def coloured(values: np.ndarray) -> np.ndarray:
    """Colours, uint8 [..., 3], of values from 0 to 1; grey for non-finite ones."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    return np.where(np.isfinite(values)[..., None], colours, _NOTHING).astype(np.uint8)
