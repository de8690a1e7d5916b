"""Packs a run's agent into a small folder.

python -m agent57_jax pack --workdir=RUN --out=agents/NAME

The folder holds the settings, the last checkpoint's networks, novelty statistics and bandits, evaluation.json, and the lines of
metrics.jsonl with a return. `evaluate.py` and `make watch` accept it like a run, but training cannot continue from it.
"""

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent57_jax import paths
from agent57_jax.commands import command_line

if TYPE_CHECKING:
    from agent57_jax.agent.learner import LearnerState

COUNTERS = ("frames", "steps", "updates", "episodes", "seconds")
RETURNS = ("episode/return", "evaluation/return")


def pack(workdir: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Writes the folder `out` and returns its size in bytes.

    Raises SettingsError if `workdir` holds no run, CheckpointError if a checkpoint cannot be read or written, OSError if `out` exists.
    """
    from agent57_jax.agent import programs
    from agent57_jax.monitoring.metric_lines import read_lines
    from agent57_jax.training import judging
    from agent57_jax.training.checkpoint import Checkpoints

    source, target = pathlib.Path(workdir), pathlib.Path(out)
    run = judging.open_run(source, 1, 0, is_watched=False)
    if hasattr(run.environment, "close"):
        run.environment.close()
    target.mkdir(parents=True)
    arrays = {
        "learner": without_training(run.learner),
        "shared": programs.init_shared(run.parts)._replace(statistics=run.statistics),
        "evaluator_bandit": run.bandit,
        "pooled_arms": run.pooled,
    }
    checkpoints = Checkpoints(target / "checkpoints", keep=1)
    checkpoints.save(run.step, {name: tree for name, tree in arrays.items() if tree is not None}, run.meta)
    checkpoints.close()
    for path in target.rglob("commit_success.txt"):  # contains the folder's path, and is not needed
        path.unlink()
    for name in ("config.json", "evaluation.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    with (target / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for line in read_lines(source / "metrics.jsonl"):
            if any(key in line for key in RETURNS):
                file.write(json.dumps({key: line[key] for key in (*COUNTERS, *RETURNS) if key in line}) + "\n")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def without_training(state: "LearnerState") -> "LearnerState":
    """The learner's state with zeros, which compress well, for everything that acting and evaluation do not need."""
    import jax
    import jax.numpy as jnp

    def zeros(tree: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, tree)

    parameters = state.parameters if state.average_q is None else state.parameters._replace(q=zeros(state.parameters.q))
    return state._replace(
        parameters=parameters._replace(embedding=zeros(parameters.embedding)),  # actors use `acting_embedding`
        optimiser=zeros(state.optimiser),
        target_q=zeros(state.target_q),
    )


def main(arguments: Sequence[str]) -> None:
    """Packs a run."""
    command_line.open_standard_files()
    parser = command_line.Parser(prog="python -m agent57_jax pack", description="packs a run's agent into a small folder")
    parser.add_argument("--workdir", metavar="RUN", type=paths.path, required=True, help="the run's folder")
    parser.add_argument("--out", metavar="FOLDER", type=paths.path, required=True, help="folder to create")
    given = parser.parse_args(arguments)
    if given.out.exists():
        command_line.fail(f"{given.out} already exists: remove it, or choose another --out")
    command_line.prepare_jax(whole_device=False)

    from agent57_jax import types

    try:
        size = pack(given.workdir, given.out)
    except (OSError, ValueError, types.RunError) as error:
        command_line.fail(str(error))
    print(f"packed {given.workdir} into {given.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
