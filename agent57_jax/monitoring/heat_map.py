"""Arms over time as a small picture, in NumPy alone: matplotlib is no dependency of training."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

MAX_COLUMNS = 256  # of a picture; when they are full, neighbours are added up
PICTURE_WIDTH = 512  # pixels of the map, at most
_MARGIN, _ROW_GAP = 28, 16  # pixels beside and below the map, for numbers
_NOTHING = (60, 60, 66)  # where no episode ended
_COLOURS = np.array([(14, 10, 48), (96, 24, 120), (196, 50, 90), (246, 140, 40), (252, 248, 190)], np.float64)  # low to high
# Digits of three by five pixels; each number is the bits of a row.
_FONT = {
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 3, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 2, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2),
    "-": (0, 0, 7, 0, 0),
    "+": (0, 2, 7, 2, 0),
    "e": (7, 4, 6, 4, 7),
}


class ArmHistory:
    """Episodes and returns of every arm, line of metrics by line of metrics, in at most MAX_COLUMNS columns of equally many lines."""

    def __init__(self) -> None:
        self.lines = 0
        self._per_column = 1  # lines
        self._steps = 0.0
        self._pulls = np.zeros((1, 0))  # [N, columns]
        self._returns = np.zeros((1, 0))  # [N, columns], sums over episodes

    def add(self, line: Mapping[str, float | None]) -> None:
        """Takes the arms' keys and the steps of a line of metrics."""
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
        """Arm 0 above, time to the right: the share of each arm in the episodes, and its mean return; nothing before the first episode."""
        total = self._pulls.sum(axis=0)
        if not total.any():
            return {}
        share = np.divide(self._pulls, total, out=np.full_like(self._pulls, np.nan), where=total > 0)
        mean = np.divide(self._returns, self._pulls, out=np.full_like(self._pulls, np.nan), where=self._pulls > 0)
        return {"heat_map/arm_share": draw(share, self._steps), "heat_map/arm_return": draw(mean, self._steps)}


def draw(matrix: np.ndarray, steps: float) -> np.ndarray:
    """A matrix [N, columns] as a picture, uint8 [height, width, 3], with the numbers of rows, the scale, and `steps` below its right end.

    What is not finite has no colour. The scale reaches from the smallest value to the largest, or from 0 if nothing is negative.
    """
    rows, columns = matrix.shape
    high = float(np.nanmax(matrix))
    low = min(0.0, float(np.nanmin(matrix)))
    cell_height, cell_width = max(6, 192 // rows), max(1, PICTURE_WIDTH // columns)
    cells = coloured((matrix - low) / ((high - low) or 1.0))
    map_ = np.repeat(np.repeat(cells, cell_height, axis=0), cell_width, axis=1)
    height, width = map_.shape[:2]
    picture = np.zeros((height + _ROW_GAP, _MARGIN + width + 8 + 8 + 4 + 48, 3), np.uint8)
    picture[:height, _MARGIN : _MARGIN + width] = map_
    every = -(-14 // cell_height)  # rows from one number to the next
    for row in range(0, rows, every):
        _write(picture, f"{row}", row * cell_height + max(0, (cell_height - 10) // 2), 2)
    bar = _MARGIN + width + 8
    picture[:height, bar : bar + 8] = coloured(np.linspace(1, 0, height))[:, None]
    _write(picture, f"{high:.3g}", 0, bar + 12)
    _write(picture, f"{low:.3g}", height - 10, bar + 12)
    label = f"{steps:.3g}"
    _write(picture, "0", height + 4, _MARGIN)
    _write(picture, label, height + 4, max(_MARGIN + 12, _MARGIN + width - 8 * len(label)))
    return picture


def coloured(values: np.ndarray) -> np.ndarray:
    """Colours, uint8 [..., 3], of values from 0 to 1; a plain grey for what is not finite."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    return np.where(np.isfinite(values)[..., None], colours, _NOTHING).astype(np.uint8)


def _write(picture: np.ndarray, text: str, top: int, left: int) -> None:
    """Draws digits of 6 x 10 pixels; what would lie outside is left out."""
    for character in text:
        bits = np.array([[row >> 2 & 1, row >> 1 & 1, row & 1] for row in _FONT[character]], bool)
        glyph = np.repeat(np.repeat(bits, 2, axis=0), 2, axis=1)
        area = picture[top : top + 10, left : left + 6]
        if area.shape[:2] == glyph.shape:
            area[glyph] = 230
        left += 8


def encode_png(picture: np.ndarray) -> bytes:
    """A picture, uint8 [height, width, 3], as a PNG file."""
    height, width, _ = picture.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # eight bits of red, green and blue
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
