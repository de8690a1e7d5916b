"""Makes a figure: training runs as subprocesses, their evaluation, a record of the measurements, a picture.

A figure's module states what the paper shows and how each profile tests it, in a `Figure`; `reproduce` does the rest. Runs are in
runs/reproductions/FIGURE/PROFILE/NAME. The same command resumes where it stopped, and skips what is finished.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import importlib
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent57_jax import config, paths
from agent57_jax.commands import command_line
from agent57_jax.config import Settings, SettingsError
from reproductions import records
from reproductions.folders import DamageError, ReproductionError, evaluation_of, finished, from_root, has_begun, read_metrics
from reproductions.jobs import Job, JobError, Stopped, Supervisor
from reproductions.records import ROOT

RUNS = ROOT / "runs" / "reproductions"
RESULTS = ROOT / "reproductions" / "results"
TRAIN = ROOT / "train.py"
EVALUATE = ROOT / "evaluate.py"
PROFILES = ("smoke", "cpu", "gpu")
MAX_POINTS = 400  # of a curve in a record; groups of neighbours are averaged

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Training:
    """How to start one run of train.py."""

    name: str  # of its folder
    config: str  # the value of --config: configs/NAME.py:PROFILE,AGENT
    overrides: Mapping[str, Any]  # name of a setting -> value
    seed: int
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what distinguishes it from the figure's other runs


@dataclasses.dataclass(frozen=True)
class Profile:
    """The runs of a figure for one size of machine."""

    trainings: tuple[Training, ...]  # in the order in which they start
    workers: int  # runs at a time
    episodes: int  # greedy episodes that evaluate.py plays for each run


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has trained, at least for a while."""

    training: Training
    finished: bool
    metrics: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    evaluation: Mapping[str, Any]  # evaluation.json
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # result of `Figure.measure`

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training, over all starts."""
        return float(self.metrics[-1]["seconds"])

    @property
    def steps(self) -> int:
        """Agent steps of the training."""
        return int(self.metrics[-1]["steps"])

    def curve(self, key: str, over: str = "steps") -> Points:
        """(counter, value) of each line that has a value for the key, thinned."""
        return thinned([(float(line[over]), float(line[key])) for line in self.metrics if line.get(key) is not None])


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure or table.

    `summarise` turns runs into data, with an entry "expectations"; it reads no files. `draw` makes the picture from the record alone.
    """

    name: str
    profiles: Mapping[str, Profile]
    summarise: Callable[[Sequence[Run]], dict[str, Any]]
    draw: Callable[[Mapping[str, Any], pathlib.Path], None]
    # Further numbers, from a run's folder and a number of greedy episodes.
    measure: Callable[[pathlib.Path, Training, int], dict[str, Any]] = lambda folder, training, episodes: {}
    counts_unfinished: bool = False  # whether --partial includes runs that have not finished


def reproduce(figure: Figure) -> None:
    """Does what the command line asks; every problem ends the process with one clear message.

    Exit codes: 2 for a mistake of the user, 1 for failed runs, 128 plus the signal's number when stopped.
    """
    options = parse(figure)
    command = f"python -m reproductions.{figure.name} --profile={options.profile}"
    path = options.results / f"{figure.name}_{options.profile}.json"
    try:
        if options.redraw:
            record = records.read_json(path)
            if record is None:
                raise ReproductionError(f"there is no record {from_root(path)} to draw")
        else:
            record = make_record(figure, options, command)
            records.write_json(path, record)
        figure.draw(record, path.with_suffix(".png"))
    except (ReproductionError, SettingsError) as error:
        command_line.fail(str(error).replace("\n", "; "))
    except JobError as error:
        command_line.fail(f"{error}\nThe same command resumes: {command}", code=1)
    except Stopped as stopped:
        print(f"{stopped}; the same command resumes: {command}", flush=True)
        sys.exit(128 + stopped.number)
    for claim, outcome in record["expectations"].items():
        word = {True: "holds", False: "does NOT hold", None: "not decided"}[outcome["holds"]]
        print(f"{word}: {claim}: expected {outcome['expected']}, measured {outcome['measured']}")
    print(f"wrote {from_root(path)} and {path.with_suffix('.png').name}")


def parse(figure: Figure) -> argparse.Namespace:
    """Reads the command line; a mistake ends the process with one line and exit code 2."""
    parser = command_line.Parser(prog=f"python -m reproductions.{figure.name}", allow_abbrev=False)
    parser.add_argument("--profile", choices=[name for name in PROFILES if name in figure.profiles], default="cpu", help="default: cpu")
    parser.add_argument("--partial", action="store_true", help="do not train; draw the runs that exist")
    parser.add_argument("--redraw", action="store_true", help="draw the picture from the existing record")
    parser.add_argument("--workers", type=int, help="runs at a time; default: the profile's number")
    parser.add_argument("--results", type=paths.path, default=RESULTS, help="folder for record and picture; default: reproductions/results")
    options = parser.parse_args()
    if options.workers is not None and options.workers < 1:
        command_line.fail(f"--workers is {options.workers}, but must be at least 1")
    return options


def make_record(figure: Figure, options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Trains what is missing, evaluates it, and summarises all runs.

    Raises:
      SettingsError: if the settings of a run are invalid; ReproductionError: if a folder holds another run.
      JobError: if a training run or an evaluation failed; Stopped: after a signal.
    """
    profile = figure.profiles[options.profile]
    home = RUNS / figure.name / options.profile
    workers = min(options.workers or profile.workers, len(profile.trainings))
    settings = {training.name: settings_of(training) for training in profile.trainings}

    def is_finished(training: Training) -> bool:
        return finished(home / training.name, settings[training.name])

    with contextlib.ExitStack() as stack:
        keep_open = [] if options.partial else [stack.enter_context(locked(home, "; --partial draws what is there"))]
        supervisor = stack.enter_context(Supervisor(workers, ROOT, keep_open))
        usable = list(profile.trainings)
        missing = [training for training in usable if not is_finished(training)]
        if options.partial:
            begun = [training for training in missing if figure.counts_unfinished and has_begun(home / training.name)]
            usable = [training for training in usable if training not in missing or training in begun]
            if not usable:
                raise ReproductionError(f"no run in {from_root(home)} is {'saved' if figure.counts_unfinished else 'finished'} yet")
        elif missing:
            if len(missing) < len(usable):
                print(f"{len(usable) - len(missing)} of {len(usable)} runs are finished already", flush=True)
            save = stack.enter_context(session(home / "sessions.json", len(supervisor.shares[0])))
            jobs = [training_job(training, home / training.name, functools.partial(is_finished, training)) for training in missing]
            supervisor.run(jobs, len(usable), save)
        evaluate_all(supervisor, [(home / training.name, training.seed) for training in usable], profile.episodes)
        runs = [
            Run(
                training=training,
                finished=is_finished(training),
                metrics=read_metrics(home / training.name),
                evaluation=json.loads((home / training.name / "evaluation.json").read_text()),
                further=figure.measure(home / training.name, training, profile.episodes),
            )
            for training in usable
        ]

    starts = {
        run.training.name: {
            "config": run.training.config,
            "overrides": dict(run.training.overrides),
            "seed": run.training.seed,
            "finished": run.finished,
            "steps": run.steps,
            "updates": int(run.metrics[-1]["updates"]),
            "hours": records.rounded(run.seconds / 3600),
        }
        for run in runs
    }
    sessions = records.read_json(home / "sessions.json") or []
    machine = sessions[-1]["machine"] if sessions else records.machine()
    summary = figure.summarise(runs)
    if options.profile == "smoke":  # it shows that everything runs; so few steps decide no claim
        summary["expectations"] = {claim: {**outcome, "holds": None} for claim, outcome in summary["expectations"].items()}
    return {
        "figure": figure.name,
        "profile": options.profile,
        "command": command,
        "partial": len(runs) < len(profile.trainings) or not all(run.finished for run in runs),
        "date": records.now()[:10],
        "hours": records.rounded({"wall": sum(each["hours"] for each in sessions), "training": sum(run.seconds for run in runs) / 3600}),
        "git": records.git_state(ROOT),
        "machine": machine,
        "sessions": [{key: value for key, value in each.items() if key != "machine" or value != machine} for each in sessions],
        "seeds": sorted({run.training.seed for run in runs}),
        "expectations": summary.pop("expectations"),
        "data": records.rounded(summary),
        "settings": records.settings_table(starts, {name: config.flatten(config.to_dict(settings[name])) for name in starts}),
    }


def settings_of(training: Training) -> Settings:
    """All settings of a run, as train.py will have them.

    Raises:
      SettingsError: naming the run, if they are invalid.
    """
    file, _, argument = training.config.partition(":")
    try:
        module = importlib.import_module(".".join(pathlib.PurePosixPath(file).with_suffix("").parts))
        settings = module.get_config(argument) if argument else module.get_config()
        for name, value in {**training.overrides, "seed": training.seed}.items():
            *sections, field = name.split(".")
            section = functools.reduce(getattr, sections, settings)
            setattr(section, field, config.typed(getattr(section, field), value, name))
        return config.finalise(settings)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise SettingsError(f"run {training.name}: {error}") from error


def train_command(training: Training, folder: pathlib.Path) -> list[str]:
    """The command line of a run."""

    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")

    overrides = [f"--config.{name}={text(value)}" for name, value in training.overrides.items()]
    seed = f"--config.seed={training.seed}"
    return [sys.executable, from_root(TRAIN), f"--config={training.config}", *overrides, seed, f"--workdir={from_root(folder)}"]


def training_job(training: Training, folder: pathlib.Path, is_done: Callable[[], bool], then: Job | None = None) -> Job:
    """The job that trains, or resumes, a run. A run that ends with damaged metrics is not done."""

    def is_done_and_whole() -> bool:
        try:
            return is_done()
        except DamageError as error:
            print(f"{training.name}: {error}", flush=True)
            return False

    return Job(training.name, train_command(training, folder), folder / "train.log", is_done_and_whole, then)


def evaluation_job(folder: pathlib.Path, episodes: int, seed: int) -> Job:
    """The job that evaluates a run's last checkpoint."""
    options = [f"--workdir={from_root(folder)}", f"--episodes={episodes}", f"--seed={seed}"]
    return Job(
        name=f"evaluation of {folder.name}",
        command=[sys.executable, from_root(EVALUATE), *options],
        log=folder / "evaluate.log",
        is_done=lambda: evaluation_of(folder, episodes, seed) is not None,
    )


def evaluate_all(supervisor: Supervisor, folders: Sequence[tuple[pathlib.Path, int]], episodes: int) -> None:
    """Evaluates every (folder, seed) whose last checkpoint has no evaluation with this number of episodes yet."""
    jobs = [evaluation_job(folder, episodes, seed) for folder, seed in folders]
    supervisor.run([job for job in jobs if not job.is_done()])


def thinned(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most `limit` points, each the mean of as many neighbours."""
    size = max(1, -(-len(points) // limit))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group)) for group in groups]


def late_mean(points: Points, share: float = 0.1) -> float | None:
    """Mean value over the last part of a curve, by its x; None for a curve without points."""
    if not points:
        return None
    border = points[-1][0] - share * (points[-1][0] - points[0][0])
    return statistics.fmean(value for x, value in points if x >= border)


@contextlib.contextmanager
def session(path: pathlib.Path, cores_per_run: int) -> Iterator[Callable[[], None]]:
    """Adds to a file of sessions when runs trained, at which commit and on which machine; the yielded call writes the hours so far."""
    before, start = records.read_json(path) or [], time.monotonic()
    own = {"started": records.now(), "git": records.git_state(ROOT), "machine": records.machine(cores_per_run)}

    def save() -> None:
        records.write_json(path, [*before, {**own, "hours": records.rounded((time.monotonic() - start) / 3600)}])

    save()
    try:
        yield save
    finally:
        save()


@contextlib.contextmanager
def locked(folder: pathlib.Path, hint: str = "") -> Iterator[int]:
    """Locks the folder. Yields the descriptor that holds the lock while any process has it open, such as a run that outlives this process.

    Args:
      hint: appended to the message if another process holds it.

    Raises:
      ReproductionError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReproductionError(f"another process is at work in {from_root(folder)}{hint}") from None
        yield file.fileno()
