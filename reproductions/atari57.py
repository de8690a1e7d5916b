"""Trains and evaluates many Atari games with many seeds, one after another or one on each GPU (Agent57 Table 1).

python -m reproductions.atari57 [--games Pong-v5 Boxing-v5 ...] [--seeds 0 1 ...] [--profile=laptop] [--runs=runs/atari57]
    [--config.NAME=VALUE ...]

The default is all 57 games. The same command resumes: finished and evaluated runs are skipped, others continue. A failed run does not stop
the others; it is named at the end, with exit code 1. `python -m agent57_jax.scoreboard` evaluates the results.
"""

import ast
import difflib
import functools
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agent57_jax import paths
from agent57_jax.commands import command_line
from agent57_jax.config import MAX_SEED, SettingsError
from agent57_jax.environments import atari57
from reproductions import common, folders
from reproductions.common import Training
from reproductions.folders import DamageError, ReproductionError
from reproductions.jobs import Job, JobError, Stopped, Supervisor

EPISODES = 100  # greedy episodes of an evaluation, as evaluate.py has it


def visible_gpus() -> list[str]:
    """The GPUs that JAX may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))]


def check_games(games: Sequence[str]) -> None:
    """Ends the process at the first name that is not one of the 57."""
    for game in games:
        if game not in atari57.SCORES:
            nearest = difflib.get_close_matches(game, atari57.SCORES, n=1, cutoff=0.0)[0]
            command_line.fail(f"no game '{game}'. Did you mean {nearest}?")


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Name of a setting -> value, from arguments --config.NAME=VALUE; any other ends the process."""
    overrides = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            command_line.fail(f"'{argument}' is not understood; overrides look like --config.total_steps=1000000")
        try:
            overrides[name] = ast.literal_eval(text.title() if text.lower() in ("true", "false") else text)
        except (ValueError, SyntaxError):
            overrides[name] = text
    return overrides


def plan(trainings: Sequence[Training], home: pathlib.Path, episodes: int) -> tuple[list[Job], list[str]]:
    """The jobs of all runs that are not done, and why some runs cannot resume. Prints a line for each run.

    Raises:
      SettingsError: for invalid settings; ReproductionError: for a folder that holds another run.
    """
    jobs, failures = [], []
    for training in trainings:
        folder = home / training.name
        is_finished = functools.partial(folders.finished, folder, common.settings_of(training))
        evaluation = common.evaluation_job(folder, episodes, training.seed)
        try:
            is_done = is_finished()
        except DamageError as error:
            print(f"{training.name}: damaged", flush=True)
            failures.append(f"{training.name}: {error}")
            continue
        if not is_done:
            steps = folders.saved_steps(folder)
            print(f"{training.name}: " + (f"resumes after {steps:,} steps" if steps else "to be trained"), flush=True)
            jobs.append(common.training_job(training, folder, is_finished, then=evaluation))
        elif not evaluation.is_done():
            print(f"{training.name}: trained, to be evaluated", flush=True)
            jobs.append(evaluation)
        else:
            print(f"{training.name}: trained and evaluated already", flush=True)
    return jobs, failures


def main() -> None:
    """Runs what the command line asks for; exit codes as in `reproductions.common.reproduce`."""
    parser = command_line.Parser(prog="python -m reproductions.atari57", allow_abbrev=False)
    parser.add_argument("--games", nargs="+", default=list(atari57.SCORES), help="EnvPool's names, such as Pong-v5; default: all 57")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--profile", help="paper, laptop or smoke, and an agent as in laptop,ngu; default: paper with a GPU, else laptop")
    parser.add_argument("--runs", type=paths.path, default=common.ROOT / "runs" / "atari57", help="folder of the runs")
    parser.add_argument("--workers", type=int, help="runs at a time; default: one for each GPU, or one")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"greedy episodes of an evaluation; default: {EPISODES}")
    options, rest = parser.parse_known_args()
    overrides = read_overrides(rest)
    check_games(options.games)
    gpus = visible_gpus()
    workers = max(1, len(gpus)) if options.workers is None else options.workers
    if min(workers, options.episodes) < 1 or min(options.seeds) < 0 or max(options.seeds) > MAX_SEED:
        command_line.fail(f"--workers and --episodes must be at least 1, --seeds at least 0 and at most {MAX_SEED}")
    if gpus and workers > len(gpus):
        command_line.fail(f"--workers={workers}, but there {'is' if len(gpus) == 1 else 'are'} {len(gpus)} GPU{'s' * (len(gpus) > 1)}")
    profile = options.profile or ("paper" if gpus else "laptop")
    if options.profile is None and not gpus:
        print("No GPU found: using the laptop profile (CPU)", flush=True)
    home = (pathlib.Path.cwd() / options.runs).resolve()
    trainings = [
        _training(game, seed, profile, overrides) for seed in dict.fromkeys(options.seeds) for game in dict.fromkeys(options.games)
    ]
    try:
        with (
            common.locked(home, "; wait for it, or choose another folder with --runs") as descriptor,
            Supervisor(workers, common.ROOT, [descriptor], gpus[:workers]) as supervisor,
        ):
            jobs, failures = plan(trainings, home, options.episodes)
            try:
                supervisor.run(jobs)
            except JobError as error:
                failures.append(str(error))
    except (ReproductionError, SettingsError, OSError, ValueError) as error:
        command_line.fail(str(error).replace("\n", "; "))
    except Stopped as stopped:
        print(f"{stopped}; the same command resumes", flush=True)
        sys.exit(128 + stopped.number)
    if failures:
        command_line.fail("\n".join([*failures, "The same command resumes."]), code=1)
    print(f"all {len(trainings)} runs are trained and evaluated; for the scores: python -m agent57_jax.scoreboard {options.runs}")


def _training(game: str, seed: int, profile: str, overrides: Mapping[str, Any]) -> Training:
    name = f"{game.removesuffix('-v5')}-{seed}"
    return Training(name, f"configs/atari.py:{profile}", {"environment.task_id": game, **overrides}, seed)


if __name__ == "__main__":
    main()
