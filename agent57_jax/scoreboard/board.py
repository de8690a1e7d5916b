"""From runs to one record, for Markdown, JSON and the page: scores, statistics, curves and bandits."""

import datetime
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agent57_jax.environments import atari57
from agent57_jax.scoreboard import aggregates, runs
from agent57_jax.scoreboard.runs import Run
from agent57_jax.scoreboard.wording import sentences

# Columns of published scores, as people know them. Agent57 Table 1 has all but the last.
PUBLISHED = {"agent57": "Agent57", "r2d2_bandit": "R2D2 (bandit)", "ngu": "NGU", "r2d2": "R2D2", "muzero": "MuZero", "dqn": "DQN"}

SOURCES = ("none", "training", "evaluation")  # of a score, the least informative first

PROTOCOL = (
    "Environment: up to 30 random no-ops at the start, episodes of at most 30 minutes of play (27,000 agent steps of 4 frames), no sticky "
    "actions, the full set of 18 actions, raw rewards. A lost life ends nothing.",
    "Score of one of our runs: the mean undiscounted return of the greedy episodes that evaluate.py plays with the last checkpoint. It "
    "uses the arm that the evaluator's bandit ranks first, with epsilon 0.01. Without an evaluation, the last greedy episodes of the "
    f"evaluator during training are used ({runs.TRAINING_EPISODES} or a few more), and the table says so.",
    "Score of a game: the mean over seeds; the spread is the standard deviation over seeds (n - 1).",
    "Human-normalised score (HNS): (score - random) / (human - random), in percent. Random and human scores: Agent57 paper, App. H.",
    "Percentiles are interpolated linearly between games. IQM is the mean of all seeds' scores in all games without the lowest and the "
    "highest quarter. Intervals: 95%, stratified bootstrap: each game's seeds are resampled with replacement, "
    f"{aggregates.BOOTSTRAP_REPEATS:,} times. Every game weighs the same: a score of a game with n seeds weighs 1/n.",
    "Published scores of Agent57 and R2D2 (bandit) are the highest that a mean over seeds (6 and 3) and a window of 50 episodes reached in "
    "training; the other columns are from those agents' earlier publications. Ours are of the last checkpoint, not the best of many.",
    "Frames: scores are only comparable after similar training. Agent57 trained for up to 90 billion frames a game; for the "
    "other published agents see their papers. Each table says how long ours have trained.",
    "The paper's Table 1 has new runs of NGU and R2D2 and prints no scores per game for them. So its figures for these two "
    "(docs/scoreboard.md) differ from those below, which are computed from earlier scores per game.",
)
UNEQUAL = 1.1  # largest ratio of frames between seeds of a game that can be compared


def build(found: Sequence[Run], unreadable: Sequence[tuple[pathlib.Path, str]], out: pathlib.Path) -> dict[str, Any]:
    """The record, ready for JSON.

    Args:
      found: at least one.
      unreadable: folders of runs that could not be read, and why.
      out: folder of the page, from which videos are linked.
    """
    label = _labels(found)
    repeated = _repeated(found, label)
    counted = [run for run in found if id(run) not in repeated]
    atari = [run for run in counted if run.task in atari57.SCORES]
    others = [run for run in counted if run.task not in atari57.SCORES]
    return {
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "protocol": list(PROTOCOL),
        "agents": [
            _agent(name, [run for run in atari if label[id(run)] == name], different)
            for name, different in runs.differences({label[id(run)]: run.settings for run in atari}).items()
        ],
        "published": {"games": len(atari57.SCORES), "table": _published(list(atari57.SCORES))},
        "games": [_game(*group, runs_) for group, runs_ in _grouped(atari, label).items()],
        "others": [_task(*group, runs_) for group, runs_ in _grouped(others, label).items()],
        "runs": [_run(run, label[id(run)], out, repeated) for run in found],
        "unreadable": [{"folder": str(folder), "reason": reason} for folder, reason in unreadable],
    }


def _labels(found: Sequence[Run]) -> dict[int, str]:
    """id of a run -> its agent: one numbering for the 57 games, and one for each other task, whose settings are its own."""
    families: dict[str, list[Run]] = {}
    for run in found:
        families.setdefault("" if run.task in atari57.SCORES else run.task, []).append(run)
    return {id(run): name for same in families.values() for run, name in zip(same, runs.labels([r.settings for r in same]), strict=True)}


def _grouped(found: Sequence[Run], label: Mapping[int, str]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        groups.setdefault((run.task, label[id(run)]), []).append(run)
    return dict(sorted(groups.items()))


def _repeated(found: Sequence[Run], label: Mapping[int, str]) -> dict[int, Run]:
    """id of a run that repeats a seed -> the run of the same task, settings and seed that counts.

    An evaluation counts before a score from training, and that before none; then the most frames, then the first.
    """
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in found:
        groups.setdefault((run.task, label[id(run)], run.seed), []).append(run)
    best = {key: max(own, key=lambda run: (SOURCES.index(run.source), run.frames)) for key, own in groups.items()}
    return {id(run): best[key] for key, own in groups.items() for run in own if run is not best[key]}


def _hns(task: str, score: float | None) -> float:
    value = None if score is None else atari57.human_normalised_score(task, score)
    assert value is not None
    return value


def _published(games: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: aggregates.table_1([_hns(game, atari57.SCORES[game][column]) for game in games]) for column, name in PUBLISHED.items()}


def _agent(name: str, own: Sequence[Run], different: str) -> dict[str, Any]:
    """One agent of ours over the 57 games: Table 1 over the games that have a score, and the bootstrap."""
    scored = [run for run in own if run.score is not None]
    scores: dict[str, list[float]] = {}
    for run in scored:
        scores.setdefault(run.task, []).append(_hns(run.task, run.score))
    games = sorted(scores)
    return {
        "name": name,
        "settings": different,
        "games": games,
        "frames": _frames(scored),
        "unequal_frames": [game for game in games if _are_unequal(run for run in scored if run.task == game)],
        "unfinished": sum(run.is_unfinished for run in scored),
        "off_protocol": sum(not run.follows_protocol for run in scored),
        "from_training": sum(run.source == "training" for run in scored),
        "table": {name: aggregates.table_1([float(np.mean(scores[game])) for game in games]), **_published(games)} if games else {},
        "bootstrap": _bootstrap([scores[game] for game in games]) if games else None,
    }


def _bootstrap(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The statistics of BOOTSTRAP, with intervals where there are several seeds."""
    hns = [np.array(game, np.float64) for game in scores]
    seeds = [len(game) for game in scores]
    values = aggregates.bootstrap_statistics(hns)
    intervals: Any = [None] * len(values)
    if max(seeds) == 1:
        note = "Games with a single seed have no spread to draw from: no intervals. A difference from another agent may be chance."
    else:
        intervals = aggregates.bootstrap_intervals(hns).T.tolist()
        fewest, most, single = min(seeds), max(seeds), seeds.count(1)
        note = sentences(
            (fewest == most, f"{fewest} seeds a game."),
            (fewest != most, f"{fewest} to {most} seeds a game; every game weighs the same."),
            (single, f"{single} of {len(seeds)} games have a single seed and so no spread to draw from: true intervals are wider."),
            (fewest < 5, "Intervals from so few seeds are rough, and usually too narrow."),
        )
    return {
        "seeds": [min(seeds), max(seeds)],
        "note": note,
        "statistics": {
            key: {"value": float(value), "interval": interval}
            for key, value, interval in zip(aggregates.BOOTSTRAP, values, intervals, strict=True)
        },
    }


def _frames(own: Sequence[Run]) -> list[int] | None:
    """The fewest and the most frames of a run; None without runs."""
    frames = [run.frames for run in own]
    return [min(frames), max(frames)] if frames else None


def _are_unequal(own: Iterable[Run]) -> bool:
    """Whether seeds of one game differ too much in frames for a mean."""
    frames = [run.frames for run in own]
    return bool(frames) and max(frames) > UNEQUAL * min(frames)


def _summary(own: Sequence[Run]) -> dict[str, Any]:
    """Scores of the seeds of one task and agent."""
    scored = [run for run in own if run.score is not None]
    scores = [run.score for run in own if run.score is not None]
    return {
        "seeds": len(scored),
        "runs": len(own),
        "mean": float(np.mean(scores)) if scores else None,
        "spread": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "episodes": sum(run.episodes for run in scored),
        "frames": _frames(scored or own),
        "unequal_frames": _are_unequal(scored),
        "unfinished": sum(run.is_unfinished for run in scored),
        "sources": sorted({run.source for run in own}),
        "off_protocol": sum(not run.follows_protocol for run in scored),
    }


def _game(task: str, name: str, own: Sequence[Run]) -> dict[str, Any]:
    summary = _summary(own)
    return {
        "game": task,
        "agent": name,
        **summary,
        "hns": None if summary["mean"] is None else _hns(task, summary["mean"]),
        "random": atari57.SCORES[task]["random"],
        "human": atari57.SCORES[task]["human"],
        "published": {shown: atari57.SCORES[task][column] for column, shown in PUBLISHED.items()},
    }


def _task(task: str, name: str, own: Sequence[Run]) -> dict[str, Any]:
    return {"task": task, "agent": name, **_summary(own)}


def _run(run: Run, name: str, out: pathlib.Path, repeated: Mapping[int, Run]) -> dict[str, Any]:
    counts = repeated.get(id(run))
    left_out = [] if counts is None else [f"left out of all means: {counts.folder} has the same task, settings and seed"]
    bins = run.history.bins
    played = 1 + max((arm for bin_ in bins for arm in bin_.pulls), default=-1)
    arms = max(played, run.num_policies) if played else 0
    return {
        **{field: getattr(run, field) for field in ("task", "seed", "score", "source", "episodes", "frames")},
        "folder": str(run.folder),
        "agent": name,
        "hours": run.history.hours,
        "notes": [*run.notes, *left_out],
        "curves": {
            kind: [[bin_.frames, _short(bin_.returns[kind] / bin_.episodes[kind])] for bin_ in bins if bin_.episodes[kind]]
            for kind in ("training", "evaluation")
        },
        "bandit": _bandit([bin_ for bin_ in bins if bin_.pulls], arms) if arms > 1 else None,
        "videos": [{"path": os.path.relpath(video, out), "bytes": size} for video in run.videos if (size := _size(video)) is not None],
    }


def _bandit(bins: Sequence[runs.Bin], arms: int) -> dict[str, Any]:
    """Each arm's share of the training episodes and their mean return, [bins][arms]."""

    def of_arms(value: Callable[[runs.Bin, int], float | None]) -> list[list[float | None]]:
        return [[value(bin_, arm) for arm in range(arms)] for bin_ in bins]

    return {
        "frames": [bin_.frames for bin_ in bins],
        "share": of_arms(lambda bin_, arm: _short(bin_.pulls[arm] / bin_.pulls.total())),
        "return": of_arms(lambda bin_, arm: _short(bin_.arm_returns[arm] / bin_.pulls[arm]) if arm in bin_.pulls else None),
    }


def _size(path: pathlib.Path) -> int | None:
    """Bytes; None for a file that is gone: a run that goes on deletes its old videos."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _short(value: float) -> float:
    """The digits that a picture can show."""
    return float(f"{value:.4g}")
