"""The report of the learning benchmark: a record, a picture for each task, and a table."""

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent57_jax import paths
from benchmarks import learning_curves, learning_runs
from benchmarks.learning_tasks import AGENTS, TASKS, Run
from reproductions import folders, plots, records

BEGIN, END = "<!-- learning:begin -->", "<!-- learning:end -->"
COLOURS = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE, "#56B4E9", "#E69F00", "#F0E442", "#000000", plots.GREY)
FACTS = ("git", "machine", "date")  # what a run's learning.json says of where it ran


def run_record(run: Run, episodes: int) -> dict[str, Any] | None:
    """All that is known of a run; None if it has not begun or cannot be read.

    Args:
      episodes: greedy episodes of the final evaluation.
    """
    try:
        lines = folders.read_metrics(run.folder)
        curve = learning_runs.curve(run)
    except folders.DamageError as error:
        print(f"{run.name} is left out: {error}", flush=True)
        return None
    if not lines:
        return None
    state = learning_runs.read_state(run.folder)
    evaluation = folders.evaluation_of(run.folder, episodes, run.seed)
    seconds = learning_curves.clock(lines[-1]["seconds"], state["starts"])
    return {
        "seed": run.seed,
        **{name: state.get(name) for name in FACTS},
        "budget": state.get("budget"),
        "ended": state["ended"],
        "starts": state["starts"],
        "seconds": seconds,
        "steps": lines[-1]["steps"],
        "updates": lines[-1]["updates"],
        "score": None if evaluation is None else evaluation["mean"],
        "score_median_episode": None if evaluation is None else evaluation["median"],
        "arm": None if evaluation is None else evaluation["arm"],
        "returns": None if evaluation is None else evaluation["returns"],
        "reached": _reached(curve, run.thresholds),
        "peer": records.read_json(run.folder / "peer.json"),
        "curve": {field: [getattr(point, field) for point in curve] for field in learning_curves.Point._fields},
    }


def _reached(curve: Sequence[learning_curves.Point], thresholds: Sequence[float]) -> dict[str, dict[str, float] | None]:
    """Where each threshold is reached; None if it never is."""
    points = {f"{threshold:g}": learning_curves.first_reached(curve, threshold) for threshold in thresholds}
    return {
        name: None if point is None else {"seconds": point.seconds, "steps": point.steps, "updates": point.updates}
        for name, point in points.items()
    }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians and spread over the seeds of an agent.

    Args:
      runs: of `run_record`.
    """

    def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
        return learning_curves.spread(values)._asdict()

    last = list(runs[0]["reached"])
    return {
        # An unfinished run has no score yet; it did not fail.
        "score": over_seeds([run["score"] for run in runs if run["score"] is not None]),
        "seconds": over_seeds([run["seconds"] for run in runs]),
        "steps": over_seeds([run["steps"] for run in runs]),
        "updates": over_seeds([run["updates"] for run in runs]),
        "reached": {
            name: {
                what: over_seeds([None if run["reached"][name] is None else run["reached"][name][what] for run in runs])
                for what in ("seconds", "steps", "updates")
            }
            for name in last
        },
    }


def record(runs: Sequence[Run], episodes: int, facts: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The content of OUT.json.

    Args:
      facts: commit, machine and date of this report.
    """
    tasks: dict[str, Any] = {}
    for run in runs:
        task = tasks.setdefault(run.task, {"thresholds": list(run.thresholds), "agents": {}})
        found = run_record(run, episodes)
        if found is not None:
            options = {"profile": run.profile, "overrides": dict(run.overrides), "runs": []}
            task["agents"].setdefault(run.agent, options)["runs"].append(found)
    for task in tasks.values():
        for agent in task["agents"].values():
            agent["over_seeds"] = summary(agent["runs"])
    content = {
        "benchmark": "learning",
        "command": command,
        **facts,
        "protocol": {
            "episodes": episodes,
            "points": learning_curves.POINTS,
            "episodes_of_a_point": learning_curves.POINT_EPISODES,
            "points_of_a_threshold": learning_curves.WINDOW,
        },
        "tasks": {name: task for name, task in tasks.items() if task["agents"]},
    }
    rounded: dict[str, Any] = records.rounded(content)
    return rounded


def earlier_record(out: pathlib.Path, episodes: int) -> dict[str, Any] | None:
    """The content of OUT.json; None where there is none.

    Args:
      out: as for `write`.

    Raises:
      ReproductionError: if its scores are over another number of episodes.
    """
    path = out.with_name(f"{out.name}.json")
    found: dict[str, Any] | None = records.read_json(path)
    if found is not None and found["protocol"]["episodes"] != episodes:
        raise folders.ReproductionError(
            f"{path} has scores over {found['protocol']['episodes']} episodes, not {episodes}: set another --out"
        )
    return found


def with_earlier(found: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record with the runs of an earlier one whose folders are gone: a record outlives the machine that made it.

    A run that both have comes from `found`, unless only the earlier one has a score. Runs of an agent that trained with other settings are
    left out, and a line says so.

    Args:
      earlier: of `earlier_record`.
    """
    tasks: dict[str, Any] = {name: {**task, "agents": dict(task["agents"])} for name, task in found["tasks"].items()}
    for name, task in (earlier or {"tasks": {}})["tasks"].items():
        if name not in TASKS:
            continue
        agents = tasks.setdefault(name, {"thresholds": list(TASKS[name].thresholds), "agents": {}})["agents"]
        for agent, content in task["agents"].items():
            if agent not in AGENTS:
                continue
            new = agents.get(agent, {**content, "runs": []})
            if (new["profile"], new["overrides"]) != (content["profile"], content["overrides"]):
                print(f"{name}/{agent}: earlier runs with other settings leave the record", flush=True)
                continue
            runs = {run["seed"]: _judged_again(run, TASKS[name].thresholds) for run in content["runs"]}
            for run in new["runs"]:
                if run["score"] is not None or run["seed"] not in runs or runs[run["seed"]]["score"] is None:
                    runs[run["seed"]] = run
            ordered = [runs[seed] for seed in sorted(runs)]
            agents[agent] = {**new, "runs": ordered, "over_seeds": summary(ordered)}
    for task in tasks.values():
        task["agents"] = {agent: task["agents"][agent] for agent in sorted(task["agents"], key=AGENTS.index)}
    together: dict[str, Any] = records.rounded({**found, "tasks": {name: tasks[name] for name in TASKS if name in tasks}})
    return together


def _judged_again(run: Mapping[str, Any], thresholds: Sequence[float]) -> dict[str, Any]:
    """A recorded run with the times to the task's thresholds, which may have changed since."""
    fields = [run["curve"][field] for field in learning_curves.Point._fields]
    curve = [learning_curves.Point(*values) for values in zip(*fields, strict=True)]
    return {**run, "reached": _reached(curve, thresholds)}


# The table ---------------------------------------------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> str:
    """The Markdown table of a record, between its markers."""
    head = (
        *("task", "agent", "minutes", "steps", "hardware", "greedy score over {} episodes", "time to the last threshold"),
        *("seeds", "command"),
    )
    lines = [[cell.format(found["protocol"]["episodes"]) for cell in head], ["---"] * len(head)]
    for name, task in found["tasks"].items():
        for agent, content in task["agents"].items():
            lines.append(_row(name, agent, task["thresholds"], content))
    return "\n".join([BEGIN, *(f"| {' | '.join(cells)} |" for cells in lines), END])


def _row(name: str, agent: str, thresholds: Sequence[float], content: Mapping[str, Any]) -> list[str]:
    over, runs = content["over_seeds"], content["runs"]
    last = f"{thresholds[-1]:g}"
    reached = over["reached"][last]["seconds"]
    seeds = [str(run["seed"]) for run in runs]
    ended = sum(run["ended"] == "solved" for run in runs)
    unfinished = sum(run["ended"] is None for run in runs)
    notes = [f"{ended} ended when solved"] * bool(ended) + [f"{unfinished} unfinished"] * bool(unfinished)
    others = [(run["seed"], _budget(name, run)) for run in runs if _budget(name, run) != _budget(name, runs[0])]
    notes += [f"seed {seed} with {budget or 'the default budget'}" for seed, budget in others]
    return [
        name,
        agent,
        _number(over["seconds"]["median"], lambda seconds: f"{seconds / 60:.1f}"),
        _number(over["steps"]["median"], lambda steps: f"{steps:,.0f}"),
        _hardware(runs),
        _score(over["score"]),
        f"{last}: {_time(reached)}",
        ", ".join(seeds) + (f" ({', '.join(notes)})" if notes else ""),
        f"`python -m benchmarks.learning --tasks {name} --agents {agent} --seeds {' '.join(seeds)}{_options(name, content)}`",
    ]


def _options(name: str, content: Mapping[str, Any]) -> str:
    """What the command needs besides task, agent and seeds."""
    words = [f"--config.{setting}={value}" for setting, value in content["overrides"].items()]
    words += filter(None, [_budget(name, content["runs"][0])])
    if content["profile"] != "laptop":
        words.append(f"--profile={content['profile']}")
    if any(run["ended"] == "solved" for run in content["runs"]):
        words.append("--stop_when_solved")
    return "".join(f" {word}" for word in words)


def _budget(name: str, run: Mapping[str, Any]) -> str:
    """The option that gives a run its budget; empty for the task's own."""
    budget = run["budget"] or {}
    if budget.get("steps"):
        return f"--steps={budget['steps']}"
    return "" if budget.get("minutes") in (None, TASKS[name].minutes) else f"--minutes={budget['minutes']:g}"


def _number(value: float | None, form: Any) -> str:
    return "-" if value is None else str(form(value))


def _score(score: Mapping[str, Any]) -> str:
    if score["median"] is None:
        return "not measured yet"
    alone = score["of"] == 1
    return f"{score['median']:.3g}" if alone else f"{score['median']:.3g} ({score['lowest']:.3g}..{score['highest']:.3g})"


def _time(reached: Mapping[str, Any]) -> str:
    count = f"{reached['seeds']} of {reached['of']}"
    if reached["median"] is None:
        return "not reached" if not reached["seeds"] else f"reached by {count} seeds"
    minutes = f"{reached['median'] / 60:.1f} min"
    return minutes if reached["seeds"] == reached["of"] else f"{minutes} ({count} seeds)"


def _hardware(runs: Sequence[Mapping[str, Any]]) -> str:
    machines = {(machine["cpu"], machine["cores"]): None for run in runs if (machine := run["machine"])}
    return "; ".join(f"{cores} {'core' if cores == 1 else 'cores'}, {cpu}" for cpu, cores in machines) or "-"


def write_into(path: pathlib.Path, text: str) -> None:
    """Puts a table into a document, in place of what is between its markers.

    Raises:
      ReproductionError: for a document without markers.
    """
    before = path.read_text(encoding="utf-8")
    after, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: text, before, flags=re.DOTALL)
    if count != 1:
        raise folders.ReproductionError(f"{path} must have the lines {BEGIN} and {END} once")
    with paths.replaced(path) as temporary:
        temporary.write_text(after, encoding="utf-8")


# The picture -------------------------------------------------------------------------------------------------------------------------


def draw(name: str, task: Mapping[str, Any], path: pathlib.Path) -> None:
    """Greedy return of all agents on a task, against minutes and against steps: every seed thin, their median thick."""
    with plots.titled(path, f"{name}: greedy return during training") as figure:
        over_time, over_steps = figure.subplots(1, 2, sharey=True)
        for colour, (agent, content) in zip(itertools.cycle(COLOURS), task["agents"].items(), strict=False):
            seeds = len(content["runs"])
            label = f"{agent} ({seeds} {'seed' if seeds == 1 else 'seeds'})"
            for axes, what, unit in ((over_time, "seconds", 60.0), (over_steps, "steps", 1.0)):
                curves = [run["curve"] for run in content["runs"]]
                _curves(axes, [[(x / unit, y) for x, y in zip(c[what], c["greedy_return"], strict=True)] for c in curves], colour, label)
        for threshold in task["thresholds"]:
            for axes in (over_time, over_steps):
                plots.threshold(axes, threshold, f"{threshold:g}")
        over_time.set_xlabel("minutes of wall-clock time")
        over_time.set_ylabel("greedy return")
        plots.in_millions(over_steps, "environment steps")
        plots.legend(over_time, fontsize=9)


def _curves(axes: Any, seeds: Sequence[plots.Points], colour: str, label: str) -> None:
    import numpy as np

    seeds = [points for points in seeds if points]
    if not seeds:
        return
    alone = len(seeds) == 1
    width, alpha = (2.0, 1.0) if alone else (0.8, 0.4)
    for points in seeds:
        marker = "o" if len(points) == 1 else ""  # a line of one point cannot be seen
        axes.plot(*np.transpose(points), marker=marker, color=colour, linewidth=width, alpha=alpha, label=label if alone else None)
    if not alone:
        first, last = max(points[0][0] for points in seeds), min(points[-1][0] for points in seeds)
        grid = np.linspace(first, max(first, last), 100)
        values = np.median([np.interp(grid, *np.transpose(points)) for points in seeds], axis=0)
        axes.plot(grid, values, color=colour, linewidth=2.2, label=label)


def write(out: pathlib.Path, found: Mapping[str, Any], readme: pathlib.Path | None) -> str:
    """Writes the record, the pictures and, where a document is named, the table into it; returns the table.

    Runs that OUT.json already has stay in it.

    Args:
      out: the files' names without what tells them apart: OUT.json, OUT_TASK.png.

    Raises:
      ReproductionError: for a document without markers, or a record over another number of episodes.
    """
    found = with_earlier(found, earlier_record(out, found["protocol"]["episodes"]))
    records.write_json(out.with_name(f"{out.name}.json"), found)
    for name, task in found["tasks"].items():
        draw(name, task, out.with_name(f"{out.name}_{name}.png"))
    text = table(found)
    if readme is not None:
        write_into(readme, text)
    return text
