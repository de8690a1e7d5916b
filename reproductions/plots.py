"""The common look of all pictures."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agent57_jax import paths

# Distinguishable for the colour-blind (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
Points = Sequence[Sequence[float]]  # [x, y] each


@contextlib.contextmanager
def titled(path: pathlib.Path, title: str, size: tuple[float, float] = (11.0, 4.5)) -> Iterator[Figure]:
    """A figure to draw on, saved as PNG afterwards."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=12)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        with paths.replaced(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)


@contextlib.contextmanager
def picture(path: pathlib.Path, record: Mapping[str, Any], title: str, size: tuple[float, float] = (11.0, 4.5)) -> Iterator[Figure]:
    """The figure of a reproduction. The title names the profile and says whether runs are missing."""
    runs = len(record["settings"]["runs"])
    note = f"{record['profile']} profile, {runs} {'run' if runs == 1 else 'runs'}{', PARTIAL' if record['partial'] else ''}"
    with titled(path, f"{title}\n({note})", size) as figure:
        yield figure


def curves(axes: Axes, seeds: Sequence[Points], colour: Any, label: str, style: str = "-") -> None:
    """Every seed as a thin line, and their mean, where all have values, as a thick one."""
    seeds = [points for points in seeds if len(points)]
    if not seeds:
        return
    if len(seeds) == 1:
        axes.plot(*np.transpose(seeds[0]), style, color=colour, linewidth=2.0, label=label)
        return
    for points in seeds:
        axes.plot(*np.transpose(points), style, color=colour, linewidth=0.8, alpha=0.4)
    first, last = max(points[0][0] for points in seeds), min(points[-1][0] for points in seeds)
    grid = np.linspace(first, last, 100) if last > first else np.array([first])
    values = np.mean([np.interp(grid, *np.transpose(points)) for points in seeds], axis=0)
    axes.plot(grid, values, style, color=colour, linewidth=2.2, label=label)


def smooth_curve(axes: Axes, points: Points, colour: Any, label: str) -> None:
    """A curve, if it has points, as a thin line, and as a thick one with each value averaged over its neighbours, 4% of all points."""
    if not points:
        return
    x, y = np.transpose(points)
    window = np.ones(2 * int(0.02 * len(y)) + 1)
    means = np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(x, means, color=colour, linewidth=2.2, label=label)


def legend(axes: Axes, **options: Any) -> None:
    """A legend, if there is anything to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**options)


def threshold(axes: Axes, value: float, label: str, style: str = "--") -> None:
    """A horizontal line, named to the right of the panel."""
    axes.axhline(value, color=GREY, linestyle=style, linewidth=1.0, zorder=1)
    options: Any = {"ha": "left", "va": "center", "color": GREY, "fontsize": 9, "annotation_clip": False}
    axes.annotate(label, (1.0, value), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", **options)


def in_millions(axes: Axes, what: str) -> None:
    """Labels an x-axis of counts in millions, or in thousands where that reads better."""
    highest = axes.get_xlim()[1]
    unit, name = (1e6, "million") if highest >= 1e6 else (1e3, "thousand")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / unit:g}")
    axes.set_xlabel(f"{what} ({name})")
