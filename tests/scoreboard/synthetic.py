"""Folders of runs that nobody trained, for tests: invented numbers in the files that train.py and evaluate.py write."""

import json
import pathlib
from typing import Any

import numpy as np

from agent57_jax import config
from agent57_jax.config import Settings
from agent57_jax.environments import atari57


def settings_of(task: str, seed: int, **changes: Any) -> dict[str, Any]:
    """config.json of a run; `changes` are dotted names with __ for the dot."""
    values = config.to_dict(Settings())
    values["seed"], values["environment"]["task_id"] = seed, task
    for name, value in changes.items():
        *sections, field = name.split("__")
        section = values
        for part in sections:
            section = section[part]
        section[field] = value
    return values


def write_run(
    folder: pathlib.Path,
    task: str = "Pong-v5",
    seed: int = 0,
    mean: float | None = None,
    lines: int = 20,
    arms: int = 4,
    evaluation: dict[str, Any] | None = None,
    **changes: Any,
) -> pathlib.Path:
    """A run whose curves rise to the score `mean`; without one it has no evaluation."""
    folder.mkdir(parents=True)
    changes = {"total_steps": 10_000 * lines, "policy__num_policies": arms, **changes}
    (folder / "config.json").write_text(json.dumps(settings_of(task, seed, **changes)))
    random = np.random.default_rng([seed, len(task), lines])
    low = atari57.SCORES[task]["random"] if task in atari57.SCORES else 0.0
    goal = 1.0 if mean is None else mean
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(1, lines + 1):
            progress = 1 - np.exp(-4 * i / lines)
            value = low + (goal - low) * progress
            noise = abs(goal - low) * 0.05 * random.standard_normal(2)
            line = {"frames": 40_000 * i, "steps": 10_000 * i, "updates": 100 * i, "episodes": 10 * i, "seconds": 36.0 * i}
            line |= {"episode/return": 0.7 * value + noise[0], "evaluation/return": value + noise[1], "evaluation/episodes": 6.0 * i}
            weights = np.exp(-((np.arange(arms) - arms * (1 - progress)) ** 2) / arms)
            for arm, pulls in enumerate(np.round(20 * weights / weights.sum())):
                line[f"arm/pulls_{arm}"] = float(pulls)
                if pulls:
                    line[f"arm/return_{arm}"] = value * (1 - arm / arms / 2)
            file.write(json.dumps(line) + "\n")
    if mean is not None:
        result = {"game": task, "episodes": 2, "returns": [mean - 1, mean + 1], "mean": mean, "frames_trained": 40_000 * lines}
        (folder / "evaluation.json").write_text(json.dumps(result | (evaluation or {})))
    return folder
