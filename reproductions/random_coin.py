"""Random Coin (Agent57 §4.2, Fig. 5): does the exploitative policy suffer from the exploratory ones?

A room with a coin; the policies weigh the intrinsic reward with beta up to beta_max. The paper shows the return of the policy with beta 0:
with one network for both rewards (NGU) it falls as beta_max grows, with one network for each reward it stays near 1.

smoke: a 5x5 room, too short to learn. cpu: a 7x7 room, two policies, two more beta_max below the paper's. gpu: the paper's 15x15 room.
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, late_mean, reproduce
from reproductions.records import all_hold, expectation

SINGLE, SEPARATE = "single", "separate"
AGENTS = {SINGLE: "ngu", SEPARATE: "ngu_separate"}
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
SMALLER_BETAS = (0.001, 0.01)  # in the cpu profile's room the coin may still outweigh r^i
SEEDS = (0, 1, 2)
WANTED_RETURN = 0.95
WANTED_LOSS = 0.05

# The cpu profile's changes to configs/random_coin.py:laptop. Two policies, beta 0 and beta_max. Each sequence is sampled about once, as in
# the paper: with more, priorities that grow with beta r^i leave policy 0 a small share of the batch.
CPU_OVERRIDES: dict[str, Any] = {
    "environment.grid_size": 7,
    "environment.num_envs": 64,
    "policy.num_policies": 2,
    "replay.samples_per_insert": 1.0,
    "total_steps": 1_000_000,
    # This figure does not use the evaluator that plays during training, so it gets little time.
    "evaluation.num_envs": 16,
    "evaluation.period_acts": 16,
    "evaluation.window_episodes": 3_600,
    "evaluation.exploration": 0.01,
}


def trainings(profile: str, betas: Sequence[float], seeds: Sequence[int], overrides: Mapping[str, Any]) -> tuple[Training, ...]:
    """A run for each seed, beta_max and agent, a whole seed before the next."""
    return tuple(
        Training(
            name=f"{agent}_beta{beta:g}_seed{seed}",
            config=f"configs/random_coin.py:{profile},{AGENTS[agent]}",
            overrides={**overrides, "policy.beta_max": beta},
            seed=seed,
            labels={"agent": agent, "beta_max": beta},
        )
        for seed in seeds
        for beta in betas
        for agent in AGENTS
    )


PROFILES = {
    "smoke": Profile(trainings("smoke", (0.3, 10.0), (0,), {"total_steps": 4_000}), workers=2, episodes=20),
    "cpu": Profile(trainings("laptop", (*SMALLER_BETAS, *BETAS), SEEDS, CPU_OVERRIDES), workers=2, episodes=200),
    "gpu": Profile(trainings("paper", BETAS, SEEDS, {}), workers=4, episodes=200),
}


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Greedy return of the policy with beta 0, run by run and as a mean over seeds, and the learning curves."""
    points = [
        {
            "agent": run.training.labels["agent"],
            "beta_max": run.training.labels["beta_max"],
            "seed": run.training.seed,
            "return": run.evaluation["mean"],
            "episodes": run.evaluation["episodes"],
            "intrinsic_reward": late_mean(run.curve("novelty/intrinsic_reward")),
            "curve": run.curve("arm/return_0"),
        }
        for run in runs
    ]
    means = []
    for agent, beta in sorted({(point["agent"], point["beta_max"]) for point in points}, key=lambda pair: (pair[0] != SINGLE, pair[1])):
        returns = [point["return"] for point in points if (point["agent"], point["beta_max"]) == (agent, beta)]
        spread = {"mean": statistics.fmean(returns), "lowest": min(returns), "highest": max(returns), "seeds": len(returns)}
        means.append({"agent": agent, "beta_max": beta, **spread})
    separate, single = ({entry["beta_max"]: entry for entry in means if entry["agent"] == agent} for agent in (SEPARATE, SINGLE))
    falls = None
    if {BETAS[0], BETAS[-1]} <= set(single):
        first, last = single[min(single)], single[max(single)]
        falls = last["highest"] < first["lowest"] and last["mean"] <= first["mean"] - WANTED_LOSS
    return {
        "points": points,
        "means": means,
        "expectations": {
            "separate networks: the exploitative policy's return does not depend on beta_max": expectation(
                f"mean return at least {WANTED_RETURN} for every beta_max",
                {f"{beta:g}": entry["mean"] for beta, entry in separate.items()},
                all_hold([separate[beta]["mean"] >= WANTED_RETURN if beta in separate else None for beta in sorted({*BETAS, *separate})]),
            ),
            "single network: the exploitative policy's return degrades as beta_max grows": expectation(
                f"every seed at the largest beta_max below all at the smallest, the mean by at least {WANTED_LOSS}",
                {f"{beta:g}": entry["mean"] for beta, entry in single.items()},
                falls,
            ),
        },
    }


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Left: return against beta_max. Right: training episodes of both agents' exploitative policy."""
    data = record["data"]
    betas = sorted({point["beta_max"] for point in data["points"]})
    colours = dict(zip(betas, matplotlib.colormaps["viridis"]([0.9 * i / max(len(betas) - 1, 1) for i in range(len(betas))]), strict=True))
    names = {SINGLE: "single network (NGU)", SEPARATE: "separate networks"}
    title = "Random Coin: return of the exploitative policy (beta = 0)"
    with plots.picture(path, record, title, size=(13.0, 4.8)) as figure:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        for agent, colour, marker in ((SEPARATE, plots.BLUE, "o"), (SINGLE, plots.ORANGE, "s")):
            means = [entry for entry in data["means"] if entry["agent"] == agent]
            x = [entry["beta_max"] for entry in means]
            left.plot(x, [entry["mean"] for entry in means], f"{marker}-", color=colour, linewidth=2.2, label=f"{names[agent]}, mean")
            left.fill_between(x, [e["lowest"] for e in means], [e["highest"] for e in means], color=colour, alpha=0.15, linewidth=0)
            points = [point for point in data["points"] if point["agent"] == agent]
            left.plot([p["beta_max"] for p in points], [p["return"] for p in points], ".", color=colour, alpha=0.6, markersize=7)
        left.set_xscale("log")
        left.set_xticks(betas, [f"{beta:g}" for beta in betas])
        left.minorticks_off()
        plots.threshold(left, WANTED_RETURN, f"{WANTED_RETURN}")
        episodes = max(point["episodes"] for point in data["points"])
        left.set(ylim=(-0.03, 1.05), xlabel="beta_max", ylabel=f"mean return of {episodes} greedy episodes")
        left.set_title("after training (dots: seeds, band: lowest to highest)")
        plots.legend(left, loc="lower left")
        for axes, agent in ((middle, SEPARATE), (right, SINGLE)):
            for beta in betas:
                seeds = [point["curve"] for point in data["points"] if (point["agent"], point["beta_max"]) == (agent, beta)]
                plots.curves(axes, seeds, colours[beta], f"beta_max {beta:g}")
            axes.set(ylim=(-0.03, 1.05), title=f"{names[agent]}: during training")
            plots.in_millions(axes, "agent steps")
        middle.set_ylabel("return of the training episodes of policy 0")
        plots.legend(right, loc="lower right", fontsize=9)


FIGURE = Figure(name="random_coin", profiles=PROFILES, summarise=summarise, draw=draw)

if __name__ == "__main__":
    reproduce(FIGURE)
