"""Reads the folders of runs. A damaged or missing file becomes a note, not an error."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from agent57_jax import config
from agent57_jax.config import EnvironmentKind, Settings, SettingsError
from agent57_jax.environments import atari57
from agent57_jax.monitoring import video
from agent57_jax.scoreboard.wording import plural

Counter: TypeAlias = Any  # a collections.Counter of floats, for which there is no type

LARGEST = 1e100  # a larger number is damage, and sums of it would overflow
MAX_ARMS = 1_000  # an arm beyond is damage
MAX_BINS = 128  # points of a curve and columns of a heat map; with more, neighbours are merged
TRAINING_EPISODES = 30  # greedy episodes of the evaluator that stand in for an evaluation
# Kinds of environments that have a single task and ignore task_id.
GRID_WORLDS = {kind.value for kind in (EnvironmentKind.RANDOM_COIN, EnvironmentKind.DISCO_MAZE, EnvironmentKind.SHIFTING_CORRIDOR)}
CURVES = (("training", "episode/return", "episodes"), ("evaluation", "evaluation/return", "evaluation/episodes"))  # kind, mean, counter
# Settings that two seeds of one agent may differ in.
UNLIKE = ("seed", "total_steps", "environment.task_id", *config.INCIDENTAL_SETTINGS)
# Settings under which a score on the 57 games can be compared with published ones.
PROTOCOL_SETTINGS = (
    "environment.max_episode_steps",
    "environment.action_repeat_frames",
    "environment.noop_max",
    "environment.repeat_action_probability",
    "evaluation.epsilon",
)


@dataclasses.dataclass
class Bin:
    """Neighbouring lines of metrics.jsonl, merged. Sums by kind of episode ("training", "evaluation") and by arm of the bandit."""

    frames: float  # of the last line
    returns: Counter = dataclasses.field(default_factory=collections.Counter)  # kind -> sum of returns
    episodes: Counter = dataclasses.field(default_factory=collections.Counter)  # kind -> episodes
    arm_returns: Counter = dataclasses.field(default_factory=collections.Counter)  # arm -> sum of returns of training episodes
    pulls: Counter = dataclasses.field(default_factory=collections.Counter)  # arm -> training episodes

    def add(self, later: "Bin") -> None:
        """Takes in the bin that follows."""
        self.frames = later.frames
        for name in ("returns", "episodes", "arm_returns", "pulls"):
            getattr(self, name).update(getattr(later, name))


@dataclasses.dataclass(frozen=True)
class History:
    """What metrics.jsonl says."""

    bins: Sequence[Bin] = ()
    frames: int = 0
    steps: int | None = None  # agent steps
    hours: float = 0.0
    last_greedy: float | None = None  # mean return of the last greedy evaluation episodes
    last_greedy_episodes: int = 0
    is_whole: bool = False  # the file is there and was read without damage


@dataclasses.dataclass(frozen=True)
class Run:
    """One folder."""

    folder: pathlib.Path
    task: str  # such as "Pong-v5" or "random_coin"; in atari57.SCORES only if it is that game as EnvPool plays it
    seed: int
    settings: Mapping[str, Any]  # all of config.json, dotted name -> value
    num_policies: int  # arms of the bandit; 0 if the settings do not tell
    score: float | None  # mean return of greedy episodes; None: not evaluated yet
    source: str  # of the score: "evaluation", "training" or "none"
    episodes: int  # behind the score
    frames: int  # trained when the score was made
    is_unfinished: bool  # total_steps are not reached
    history: History
    videos: Sequence[pathlib.Path]
    follows_protocol: bool  # False: a score on the 57 games that is not to be compared with published ones
    notes: Sequence[str]


def find(folder: pathlib.Path, unreadable: list[tuple[pathlib.Path, str]]) -> Iterator[pathlib.Path]:
    """Yields `folder` if it is a run, else the folder of every run below it, in the order of their names.

    Args:
      unreadable: gets the folders below that cannot be read, and why.

    Raises:
      OSError: if `folder` itself cannot be.
    """
    seen: set[pathlib.Path] = set()

    def walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
        try:
            real = path.resolve()
            if real in seen:  # a link that leads back
                return
            seen.add(real)
            is_run = (path / "config.json").exists()
            children = [] if is_run else [child for child in sorted(path.iterdir()) if child.is_dir()]
        except OSError as error:
            if path == folder:
                raise
            unreadable.append((path, str(error)))
            return
        if is_run:
            yield path
        for child in children:
            yield from walk(child)

    yield from walk(folder)


def read(folder: pathlib.Path) -> Run:
    """Reads a run.

    Raises:
      SettingsError, OSError: if config.json does not tell the task; damage in other files becomes a note.
    """
    settings = config.flatten(config.read_json(folder / "config.json"))
    kind, task_id, seed = (settings.get(name) for name in ("environment.kind", "environment.task_id", "seed"))
    if not (isinstance(kind, str) and isinstance(task_id, str) and isinstance(seed, int)):
        raise SettingsError(f"{folder / 'config.json'} names no task or no seed")
    game = kind if kind in GRID_WORLDS else task_id  # as evaluation.json names it
    # Another adapter may give the same name to a game with other rules.
    task = f"{game} ({kind})" if game in atari57.SCORES and kind != EnvironmentKind.ENVPOOL.value else game
    notes: list[str] = []
    history = _read_history(folder / "metrics.jsonl", notes)
    evaluation = _read_evaluation(folder / "evaluation.json", game, notes)
    own = _own_frames(folder, history)
    if evaluation is not None and own is not None and evaluation["frames_trained"] > own:
        notes.append(f"evaluation.json is of {evaluation['frames_trained']:,} frames, but the run has {own:,}: it is of another run")
        evaluation = None
    if evaluation is not None:
        score, source, episodes, frames = evaluation["mean"], "evaluation", evaluation["episodes"], evaluation["frames_trained"]
        if history.frames > frames:
            notes.append(f"evaluated at {frames:,} frames; trained on since then")
    elif history.last_greedy is not None:
        score, source, episodes, frames = history.last_greedy, "training", history.last_greedy_episodes, history.frames
        notes.append(f"no evaluation: the last {episodes} greedy episodes of the evaluator during training")
    else:
        score, source, episodes, frames = None, "none", 0, history.frames
        notes.append("not evaluated yet")
    usual = config.flatten(config.to_dict(Settings()))
    odd = [f"{name} {settings.get(name)} instead of {usual[name]}" for name in PROTOCOL_SETTINGS if settings.get(name) != usual[name]]
    follows_protocol = not odd or task not in atari57.SCORES
    if not follows_protocol:
        notes.append(f"not the protocol: {', '.join(odd)}")
    total, steps = settings.get("total_steps"), history.steps
    is_unfinished = isinstance(total, int) and steps is not None and steps < total
    if is_unfinished:
        notes.append(f"trained {steps:,} of {total:,} steps")
    videos = _videos(folder / "videos", notes)
    policies = settings.get("policy.num_policies")
    return Run(
        folder=folder,
        task=task,
        seed=seed,
        settings=settings,
        num_policies=policies if isinstance(policies, int) and 0 < policies <= MAX_ARMS else 0,
        score=score,
        source=source,
        episodes=episodes,
        frames=frames,
        is_unfinished=is_unfinished,
        history=history,
        videos=videos,
        follows_protocol=follows_protocol,
        notes=notes,
    )


def labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Numbers runs by what they learn with: the same label for settings that differ in nothing but `UNLIKE`.

    Runs with other settings are not seeds of the same agent, and their scores must not be averaged.
    """
    keys = [json.dumps(_own(flat), sort_keys=True) for flat in settings]
    order = list(dict.fromkeys(keys))
    return ["ours" if len(order) == 1 else f"ours {order.index(key) + 1}" for key in keys]


def differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Label -> the settings in which it differs from other labels, in words."""
    names = sorted({name for flat in settings.values() for name in _own(flat)})
    differing = [name for name in names if len({json.dumps(flat.get(name)) for flat in settings.values()}) > 1]
    return {label: ", ".join(f"{name} {flat.get(name)}" for name in differing) for label, flat in settings.items()}


def _own(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flat.items() if not name.startswith(UNLIKE)}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST  # NaN is not
    return float(value) if is_number else None


def _videos(folder: pathlib.Path, notes: list[str]) -> list[pathlib.Path]:
    """The recordings of the training in their order, after any other videos."""
    try:
        recorded = video.recordings(folder)
        others = sorted(set(folder.glob("*.mp4")) - set(recorded))
        return [path for path in [*others, *recorded] if path.is_file()]
    except OSError as error:
        notes.append(f"videos cannot be read ({error.strerror})")
        return []


def _own_frames(folder: pathlib.Path, history: History) -> int | None:
    """The most frames that the folder says the run has trained for; None if it says nothing.

    A checkpoint may be ahead of the last line of metrics, if a kill came between them.
    """
    saved = []
    for path in (folder / "checkpoints").glob("*/meta/metadata"):
        try:
            saved.append(int(json.loads(path.read_text(encoding="utf-8"))["content"]["counters"]["frames"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    is_known = bool(saved) or history.is_whole
    return max([history.frames, *saved]) if is_known else None


def _read_evaluation(path: pathlib.Path, game: str, notes: list[str]) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"evaluation.json is damaged ({type(error).__name__})")
        return None
    values = values if isinstance(values, dict) else {}
    mean, episodes, frames = (_number(values.get(name)) for name in ("mean", "episodes", "frames_trained"))
    if mean is None or episodes is None or frames is None:
        notes.append("evaluation.json is damaged (no mean, episodes or frames_trained)")
        return None
    named = str(values.get("game"))
    if named != game and (named in atari57.SCORES or game in atari57.SCORES):
        notes.append(f"evaluation.json is of {named}, not of {game}")
        return None
    return {"mean": mean, "episodes": int(episodes), "frames_trained": int(frames)}


def _read_history(path: pathlib.Path, notes: list[str]) -> History:
    bins: list[Bin] = []
    noted = len(notes)
    lines_per_bin, lines_in_last, damaged = 1, 0, 0
    before = {"episodes": 0.0, "evaluation/episodes": 0.0}
    frames, steps, hours = 0.0, None, 0.0
    greedy: collections.deque[tuple[float, float]] = collections.deque()  # (mean return, episodes), the last ones

    for line in _lines(path, notes):
        if line is None or (now := _number(line.get("frames"))) is None:
            damaged += 1
            continue
        frames, steps, hours = now, _number(line.get("steps")), (_number(line.get("seconds")) or 0.0) / 3600
        bin_ = Bin(frames)
        for kind, key, counter in CURVES:
            if (value := _number(line.get(key))) is None:
                continue
            counted = _number(line.get(counter)) or before[counter]
            episodes, before[counter] = max(counted - before[counter], 1.0), counted
            bin_.episodes[kind], bin_.returns[kind] = episodes, value * episodes
            if kind == "evaluation":
                greedy.append((value, episodes))
                while sum(weight for _, weight in greedy) - greedy[0][1] >= TRAINING_EPISODES:
                    greedy.popleft()
        for key, value in line.items():
            head, _, arm = key.rpartition("_")
            if head == "arm/pulls" and arm.isdecimal() and int(arm) < MAX_ARMS and (pulls := _number(value)) and pulls > 0:
                bin_.pulls[int(arm)] = pulls
                bin_.arm_returns[int(arm)] = (_number(line.get(f"arm/return_{arm}")) or 0.0) * pulls
        if bins and lines_in_last < lines_per_bin:
            bins[-1].add(bin_)
            lines_in_last += 1
        else:
            bins.append(bin_)
            lines_in_last = 1
        if len(bins) > MAX_BINS:
            for even, odd in zip(bins[::2], bins[1::2], strict=False):
                even.add(odd)
            bins, lines_per_bin = bins[::2], 2 * lines_per_bin  # an odd number: the last one, just begun, stays by itself
    episodes = sum(weight for _, weight in greedy)
    mean = sum(value * weight for value, weight in greedy) / episodes if greedy else None
    if damaged:
        notes.append(f"metrics.jsonl has {damaged} damaged {plural(damaged, 'line')}")
    return History(bins, int(frames), None if steps is None else int(steps), hours, mean, int(episodes), len(notes) == noted)


def _lines(path: pathlib.Path, notes: list[str]) -> Iterator[dict[str, Any] | None]:
    """Yields the object of each line, None for a damaged line. A last line without an end is being written and left out."""
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                yield value if isinstance(value, dict) else None
    except FileNotFoundError:
        notes.append("no metrics.jsonl")
    except OSError as error:
        notes.append(f"metrics.jsonl cannot be read ({error.strerror})")
