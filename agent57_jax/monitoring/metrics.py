"""Declarations of all reported numbers, and the writer of metrics.jsonl and the dashboards."""

import difflib
import fnmatch
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from agent57_jax.monitoring.dashboards import Dashboard, Histogram, TensorBoard, WeightsAndBiases
from agent57_jax.monitoring.heat_map import ArmHistory
from agent57_jax.monitoring.metric_lines import read_lines
from agent57_jax.paths import replaced, set_aside


class Metric(NamedTuple):
    """One declared key. `{policy}` or `{action}` stands for every policy or action."""

    key: str
    sentence: str
    unit: str
    chart: str | None = None  # "category/chart" of TensorBoard's layout


COUNTERS = (
    Metric("frames", "Emulator frames so far.", "frames"),
    Metric("steps", "Agent steps so far, over all environments; TensorBoard's global step.", "steps"),
    Metric("updates", "Learner updates so far.", "updates"),
    Metric("episodes", "Finished training episodes so far.", "episodes"),
    Metric("seconds", "Wall time spent training so far, over all starts of the run.", "seconds"),
)

_TIME = "throughput/where the time goes"

METRICS = (
    Metric("throughput/frames_per_second", "Emulator frames per second of wall time.", "frames/second", "throughput/frames per second"),
    Metric("throughput/steps_per_second", "Agent steps per second of wall time, over all environments.", "steps/second"),
    Metric("throughput/updates_per_second", "Learner updates per second of wall time.", "updates/second", "throughput/updates per second"),
    Metric("throughput/sequences_sampled_per_insert", "Samples per inserted sequence.", "ratio", "throughput/sequences sampled per insert"),
    Metric("throughput/share_environment", "Share of wall time spent waiting for emulators; absent for JAX environments.", "share", _TIME),
    Metric("throughput/share_acting", "Share of wall time spent waiting for acts, after earlier updates are done.", "share", _TIME),
    Metric("throughput/share_learning", "Share of wall time spent waiting for updates that emulators did not hide.", "share", _TIME),
    Metric("throughput/share_evaluation", "Share of wall time spent waiting for the evaluator's emulators and acts.", "share", _TIME),
    Metric("throughput/share_saving", "Share of wall time spent handing checkpoints to their writer.", "share", _TIME),
    Metric("throughput/share_host", "Remaining share: dispatch, copies, reports; on a CPU also some of XLA's work.", "share", _TIME),
    Metric("episode/return", "Mean undiscounted extrinsic return of finished training episodes.", "reward", "score/return"),
    Metric("episode/length", "Mean length of finished training episodes.", "steps", "score/episode length"),
    Metric("episode/intrinsic_return", "Mean sum of intrinsic rewards per episode.", "intrinsic reward", "novelty/intrinsic return"),
    Metric("episode/truncated_share", "Share of finished training episodes that a time limit cut off.", "share"),
    Metric("episode/visited_fraction", "Mean share of the maze's corridor cells visited per episode.", "share", "score/visited fraction"),
    Metric("episode/long_limit", "Share of finished training episodes with the shifting corridor's long time limit.", "share"),
    Metric("episode/hns", "Human-normalised score of episode/return: 0 random, 1 human.", "ratio", "score/human-normalised score"),
    Metric("evaluation/return", "Mean return of finished greedy evaluation episodes: the score.", "reward", "score/return"),
    Metric("evaluation/hns", "Human-normalised score of evaluation/return: 0 random, 1 human.", "ratio", "score/human-normalised score"),
    Metric("evaluation/length", "Mean length of finished greedy evaluation episodes.", "steps", "score/episode length"),
    Metric("evaluation/visited_fraction", "The same as episode/visited_fraction, for greedy episodes.", "share", "score/visited fraction"),
    Metric("evaluation/long_limit", "Share of greedy evaluation episodes with the shifting corridor's long time limit.", "share"),
    Metric("evaluation/episodes", "Greedy evaluation episodes so far.", "episodes"),
    Metric("evaluation/bandit_return", "Mean return of the episodes that teach the evaluator's bandit.", "reward", "score/return"),
    Metric("evaluation/arm", "Policy that greedy evaluation episodes play.", "index", "arms/arm of the greedy episodes"),
    Metric("novelty/intrinsic_reward", "Mean intrinsic reward per timestep.", "intrinsic reward", "novelty/intrinsic reward"),
    Metric("novelty/episodic_reward", "The same before the life-long factor.", "intrinsic reward", "novelty/intrinsic reward"),
    Metric("novelty/alpha", "Mean life-long factor per timestep, before clipping.", "ratio", "novelty/alpha"),
    Metric("novelty/inverse_accuracy", "Share of actions that inverse dynamics predicts.", "share", "novelty/accuracy of inverse dynamics"),
    Metric("novelty/mean_squared_distance", "Running mean of the squared distance to the nearest embeddings.", "embedding units^2"),
    Metric("novelty/distillation_error", "Running mean of the distillation error.", "squared error", "novelty/distillation error"),
    Metric("novelty/distillation_deviation", "Its running standard deviation.", "squared error", "novelty/distillation error"),
    Metric("loss/extrinsic", "Loss of the extrinsic values, summed over a sequence.", "squared value", "values/losses"),
    Metric("loss/intrinsic", "Loss of the intrinsic values, summed over a sequence.", "squared value", "values/losses"),
    Metric("loss/combined", "Loss of the combined values, summed over a sequence.", "squared value", "values/losses"),
    Metric("loss/policy", "Cross entropy of the distilled policy, summed over a sequence.", "nats", "values/losses"),
    Metric("loss/embedding", "Cross entropy of inverse dynamics, with weight decay.", "nats", "novelty/losses"),
    Metric("loss/distillation", "Error of random network distillation on replayed timesteps.", "squared error", "novelty/losses"),
    Metric("gradient_norm/extrinsic", "Gradient norm of the extrinsic Q-network, before clipping.", "norm", "values/gradient norms"),
    Metric("gradient_norm/intrinsic", "Gradient norm of the intrinsic Q-network, before clipping.", "norm", "values/gradient norms"),
    Metric("gradient_norm/all_values", "Gradient norm of the single Q-network, before clipping.", "norm", "values/gradient norms"),
    Metric("gradient_norm/torso", "Gradient norm of the shared torso, before clipping.", "norm", "values/gradient norms"),
    Metric("gradient_norm/embedding", "Gradient norm of the embedding network, before clipping.", "norm"),
    Metric("gradient_norm/distillation", "Gradient norm of the distillation predictor, before clipping.", "norm"),
    Metric("learner/valid_share", "Share of replayed transitions that do not cross the border between two episodes.", "share"),
    Metric("learner/priority", "Mean new priority of replayed sequences.", "value", "replay/priorities"),
    Metric("learner/on_policy_share", "Share of replayed actions that are greedy now.", "share", "replay/on-policy share"),
    Metric("learner/trace", "Mean trace coefficient c_t: the share of a return that continues past a transition.", "share", "replay/trace"),
    Metric("learner/value_extrinsic", "Mean extrinsic Q of replayed actions.", "transformed value", "values/extrinsic Q"),
    Metric("learner/value_intrinsic", "Mean intrinsic Q of replayed actions.", "transformed value", "values/intrinsic Q"),
    Metric("learner/value_combined", "Mean combined Q of replayed actions.", "transformed value", "values/combined Q"),
    Metric("learner/td_error_extrinsic", "Mean absolute TD error of the extrinsic values.", "transformed value", "values/TD errors"),
    Metric("learner/td_error_intrinsic", "Mean absolute TD error of the intrinsic values.", "transformed value", "values/TD errors"),
    Metric("learner/td_error_combined", "Mean absolute TD error of the combined values.", "transformed value", "values/TD errors"),
    Metric("learner/error_scale_extrinsic", "Mean divisor of the extrinsic TD errors.", "transformed value"),
    Metric("learner/error_scale_intrinsic", "Mean divisor of the intrinsic TD errors.", "transformed value"),
    Metric("learner/error_scale_combined", "Mean divisor of the combined TD errors.", "transformed value"),
    Metric("learner/held_extrinsic", "Share of replayed transitions that the trust region excludes from the extrinsic loss.", "share"),
    Metric("learner/held_intrinsic", "Share of replayed transitions that the trust region excludes from the intrinsic loss.", "share"),
    Metric("learner/held_combined", "Share of replayed transitions that the trust region excludes from the combined loss.", "share"),
    Metric("learner/distilled_share", "Share of replayed transitions where the policy is distilled from the values.", "share"),
    Metric("actor/value_extrinsic", "Mean extrinsic Q of the actions taken by actors.", "transformed value", "values/extrinsic Q"),
    Metric("actor/value_intrinsic", "Mean intrinsic Q of the actions taken by actors.", "transformed value", "values/intrinsic Q"),
    Metric("arm/pulls_{policy}", "Finished training episodes of the policy.", "episodes", "arms/episodes per arm"),
    Metric("arm/return_{policy}", "Mean return of finished training episodes of the policy.", "reward", "arms/return per arm"),
    Metric("action/ratio_{action}", "Mean share of the action per episode.", "share", "actions/share of each action in an episode"),
    Metric("replay/fill", "Share of the replay's slots that hold a timestep.", "share", "replay/fill"),
    Metric("replay/timesteps", "Timesteps in the replay.", "timesteps"),
    Metric("replay/sequences", "Sequences that can be sampled.", "sequences"),
    Metric("replay/age", "Mean environment timesteps since a sampled sequence began.", "timesteps", "replay/age of sampled sequences"),
    Metric("replay/priority_sum", "Sum of the priorities of all sequences that can be sampled.", "value", "replay/sum of priorities"),
    Metric("replay/max_priority", "Largest priority that the learner has written so far.", "value", "replay/priorities"),
    Metric("memory/device_bytes", "Memory in use on this process's first device.", "bytes"),
    Metric("memory/device_limit_bytes", "Memory of that device that JAX may use.", "bytes"),
    Metric("memory/host_bytes", "Peak host memory of this process.", "bytes"),
)

CATEGORIES = ("score", "arms", "actions", "values", "novelty", "replay", "throughput")  # of charts, in the order of the page
TABLE_MARKS = ("<!-- table: python -m agent57_jax.monitoring.metrics -->", "<!-- end of table -->")
VIDEO_TAG = "video/evaluation"  # among the dashboards' pictures
_COUNTER_KEYS = tuple(metric.key for metric in COUNTERS)
_KEYS = tuple(metric.key for metric in METRICS)


def declared() -> tuple[Metric, ...]:
    """All counters and metrics, in the order of the documentation."""
    return COUNTERS + METRICS


def _pattern(key: str) -> str:
    return re.escape(key).replace(re.escape("{policy}"), r"\d+").replace(re.escape("{action}"), ".+")


_FAMILIES = tuple(re.compile(_pattern(key)) for key in _KEYS if "{" in key)


def is_declared(key: str) -> bool:
    """Whether `key` is declared, alone or as a member of a family such as "arm/return_{policy}"."""
    return "{" not in key and (key in _KEYS or any(family.fullmatch(key) for family in _FAMILIES))


def check_key(key: str) -> None:
    """Raises KeyError with the nearest declared key if `key` is not declared."""
    if not is_declared(key):
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
        raise KeyError(f"no metric '{key}' is declared in metrics.py; the nearest is '{near}'")


def layout() -> dict[str, dict[str, list[str]]]:
    """TensorBoard's custom layout: category -> chart -> patterns of tags."""
    categories: dict[str, dict[str, list[str]]] = {category: {} for category in CATEGORIES}
    for metric in METRICS:
        if metric.chart is not None:
            category, chart = metric.chart.split("/")
            # TensorBoard matches only the beginning of a tag.
            categories[category].setdefault(chart, []).append(f"{_pattern(metric.key)}$")
    return categories


def table() -> str:
    """All declarations as the table of docs/metrics.md."""
    rows = ["| key | what it is | unit | chart |", "|---|---|---|---|"]
    rows += [f"| `{metric.key}` | {metric.sentence} | {metric.unit} | {metric.chart or ''} |" for metric in declared()]
    return "\n".join(rows)


def document(path: Path) -> None:
    """Replaces the table between the two marks of a page."""
    before, _, rest = path.read_text().partition(TABLE_MARKS[0])
    _, _, after = rest.partition(TABLE_MARKS[1])
    path.write_text(f"{before}{TABLE_MARKS[0]}\n{table()}\n{TABLE_MARKS[1]}{after}")


class MetricsWriter:
    """Appends lines to `<workdir>/metrics.jsonl` and sends them to the dashboards."""

    def __init__(
        self,
        workdir: Path | str,
        resume_steps: int | None,
        tensorboard: bool,
        wandb_project: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the files, and the dashboards that are wanted; creates the folder if it is missing.

        Later lines than `resume_steps`, of a run that was killed, are dropped. For a new run, None, existing files are kept as
        metrics.jsonl.1 and tensorboard.1, or the next free number. Raises SettingsError if a line before the last one is damaged, or
        Weights & Biases, which gets the settings, cannot be used.
        """
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path, events = workdir / "metrics.jsonl", workdir / "tensorboard"
        if resume_steps is None:
            set_aside(path)
            set_aside(events)
        elif path.exists():
            _drop_after(path, resume_steps)
        self._dashboards: list[Dashboard] = []
        if wandb_project is not None:
            self._dashboards.append(WeightsAndBiases(workdir, resume_steps is None, wandb_project, settings or {}))
        if tensorboard:
            self._dashboards.append(TensorBoard(events, resume_steps, layout()))
        self._arms = ArmHistory()
        self._pictured = 0  # lines in the last pictures of the arms
        if self._dashboards and path.exists():
            for line in read_lines(path):
                self._arms.add(line)
            self._show_arms(resume_steps or 0)
        self._steps = resume_steps or 0
        self._file = path.open("a", encoding="utf-8")

    def write(
        self, counters: Mapping[str, int | float], values: Mapping[str, float], histograms: Mapping[str, Histogram] = MappingProxyType({})
    ) -> None:
        """Writes one line and flushes it. A non-finite value becomes null, and a gap on the dashboards.

        `counters` has all keys of COUNTERS, `values` any of METRICS; otherwise KeyError is raised and nothing is written.
        """
        odd = set(counters) ^ set(_COUNTER_KEYS)
        if odd:
            raise KeyError(f"a line needs exactly the counters {', '.join(_COUNTER_KEYS)}; missing or unknown: {', '.join(sorted(odd))}")
        for key in values:
            check_key(key)
        line: dict[str, int | float | None] = {key: counters[key] for key in _COUNTER_KEYS}
        line |= {key: float(value) if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._steps = int(counters["steps"])
        scalars = {f"progress/{key}": float(value) for key, value in counters.items() if key != "steps"}
        scalars |= {key: float(value) for key, value in values.items() if math.isfinite(value)}
        for dashboard in self._dashboards:
            dashboard.write(self._steps, scalars, histograms, {})
        if self._dashboards:
            self._arms.add(line)
            # A picture per line would soon dominate the events file; a tenth more lines is a visible change.
            if self._arms.lines >= 1.1 * self._pictured:
                self._show_arms(self._steps)

    def _show_arms(self, steps: int) -> None:
        pictures = self._arms.pictures()
        if pictures and self._arms.lines > self._pictured:
            self._pictured = self._arms.lines
            for dashboard in self._dashboards:
                dashboard.write(steps, {}, {}, pictures)

    def animate(self, gif: bytes, width: int, height: int, steps: int) -> None:
        """Shows an animation of an episode, recorded at `steps` agent steps."""
        for dashboard in self._dashboards:
            dashboard.animate(steps, VIDEO_TAG, gif, width, height)

    def close(self) -> None:
        """Shows the last pictures and closes the files."""
        self._show_arms(self._steps)
        self._file.close()
        for dashboard in self._dashboards:
            dashboard.close()
        self._dashboards.clear()


def columns(lines: Iterable[Mapping[str, Any]], pattern: str) -> list[str]:
    """The counters, then all other keys that match the pattern, in the order of their first appearance."""
    found: dict[str, None] = {counter.key: None for counter in COUNTERS}
    for line in lines:
        found |= {key: None for key in line if key not in found and fnmatch.fnmatchcase(key, pattern)}
    return list(found)


def _drop_after(path: Path, steps: int) -> None:
    """Atomically removes lines beyond `steps` and a truncated last line."""
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as rest:
        for line in read_lines(path):
            if line["steps"] <= steps:
                rest.write(json.dumps(line, allow_nan=False) + "\n")
        rest.flush()
        os.fsync(rest.fileno())


if __name__ == "__main__":
    document(Path("docs/metrics.md"))
