"""The meta-controller follows a best arm that changes (Agent57 §3.2, App. D; the papers have no such figure).

Synthetic: the project's own bandit before arms with Gaussian returns, the best of which changes every few windows. Two sizes of the actors'
bandit (window 160, exploration 0.5) and the evaluator's (3,600 and 0.01). Against it stand the same bandit without a window, a uniform
chooser, the best fixed arm in hindsight, and whoever knows the best arm of each phase.

Shifting corridor: R2D2 (bandit) on a task whose time limit changes, and with it the best discount, while all action values stay the same
(`environments/shifting_corridor.py`). Half of the arms are drawn uniformly; the bandit is judged by the others, whose shares are estimated
from all pulls, because exploration adds equally to each arm. The control has a window that is longer than six phases.

Tested: one window after a change the bandit's own pulls have followed it; its mean return, exploration included, is above that of every
fixed arm; without a window it lags behind. What holds of the synthetic bandits follows from their numbers:

- One window after a change nothing of the old phase is left. The choice follows earlier, when the old best arm's mean has sunk below the
  others' bounds.
- With N = 32 and a window of 160, exploration misses an arm for a whole window with probability (1 - 1/64)^160 = 0.08; an arm without
  a pull counts as unbounded and is pulled next. So about 0.92 of the pulls that do not explore can fall on the best arm, and no more.
- The bonus sqrt(1/n) is 1 for an arm with one pull. Where returns differ by less, the bandit of 32 arms cannot settle.

smoke: short phases and an agent that learns nothing, a minute or two. cpu: two cores. gpu: the same with more seeds.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from agent57_jax.algorithm.policy_family import ngu_discounts
from reproductions import common, folders, plots
from reproductions.common import Figure, Profile, Run, Training, mean, reproduce
from reproductions.records import all_hold, expectation
from reproductions.synthetic_bandits import BANDITS, NOISES, measure_bandits, points

TOLERANCE = 0.1  # corridor: arms within this of the best return are best too
WIDE_WINDOW = 20_000  # corridor: a bandit sees about 3,000 episodes in a phase
WINDOW = 160  # corridor: of the bandit, and the unit of time since a change
BINS_PER_WINDOW, BINNED_WINDOWS = 8, 4
SHOWN_PHASES = 6
COLOURS = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE)


class Corridor(NamedTuple):
    """The lines of a run in which episodes ended. L lines, N arms."""

    pulls: np.ndarray  # [L, N] episodes that ended
    totals: np.ndarray  # [L, N] sum of their returns
    episodes: np.ndarray  # [L] episodes so far, of one bandit
    is_long: np.ndarray  # [L] bool, whether most of them had the long limit
    steps: np.ndarray  # [L]


class Phase(NamedTuple):
    """Lines [start, stop) of one phase."""

    start: int
    stop: int
    is_long: bool


def corridor_lines(metrics: Sequence[Mapping[str, Any]], num_arms: int, num_bandits: int) -> Corridor:
    """Reads metrics.jsonl."""
    lines = [line for line in metrics if line.get("episode/long_limit") is not None]
    pulls = np.array([[line[f"arm/pulls_{arm}"] for arm in range(num_arms)] for line in lines], np.float64).reshape(-1, num_arms)
    means = [[line.get(f"arm/return_{arm}") or 0.0 for arm in range(num_arms)] for line in lines]
    return Corridor(
        pulls=pulls,
        totals=pulls * np.array(means, np.float64).reshape(-1, num_arms),
        episodes=np.array([line["episodes"] for line in lines], np.float64) / num_bandits,
        is_long=np.array([line["episode/long_limit"] > 0.5 for line in lines], bool),
        steps=np.array([line["steps"] for line in lines], np.float64),
    )


def settled_phases(lines: Corridor) -> list[Phase]:
    """Complete phases of the run's second half, in which nothing is left to learn; as many long as short ones."""
    changes = np.flatnonzero(lines.is_long[1:] != lines.is_long[:-1]) + 1
    phases = [Phase(int(start), int(stop), bool(lines.is_long[start])) for start, stop in itertools.pairwise(changes)]
    late = [phase for phase in phases if lines.steps[phase.start] >= 0.5 * lines.steps[-1]]
    return late[len(late) % 2 :]


def without_exploration(pulls: np.ndarray, exploration: float) -> np.ndarray:
    """Estimated shares [..., N] of the arms among the pulls that do not explore, of which a known part is uniform. Sums to 1."""
    shares = pulls / np.maximum(pulls.sum(axis=-1, keepdims=True), 1.0)
    estimate: np.ndarray = (shares - exploration / pulls.shape[-1]) / (1.0 - exploration)
    return estimate


def corridor_numbers(lines: Corridor, gammas: np.ndarray, exploration: float) -> dict[str, Any] | None:
    """What is told of one run; None while it has no two settled phases. "Own" pulls are those that do not explore."""
    phases = settled_phases(lines)
    if not phases:
        return None
    arm_returns = np.array([_ratio(lines.totals[p.start : p.stop].sum(0), lines.pulls[p.start : p.stop].sum(0)) for p in phases])
    bandit_returns = np.array([lines.totals[p.start : p.stop].sum() / lines.pulls[p.start : p.stop].sum() for p in phases])
    chosen = without_exploration(np.array([lines.pulls[p.start : p.stop].sum(0) for p in phases]), exploration)
    kinds = {"long": [i for i, p in enumerate(phases) if p.is_long], "short": [i for i, p in enumerate(phases) if not p.is_long]}
    by_kind = {name: arm_returns[members].mean(axis=0) for name, members in kinds.items()}
    preferred = {name: returns >= returns.max() - TOLERANCE for name, returns in by_kind.items()}

    half_after: list[float | None] = []
    bins: dict[str, list[list[float]]] = {name: [[] for _ in range(BINS_PER_WINDOW * BINNED_WINDOWS)] for name in kinds}
    shares = without_exploration(lines.pulls, exploration)
    for phase in phases:
        kind = "long" if phase.is_long else "short"
        since = lines.episodes[phase.start : phase.stop] - lines.episodes[phase.start - 1]
        share = shares[phase.start : phase.stop] @ preferred[kind]
        followed = np.flatnonzero(share >= 0.5)
        half_after.append(float(since[followed[0]]) if followed.size else None)
        for x, y in zip(since, share, strict=True):
            if x < BINNED_WINDOWS * WINDOW:
                bins[kind][int(x * BINS_PER_WINDOW / WINDOW)].append(float(y))

    # A bandit of exploration e earns e times the mean of all arms; the rest is what its own pulls earn.
    uniform = arm_returns.mean(axis=1)
    own_returns = (bandit_returns - exploration * uniform) / (1 - exploration)
    best = arm_returns.max(axis=1)
    last = phases[-SHOWN_PHASES:]
    shown = slice(last[0].start, last[-1].stop)
    return {
        "phases": len(phases),
        "half_after": half_after,
        "mean_discount": {name: float(np.mean(chosen[members] @ gammas)) for name, members in kinds.items()},
        "arm_returns": {name: returns.tolist() for name, returns in by_kind.items()},
        "preferred_arms": {name: np.flatnonzero(arms).tolist() for name, arms in preferred.items()},
        "mean_return": {
            "bandit": float(bandit_returns.mean()),
            "its own pulls": float(own_returns.mean()),
            "uniform": float(uniform.mean()),
            "best of each phase": float(best.mean()),
        },
        "fixed_arms": arm_returns.mean(axis=0).tolist(),
        "share_after_change": {
            name: [((i + 0.5) / BINS_PER_WINDOW, float(np.mean(values))) for i, values in enumerate(of_kind) if values]
            for name, of_kind in bins.items()
        },
        "discount": points(lines.episodes[shown], shares[shown] @ gammas),
        "borders": [float(lines.episodes[phase.start]) for phase in last] + [float(lines.episodes[last[-1].stop - 1])],
        "begins_long": last[0].is_long,
    }


def _ratio(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = totals / np.maximum(counts, 1.0)
    return ratio


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Data and expectations of the figure."""
    simulated: Mapping[str, Any] = next((run.further for run in runs if run.further), {"bandits": {}, "scale": []})
    corridors: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = common.settings_of(run.training)
        policy, bandit = settings.policy, settings.bandit
        gammas = ngu_discounts(policy.num_policies, policy.gamma_1, policy.gamma_2)
        lines = corridor_lines(run.metrics, policy.num_policies, settings.environment.num_envs // bandit.group_size)
        corridors[run.training.name] = {
            "seed": run.training.seed,
            "windowed": run.training.labels["windowed"],
            "gammas": gammas.tolist(),
            "numbers": corridor_numbers(lines, gammas, bandit.exploration),
        }
    claims = {**bandit_expectations(simulated["bandits"]), **scale_expectations(simulated["scale"]), **corridor_expectations(corridors)}
    return {**simulated, "corridors": corridors, "expectations": claims}


def bandit_expectations(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Claims about the synthetic bandits, by name."""
    claims = {}
    for name, numbers in measured.items():
        window, half, settled, returns = numbers["window"], numbers["half_after"], numbers["settled"], numbers["mean_return"]
        claims[f"{name}: follows within a window"] = expectation(
            f"half of the non-exploring pulls on the new best arm within {window} episodes of a change",
            {"episodes": half["choice"], "episodes, arm with the largest mean": half["greedy"]},
            half["choice"] is not None and half["choice"] <= window,
        )
        claims[f"{name}: settles"] = expectation(
            f"{numbers['expected_share']} or more of the non-exploring pulls on it between one and two windows after a change",
            settled["choice"],
            settled["choice"] >= numbers["expected_share"],
        )
        rivals = max(returns["best fixed arm"], returns["uniform"])
        claims[f"{name}: no regret against fixed arms"] = expectation(
            "a larger mean return, exploration included, than the fixed arm that is best in hindsight, and than uniform arms",
            returns,
            returns["bandit"] > rivals,
        )
        if "control" in settled:
            claims[f"{name}: lags without a window"] = expectation(
                "without a window less than half as many of the non-exploring pulls on it, and a smaller mean return",
                {"with": settled["choice"], "without": settled["control"]},
                settled["control"] < 0.5 * settled["choice"] and returns["without a window"] < returns["bandit"],
            )
    return claims


def scale_expectations(measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The claim about the returns' scale."""
    low = {point["gap"]: point["share"] for point in measured if point["noise"] == NOISES[0]}
    if not low:
        return {}
    return {
        "actors, N = 32: returns must differ by more than the bonus": expectation(
            "0.8 or more of the non-exploring pulls on the best arm where it is better by 1 or more, less than 0.6 where by 0.5 or less "
            "(noise a quarter of the gap)",
            [[gap, share] for gap, share in sorted(low.items())],
            all(share >= 0.8 if gap >= 1 else share < 0.6 for gap, share in low.items()),
        )
    }


def corridor_expectations(corridors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Claims about the shifting corridor, over all seeds; not decided while no run has settled phases."""
    windowed = [run for run in corridors.values() if run["windowed"] and run["numbers"]]
    wide = [run for run in corridors.values() if not run["windowed"] and run["numbers"]]
    followed = [episodes for run in windowed for episodes in run["numbers"]["half_after"]]
    in_time = [episodes is not None and episodes <= WINDOW for episodes in followed]
    known = sorted(episodes for episodes in followed if episodes is not None)
    best_fixed = {run["seed"]: max(run["numbers"]["fixed_arms"]) for run in windowed}
    margins = {run["seed"]: run["numbers"]["mean_return"]["bandit"] - best_fixed[run["seed"]] for run in windowed}
    discounts = [run["numbers"]["mean_discount"] for run in windowed]
    regrets = _mean_regret(windowed), _mean_regret(wide)
    return {
        "corridor: the preferred discount flips within a window": expectation(
            f"half of the non-exploring pulls on discounts that are best in the new phase within {WINDOW} episodes, after 9 of 10 changes",
            {
                "median": float(np.median(known)) if known else None,
                "largest": known[-1] if known else None,
                "in time": sum(in_time),
                "changes": len(in_time),
            },
            float(np.mean(in_time)) >= 0.9 if in_time else None,
        ),
        "corridor: far-sighted under the long limit, short-sighted under the short one": expectation(
            "mean discount of the non-exploring pulls at least 0.1 higher under the long limit",
            {name: float(np.mean([found[name] for found in discounts])) for name in ("long", "short")} if discounts else None,
            all_hold(found["long"] >= found["short"] + 0.1 for found in discounts),
        ),
        "corridor: no regret against fixed discounts": expectation(
            "a larger mean return per episode, exploration included, than any of the eight arms over both phases, for every seed",
            {
                str(run["seed"]): {"bandit": run["numbers"]["mean_return"]["bandit"], "best fixed arm": best_fixed[run["seed"]]}
                for run in windowed
            },
            all_hold(margin > 0 for margin in margins.values()),
        ),
        "corridor: more regret without a window": expectation(
            f"a larger regret per episode against the best arm of each phase with a window of {WIDE_WINDOW} episodes, more than six phases",
            {"window": regrets[0], "wide": regrets[1]},
            None if regrets[0] is None or regrets[1] is None else regrets[1] > regrets[0],
        ),
    }


def _mean_regret(runs: Sequence[Mapping[str, Any]]) -> float | None:
    regrets = [run["numbers"]["mean_return"]["best of each phase"] - run["numbers"]["mean_return"]["bandit"] for run in runs]
    return mean(regrets) if regrets else None


def measure(folder: pathlib.Path, training: Training, episodes: int) -> dict[str, Any]:
    """The synthetic bandits, with the run that is labelled for them; nothing with the others."""
    del episodes
    name = training.labels["bandits"]
    if name is None:
        return {}
    sizes = BANDITS[name]
    key = {"bandits": {title: dataclasses.asdict(bandit) for title, bandit in sizes.items()}}
    return folders.remembered(folder, "bandits", key, lambda: measure_bandits(sizes))


def trainings(profile: str, config_profile: str, seeds: int, overrides: Mapping[str, Any]) -> tuple[Training, ...]:
    """Runs with the paper's window and with a wide one; the first one carries the synthetic bandits."""
    # A line of metrics after every dispatch: phases, which last seconds, are seen in detail.
    shared = {"logging.period_seconds": 0.0, "logging.tensorboard": False, "evaluation.period_acts": 64, **overrides}
    return tuple(
        Training(
            name=f"{'window' if windowed else 'wide'}_{seed}",
            config=f"configs/shifting_corridor.py:{config_profile}",
            overrides=shared if windowed else {**shared, "bandit.window_episodes": WIDE_WINDOW},
            seed=seed,
            labels={"windowed": windowed, "bandits": profile if windowed and seed == 0 else None},
        )
        for seed in range(seeds)
        for windowed in (True, False)
    )


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Above the synthetic bandits, below the corridor."""
    data = record["data"]
    with plots.picture(path, record, "The meta-controller where the best arm changes", size=(15.0, 9.0)) as figure:
        above, below = figure.subplots(2, 3)
        _draw_bandits(above, data)
        _draw_corridor(below, data["corridors"])
        for axes in (*above, *below):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=9)


def _draw_bandits(panels: Sequence[Axes], data: Mapping[str, Any]) -> None:
    """Shares since a change, regret of the first bandit, and the effect of the returns' scale on it."""
    left, middle, right = panels
    for (name, numbers), colour in zip(data["bandits"].items(), COLOURS, strict=False):
        for key, style, label in (("choice", "-", name), ("control", ":", f"{name}, no window")):
            curve = np.array(numbers["shares"].get(key, [])).reshape(-1, 2)
            if len(curve):
                left.plot(curve[:, 0] / numbers["window"], curve[:, 1], style, color=colour, label=label)
    left.set(title="synthetic: share of own pulls on the new best arm", xlabel="windows since the change", xlim=(0, 3), ylim=(-0.03, 1.05))
    left.axvline(1.0, color=plots.GREY, linewidth=1.0, linestyle="--")
    for name, numbers in list(data["bandits"].items())[:1]:
        for (rival, curve), colour in zip(numbers["regret"].items(), COLOURS, strict=False):
            middle.plot(*np.array(curve).T, color=colour, label=rival)
        middle.set(title=f"synthetic, {name}: regret", xlabel="episodes", ylabel="against the best arm of each phase")
        for noise, colour in zip(NOISES, COLOURS, strict=False):
            curve = np.array([(point["gap"], point["share"]) for point in data["scale"] if point["noise"] == noise])
            right.plot(*curve.T, "o-", color=colour, label=f"standard deviation {noise:g} of it")
        right.set(title=f"synthetic, {name}: share one to two windows on", xlabel="best arm's return above the others'", ylim=(-0.03, 1.05))
        right.set_xscale("log")


def _draw_corridor(panels: Sequence[Axes], corridors: Mapping[str, Mapping[str, Any]]) -> None:
    """Discount over the last phases of the first run, shares since a change in all runs, and returns by arm."""
    left, middle, right = panels
    runs = [run for run in corridors.values() if run["numbers"]]
    windowed = [run for run in runs if run["windowed"]]
    for run in windowed[:1]:
        numbers = run["numbers"]
        left.plot(*np.array(numbers["discount"]).T, color=plots.BLUE, linewidth=1.0)
        for index, (start, stop) in enumerate(itertools.pairwise(numbers["borders"])):
            if (index % 2 == 0) == numbers["begins_long"]:
                left.axvspan(start, stop, color=plots.ORANGE, alpha=0.15, linewidth=0, label="long limit" if index < 2 else None)
        left.set(title=f"corridor, seed {run['seed']}: mean discount of own pulls")
        plots.in_millions(left, "episodes of one bandit")
    for kind, colour in (("long", plots.ORANGE), ("short", plots.BLUE)):
        for is_windowed, style in ((True, "-"), (False, ":")):
            seeds = [run["numbers"]["share_after_change"][kind] for run in runs if run["windowed"] == is_windowed]
            plots.curves(middle, seeds, colour, f"to the {kind} limit{'' if is_windowed else ', wide window'}", style)
    middle.axvline(1.0, color=plots.GREY, linewidth=1.0, linestyle="--")
    middle.set(title="corridor: share of own pulls on discounts now best", xlabel=f"windows of {WINDOW} episodes since the change")
    middle.set_ylim(-0.15, 1.65)  # room for the legend; estimated shares can lie outside of [0, 1]
    if windowed:
        gammas = [f"{gamma:.2f}" for gamma in windowed[0]["gammas"]]
        for kind, marker, colour in (("long", "^", plots.ORANGE), ("short", "v", plots.BLUE)):
            right.plot(gammas, np.mean([run["numbers"]["arm_returns"][kind] for run in windowed], axis=0), marker, color=colour, label=kind)
        right.plot(gammas, np.mean([run["numbers"]["fixed_arms"] for run in windowed], axis=0), "s-", color=plots.GREY, label="both")
        for name, style in (("bandit", "-"), ("its own pulls", "--"), ("best of each phase", ":")):
            value = float(np.mean([run["numbers"]["mean_return"][name] for run in windowed]))
            right.axhline(value, color=plots.GREEN, linestyle=style, linewidth=1.5, label=name)
        right.set(title="corridor: mean return of an episode, by limit", xlabel="discount of the arm", ylim=(-0.03, 1.35))


PROFILES = {
    "smoke": Profile(trainings("smoke", "smoke", 1, {}), workers=2, episodes=8),
    "cpu": Profile(trainings("cpu", "laptop", 3, {}), workers=2, episodes=8),
    "gpu": Profile(trainings("gpu", "laptop", 8, {}), workers=4, episodes=8),
}
FIGURE = Figure(name="meta_controller", profiles=PROFILES, summarise=summarise, draw=draw, measure=measure)


def main() -> None:
    """Makes the figure."""
    reproduce(FIGURE)


if __name__ == "__main__":
    main()
