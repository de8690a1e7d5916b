"""The meta-controller follows a best policy that changes (Agent57 §3.2, App. D; the papers have no such figure).

R2D2 (bandit) on a task whose time limit changes, and with it the best discount, while all action values stay the same
(`environments/shifting_corridor.py`). Half of the arms are drawn uniformly. Exploration adds equally to each arm, so the shares of the
bandit's own pulls are estimated from all pulls. The control has a window that is longer than six phases.

smoke: too short to learn. cpu: the laptop profile, three seeds. gpu: the same with more seeds.
"""

import itertools
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent57_jax.algorithm.policy_family import ngu_discounts
from reproductions import common, plots
from reproductions.common import Figure, Profile, Run, Training, reproduce, thinned
from reproductions.records import all_hold, expectation

TOLERANCE = 0.1  # arms within this of the best return count as best too
WIDE_WINDOW = 20_000  # a bandit sees about 3,000 episodes in a phase
WINDOW = 160  # of the bandit, and the unit of time since a change
BINS_PER_WINDOW, BINNED_WINDOWS = 8, 4
SHOWN_PHASES = 6


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

    def by_arm(name: str) -> np.ndarray:
        return np.array([[line.get(f"arm/{name}_{arm}") or 0.0 for arm in range(num_arms)] for line in lines], np.float64).reshape(
            -1, num_arms
        )

    pulls = by_arm("pulls")
    return Corridor(
        pulls=pulls,
        totals=pulls * by_arm("return"),
        episodes=np.array([line["episodes"] for line in lines], np.float64) / num_bandits,
        is_long=np.array([line["episode/long_limit"] > 0.5 for line in lines], bool),
        steps=np.array([line["steps"] for line in lines], np.float64),
    )


def settled_phases(lines: Corridor) -> list[Phase]:
    """Complete phases of the run's second half, when learning has settled; as many long as short ones."""
    changes = np.flatnonzero(lines.is_long[1:] != lines.is_long[:-1]) + 1
    phases = [Phase(int(start), int(stop), bool(lines.is_long[start])) for start, stop in itertools.pairwise(changes)]
    late = [phase for phase in phases if lines.steps[phase.start] >= 0.5 * lines.steps[-1]]
    return late[len(late) % 2 :]


def without_exploration(pulls: np.ndarray, exploration: float) -> np.ndarray:
    """Estimated shares [..., N] of the arms among the pulls that do not explore, given the share of uniform pulls. Sums to 1."""
    shares = pulls / np.maximum(pulls.sum(axis=-1, keepdims=True), 1.0)
    estimate: np.ndarray = (shares - exploration / pulls.shape[-1]) / (1.0 - exploration)
    return estimate


def corridor_numbers(lines: Corridor, gammas: np.ndarray, exploration: float) -> dict[str, Any] | None:
    """The numbers of one run; None while it has no two settled phases. "Own" pulls are those that do not explore."""
    phases = settled_phases(lines)
    if not phases:
        return None
    pulls, totals = (np.array([each[p.start : p.stop].sum(0) for p in phases]) for each in (lines.pulls, lines.totals))
    arm_returns = totals / np.maximum(pulls, 1.0)
    bandit_returns = totals.sum(axis=1) / pulls.sum(axis=1)
    chosen = without_exploration(pulls, exploration)
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

    # With exploration e, a bandit earns e times the mean of all arms; the rest is earned by its own pulls.
    uniform = arm_returns.mean(axis=1)
    own_returns = (bandit_returns - exploration * uniform) / (1 - exploration)
    last = phases[-SHOWN_PHASES:]
    shown = slice(last[0].start, last[-1].stop)
    return {
        "half_after": half_after,
        "mean_discount": {name: float(np.mean(chosen[members] @ gammas)) for name, members in kinds.items()},
        "arm_returns": {name: returns.tolist() for name, returns in by_kind.items()},
        "mean_return": {
            "bandit": float(bandit_returns.mean()),
            "its own pulls": float(own_returns.mean()),
            "best of each phase": float(arm_returns.max(axis=1).mean()),
        },
        "fixed_arms": arm_returns.mean(axis=0).tolist(),
        "share_after_change": {
            name: [((i + 0.5) / BINS_PER_WINDOW, float(np.mean(values))) for i, values in enumerate(of_kind) if values]
            for name, of_kind in bins.items()
        },
        "discount": thinned(list(zip(lines.episodes[shown].tolist(), (shares[shown] @ gammas).tolist(), strict=True)), 200),
        "borders": [float(lines.episodes[phase.start]) for phase in last] + [float(lines.episodes[last[-1].stop - 1])],
        "begins_long": last[0].is_long,
    }


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Data and expectations of the figure."""
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
    return {"corridors": corridors, "expectations": corridor_expectations(corridors)}


def corridor_expectations(corridors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Claims about the shifting corridor, over all seeds; not decided while no run has settled phases."""
    windowed = {run["seed"]: run["numbers"] for run in corridors.values() if run["windowed"] and run["numbers"]}
    wide = [run["numbers"] for run in corridors.values() if not run["windowed"] and run["numbers"]]
    followed = [episodes for numbers in windowed.values() for episodes in numbers["half_after"]]
    in_time = [episodes is not None and episodes <= WINDOW for episodes in followed]
    known = sorted(episodes for episodes in followed if episodes is not None)
    returns = {seed: (numbers["mean_return"]["bandit"], max(numbers["fixed_arms"])) for seed, numbers in windowed.items()}
    discounts = [numbers["mean_discount"] for numbers in windowed.values()]
    regrets = [
        statistics.fmean(each["mean_return"]["best of each phase"] - each["mean_return"]["bandit"] for each in numbers) if numbers else None
        for numbers in (windowed.values(), wide)
    ]
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
            {name: statistics.fmean(found[name] for found in discounts) for name in ("long", "short")} if discounts else None,
            all_hold(found["long"] >= found["short"] + 0.1 for found in discounts),
        ),
        "corridor: no regret against fixed discounts": expectation(
            "a larger mean return per episode, exploration included, than any of the eight arms over both phases, for every seed",
            {str(seed): {"bandit": bandit, "best fixed arm": fixed} for seed, (bandit, fixed) in returns.items()},
            all_hold(bandit > fixed for bandit, fixed in returns.values()),
        ),
        "corridor: more regret without a window": expectation(
            f"a larger regret per episode against the best arm of each phase with a window of {WIDE_WINDOW} episodes, more than six phases",
            {"window": regrets[0], "wide": regrets[1]},
            None if regrets[0] is None or regrets[1] is None else regrets[1] > regrets[0],
        ),
    }


def trainings(config_profile: str, seeds: int) -> tuple[Training, ...]:
    """Runs with the paper's window and with a wide one."""
    # A line of metrics after every dispatch shows phases, which last seconds, in detail.
    shared = {"logging.period_seconds": 0.0, "logging.tensorboard": False, "evaluation.period_acts": 64}
    return tuple(
        Training(
            name=f"{'window' if windowed else 'wide'}_{seed}",
            config=f"configs/shifting_corridor.py:{config_profile}",
            overrides=shared if windowed else {**shared, "bandit.window_episodes": WIDE_WINDOW},
            seed=seed,
            labels={"windowed": windowed},
        )
        for seed in range(seeds)
        for windowed in (True, False)
    )


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Discount over the last phases of the first run, shares since a change in all runs, and returns by arm."""
    runs = [run for run in record["data"]["corridors"].values() if run["numbers"]]
    windowed = [run for run in runs if run["windowed"]]
    with plots.picture(path, record, "The meta-controller where the best policy changes", size=(15.0, 4.8)) as figure:
        left, middle, right = figure.subplots(1, 3)
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
        middle.set(title="share of own pulls on discounts now best", xlabel=f"windows of {WINDOW} episodes since the change")
        middle.set_ylim(-0.15, 1.65)  # room for the legend; estimated shares can lie outside [0, 1]
        if windowed:
            gammas = [f"{gamma:.2f}" for gamma in windowed[0]["gammas"]]
            for kind, marker, colour in (("long", "^", plots.ORANGE), ("short", "v", plots.BLUE)):
                by_arm = np.mean([run["numbers"]["arm_returns"][kind] for run in windowed], axis=0)
                right.plot(gammas, by_arm, marker, color=colour, label=kind)
            right.plot(gammas, np.mean([run["numbers"]["fixed_arms"] for run in windowed], axis=0), "s-", color=plots.GREY, label="both")
            for name, style in (("bandit", "-"), ("its own pulls", "--"), ("best of each phase", ":")):
                value = float(np.mean([run["numbers"]["mean_return"][name] for run in windowed]))
                right.axhline(value, color=plots.GREEN, linestyle=style, linewidth=1.5, label=name)
            right.set(title="mean return of an episode, by limit", xlabel="discount of the arm", ylim=(-0.03, 1.35))
        for axes in (left, middle, right):
            plots.legend(axes, fontsize=9)


PROFILES = {
    "smoke": Profile(trainings("smoke", 1), workers=2, episodes=8),
    "cpu": Profile(trainings("laptop", 3), workers=2, episodes=8),
    "gpu": Profile(trainings("laptop", 8), workers=4, episodes=8),
}
FIGURE = Figure(name="meta_controller", profiles=PROFILES, summarise=summarise, draw=draw)

if __name__ == "__main__":
    reproduce(FIGURE)
