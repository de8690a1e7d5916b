"""Random Disco Maze (NGU §4.1, Fig. 2): do learnt controllable states make episodic novelty work?

A new maze every episode, without reward, whose walls change colour at every step, so that every observation is new. The paper shows the
share of the maze that an episode visits: large with the embedding learnt by inverse dynamics, small with an untrained random one. Random
network distillation alone (RND) is the third arm. Also measured: the mean intrinsic reward on first and on repeated visits of a cell.

smoke: too short to learn. cpu: an 11x11 maze. gpu: the paper's 21x21 maze.
"""

import collections
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from agent57_jax.commands import command_line
from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, late_mean, reproduce
from reproductions.folders import remembered
from reproductions.records import expectation

LEARNT, RANDOM, RND = "learnt", "random", "rnd"
ARMS: dict[str, dict[str, Any]] = {
    LEARNT: {},
    RANDOM: {"novelty.embedding": "random"},
    RND: {"novelty.reward": "lifelong"},
}
NAMES = {LEARNT: "learnt controllable states", RANDOM: "random embedding", RND: "RND alone"}
COLOURS = {LEARNT: plots.BLUE, RANDOM: plots.ORANGE, RND: plots.GREEN}
SEEDS = (0, 1, 2)
WANTED_FRACTION = 0.6
WANTED_RATIO = 3.0
KEY = "evaluation/visited_fraction"


def trainings(profile: str, seeds: Sequence[int], overrides: Mapping[str, Any]) -> tuple[Training, ...]:
    """A run for each seed and arm, a whole seed before the next."""
    return tuple(
        Training(
            name=f"{arm}_seed{seed}",
            config=f"configs/disco_maze.py:{profile}",
            overrides={**overrides, **own},
            seed=seed,
            labels={"arm": arm},
        )
        for seed in seeds
        for arm, own in ARMS.items()
    )


PROFILES = {
    "smoke": Profile(trainings("smoke", (0,), {"total_steps": 6_000}), workers=2, episodes=4),
    "cpu": Profile(trainings("laptop", SEEDS, {"logging.period_seconds": 5.0}), workers=2, episodes=32),
    "gpu": Profile(trainings("paper", SEEDS, {}), workers=3, episodes=32),
}


def measure(folder: pathlib.Path, training: Training, episodes: int) -> dict[str, Any]:
    """Mean intrinsic reward by kind of visit, and the visited fraction, over greedy episodes with the last checkpoint."""

    def compute() -> dict[str, Any]:
        command_line.prepare_jax(whole_device=False)
        from reproductions import rollouts

        return dict(rollouts.visits(folder, episodes, training.seed))

    return remembered(folder, "visits", {"episodes": episodes, "seed": training.seed}, compute)


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Visited fraction over training and, as the mean over its last tenth, at its end; intrinsic rewards by kind of visit."""
    entries = [
        {
            "arm": run.training.labels["arm"],
            "seed": run.training.seed,
            "final": late_mean(run.curve(KEY)),
            "intrinsic_reward_first": run.further.get("first"),
            "intrinsic_reward_repeated": run.further.get("repeated"),
            "visited_fraction": run.further.get("visited_fraction"),
            "curve": run.curve(KEY),
        }
        for run in runs
    ]

    def mean_of(arm: str, key: str) -> float | None:
        values = [entry[key] for entry in entries if entry["arm"] == arm and entry[key] is not None]
        return statistics.fmean(values) if values else None

    keys = ("final", "intrinsic_reward_first", "intrinsic_reward_repeated", "visited_fraction")
    seeds = collections.Counter(entry["arm"] for entry in entries)
    means = {arm: {"seeds": seeds[arm], **{key: mean_of(arm, key) for key in keys}} for arm in ARMS if seeds[arm]}
    learnt, random = (mean_of(arm, "final") for arm in (LEARNT, RANDOM))
    learnt_after, random_after = (mean_of(arm, "visited_fraction") for arm in (LEARNT, RANDOM))
    return {
        "runs": entries,
        "means": means,
        "expectations": {
            "learnt controllable states explore most of the maze": expectation(
                f"visited fraction at the end of training at least {WANTED_FRACTION}",
                learnt,
                None if learnt is None else learnt >= WANTED_FRACTION,
            ),
            "learnt controllable states explore far more than a random embedding": expectation(
                f"visited fraction at least {WANTED_RATIO:g} times the random embedding's",
                {LEARNT: learnt, RANDOM: random},
                None if learnt is None or random is None else learnt >= WANTED_RATIO * random,
            ),
            "so they do after training, with fixed parameters": expectation(
                f"visited fraction at least {WANTED_FRACTION}, and at least {WANTED_RATIO:g} times the random embedding's",
                {LEARNT: learnt_after, RANDOM: random_after},
                None if learnt_after is None or random_after is None else learnt_after >= max(WANTED_FRACTION, WANTED_RATIO * random_after),
            ),
        },
    }


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Left: visited fraction over training. Right: intrinsic reward at first and at repeated visits."""
    data = record["data"]
    arms = [arm for arm in ARMS if arm in data["means"]]
    with plots.picture(path, record, "Random Disco Maze: share of the corridor cells that an episode visits") as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        for arm in arms:
            curves = [entry["curve"] for entry in data["runs"] if entry["arm"] == arm]
            plots.curves(left, curves, COLOURS[arm], NAMES[arm])
        left.set(xlim=(0, None), ylim=(0, 1), ylabel="visited fraction, greedy episodes", title="thin: seeds, thick: their mean")
        plots.threshold(left, WANTED_FRACTION, f"{WANTED_FRACTION}")
        plots.in_millions(left, "agent steps")
        plots.legend(left, loc="upper left")
        _draw_visits(right, data, arms)


def _draw_visits(axes: Axes, data: Mapping[str, Any], arms: Sequence[str]) -> None:
    """Two bars an arm, relative to its reward on first visits, since the arms' rewards have different scales, with the numbers."""
    kinds = {"intrinsic_reward_first": (-0.2, 1.0), "intrinsic_reward_repeated": (0.2, 0.4)}
    for i, arm in enumerate(arms):
        scale = data["means"][arm]["intrinsic_reward_first"]
        for key, (offset, alpha) in kinds.items():
            values = [entry[key] for entry in data["runs"] if entry["arm"] == arm and entry[key] is not None]
            if not scale or not values:
                continue
            value = data["means"][arm][key]
            axes.bar(i + offset, value / scale, width=0.36, color=COLOURS[arm], alpha=alpha)
            axes.plot([i + offset] * len(values), [each / scale for each in values], ".", color="black", markersize=4)
            options: Any = {"ha": "center", "fontsize": 8, "color": "white" if alpha == 1.0 else "black"}
            axes.annotate(f"{value:.3g}", (i + offset, 0), (0, 3), textcoords="offset points", **options)
    axes.set_xticks(range(len(arms)), [NAMES[arm].replace(" ", "\n") for arm in arms])
    axes.grid(axis="x", visible=False)
    title = "mean at first (dark) and repeated (light) visits"
    axes.set(xlim=(-0.6, len(arms) - 0.4), ylabel="intrinsic reward, first visits = 1", title=title)


FIGURE = Figure(name="disco_maze", profiles=PROFILES, summarise=summarise, draw=draw, measure=measure)

if __name__ == "__main__":
    reproduce(FIGURE)
