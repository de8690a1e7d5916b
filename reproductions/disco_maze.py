"""Random Disco Maze (NGU §4.1, Fig. 2): are learnt controllable states what makes episodic novelty work?

A new maze every episode, without reward, whose walls change colour at every step, so that every observation is new. The paper shows the
share of the maze that an episode visits: with the embedding learnt by inverse dynamics the agent comes to explore most of it, with an
untrained random embedding it does not. Random network distillation alone (RND) is the third arm. Tested: learnt controllable states end at
0.6 of the corridor cells or more, and at three times the random embedding's or more. Also measured: the mean intrinsic reward where an
episode is for the first time and where it has been before.

smoke: an 11x11 maze, a few minutes, too short to learn anything. cpu: an 11x11 maze on two cores. gpu: the paper's 21x21 maze.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from agent57_jax.commands import command_line
from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, late_mean, mean, reproduce
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

# What the cpu profile's runs have beyond configs/disco_maze.py:laptop.
CPU_OVERRIDES: dict[str, Any] = {"logging.period_seconds": 5.0}


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
    "cpu": Profile(trainings("laptop", SEEDS, CPU_OVERRIDES), workers=2, episodes=32),
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
    entries = []
    for run in runs:
        curve = run.curve(KEY)
        entries.append(
            {
                "arm": run.training.labels["arm"],
                "seed": run.training.seed,
                "final": late_mean(curve),
                "intrinsic_reward_first": run.further.get("first"),
                "intrinsic_reward_repeated": run.further.get("repeated"),
                "visited_fraction": run.further.get("visited_fraction"),
                "curve": curve,
            }
        )
    keys = ("final", "intrinsic_reward_first", "intrinsic_reward_repeated", "visited_fraction")
    means = {}
    for arm in ARMS:
        own = [entry for entry in entries if entry["arm"] == arm]
        values = {key: [entry[key] for entry in own if entry[key] is not None] for key in keys}
        if own:
            means[arm] = {"seeds": len(own), **{key: mean(values[key]) if values[key] else None for key in keys}}
    learnt, random = (means.get(arm, {}).get("final") for arm in (LEARNT, RANDOM))
    learnt_after, random_after = (means.get(arm, {}).get("visited_fraction") for arm in (LEARNT, RANDOM))
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
            "so they do after training, with parameters that no longer change": expectation(
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
        left.set_ylim(0, 1)
        left.set_xlim(left=0)
        plots.threshold(left, WANTED_FRACTION, f"{WANTED_FRACTION}")
        plots.in_millions(left, "agent steps")
        left.set_ylabel("visited fraction, greedy episodes")
        left.set_title("thin: seeds, thick: their mean")
        plots.legend(left, loc="upper left")

        _draw_visits(right, data, arms)


def _draw_visits(axes: Axes, data: Mapping[str, Any], arms: Sequence[str]) -> None:
    """Two bars an arm, relative to its reward at first visits, since the arms' rewards have different scales; the numbers beside them."""
    kinds = {"intrinsic_reward_first": ("first visits", -0.2, 1.0), "intrinsic_reward_repeated": ("repeated visits", 0.2, 0.4)}
    for i, arm in enumerate(arms):
        scale = data["means"][arm]["intrinsic_reward_first"]
        for key, (_, offset, alpha) in kinds.items():
            values = [entry[key] for entry in data["runs"] if entry["arm"] == arm and entry[key] is not None]
            if not scale or not values:
                continue
            value = data["means"][arm][key]
            axes.bar(i + offset, value / scale, width=0.36, color=COLOURS[arm], alpha=alpha)
            axes.plot([i + offset] * len(values), [each / scale for each in values], ".", color="black", markersize=4)
            options: Any = {"ha": "center", "fontsize": 8, "color": "white" if alpha == 1.0 else "black"}
            axes.annotate(f"{value:.3g}", (i + offset, 0), (0, 3), textcoords="offset points", **options)
    axes.set_xticks(range(len(arms)), [NAMES[arm].replace(" ", "\n") for arm in arms])
    axes.set_xlim(-0.6, len(arms) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("intrinsic reward, first visits = 1")
    axes.set_title("mean at first (dark) and repeated (light) visits")


FIGURE = Figure(name="disco_maze", profiles=PROFILES, summarise=summarise, draw=draw, measure=measure)


def main() -> None:
    """Makes the figure."""
    reproduce(FIGURE)


if __name__ == "__main__":
    main()
