"""How a figure is made: trainings as subprocesses, their evaluation, a record of what was measured, a picture.

A module of a figure states what the paper shows and how each profile tests it, in a `Figure`; `reproduce` does the rest. Trainings lie
under runs/reproductions/FIGURE/PROFILE/NAME. The same command goes on where it was stopped, and skips what is finished.
"""

import contextlib
import dataclasses
import enum
import fcntl
import functools
import importlib
import json
import os
import pathlib
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
MAX_POINTS = 400  # of a curve in a record; more are averaged in groups

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Training:
    """One run of train.py."""

    name: str  # of its folder
    config: str  # what --config is given: configs/NAME.py:PROFILE,AGENT
    overrides: Mapping[str, Any]  # name of a setting -> value
    seed: int
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what tells it from the figure's other runs


@dataclasses.dataclass(frozen=True)
class Profile:
    """The runs of a figure for one size of machine."""

    trainings: tuple[Training, ...]  # in the order in which they start
    workers: int  # trainings at a time
    episodes: int  # greedy episodes that evaluate.py plays for each run


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of a training that has been run, at least for a while."""

    training: Training
    finished: bool
    metrics: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    evaluation: Mapping[str, Any]  # evaluation.json
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what `Figure.measure` gave

    @property
    def seconds(self) -> float:
        """Wall time of the training, all starts together."""
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
    measure: Callable[[pathlib.Path, Training, int], dict[str, Any]] | None = None  # further numbers of a run's folder, by greedy episodes
    counts_unfinished: bool = False  # whether a run that still goes on tells something, with --partial


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line of a figure."""

    profile: str
    partial: bool
    redraw: bool
    workers: int | None
    results: pathlib.Path


def reproduce(figure: Figure, arguments: Sequence[str] | None = None) -> None:
    """Does what the command line asks; every problem ends the process with one clear message.

    Exit codes: 2 for a mistake of the user, 1 for runs that failed, 128 and the signal's number when stopped.
    """
    options = parse(figure, sys.argv[1:] if arguments is None else arguments)
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
        command_line.fail(f"{error}\nThe same command goes on with what is missing: {command}", code=1)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here: {command}", flush=True)
        sys.exit(128 + stopped.number)
    report(record)
    print(f"wrote {from_root(path)} and {path.with_suffix('.png').name}")


def parse(figure: Figure, arguments: Sequence[str]) -> Options:
    """Reads the command line; a mistake ends the process with one line and exit code 2."""
    parser = command_line.Parser(prog=f"python -m reproductions.{figure.name}", allow_abbrev=False)
    parser.add_argument("--profile", choices=[name for name in PROFILES if name in figure.profiles], default="cpu", help="default: cpu")
    parser.add_argument("--partial", action="store_true", help="train nothing; draw what is there")
    parser.add_argument("--redraw", action="store_true", help="draw the picture from the record that is there")
    parser.add_argument("--workers", type=int, help="trainings at a time; default: as the profile has it")
    parser.add_argument("--results", type=paths.path, default=RESULTS, help="folder for record and picture; default: reproductions/results")
    options = parser.parse_args(list(arguments))
    if options.workers is not None and options.workers < 1:
        command_line.fail(f"--workers is {options.workers}, but must be at least 1")
    return Options(**vars(options))


def make_record(figure: Figure, options: Options, command: str) -> dict[str, Any]:
    """Trains what is missing, evaluates it, and summarises all runs.

    Raises:
      SettingsError: for a run whose settings cannot work; ReproductionError: for a folder that holds another run.
      JobError: if a training or an evaluation failed; Stopped: after a signal.
    """
    profile = figure.profiles[options.profile]
    home = RUNS / figure.name / options.profile
    workers = min(options.workers or profile.workers, len(profile.trainings))
    settings = {training.name: settings_of(training) for training in profile.trainings}
    folders = {training.name: home / training.name for training in profile.trainings}

    def is_finished(training: Training) -> bool:
        return finished(folders[training.name], settings[training.name])

    sessions = Sessions(home / "sessions.json")
    with contextlib.ExitStack() as stack:
        keep_open = [] if options.partial else [stack.enter_context(locked(home, "; --partial draws what is there"))]
        supervisor = stack.enter_context(Supervisor(workers, ROOT, keep_open))
        missing = [training for training in profile.trainings if not is_finished(training)]
        usable = [
            training
            for training in profile.trainings
            if training not in missing or (figure.counts_unfinished and has_begun(folders[training.name]))
        ]
        if options.partial:
            if not usable:
                raise ReproductionError(f"no run in {from_root(home)} is {'saved' if figure.counts_unfinished else 'finished'} yet")
        else:
            usable = list(profile.trainings)
            train(supervisor, missing, folders, is_finished, len(usable), sessions)
        evaluate_all(supervisor, [(folders[training.name], training.seed) for training in usable], profile.episodes)
        measure = figure.measure or (lambda folder, training, episodes: {})
        further = {training.name: measure(folders[training.name], training, profile.episodes) for training in usable}
        if not options.partial:
            sessions.save()

    runs = [
        Run(
            training=training,
            finished=is_finished(training),
            metrics=read_metrics(folders[training.name]),
            evaluation=json.loads((folders[training.name] / "evaluation.json").read_text()),
            further=further[training.name],
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
    flat = {name: config.flatten(config.to_dict(settings[name])) for name in starts}
    summary = figure.summarise(runs)
    if options.profile == "smoke":  # shows that everything runs; what was learnt in so few steps tells nothing of a claim
        summary["expectations"] = {claim: {**outcome, "holds": None} for claim, outcome in summary["expectations"].items()}
    return {
        "figure": figure.name,
        "profile": options.profile,
        "command": command,
        "partial": len(runs) < len(profile.trainings) or not all(run.finished for run in runs),
        "date": records.now()[:10],
        "hours": {
            "wall": sessions.hours(),
            "training": records.rounded(sum(run.seconds for run in runs) / 3600),
        },
        "git": records.git_state(ROOT),
        **sessions.record(),
        "seeds": sorted({run.training.seed for run in runs}),
        "expectations": summary.pop("expectations"),
        "data": records.rounded(summary),
        "settings": records.settings_table(starts, flat),
    }


def report(record: Mapping[str, Any]) -> None:
    """Prints what became of each expectation."""
    for claim, outcome in record["expectations"].items():
        word = {True: "holds", False: "does NOT hold", None: "not decided"}[outcome["holds"]]
        print(f"{word}: {claim}: expected {outcome['expected']}, measured {outcome['measured']}")


def settings_of(training: Training) -> Settings:
    """All settings of a run, as train.py will have them.

    Raises:
      SettingsError: naming the run, if they cannot work.
    """
    file, _, argument = training.config.partition(":")
    try:
        module = importlib.import_module(".".join(pathlib.PurePosixPath(file).with_suffix("").parts))
        settings = module.get_config(argument) if argument else module.get_config()
        for name, value in {**training.overrides, "seed": training.seed}.items():
            *sections, field = name.split(".")
            section = settings
            for part in sections:
                section = getattr(section, part)
            current = getattr(section, field)
            setattr(section, field, type(current)(value) if isinstance(current, enum.Enum | tuple) else value)
        return config.finalise(settings)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise SettingsError(f"run {training.name}: {error}") from error


def train_command(training: Training, folder: pathlib.Path) -> list[str]:
    """The command line of a run."""
    overrides = [f"--config.{name}={_as_argument(value)}" for name, value in training.overrides.items()]
    seed = f"--config.seed={training.seed}"
    return [sys.executable, from_root(TRAIN), f"--config={training.config}", *overrides, seed, f"--workdir={from_root(folder)}"]


def training_job(training: Training, folder: pathlib.Path, is_done: Callable[[], bool], then: Job | None = None) -> Job:
    """The job that trains, or goes on with, a run; one whose metrics are damaged when it has ended was not done."""

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


def train(
    supervisor: Supervisor,
    trainings: Sequence[Training],
    folders: Mapping[str, pathlib.Path],
    is_finished: Callable[[Training], bool],
    total: int,
    sessions: "Sessions",
) -> None:
    """Runs those trainings of the figure's `total` that are not finished."""
    if total > len(trainings):
        print(f"{total - len(trainings)} of {total} runs are finished already", flush=True)
    jobs = [training_job(training, folders[training.name], functools.partial(is_finished, training)) for training in trainings]
    if jobs:
        sessions.begin(len(supervisor.shares[0]))
        try:
            supervisor.run(jobs, total, sessions.save)
        finally:
            sessions.save()


def evaluate_all(supervisor: Supervisor, folders: Sequence[tuple[pathlib.Path, int]], episodes: int) -> None:
    """Evaluates every (folder, seed) that has no evaluation of its last checkpoint with so many episodes yet."""
    jobs = [evaluation_job(folder, episodes, seed) for folder, seed in folders]
    supervisor.run([job for job in jobs if not job.is_done()])


def thinned(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most `limit` points, each the mean of as many neighbours."""
    size = -(-len(points) // limit)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if points else []
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value."""
    return sum(values) / len(values)


def late_mean(points: Points, share: float = 0.1) -> float | None:
    """Mean value over the last part of a curve, by its x; None for a curve without points."""
    if not points:
        return None
    border = points[-1][0] - share * (points[-1][0] - points[0][0])
    return mean([value for x, value in points if x >= border])


class Sessions:
    """When a figure's trainings were at work, at which commit and on what machine; kept in a file beside the runs."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        found = records.read_json(path)
        self._sessions: list[dict[str, Any]] = found if isinstance(found, list) else []
        self._start: float | None = None

    def begin(self, cores_per_run: int) -> None:
        """Opens a session."""
        self._start = time.monotonic()
        machine = records.machine(cores_per_run)
        self._sessions.append({"started": records.now(), "git": records.git_state(ROOT), "machine": machine, "hours": 0.0})
        self.save()

    def save(self) -> None:
        """Writes how long the open session has lasted."""
        if self._start is not None:
            self._sessions[-1]["hours"] = records.rounded((time.monotonic() - self._start) / 3600)
            records.write_json(self._path, self._sessions)

    def record(self) -> dict[str, Any]:
        """The entries of a record: the last machine, and all sessions, each with its machine only if that was another one."""
        machine = self._sessions[-1]["machine"] if self._sessions else records.machine()
        return {
            "machine": machine,
            "sessions": [
                {key: value for key, value in session.items() if key != "machine" or value != machine} for session in self._sessions
            ],
        }

    def hours(self) -> float:
        """Wall time of all sessions."""
        return float(records.rounded(sum(session["hours"] for session in self._sessions)))


@contextlib.contextmanager
def locked(folder: pathlib.Path, hint: str = "") -> Iterator[int]:
    """Holds the folder; gives the descriptor that holds it as long as any process has it open, so also a training left by a kill.

    Args:
      hint: what the message says besides where another process holds it.

    Raises:
      ReproductionError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReproductionError(f"another process is at work in {from_root(folder)}{hint}") from None
        yield descriptor
    finally:
        os.close(descriptor)


def _as_argument(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
