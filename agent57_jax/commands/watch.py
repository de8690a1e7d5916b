"""Shows a run's last checkpoint playing, in a window if possible, else in the terminal.

python -m agent57_jax watch --workdir=RUN [--episodes=N] [--seed=S] [--speed=X] [--terminal]
"""

import os
import shutil
import signal
import sys
import time
from types import FrameType

import numpy as np
from absl import flags
from PIL import Image

from agent57_jax.commands import command_line
from agent57_jax.config import MAX_SEED
from agent57_jax.monitoring.pictures import Moment, caption, draw

_WORKDIR = command_line.define_path("workdir", "folder of the run")
_EPISODES = flags.DEFINE_integer("episodes", None, "greedy episodes to play; default: until Ctrl-C", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of environment and random actions", lower_bound=0, upper_bound=MAX_SEED)
_SPEED = flags.DEFINE_float("speed", 1.0, "of the game, as a multiple of its normal speed", lower_bound=0.01)
_TERMINAL = flags.DEFINE_bool("terminal", False, "play in the terminal even if a window is possible")

MAX_PICTURES_PER_SECOND = 30.0
CAPTION_COLUMNS = 28  # characters beside the picture in a terminal
UPPER_HALF = "▀"  # foreground: the upper of two pixels; background: the lower one
CUBE = np.array([0, 95, 135, 175, 215, 255])  # levels of the 6 x 6 x 6 colour cube of terminals with 256 colours


class ClosedError(Exception):
    """The user has closed the window or asked to stop."""


class Ending:
    """Handles SIGINT and SIGTERM: the first ends at the next timestep, as callbacks could swallow an exception, a second one at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = True


class Window:
    """A Tk window."""

    def __init__(self, title: str) -> None:
        """Raises ImportError without Tk, tkinter.TclError without a display."""
        import tkinter

        from PIL import ImageTk

        self._photo = ImageTk.PhotoImage
        self._root = tkinter.Tk()
        self._root.title(title)
        self._is_open = True
        self._root.protocol("WM_DELETE_WINDOW", self._note_close)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()

    def show(self, moment: Moment) -> None:
        """Shows a timestep; raises ClosedError after the window is closed."""
        if not self._is_open:
            raise ClosedError
        photo = self._photo(Image.fromarray(draw(moment)))
        self._label.configure(image=photo)
        self._shown = photo  # Tk holds no reference
        self._root.update()

    def close(self) -> None:
        """Closes the window."""
        self._root.destroy()

    def _note_close(self) -> None:
        self._is_open = False


class TerminalScreen:
    """The whole terminal, two pixels per character."""

    def __init__(self, true_colour: bool) -> None:
        """`true_colour`: 24 bits per pixel, else 256 colours."""
        self._true_colour = true_colour
        # A space shows only the lower pixel, but is in every encoding.
        self._half = UPPER_HALF if UPPER_HALF.encode(sys.stdout.encoding, "ignore") else " "
        self._rows: list[str] = []
        self._size = os.terminal_size((0, 0))
        sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the alternate screen, without a cursor

    def show(self, moment: Moment) -> None:
        """Writes the rows that have changed."""
        size = shutil.get_terminal_size()
        rows = [row.replace(UPPER_HALF, self._half) for row in terminal_rows(moment, size.columns, size.lines, self._true_colour)]
        if size != self._size:
            self._size, self._rows = size, []
            sys.stdout.write("\x1b[2J")
        before = [*self._rows, *[""] * (len(rows) - len(self._rows))]
        sys.stdout.write("".join(f"\x1b[{y + 1};1H{row}\x1b[0m\x1b[K" for y, row in enumerate(rows) if row != before[y]))
        sys.stdout.flush()
        self._rows = rows

    def close(self) -> None:
        """Restores cursor and screen."""
        sys.stdout.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


Display = Window | TerminalScreen


def terminal_rows(moment: Moment, columns: int, lines: int, true_colour: bool) -> list[str]:
    """The rows of a terminal of this size: the picture with its caption to the right, or a line with the score below if it is narrow."""
    is_wide = columns >= 2 * CAPTION_COLUMNS
    text = caption(moment)
    height, width = moment.screen.shape[:2]
    room_x, room_y = (columns - CAPTION_COLUMNS, lines) if is_wide else (columns, lines - 1)
    factor = min(room_x / width, 2 * room_y / height)
    size = max(1, int(width * factor)), max(1, int(height * factor) // 2) * 2
    # BOX averages the pixels, so that nothing small vanishes.
    picture = Image.fromarray(np.ascontiguousarray(moment.screen)).resize(size, Image.Resampling.BOX)
    rows = half_blocks(np.asarray(picture), true_colour)
    if not is_wide:
        return [*rows, "  ".join(f"{name} {value}" for name, value in text[:4])[:columns]]
    beside = [f"  \x1b[2m{name:12}\x1b[0m{value[: CAPTION_COLUMNS - 14]:>13}" for name, value in text]
    return [
        (rows[y] if y < len(rows) else " " * size[0]) + (beside[y] if y < len(beside) else "")
        for y in range(min(lines, max(len(rows), len(text))))
    ]


def half_blocks(pixels: np.ndarray, true_colour: bool) -> list[str]:
    """One row of characters for two rows of pixels [H, W, 3]; H is even."""
    if true_colour:
        codes = [["2;{};{};{}".format(*pixel) for pixel in row] for row in pixels.tolist()]
    else:
        nearest = np.abs(pixels[..., None].astype(int) - CUBE).argmin(axis=-1)
        codes = [[f"5;{code}" for code in row] for row in (16 + nearest @ np.array([36, 6, 1])).tolist()]
    rows = []
    for upper, lower in zip(codes[::2], codes[1::2], strict=True):
        row, colours = "", ""
        for above, below in zip(upper, lower, strict=True):
            now = f"\x1b[38;{above}m\x1b[48;{below}m"
            row += UPPER_HALF if now == colours else now + UPPER_HALF
            colours = now
        rows.append(f"{row}\x1b[0m")
    return rows


class Viewer:
    """Shows timesteps at the game's speed, skipping those for which the display is too slow."""

    def __init__(self, display: Display, speed: float, ending: Ending) -> None:
        self._display, self._speed, self._ending = display, speed, ending
        self._due = self._shown = 0.0

    def wants(self, starts: bool) -> bool:
        """Every timestep."""
        return True

    def see(self, moment: Moment) -> None:
        """Shows a timestep when it is due; raises ClosedError to stop."""
        if self._ending.requested:
            raise ClosedError
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
        now = max(now, self._due)
        self._due = now + 1 / (moment.steps_per_second * self._speed)
        if moment.ends or now - self._shown >= 1 / MAX_PICTURES_PER_SECOND:
            self._display.show(moment)
            self._shown = now

    def give_up(self, reason: str) -> None:
        """Ends the program: there is nothing to watch."""
        self._display.close()
        command_line.fail(f"this environment cannot be drawn: {reason}")


def make_window(title: str) -> Window | None:
    """A window, if it is wanted and possible."""
    if _TERMINAL.value or not (os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")):
        return None
    try:
        return Window(title)
    except Exception as error:
        if not isinstance(error, ImportError) and type(error).__name__ != "TclError":  # tkinter's, which may be missing
            raise
        return None


def main() -> None:
    """Plays a run's agent on a display."""
    if not _WORKDIR.value:
        command_line.fail("--workdir is missing: the folder of a run, for example --workdir=runs/zaxxon")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to restore yet
    display: Display | None = make_window(_WORKDIR.value)
    if display is None and (not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb"):
        command_line.fail(
            f"there is neither a window nor a terminal to play in: python evaluate.py --workdir={_WORKDIR.value} --episodes=1 "
            f"--video=FILE.mp4 makes a video"
        )
    command_line.prepare_jax(whole_device=False)

    from agent57_jax import config, parallel, types
    from agent57_jax.training import checkpoint, judging

    try:
        run = judging.open_run(_WORKDIR.value, 1, _SEED.value, is_watched=True)
    except (config.SettingsError, OSError, parallel.DeviceError, checkpoint.CheckpointError) as error:
        command_line.fail(str(error))
    game = judging.game_name(run.settings)
    if display is None:  # only now, since it hides earlier output
        display = TerminalScreen(os.environ.get("COLORTERM", "") in ("truecolor", "24bit"))
    ending, played, problem = Ending(), [], None
    try:
        quota = np.array([sys.maxsize if _EPISODES.value is None else _EPISODES.value])
        for episode in judging.play(run, quota, _SEED.value, Viewer(display, _SPEED.value, ending)):
            played.append(episode)
    except (KeyboardInterrupt, ClosedError):
        pass
    except types.HostEnvironmentError as error:
        problem = str(error)
    finally:
        display.close()
    for episode in played:
        print(f"{game}: return {episode.episode_return:.2f} after {episode.length} steps, arm {episode.policy}")
    if problem is not None:
        command_line.fail(problem, code=1)


if __name__ == "__main__":
    command_line.run(main)
