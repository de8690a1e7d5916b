"""Every number that a run reports, declared once, and the writer of metrics.jsonl and the dashboards."""

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
from agent57_jax.paths import set_aside


class Metric(NamedTuple):
    """One declared key; `{policy}` or `{action}` in it makes it a family, with a member for every policy or action."""

    key: str
    sentence: str
    unit: str
    chart: str | None = None  # "category/chart" of TensorBoard's layout


COUNTERS = (
    Metric("frames", "Emulator frames of training so far.", "frames"),
    Metric("steps", "Agent steps of training so far, all environments together; the global step of TensorBoard.", "steps"),
    Metric("updates", "Learner updates so far.", "updates"),
    Metric("episodes", "Training episodes that ended so far.", "episodes"),
    Metric("seconds", "Wall time spent training so far, all starts of the run together.", "seconds"),
)

METRICS = (
    Metric(
        "throughput/frames_per_second",
        "Emulator frames of training per second of wall time.",
        "frames/second",
        "throughput/frames per second",
    ),
    Metric("throughput/steps_per_second", "Agent steps per second of wall time, all environments together.", "steps/second"),
    Metric("throughput/updates_per_second", "Learner updates per second of wall time.", "updates/second", "throughput/updates per second"),
    Metric(
        "throughput/sequences_sampled_per_insert",
        "Sequences sampled for each that was inserted, since learning began.",
        "ratio",
        "throughput/sequences sampled per insert",
    ),
    Metric(
        "throughput/share_environment",
        "Share of the wall time that the loop waited for emulators; where environments run on the device they are a part of acting.",
        "share",
        "throughput/where the time goes",
    ),
    Metric(
        "throughput/share_acting",
        "Share of the wall time that the loop waited for acts, updates before them being done.",
        "share",
        "throughput/where the time goes",
    ),
    Metric(
        "throughput/share_learning",
        "Share of the wall time that the loop waited for updates before it could act; what runs while emulators do is not seen.",
        "share",
        "throughput/where the time goes",
    ),
    Metric(
        "throughput/share_evaluation",
        "Share of the wall time that the loop waited for the evaluator's emulators and acts.",
        "share",
        "throughput/where the time goes",
    ),
    Metric(
        "throughput/share_saving",
        "Share of the wall time that it took to hand checkpoints to their writer.",
        "share",
        "throughput/where the time goes",
    ),
    Metric(
        "throughput/share_host",
        "The rest of the wall time: dispatch and copies to the device, reports; on a CPU also what XLA computes at dispatch.",
        "share",
        "throughput/where the time goes",
    ),
    Metric("episode/return", "Mean undiscounted extrinsic return of training episodes that ended.", "reward", "score/return"),
    Metric("episode/length", "Mean length of training episodes that ended.", "steps", "score/episode length"),
    Metric(
        "episode/intrinsic_return",
        "Mean sum of intrinsic rewards over training episodes that ended.",
        "intrinsic reward",
        "novelty/intrinsic return",
    ),
    Metric("episode/truncated_share", "Share of ended training episodes that a time limit cut off.", "share"),
    Metric(
        "episode/visited_fraction",
        "Mean share of the maze's corridor cells that a training episode visited.",
        "share",
        "score/visited fraction",
    ),
    Metric("episode/long_limit", "Share of ended training episodes that had the long time limit of the shifting corridor.", "share"),
    Metric("episode/hns", "Human-normalised score of episode/return: 0 random, 1 human.", "ratio", "score/human-normalised score"),
    Metric("evaluation/return", "Mean return of greedy evaluation episodes that ended: the score.", "reward", "score/return"),
    Metric("evaluation/hns", "Human-normalised score of evaluation/return: 0 random, 1 human.", "ratio", "score/human-normalised score"),
    Metric("evaluation/length", "Mean length of greedy evaluation episodes that ended.", "steps", "score/episode length"),
    Metric(
        "evaluation/visited_fraction",
        "Mean share of the maze's corridor cells that a greedy evaluation episode visited.",
        "share",
        "score/visited fraction",
    ),
    Metric("evaluation/long_limit", "Share of greedy evaluation episodes that had the long time limit of the shifting corridor.", "share"),
    Metric("evaluation/episodes", "Greedy evaluation episodes so far.", "episodes"),
    Metric(
        "evaluation/bandit_return", "Mean return of the evaluation episodes that teach the evaluator's bandit.", "reward", "score/return"
    ),
    Metric("evaluation/arm", "Policy that greedy evaluation episodes play.", "index", "arms/arm of the greedy episodes"),
    Metric("novelty/intrinsic_reward", "Mean intrinsic reward of a timestep.", "intrinsic reward", "novelty/intrinsic reward"),
    Metric(
        "novelty/episodic_reward",
        "Mean episodic novelty of a timestep, before the life-long factor.",
        "intrinsic reward",
        "novelty/intrinsic reward",
    ),
    Metric("novelty/alpha", "Mean life-long factor of a timestep, before it is clipped.", "ratio", "novelty/alpha"),
    Metric(
        "novelty/inverse_accuracy",
        "Share of actions that inverse dynamics guesses right from the embeddings.",
        "share",
        "novelty/accuracy of inverse dynamics",
    ),
    Metric("novelty/mean_squared_distance", "Running mean of the squared distance to the nearest embeddings.", "embedding units^2"),
    Metric(
        "novelty/distillation_error",
        "Running mean of the error of random network distillation.",
        "squared error",
        "novelty/distillation error",
    ),
    Metric(
        "novelty/distillation_deviation",
        "Running standard deviation of the error of random network distillation.",
        "squared error",
        "novelty/distillation error",
    ),
    Metric(
        "loss/extrinsic",
        "Loss of the extrinsic value function, a sum over the transitions of a sequence.",
        "squared value",
        "values/losses",
    ),
    Metric(
        "loss/intrinsic",
        "Loss of the intrinsic value function, a sum over the transitions of a sequence.",
        "squared value",
        "values/losses",
    ),
    Metric(
        "loss/combined",
        "Loss of the extrinsic and intrinsic values together, a sum over the transitions of a sequence.",
        "squared value",
        "values/losses",
    ),
    Metric("loss/policy", "Cross entropy of the distilled policy, a sum over the transitions of a sequence.", "nats", "values/losses"),
    Metric("loss/embedding", "Cross entropy of inverse dynamics, with weight decay.", "nats", "novelty/losses"),
    Metric("loss/distillation", "Error of random network distillation on replayed timesteps.", "squared error", "novelty/losses"),
    Metric(
        "gradient_norm/extrinsic", "Global norm of the extrinsic Q-network's gradient, before clipping.", "norm", "values/gradient norms"
    ),
    Metric(
        "gradient_norm/intrinsic", "Global norm of the intrinsic Q-network's gradient, before clipping.", "norm", "values/gradient norms"
    ),
    Metric(
        "gradient_norm/all_values",
        "Global norm of the gradient of the one Q-network for all values, before clipping.",
        "norm",
        "values/gradient norms",
    ),
    Metric("gradient_norm/torso", "Global norm of the shared torso's gradient, before clipping.", "norm", "values/gradient norms"),
    Metric("gradient_norm/embedding", "Global norm of the embedding network's gradient, before clipping.", "norm"),
    Metric("gradient_norm/distillation", "Global norm of the distillation predictor's gradient, before clipping.", "norm"),
    Metric("learner/valid_share", "Share of replayed transitions that are experience, not the border between two episodes.", "share"),
    Metric("learner/priority", "Mean new priority of replayed sequences.", "value", "replay/priorities"),
    Metric(
        "learner/on_policy_share", "Share of replayed actions that the current greedy policy would take.", "share", "replay/on-policy share"
    ),
    Metric(
        "learner/trace", "Mean coefficient c_t of the traces: how much of a return goes on behind a transition.", "share", "replay/trace"
    ),
    Metric(
        "learner/value_extrinsic",
        "Mean extrinsic Q of replayed actions, as the network gives it.",
        "transformed value",
        "values/extrinsic Q",
    ),
    Metric(
        "learner/value_intrinsic",
        "Mean intrinsic Q of replayed actions, as the network gives it.",
        "transformed value",
        "values/intrinsic Q",
    ),
    Metric(
        "learner/value_combined",
        "Mean combined Q of replayed actions, extrinsic and intrinsic together.",
        "transformed value",
        "values/combined Q",
    ),
    Metric("learner/td_error_combined", "Mean absolute error of the combined values.", "transformed value", "values/TD errors"),
    Metric("learner/error_scale_combined", "Mean scale by which errors of the combined values are divided.", "transformed value"),
    Metric("learner/held_combined", "Share of replayed transitions that the trust region holds the combined values back from.", "share"),
    Metric("learner/distilled_share", "Share of replayed transitions at which the policy is distilled from the values.", "share"),
    Metric("learner/td_error_extrinsic", "Mean absolute extrinsic temporal-difference error.", "transformed value", "values/TD errors"),
    Metric("learner/td_error_intrinsic", "Mean absolute intrinsic temporal-difference error.", "transformed value", "values/TD errors"),
    Metric("learner/error_scale_extrinsic", "Mean scale by which extrinsic temporal-difference errors are divided.", "transformed value"),
    Metric("learner/error_scale_intrinsic", "Mean scale by which intrinsic temporal-difference errors are divided.", "transformed value"),
    Metric("learner/held_extrinsic", "Share of replayed transitions that the trust region holds the extrinsic values back from.", "share"),
    Metric("learner/held_intrinsic", "Share of replayed transitions that the trust region holds the intrinsic values back from.", "share"),
    Metric("actor/value_extrinsic", "Mean extrinsic Q of the actions that actors took.", "transformed value", "values/extrinsic Q"),
    Metric("actor/value_intrinsic", "Mean intrinsic Q of the actions that actors took.", "transformed value", "values/intrinsic Q"),
    Metric("arm/pulls_{policy}", "Training episodes of the policy that ended.", "episodes", "arms/episodes per arm"),
    Metric("arm/return_{policy}", "Mean return of training episodes of the policy that ended.", "reward", "arms/return per arm"),
    Metric(
        "action/ratio_{action}",
        "Mean share of the action in a training episode that ended.",
        "share",
        "actions/share of each action in an episode",
    ),
    Metric("replay/fill", "Share of the replay's slots that hold a timestep.", "share", "replay/fill"),
    Metric("replay/timesteps", "Timesteps in the replay.", "timesteps"),
    Metric("replay/sequences", "Sequences that can be sampled.", "sequences"),
    Metric(
        "replay/age",
        "Mean age of sampled sequences: timesteps of their environment since their first one.",
        "timesteps",
        "replay/age of sampled sequences",
    ),
    Metric("replay/priority_sum", "Sum of the priorities of all sequences that can be sampled.", "value", "replay/sum of priorities"),
    Metric("replay/max_priority", "Largest priority that the learner has written so far.", "value", "replay/priorities"),
    Metric("memory/device_bytes", "Memory in use on the first device of this process.", "bytes"),
    Metric("memory/device_limit_bytes", "Memory of that device that JAX may use.", "bytes"),
    Metric("memory/host_bytes", "Most memory that this process has used on the host.", "bytes"),
)

CATEGORIES = ("score", "arms", "actions", "values", "novelty", "replay", "throughput")  # of charts, in the order of the page
TABLE_MARKS = ("<!-- table: python -m agent57_jax.monitoring.metrics -->", "<!-- end of table -->")
_PARAMETERS = {"{policy}": r"\d+", "{action}": r".+"}
_COUNTER_KEYS = tuple(metric.key for metric in COUNTERS)
_KEYS = tuple(metric.key for metric in METRICS)


def declared() -> tuple[Metric, ...]:
    """All counters and metrics, in the order of the documentation."""
    return COUNTERS + METRICS


def _pattern(key: str) -> re.Pattern[str]:
    text = re.escape(key)
    for parameter, expression in _PARAMETERS.items():
        text = text.replace(re.escape(parameter), expression)
    return re.compile(text)


_FAMILIES = tuple(_pattern(key) for key in _KEYS if "{" in key)


def is_declared(key: str) -> bool:
    """Whether `key` is one of `declared()`, or of a family there such as "arm/return_{policy}" with a number in it."""
    return "{" not in key and (key in _KEYS or any(family.fullmatch(key) for family in _FAMILIES))


def check_key(key: str) -> None:
    """Raises KeyError with the nearest declared key if `key` is not declared."""
    if is_declared(key):
        return
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
    raise KeyError(f"no metric '{key}' is declared in metrics.py; the nearest is '{near}'")


VIDEO_TAG = "video/evaluation"  # among the dashboards' pictures


def layout() -> dict[str, dict[str, list[str]]]:
    """Category -> chart -> patterns of tags, from the declarations: TensorBoard's prepared page."""
    categories: dict[str, dict[str, list[str]]] = {category: {} for category in CATEGORIES}
    for metric in METRICS:
        if metric.chart is not None:
            category, chart = metric.chart.split("/")
            # TensorBoard looks for a tag that begins like the pattern.
            categories[category].setdefault(chart, []).append(f"{_pattern(metric.key).pattern}$")
    return categories


def table() -> str:
    """All declarations as the table of docs/metrics.md."""
    rows = ["| key | what it is | unit | chart |", "|---|---|---|---|"]
    rows += [f"| `{metric.key}` | {metric.sentence} | {metric.unit} | {metric.chart or ''} |" for metric in declared()]
    return "\n".join(rows)


def document(path: Path) -> None:
    """Puts the table of today between the two marks of a page."""
    before, _, rest = path.read_text().partition(TABLE_MARKS[0])
    _, _, after = rest.partition(TABLE_MARKS[1])
    path.write_text(f"{before}{TABLE_MARKS[0]}\n{table()}\n{TABLE_MARKS[1]}{after}")


class MetricsWriter:
    """Appends lines to `<workdir>/metrics.jsonl` and shows them on the dashboards."""

    def __init__(
        self,
        workdir: Path | str,
        resume_steps: int | None,
        tensorboard: bool,
        wandb_project: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the files so that they hold exactly what this run stands on.

        Args:
          workdir: made if missing.
          resume_steps: steps of the checkpoint from which the run goes on; what was written after it, by a run that was killed, is
            dropped. None: a new run; what lies there is kept as metrics.jsonl.1 and tensorboard.1, or the next free number.
          tensorboard: whether to write for TensorBoard too; without it tensorboardX is not imported.
          wandb_project: the same for Weights & Biases, under this project.
          settings: of the run, shown there.

        Raises:
          SettingsError: if a line other than the last one is not a record of this writer; if Weights & Biases cannot be used.
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
        self._pictured = 0  # lines of metrics that the last pictures of the arms show
        if self._dashboards and path.exists():
            for line in read_lines(path):
                self._arms.add(line)
            self._show_arms(resume_steps or 0)
        self._steps = resume_steps or 0
        self._file = path.open("a", encoding="utf-8")

    def write(
        self, counters: Mapping[str, int | float], values: Mapping[str, float], histograms: Mapping[str, Histogram] = MappingProxyType({})
    ) -> None:
        """Writes one line and makes sure that a kill of this process does not lose it.

        A value that is not finite becomes null, since JSON has no word for it, and leaves a gap on the dashboards.

        Args:
          counters: a value for each of COUNTERS.
          values: declared key -> value.
          histograms: for the dashboards alone.

        Raises:
          KeyError: if a key is not declared or a counter is missing; nothing is written then.
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
            # A tenth more is what the eye can see; a picture a line would soon be most of the events file.
            if self._arms.lines >= 1.1 * self._pictured:
                self._show_arms(self._steps)

    def _show_arms(self, steps: int) -> None:
        pictures = self._arms.pictures()
        if pictures and self._arms.lines > self._pictured:
            self._pictured = self._arms.lines
            for dashboard in self._dashboards:
                dashboard.write(steps, {}, {}, pictures)

    def animate(self, gif: bytes, width: int, height: int, steps: int) -> None:
        """Shows an animation of an episode at `steps` of training."""
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
    """Counters, then every other key that a line has and the pattern takes, in the order in which they first appear."""
    found: dict[str, None] = {counter.key: None for counter in COUNTERS}
    for line in lines:
        found |= {key: None for key in line if key not in found and fnmatch.fnmatchcase(key, pattern)}
    return list(found)


def _drop_after(path: Path, steps: int) -> None:
    """Rewrites the file at one stroke without the lines beyond `steps` and without a last line that is cut off."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as rest:
        for line in read_lines(path):
            if line["steps"] <= steps:
                rest.write(json.dumps(line, allow_nan=False) + "\n")
        rest.flush()
        os.fsync(rest.fileno())
    os.replace(temporary, path)


if __name__ == "__main__":
    document(Path("docs/metrics.md"))
