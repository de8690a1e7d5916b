"""Compares what our agents and those of Stable-Baselines3 learn on small budgets, on the same cores, one run at a time.

    python -m benchmarks.learning --tasks CartPole-v1 LunarLander-v3 --agents agent57 ppo --seeds 0 1 2 [--minutes=N | --steps=N]
        [--stop_when_solved] [--only_report] [--config.NAME=VALUE ...]

Each run has a folder RUNS/TASK/AGENT/seedS. It trains until its budget of wall-clock time is used up; 100 greedy episodes then give its
score. The same command resumes where it was stopped and skips finished runs. After every run it writes the report: OUT.json, a picture
for each task, and a table. Runs already in OUT.json are kept, even if their folders are gone. The protocol is in
benchmarks/README.md. What peers need is in requirements-peers.txt.
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agent57_jax import paths
from agent57_jax.commands import command_line
from agent57_jax.config import SettingsError
from benchmarks import learning_report, learning_runs
from benchmarks.learning_tasks import ABLATIONS, AGENTS, TASKS, Budget, Run
from reproductions import atari57, common, folders, records
from reproductions.common import ROOT
from reproductions.folders import DamageError, ReproductionError
from reproductions.jobs import Job, JobError, Stopped, Supervisor

EPISODES = 100  # greedy episodes of the final score


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line and its overrides of settings; a mistake ends the process with one line."""
    parser = command_line.Parser(prog="python -m benchmarks.learning", allow_abbrev=False)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), required=True, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--agents", nargs="+", choices=AGENTS, required=True, metavar="AGENT", help=", ".join(AGENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--minutes", type=float, help="wall-clock time of each run; default: as the task has it")
    amount.add_argument("--steps", type=int, help="environment steps of each run instead of a time")
    parser.add_argument("--stop_when_solved", action="store_true", help="end a run once it has reached the task's last threshold")
    parser.add_argument("--only_report", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--profile", default="laptop", help="of our configs; default: laptop")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"greedy episodes of the final score; default: {EPISODES}")
    parser.add_argument("--runs", type=paths.path, default=pathlib.Path("runs/learning"), help="folder of the runs")
    parser.add_argument(
        "--out", type=paths.path, default=ROOT / "benchmarks/results/learning", help="path prefix of the report's files, without extension"
    )
    parser.add_argument("--readme", type=paths.path, help="document to write the table into, between its markers")
    parser.add_argument("--peers_python", default=sys.executable, help="interpreter with requirements-peers.txt; default: this one")
    options, rest = parser.parse_known_args(list(arguments))
    if min(options.seeds) < 0 or options.episodes < 1:
        command_line.fail("--seeds must be at least 0, --episodes at least 1")
    if (options.minutes is not None and options.minutes <= 0) or (options.steps is not None and options.steps < 1):
        command_line.fail("--minutes and --steps must be above 0")
    return options, atari57.read_overrides(rest)


def plan(options: argparse.Namespace, overrides: Mapping[str, Any]) -> list[Run]:
    """All runs, in their order: a seed of every agent on every task before the next seed."""
    home = (pathlib.Path.cwd() / options.runs).resolve()
    found = []
    for seed in dict.fromkeys(options.seeds):
        for task in dict.fromkeys(options.tasks):
            minutes = TASKS[task].minutes if options.minutes is None else options.minutes
            budget = Budget(steps=options.steps) if options.steps is not None else Budget(minutes=minutes)
            for agent in dict.fromkeys(options.agents):
                found.append(Run(task, agent, seed, budget, home, options.profile, overrides))
    return found


def check_settings(run: Run) -> None:
    """Raises SettingsError if a run's settings are invalid, or ReproductionError if its ablation changes none of them."""
    settings = common.settings_of(run.training)
    agent = ABLATIONS.get(run.agent, (None,))[0]
    if agent is not None and settings == common.settings_of(dataclasses.replace(run, agent=agent).training):
        raise ReproductionError(f"{run.agent} is the same as {agent} on {run.task}: leave it out")


def jobs_of(runs: Sequence[Run], options: argparse.Namespace, facts: Mapping[str, Any], say: Any = print) -> tuple[list[Job], list[str]]:
    """The jobs of all runs that are not done, with a line said of each run; and why some runs cannot resume.

    Args:
      facts: where the runs run.
    """
    jobs, failures = [], []
    for run in runs:
        evaluation = learning_runs.evaluation_job(run, options.episodes, options.peers_python)
        try:
            is_trained = learning_runs.is_trained(run, options.stop_when_solved)
        except DamageError as error:
            say(f"{run.name}: damaged")
            failures.append(f"{run.name}: {error}")
            continue
        if not is_trained:
            steps = folders.saved_steps(run.folder)
            say(f"{run.name}: " + (f"resumes after {steps:,} steps" if steps else "to be trained"))
            jobs.append(learning_runs.training_job(run, options.episodes, options.peers_python, options.stop_when_solved, facts))
        elif not evaluation.is_done():
            say(f"{run.name}: trained, to be evaluated")
            jobs.append(evaluation)
        else:
            say(f"{run.name}: trained and evaluated already")
    return jobs, failures


def check_peers(runs: Sequence[Run], python: str) -> None:
    """Ends the process if peers are to train and the interpreter lacks them."""
    if not any(run.is_peer for run in runs):
        return
    try:
        found = subprocess.run([python, "-c", "import stable_baselines3, sb3_contrib"], capture_output=True, text=True, check=False)
    except OSError as error:
        command_line.fail(f"--peers_python: {error}")
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["it ended"])[-1]
        command_line.fail(f"{python} lacks the peers ({reason}): pip install -r requirements-peers.txt, or give --peers_python=FILE")


def report(runs: Sequence[Run], options: argparse.Namespace, facts: Mapping[str, Any]) -> str:
    """Writes the report of what is there; returns its table."""
    command = " ".join(["python -m benchmarks.learning", *sys.argv[1:]])
    found = learning_report.record(runs, options.episodes, facts, command)
    return learning_report.write(options.out, found, options.readme)


def main() -> None:
    """Runs what the command line asks for; exit codes: 2 a mistake, 1 runs that failed, 128 and the signal's number when stopped."""
    options, overrides = parse(sys.argv[1:])
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # logs that can be followed
    runs = plan(options, overrides)
    try:
        learning_report.earlier_record(options.out, options.episodes)  # mistakes are seen before anything is trained
        if not options.only_report:
            check_peers(runs, options.peers_python)
            for run in runs:
                check_settings(run)
        facts = {"date": records.now()[:10], "git": records.git_state(), "machine": records.machine()}
        if not options.only_report:
            train(runs, options, facts)
        print(report(runs, options, facts))
    except (ReproductionError, SettingsError, OSError) as error:
        command_line.fail(str(error).replace("\n", "; "))
    except JobError as error:
        command_line.fail(f"{error}\nThe same command continues with what is missing.", code=1)
    except Stopped as stopped:
        print(f"{stopped}; the same command resumes", flush=True)
        sys.exit(128 + stopped.number)


def train(runs: Sequence[Run], options: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    """Trains and evaluates what is missing, one run at a time.

    Raises:
      JobError: when all others have ended, if one failed; Stopped: after a signal.
    """
    home = runs[0].home
    with common.locked(home, "; wait for it, or give this one other --runs") as descriptor, Supervisor(1, ROOT, [descriptor]) as supervisor:
        jobs, failures = jobs_of(runs, options, facts)
        try:
            supervisor.run(jobs, after_each=lambda: _report_quietly(runs, options, facts))
        except JobError as error:
            failures.append(str(error))
    if failures:
        report(runs, options, facts)
        raise JobError("\n".join(failures))


def _report_quietly(runs: Sequence[Run], options: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    try:
        report(runs, options, facts)
    except (ReproductionError, OSError) as error:  # training continues; the last report repeats the error
        print(f"no report yet: {error}", flush=True)


if __name__ == "__main__":
    main()
