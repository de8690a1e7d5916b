"""Lunar Lander: does the EnvPool path learn a task with vector observations?

The papers have no such figure; the task's authors call it solved at a mean return of 200. Tested for every seed, over 100 greedy episodes.

smoke: too short to learn. cpu: the laptop profile. gpu: the paper's sizes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, reproduce
from reproductions.records import all_hold, expectation

WANTED_RETURN = 200.0
EPISODES = 100


def trainings(profile: str, seeds: Sequence[int], overrides: Mapping[str, Any]) -> tuple[Training, ...]:
    """A run for each seed."""
    return tuple(Training(f"seed{seed}", f"configs/lunar_lander.py:{profile}", overrides, seed) for seed in seeds)


PROFILES = {
    "smoke": Profile(trainings("smoke", (0,), {"total_steps": 6_000}), workers=1, episodes=4),
    "cpu": Profile(trainings("laptop", (0, 1, 2), {}), workers=1, episodes=EPISODES),
    "gpu": Profile(trainings("paper", (0, 1, 2), {}), workers=1, episodes=EPISODES),
}


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean return of each seed after training, and its learning curve over steps and over wall time."""
    entries = [
        {
            "seed": run.training.seed,
            "finished": run.finished,
            "return": run.evaluation["mean"],
            "median": run.evaluation["median"],
            "lowest": min(run.evaluation["returns"]),
            "episodes": run.evaluation["episodes"],
            "hours": run.seconds / 3600,
            "curve": run.curve("evaluation/return"),
            "curve_seconds": run.curve("evaluation/return", over="seconds"),
        }
        for run in runs
    ]
    return {
        "runs": entries,
        "expectations": {
            "Lunar Lander is solved": expectation(
                f"mean return of {EPISODES} greedy episodes at least {WANTED_RETURN:g} for every seed",
                {f"seed {entry['seed']}": entry["return"] for entry in entries},
                all_hold([entry["return"] >= WANTED_RETURN if entry["episodes"] >= EPISODES else None for entry in entries]),
            )
        },
    }


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Learning curves over agent steps and over wall time; the returns after training as points at their ends."""
    runs = record["data"]["runs"]
    colours = [matplotlib.colormaps["tab10"](i) for i in range(len(runs))]
    with plots.picture(path, record, "Lunar Lander: return of greedy episodes") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for run, colour in zip(runs, colours, strict=True):
            hours = [(seconds / 3600, value) for seconds, value in run["curve_seconds"]]
            for axes, curve in ((left, run["curve"]), (right, hours)):
                if curve:
                    plots.smooth_curve(axes, curve, colour, f"seed {run['seed']}")
                    label = f"{run['episodes']} episodes after training: {run['return']:.0f}"
                    axes.plot(curve[-1][0], run["return"], "o", color=colour, markersize=8, markeredgecolor="black", label=label)
        plots.threshold(left, WANTED_RETURN, "")
        plots.threshold(right, WANTED_RETURN, f"solved:\n{WANTED_RETURN:g}")
        plots.in_millions(left, "agent steps")
        left.set_ylabel("mean return")
        plots.legend(left, loc="lower right")
        right.set_xlabel("hours of training")


FIGURE = Figure(name="lunar_lander", profiles=PROFILES, summarise=summarise, draw=draw, counts_unfinished=True)

if __name__ == "__main__":
    reproduce(FIGURE)
