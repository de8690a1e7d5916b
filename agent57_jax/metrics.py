"""Every number that a run reports, declared once, and the writer of metrics.jsonl and TensorBoard."""

import difflib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One declared key; `{policy}` or `{action}` in it makes it a family, with a member for every policy or action."""

    key: str
    sentence: str
    unit: str


COUNTERS = (
    Metric("frames", "Emulator frames of training so far.", "frames"),
    Metric("steps", "Agent steps of training so far, all environments together; the global step of TensorBoard.", "steps"),
    Metric("updates", "Learner updates so far.", "updates"),
    Metric("episodes", "Training episodes that ended so far.", "episodes"),
    Metric("seconds", "Wall time spent training so far, all starts of the run together.", "seconds"),
)

METRICS = (
    Metric("throughput/frames_per_second", "Emulator frames of training per second of wall time.", "frames/second"),
    Metric("throughput/steps_per_second", "Agent steps per second of wall time, all environments together.", "steps/second"),
    Metric("throughput/updates_per_second", "Learner updates per second of wall time.", "updates/second"),
    Metric("throughput/sequences_sampled_per_insert", "Sequences sampled for each that was inserted, since learning began.", "ratio"),
    Metric(
        "throughput/share_device",
        "Share of the wall time that the loop waited for the device: acts, and updates queued before them.",
        "share",
    ),
    Metric("throughput/share_evaluation", "Share of the wall time that went into acts of the evaluator.", "share"),
    Metric("throughput/share_environment", "Share of the wall time that was spent waiting for environments.", "share"),
    Metric("episode/return", "Mean undiscounted extrinsic return of training episodes that ended.", "reward"),
    Metric("episode/length", "Mean length of training episodes that ended.", "steps"),
    Metric("episode/intrinsic_return", "Mean sum of intrinsic rewards over training episodes that ended.", "intrinsic reward"),
    Metric("episode/truncated_share", "Share of ended training episodes that a time limit cut off.", "share"),
    Metric("episode/visited_fraction", "Mean share of the maze's corridor cells that a training episode visited.", "share"),
    Metric("episode/long_limit", "Share of ended training episodes that had the long time limit of the shifting corridor.", "share"),
    Metric("episode/hns", "Human-normalised score of episode/return: 0 random, 1 human.", "ratio"),
    Metric("evaluation/return", "Mean return of greedy evaluation episodes that ended: the score.", "reward"),
    Metric("evaluation/hns", "Human-normalised score of evaluation/return: 0 random, 1 human.", "ratio"),
    Metric("evaluation/length", "Mean length of greedy evaluation episodes that ended.", "steps"),
    Metric("evaluation/visited_fraction", "Mean share of the maze's corridor cells that a greedy evaluation episode visited.", "share"),
    Metric("evaluation/long_limit", "Share of greedy evaluation episodes that had the long time limit of the shifting corridor.", "share"),
    Metric("evaluation/episodes", "Greedy evaluation episodes so far.", "episodes"),
    Metric("evaluation/bandit_return", "Mean return of the evaluation episodes that teach the evaluator's bandit.", "reward"),
    Metric("evaluation/arm", "Policy that the evaluator's bandit holds for the best.", "index"),
    Metric("novelty/intrinsic_reward", "Mean intrinsic reward of a timestep.", "intrinsic reward"),
    Metric("novelty/episodic_reward", "Mean episodic novelty of a timestep, before the life-long factor.", "intrinsic reward"),
    Metric("novelty/alpha", "Mean life-long factor of a timestep, before it is clipped.", "ratio"),
    Metric("novelty/inverse_accuracy", "Share of actions that inverse dynamics guesses right from the embeddings.", "share"),
    Metric("novelty/mean_squared_distance", "Running mean of the squared distance to the nearest embeddings.", "embedding units^2"),
    Metric("novelty/distillation_error", "Running mean of the error of random network distillation.", "squared error"),
    Metric("novelty/distillation_deviation", "Running standard deviation of the error of random network distillation.", "squared error"),
    Metric("loss/extrinsic", "Loss of the extrinsic value function, a sum over the transitions of a sequence.", "squared value"),
    Metric("loss/intrinsic", "Loss of the intrinsic value function, a sum over the transitions of a sequence.", "squared value"),
    Metric("loss/embedding", "Cross entropy of inverse dynamics, with weight decay.", "nats"),
    Metric("loss/distillation", "Error of random network distillation on replayed timesteps.", "squared error"),
    Metric("gradient_norm/extrinsic", "Global norm of the extrinsic Q-network's gradient, before clipping.", "norm"),
    Metric("gradient_norm/intrinsic", "Global norm of the intrinsic Q-network's gradient, before clipping.", "norm"),
    Metric("gradient_norm/embedding", "Global norm of the embedding network's gradient, before clipping.", "norm"),
    Metric("gradient_norm/distillation", "Global norm of the distillation predictor's gradient, before clipping.", "norm"),
    Metric("learner/valid_share", "Share of replayed transitions that are experience, not the border between two episodes.", "share"),
    Metric("learner/priority", "Mean new priority of replayed sequences.", "value"),
    Metric("learner/on_policy_share", "Share of replayed actions that the current greedy policy would take.", "share"),
    Metric("learner/value_extrinsic", "Mean extrinsic Q of replayed actions, as the network gives it.", "transformed value"),
    Metric("learner/value_intrinsic", "Mean intrinsic Q of replayed actions, as the network gives it.", "transformed value"),
    Metric("learner/td_error_extrinsic", "Mean absolute extrinsic temporal-difference error.", "transformed value"),
    Metric("learner/td_error_intrinsic", "Mean absolute intrinsic temporal-difference error.", "transformed value"),
    Metric("actor/value_extrinsic", "Mean extrinsic Q of the actions that actors took.", "transformed value"),
    Metric("actor/value_intrinsic", "Mean intrinsic Q of the actions that actors took.", "transformed value"),
    Metric("arm/pulls_{policy}", "Training episodes of the policy that ended.", "episodes"),
    Metric("arm/return_{policy}", "Mean return of training episodes of the policy that ended.", "reward"),
    Metric("action/ratio_{action}", "Mean share of the action in a training episode that ended.", "share"),
    Metric("replay/fill", "Share of the replay's slots that hold a timestep.", "share"),
    Metric("replay/timesteps", "Timesteps in the replay.", "timesteps"),
    Metric("replay/sequences", "Sequences that can be sampled.", "sequences"),
    Metric("replay/priority_sum", "Sum of the priorities of all sequences that can be sampled.", "value"),
    Metric("replay/max_priority", "Largest priority so far; new sequences get it.", "value"),
    Metric("memory/device_bytes", "Memory in use on the first device of this process.", "bytes"),
    Metric("memory/host_bytes", "Memory that this process uses on the host.", "bytes"),
)

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


VIDEO_TAG = "video/evaluation"  # TensorBoard's, among its images


class MetricsWriter:
    """Appends lines to `<workdir>/metrics.jsonl` and scalars to `<workdir>/tensorboard/`."""

    def __init__(self, workdir: Path | str, resume_steps: int | None, tensorboard: bool) -> None:
        """Opens the files so that they hold exactly what this run stands on.

        Args:
          workdir: made if missing.
          resume_steps: steps of the checkpoint from which the run goes on; what was written after it, by a run that was killed, is
            dropped. None: a new run; what lies there is kept as metrics.jsonl.1 and tensorboard.1, or the next free number.
          tensorboard: whether to write for TensorBoard too; without it tensorboardX is not imported.

        Raises:
          ValueError: if a line other than the last one is not a record of this writer.
        """
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path, events = workdir / "metrics.jsonl", workdir / "tensorboard"
        if resume_steps is None:
            set_aside(path)
            set_aside(events)
        elif path.exists():
            _drop_after(path, resume_steps)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            # TensorBoard forgets what it has read at this step and beyond; the checkpoint's own line stays.
            purge = None if resume_steps is None else resume_steps + 1
            # The name of an events file ends in its second of time: the suffix keeps two starts within one second apart.
            suffix = f".{len(list(events.glob('*')))}"
            self._tensorboard = SummaryWriter(str(events), purge_step=purge, flush_secs=10, filename_suffix=suffix)

    def write(self, counters: Mapping[str, int | float], values: Mapping[str, float]) -> None:
        """Writes one line and makes sure that a kill of this process does not lose it.

        A value that is not finite becomes null, since JSON has no word for it, and leaves a gap in TensorBoard.

        Args:
          counters: a value for each of COUNTERS.
          values: declared key -> value.

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
        if self._tensorboard is not None:
            others = {f"progress/{key}": value for key, value in counters.items() if key != "steps"}
            for key, value in (others | dict(values)).items():
                if math.isfinite(value):
                    self._tensorboard.add_scalar(_tag(key), float(value), global_step=int(counters["steps"]))

    def animate(self, gif: bytes, width: int, height: int, steps: int) -> None:
        """Puts an animation of an episode at `steps` of training into TensorBoard, which plays a GIF among its images.

        tensorboardX's own add_video needs one more package, and without it writes nothing and says nothing.
        """
        if self._tensorboard is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._tensorboard.file_writer.add_summary(Summary(value=[Summary.Value(tag=VIDEO_TAG, image=image)]), steps)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _tag(key: str) -> str:
    """The key as TensorBoard takes it; tensorboardX replaces other characters itself, but prints a line each time."""
    return re.sub(r"[^-/\w.]", "_", key)


def set_aside(path: Path) -> None:
    """Renames a file or folder of an earlier run to the first free `<name>.<number>`."""
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    number = 1
    while (other := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(other)


def _drop_after(path: Path, steps: int) -> None:
    """Rewrites the file at one stroke without the lines beyond `steps` and without a last line that is cut off."""
    temporary = path.with_name(f"{path.name}.tmp")
    with path.open("rb") as file, temporary.open("wb") as rest:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                late = json.loads(line)["steps"] > steps
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {path} is not a line of metrics; repair the file or move it away: {error!r}") from error
            if not late:
                rest.write(line)
        rest.flush()
        os.fsync(rest.fileno())
    os.replace(temporary, path)
