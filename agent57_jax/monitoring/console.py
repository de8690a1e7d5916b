"""Progress of a run: a live panel in a terminal, plain lines in a log file."""

import contextlib
import logging
import math
import os
import re
import sys
import textwrap
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Numbers = Mapping[str, int | float]

PLAIN_WIDTH = 180  # maximum length of a plain line
SHOWN_ARMS = 4
SHOWN_WARNINGS = 3
_SPEED_MEMORY = 0.7  # weight of the previous estimate of steps per second
_INSTANT_SECONDS = 0.2  # intervals below this give no speed
_PULLS_MEMORY = 0.9  # decay of an arm's episodes per update, so that recent arms show
_LABEL_WIDTH, _FRAME_WIDTH = 12, 4  # characters: row names; border and padding
_LINES = 2  # maximum lines of a row or a warning
_TIMES = ("environment", "acting", "learning", "evaluation", "saving", "host")  # labels of the stopwatch


class Row(NamedTuple):
    """A row of the panel. Lines break only between its parts."""

    rank: int  # rows with high ranks are dropped first
    name: str
    parts: list[str]


class _Standard(Terminal):
    """Standard output, which may be closed."""

    def on_broken_pipe(self) -> NoReturn:
        """Re-raises the BrokenPipeError instead of ending the program."""
        raise  # noqa: PLE0704


class _Listener(logging.Handler):
    """Shows the warnings of Python and of all loggers; on standard error the next panel would overwrite them."""

    def __init__(self, console: "Console") -> None:
        super().__init__(logging.WARNING)
        self._console = console
        logging.captureWarnings(True)
        root = logging.getLogger()
        self._replaced = [handler for handler in root.handlers if _is_standard(handler)]
        root.handlers = [*(handler for handler in root.handlers if handler not in self._replaced), self]

    def end(self) -> None:
        """Restores the replaced handlers."""
        logging.captureWarnings(False)
        root = logging.getLogger()
        root.handlers = [*(handler for handler in root.handlers if handler is not self), *self._replaced]

    def emit(self, record: logging.LogRecord) -> None:
        """Shows the message as a warning, and a traceback above the panel."""
        try:
            text = " ".join(record.getMessage().split())
            # Python's warnings begin with a path; the file name is enough.
            text = re.sub(r"^\S*/", "", text) if record.name == "py.warnings" else f"{record.name}: {text}"
            self._console.say(text, warning=True)
            if record.exc_info and record.exc_info[0] is not None:
                self._console.show("".join(traceback.format_exception(*record.exc_info)).splitlines())
        except Exception:  # a malformed message must not end the program
            self.handleError(record)


def _is_standard(handler: logging.Handler) -> bool:
    """Whether a handler writes to standard output or error, as absl's does."""
    stream = getattr(getattr(handler, "python_handler", handler), "stream", None)
    return stream is not None and stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


class Console:
    """Shows the progress of a run and, until `close`, the warnings of Python and of loggers, without threads.

    It falls silent when its output fails (closed pipe, full disk, terminal gone); the run continues.
    """

    def __init__(
        self,
        total_steps: int,
        title: str,
        header_lines: Sequence[str] = (),
        terminal: Terminal | None = None,
        is_shown: bool = True,
        device: str = "",
    ) -> None:
        """Prints the header lines for a run of `total_steps` agent steps, to standard output unless a terminal is given.

        Title and device appear in the panel. `is_shown` is False for all processes of a run except the first.
        """
        self._total_steps, self._title, self._device = total_steps, title, device
        # rich would take a CI's FORCE_COLOR for a terminal, and a CI's terminal is stored as a log file.
        has_terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("CI", "").lower() in ("", "0", "false")
        standard = _Standard(highlight=False, force_terminal=is_shown and has_terminal, quiet=not is_shown)
        self._terminal = standard if terminal is None else terminal
        # The ellipsis is not ASCII.
        self._overflow: Any = "ellipsis" if self._terminal.encoding.startswith("utf") else "crop"
        self._live: Live | None = None
        self._listener: _Listener | None = None
        self._warnings: deque[tuple[str, str]] = deque(maxlen=SHOWN_WARNINGS)  # (text, text with its time)
        self._seen: dict[str, float] = {}  # the latest value of every key
        self._pulls: dict[int, float] = {}
        self._former: tuple[float, float] | None = None  # seconds and steps of the last update
        self._steps_per_second: float | None = None
        self.show([title, *header_lines])
        if self._terminal.is_terminal and self._terminal.is_interactive and not self._terminal.is_dumb_terminal:
            live = Live(console=self._terminal, auto_refresh=False)  # auto_refresh would start a thread
            with self._output():
                live.start()
                self._live = live  # not set when `start` fails: such a Live cannot be stopped
        if not self._terminal.quiet:
            self._listener = _Listener(self)

    def show(self, lines: Sequence[str]) -> None:
        """Prints lines, above the panel if there is one."""
        for line in lines:
            self._print(line)

    def say(self, line: str, warning: bool = False) -> None:
        """Prints a line with the time. The last warnings also stay in the panel, and are not repeated."""
        stamped = f"{time.strftime('%H:%M:%S')} {'warning: ' if warning else ''}{line}"
        if warning:
            if any(line == text for text, _ in tuple(self._warnings)):
                return
            self._warnings.append((line, stamped))
        self._print(stamped)

    def update(self, counters: Numbers, values: Numbers) -> None:
        """Shows new values: all of `metrics.COUNTERS`, any of `metrics.METRICS`."""
        # The run's last update may follow another at once; such an interval gives no speed.
        is_instant = self._former is not None and float(counters["seconds"]) - self._former[0] < _INSTANT_SECONDS
        self._seen |= {key: float(value) for key, value in values.items() if not (is_instant and key.startswith("throughput/"))}
        for key, value in values.items():
            if key.startswith("arm/pulls_"):
                arm = int(key.rpartition("_")[2])
                self._pulls[arm] = _PULLS_MEMORY * self._pulls.get(arm, 0.0) + value
        self._measure(float(counters["seconds"]), float(counters["steps"]))
        if self._live is None:
            self._print(self.plain_line(counters))
        else:
            with self._output():
                self._live.update(self._panel(counters), refresh=True)

    def close(self) -> None:
        """Restores the terminal and the handlers of warnings; the last panel stays. May be called twice."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None
        live, self._live = self._live, None
        if live is not None:
            with self._output():
                live.stop()

    def plain_line(self, counters: Numbers) -> str:
        """The progress as one line of at most PLAIN_WIDTH characters, most important parts first."""
        parts = [
            f"{time.strftime('%H:%M:%S')} {self._share(counters):.1%} {self._time_left(counters)} left",
            f"steps {short(counters['steps'])}",
            f"updates {short(counters['updates'])}",
            self._join("{}/s frames", "throughput/frames_per_second"),
            self._join("{}/s updates", "throughput/updates_per_second"),
            self._join("return {}", "episode/return"),
            self._join("hns {}", "episode/hns"),
            self._join("evaluation {}", "evaluation/return"),
            self._join("hns {}", "evaluation/hns"),
            f"replay {self._seen['replay/fill']:.0%}" if "replay/fill" in self._seen else "",
            self._join("loss {}", "loss/extrinsic") or self._join("loss {}", "loss/combined"),
            f"episodes {short(counters['episodes'])}",
            self._join("intrinsic loss {}", "loss/intrinsic"),
            self._join("alpha {}", "novelty/alpha"),
            self._join("length {}", "episode/length"),
        ]
        line = ""
        for part in filter(None, parts):
            longer = f"{line}  {part}" if line else part
            if len(longer) > PLAIN_WIDTH:
                break
            line = longer
        return line

    def _print(self, line: str) -> None:
        with self._output():
            self._terminal.print(Text(line), soft_wrap=True)  # Text: brackets are not markup

    @contextlib.contextmanager
    def _output(self) -> Iterator[None]:
        """Wraps everything that prints. rich raises SystemExit on a broken pipe."""
        try:
            yield
        except (OSError, UnicodeError, SystemExit) as error:
            self._fall_silent(error)

    def _fall_silent(self, error: BaseException) -> None:
        if self._terminal.quiet:
            return
        self._terminal.quiet = True
        # The buffer would raise again at the interpreter's exit.
        _discard_output(self._terminal.file)
        self.close()
        try:
            print(f"warning: output cannot be written ({error}), no more output is shown; the run continues", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            _discard_output(sys.stderr)

    def _measure(self, seconds: float, steps: float) -> None:
        if self._former is not None and seconds > self._former[0]:
            newest = (steps - self._former[1]) / (seconds - self._former[0])
            former = newest if self._steps_per_second is None else self._steps_per_second
            self._steps_per_second = _SPEED_MEMORY * former + (1 - _SPEED_MEMORY) * newest
        self._former = seconds, steps

    def _share(self, counters: Numbers) -> float:
        return min(1.0, counters["steps"] / max(1, self._total_steps))

    def _time_left(self, counters: Numbers) -> str:
        speed = self._steps_per_second or self._seen.get("throughput/steps_per_second")
        return duration((self._total_steps - counters["steps"]) / speed) if speed else "?"

    def _join(self, form: str, key: str) -> str:
        """The value of a key in a format string; empty if unknown."""
        return form.format(short(self._seen[key])) if key in self._seen else ""

    def _panel(self, counters: Numbers) -> RenderableType:
        width = max(8, self._terminal.width - _FRAME_WIDTH)
        said = [
            Text(line, style="yellow")
            for _, text in tuple(self._warnings)
            for line in textwrap.wrap(text, width, max_lines=_LINES, placeholder=" ...")
        ]
        rows = [(row, wrapped(row.parts, max(1, width - _LABEL_WIDTH))[:_LINES]) for row in self._rows(counters)]
        rows = [(row, lines) for row, lines in rows if lines]
        # Border and progress take three lines, and the cursor one below the panel.
        while len(rows) > 1 and sum(len(lines) for _, lines in rows) + len(said) + 4 > self._terminal.height:
            rows.remove(max(rows, key=lambda item: item[0].rank))
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True, style="dim", width=_LABEL_WIDTH - 1)
        table.add_column(no_wrap=True, overflow=self._overflow, ratio=1)
        for row, lines in rows:
            table.add_row(row.name, Text("\n".join(lines)))
        share = self._share(counters)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, overflow=self._overflow)
        head.add_row(ProgressBar(total=1.0, completed=share), f"{share:.1%}  {self._time_left(counters)} left")
        return Panel(Group(head, table, *said), title=Text(self._title, overflow=self._overflow, no_wrap=True), title_align="left")

    def _rows(self, counters: Numbers) -> list[Row]:
        """All rows. Parts are in order of importance; unknown ones are empty."""

        def join(group: str, *parts: tuple[str, str]) -> list[str]:
            return [self._join(form, f"{group}/{name}") for form, name in parts]

        so_far = [f"{short(counters[name])} {name}" for name in ("steps", "frames", "updates", "episodes")]
        memory = self._gibibytes(f"{{}}{self._gibibytes(' of {}', 'memory/device_limit_bytes')} GiB", "memory/device_bytes")
        fill = f"{self._seen['replay/fill']:.1%} full" if "replay/fill" in self._seen else ""
        losses = [self._join(f"{name} {{}}", f"loss/{name}") for name in ("extrinsic", "intrinsic", "embedding", "distillation")]
        return [
            Row(4, "device", [self._device, memory, self._gibibytes("host {} GiB", "memory/host_bytes")]),
            Row(5, "so far", [*so_far, duration(counters["seconds"])]),
            Row(0, "speed", join("throughput", ("{} frames/s", "frames_per_second"), ("{} updates/s", "updates_per_second"))),
            Row(2, "time", self._times()),
            Row(0, "training", join("episode", ("return {}", "return"), ("hns {}", "hns"), ("length {}", "length"))),
            Row(
                0,
                "evaluation",
                join("evaluation", ("return {}", "return"), ("hns {}", "hns"), ("arm {}", "arm"), ("{} episodes", "episodes")),
            ),
            Row(3, "arms", self._arms()),
            Row(7, "losses", losses),
            Row(
                6, "novelty", join("novelty", ("alpha {}", "alpha"), ("reward {}", "intrinsic_reward"), ("inverse {}", "inverse_accuracy"))
            ),
            Row(1, "replay", [fill, *join("replay", ("{} timesteps", "timesteps"), ("{} sequences", "sequences"), ("age {}", "age"))]),
        ]

    def _times(self) -> list[str]:
        """The stopwatch's shares of wall time, largest first."""
        shares = {label: self._seen.get(f"throughput/share_{label}", 0.0) for label in _TIMES}
        longest = sorted(shares, key=lambda label: -shares[label])
        return [f"{label.replace('environment', 'environments')} {shares[label]:.0%}" for label in longest if shares[label] >= 0.005]

    def _arms(self) -> list[str]:
        """The policies with the most episodes lately, with their share and last return."""
        total = sum(self._pulls.values())
        most = sorted(self._pulls, key=lambda arm: -self._pulls[arm])[:SHOWN_ARMS]
        return [f"{arm}: {self._pulls[arm] / total:.0%} ({short(self._seen.get(f'arm/return_{arm}'))})" for arm in most if self._pulls[arm]]

    def _gibibytes(self, form: str, key: str) -> str:
        return form.format(f"{self._seen[key] / 2**30:.1f}") if key in self._seen else ""


def _discard_output(file: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not a file of the operating system
        number = file.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Joins the non-empty parts to lines of at most `width` characters; only a single longer part exceeds it."""
    lines: list[str] = []
    for part in filter(None, parts):
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def short(value: float | None) -> str:
    """A short form of a number: 950, 12.3k, 4.56M, 0.0123; `-` for None."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if letter == "k" else size)
            return f"{scaled:.{2 if abs(scaled) < 10 else 1}f}{letter}"
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 45s, 3m20s, 5h02m, 12d04h."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    for size, part, unit, small in ((86_400, 3600, "d", "h"), (3600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{small}"
    return f"{whole}s"
