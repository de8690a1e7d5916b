"""What a person sees while a run trains: a live panel on a terminal, plain lines in a log file."""

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Numbers = Mapping[str, int | float]

PLAIN_WIDTH = 160  # characters of a plain line
SHOWN_ARMS = 4
SHOWN_WARNINGS = 3
_SPEED_MEMORY = 0.7  # weight of the former estimate of steps per second against the newest


class Console:
    """Shows the progress of a run. Draws only when called: no threads."""

    def __init__(
        self, total_steps: int, title: str, header_lines: Sequence[str] = (), terminal: Terminal | None = None, is_shown: bool = True
    ) -> None:
        """Prints the header.

        Args:
          total_steps: agent steps of the whole run.
          title: stands above the panel, for example the task.
          header_lines: printed once, for example devices and sizes.
          terminal: where to write; None: standard output.
          is_shown: False for all processes of a run but the first, which are silent.
        """
        self._total_steps, self._title = total_steps, title
        # Said here, since rich would take FORCE_COLOR of a CI for a terminal.
        standard = Terminal(highlight=False, force_terminal=is_shown and sys.stdout.isatty(), quiet=not is_shown)
        self._terminal = standard if terminal is None else terminal
        self._live: Live | None = None
        self._warnings: deque[str] = deque(maxlen=SHOWN_WARNINGS)
        self._seen: dict[str, float] = {}  # values that not every line has: the last one stays in view
        self._pulls: dict[int, float] = {}
        self._former: tuple[float, float] | None = None  # seconds and steps of the last update
        self._steps_per_second: float | None = None
        self.show([title, *header_lines])
        # A terminal that cannot move its cursor, or an output that is no terminal, gets lines.
        if self._terminal.is_terminal and self._terminal.is_interactive and not self._terminal.is_dumb_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False)  # auto_refresh would be a thread
            self._live.start()

    def show(self, lines: Sequence[str]) -> None:
        """Prints lines as they are, above the panel if there is one."""
        for line in lines:
            self._print(line)

    def say(self, line: str, warning: bool = False) -> None:
        """Prints a line with the time, above the panel if there is one; the last warnings also stay in the panel."""
        stamped = f"{time.strftime('%H:%M:%S')} {'warning: ' if warning else ''}{line}"
        if warning:
            self._warnings.append(stamped)
        self._print(stamped)

    def update(self, counters: Numbers, values: Numbers) -> None:
        """Shows new numbers: keys of `metrics.COUNTERS`, and of `metrics.METRICS` those that there are."""
        self._seen |= {key: float(value) for key, value in values.items()}
        for key, value in values.items():
            if key.startswith("arm/pulls_"):
                arm = int(key.rpartition("_")[2])
                self._pulls[arm] = self._pulls.get(arm, 0.0) + value
        self._measure(float(counters["seconds"]), float(counters["steps"]))
        if self._live is None:
            self._print(self.plain_line(counters))
        else:
            self._live.update(self._panel(counters), refresh=True)

    def close(self) -> None:
        """Leaves the last panel on the screen and gives the terminal back; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def plain_line(self, counters: Numbers) -> str:
        """The progress as one line of at most PLAIN_WIDTH characters; what is least needed falls off first."""
        parts = [
            f"{time.strftime('%H:%M:%S')} {self._share(counters):.1%} {self._time_left(counters)} left",
            f"steps {short(counters['steps'])}",
            f"updates {short(counters['updates'])}",
            f"episodes {short(counters['episodes'])}",
            self._join("{}/s frames", "throughput/frames_per_second"),
            self._join("{}/s updates", "throughput/updates_per_second"),
            self._join("return {}", "episode/return"),
            self._join("evaluation {}", "evaluation/return"),
            self._join("hns {}", "evaluation/hns"),
            self._join("loss {}", "loss/extrinsic"),
            self._join("intrinsic loss {}", "loss/intrinsic"),
            f"replay {self._seen['replay/fill']:.0%}" if "replay/fill" in self._seen else "",
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
        # As Text: brackets in a line are no markup, and nothing is wrapped in a log file.
        self._terminal.print(Text(line), soft_wrap=True)

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

    def _join(self, form: str, *keys: str) -> str:
        """The values of the keys in a form with one {} for each; empty if none of them is known."""
        return form.format(*(short(self._seen.get(key)) for key in keys)) if any(key in self._seen for key in keys) else ""

    def _panel(self, counters: Numbers) -> RenderableType:
        rows = [
            ("so far", self._so_far(counters)),
            ("speed", self._join("{} frames/s  {} updates/s", "throughput/frames_per_second", "throughput/updates_per_second")),
            ("time", self._shares()),
            ("episodes", self._join("return {}  length {}  hns {}", "episode/return", "episode/length", "episode/hns")),
            (
                "evaluation",
                self._join(
                    "return {}  hns {}  episodes {}  arm {}", *(f"evaluation/{name}" for name in ("return", "hns", "episodes", "arm"))
                ),
            ),
            ("arms", self._arms()),
            (
                "losses",
                self._join(
                    "extrinsic {}  intrinsic {}  embedding {}  distillation {}",
                    *(f"loss/{name}" for name in ("extrinsic", "intrinsic", "embedding", "distillation")),
                ),
            ),
            (
                "novelty",
                self._join("reward {}  alpha {}  inverse {}", *(f"novelty/{x}" for x in ("intrinsic_reward", "alpha", "inverse_accuracy"))),
            ),
            ("replay", self._replay()),
            ("memory", self._memory()),
        ]
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for name, text in rows:
            if text:
                table.add_row(name, Text(text))
        warnings = [Text(line, style="yellow", overflow="ellipsis", no_wrap=True) for line in self._warnings]
        share = self._share(counters)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_row(ProgressBar(total=1.0, completed=share), f"{share:.1%}  {self._time_left(counters)} left")
        return Panel(Group(head, table, *warnings), title=Text(self._title, overflow="ellipsis", no_wrap=True), title_align="left")

    def _so_far(self, counters: Numbers) -> str:
        counts = "  ".join(f"{short(counters[name])} {name}" for name in ("frames", "steps", "updates", "episodes"))
        return f"{counts}  {duration(counters['seconds'])}"

    def _shares(self) -> str:
        names = ("environment", "device", "evaluation")
        return "  ".join(
            f"{name} {self._seen[f'throughput/share_{name}']:.0%}" for name in names if f"throughput/share_{name}" in self._seen
        )

    def _arms(self) -> str:
        """The policies with the most episodes since the panel started, and their last returns."""
        total = sum(self._pulls.values())
        most = sorted(self._pulls, key=lambda arm: -self._pulls[arm])[:SHOWN_ARMS]
        shown = [
            f"{arm}: {self._pulls[arm] / total:.0%} ({short(self._seen.get(f'arm/return_{arm}'))})" for arm in most if self._pulls[arm]
        ]
        return "  ".join(shown)

    def _replay(self) -> str:
        fill = f"{self._seen['replay/fill']:.1%} full" if "replay/fill" in self._seen else ""
        return "  ".join(filter(None, [fill, self._join("{} timesteps  {} sequences", "replay/timesteps", "replay/sequences")]))

    def _memory(self) -> str:
        parts = [(name, self._seen.get(f"memory/{name}_bytes")) for name in ("device", "host")]
        return "  ".join(f"{name} {value / 2**30:.1f} GiB" for name, value in parts if value is not None)


def short(value: float | None) -> str:
    """A number in few characters: 950, 12.3k, 4.56M, 0.0123; `-` for None."""
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
    """A length of time in its two largest units: 45s, 3m20s, 5h02m, 12d04h."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
