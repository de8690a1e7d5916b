"""Atari (Agent57 §4, App. H): what does one machine reach, over wall-clock time?

The paper trains each game on 90 billion frames with 256 actor machines. cpu: Boxing, about an hour on two cores, without a claim. gpu:
Pong (18 or more), Boxing (90 or more) and Zaxxon (above a human's 9,173) with the paper's sizes; training resumes from checkpoints in as
many pieces as one likes, and --partial draws what there is. smoke: a few thousand steps of Boxing.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from agent57_jax.environments import atari57
from reproductions import plots
from reproductions.common import Figure, Profile, Run, Training, reproduce
from reproductions.records import expectation

EPISODES = 30
CPU_OVERRIDES: dict[str, Any] = {"total_steps": 1_400_000}  # about an hour of one core
GPU_STEPS = {"Pong-v5": 50_000_000, "Boxing-v5": 50_000_000, "Zaxxon-v5": 250_000_000}

# Game -> the mean return that is expected, and whether it must be exceeded.
CLAIMS = {"Pong-v5": (18.0, False), "Boxing-v5": (90.0, False), "Zaxxon-v5": (9173.0, True)}


def training(game: str, config: str, overrides: Mapping[str, Any], has_claim: bool) -> Training:
    """The run of a game."""
    return Training(game.removesuffix("-v5").lower(), config, overrides, seed=0, labels={"game": game, "has_claim": has_claim})


PROFILES = {
    "smoke": Profile((training("Boxing-v5", "configs/boxing.py:smoke", {"total_steps": 4_000}, False),), workers=1, episodes=2),
    "cpu": Profile((training("Boxing-v5", "configs/boxing.py:laptop", CPU_OVERRIDES, False),), workers=1, episodes=EPISODES),
    "gpu": Profile(
        tuple(
            training(game, "configs/atari.py:paper", {"environment.task_id": game, "total_steps": steps}, True)
            for game, steps in GPU_STEPS.items()
        ),
        workers=1,
        episodes=EPISODES,
    ),
}


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Each game's score after training, raw and human-normalised, and its curves."""
    games = {}
    expectations = {}
    for run in runs:
        game = run.training.labels["game"]
        games[game] = {
            "return": run.evaluation["mean"],
            "hns": run.evaluation["hns"],
            "lowest": min(run.evaluation["returns"]),
            "highest": max(run.evaluation["returns"]),
            "episodes": run.evaluation["episodes"],
            "random": atari57.SCORES[game]["random"],
            "human": atari57.SCORES[game]["human"],
            "has_claim": run.training.labels["has_claim"],
            "finished": run.finished,
            "hours": run.seconds / 3600,
            "frames": int(run.metrics[-1]["frames"]),
            "evaluation_seconds": run.curve("evaluation/return", over="seconds"),
            "training_seconds": run.curve("episode/return", over="seconds"),
        }
        if run.training.labels["has_claim"]:
            wanted, is_strict = CLAIMS[game]
            reached = run.evaluation["mean"] > wanted if is_strict else run.evaluation["mean"] >= wanted
            # An unfinished run may have reached the goal, but has not failed to.
            expectations[f"{game.removesuffix('-v5')} on one GPU"] = expectation(
                f"mean return of {EPISODES} greedy episodes {'more than' if is_strict else 'at least'} {wanted:g}",
                run.evaluation["mean"],
                reached if run.finished or reached else None,
            )
    return {"games": games, "expectations": expectations}


def draw(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """A panel for each game: greedy evaluation episodes and training episodes over wall-clock time."""
    games = record["data"]["games"]
    title = f"Atari on one machine ({record['machine']['device']}, {record['machine']['cores']} cores)"
    with plots.picture(path, record, title, size=(max(6.5, 5.0 * len(games)), 4.8)) as figure:
        for axes, (game, data) in zip(figure.subplots(1, len(games), squeeze=False)[0], games.items(), strict=True):
            for key, colour, name in (
                ("training_seconds", plots.GREY, "training episodes, all policies"),
                ("evaluation_seconds", plots.BLUE, "greedy evaluation episodes"),
            ):
                plots.smooth_curve(axes, [(seconds / 3600, value) for seconds, value in data[key]], colour, name)
            label = f"{data['episodes']} greedy episodes at the end: {data['return']:.4g}"
            axes.plot(data["hours"], data["return"], "o", color=plots.ORANGE, markersize=8, markeredgecolor="black", label=label)
            plots.threshold(axes, data["random"], "random", style=":")
            plots.threshold(axes, data["human"], "human", style=":")
            if data["has_claim"] and not CLAIMS[game][1]:  # what must be exceeded is the human's score
                plots.threshold(axes, CLAIMS[game][0], f"goal: {CLAIMS[game][0]:g}")
            title = f"{game.removesuffix('-v5')}: {data['frames'] / 1e6:.3g} million frames"
            axes.set(xlim=(0, None), xlabel="hours of training", title=title)
            plots.legend(axes, loc="best", fontsize=9)
        figure.axes[0].set_ylabel("return of an episode")


FIGURE = Figure(name="atari", profiles=PROFILES, summarise=summarise, draw=draw, counts_unfinished=True)

if __name__ == "__main__":
    reproduce(FIGURE)
