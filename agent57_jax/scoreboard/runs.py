"""The folders of runs, read with patience: what is damaged or missing becomes a note, not an end."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent57_jax import config
from agent57_jax.config import EnvironmentKind, Settings, SettingsError
from agent57_jax.environments import atari57
from agent57_jax.monitoring import video

LARGEST = 1e100  # a larger number is damage, and sums of it would overflow
MAX_ARMS = 1_000  # an arm beyond is damage
MAX_BINS = 128  # points of a curve and columns of a heat map; neighbours are merged beyond
TRAINING_EPISODES = 30  # greedy episodes of the evaluator that stand in for an evaluation
# Kinds of environments that are a task each, and have no use for a task_id.
GRID_WORLDS = {kind.value for kind in (EnvironmentKind.RANDOM_COIN, EnvironmentKind.DISCO_MAZE, EnvironmentKind.SHIFTING_CORRIDOR)}
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
    """Neighbouring lines of metrics.jsonl, merged."""

    frames: float  # of the last line
    training: float = 0.0  # sum of the returns of training episodes
    training_episodes: float = 0.0
    evaluation: float = 0.0  # sum of the returns of greedy evaluation episodes
    evaluation_episodes: float = 0.0
    pulls: dict[int, float] = dataclasses.field(default_factory=dict)  # arm -> training episodes
    returns: dict[int, float] = dataclasses.field(default_factory=dict)  # arm -> sum of their returns

    def add(self, later: "Bin") -> None:
        """Takes in the bin that follows."""
        self.frames = later.frames
        self.training += later.training
        self.training_episodes += later.training_episodes
        self.evaluation += later.evaluation
        self.evaluation_episodes += later.evaluation_episodes
        for arm, pulls in later.pulls.items():
            self.pulls[arm] = self.pulls.get(arm, 0.0) + pulls
            self.returns[arm] = self.returns.get(arm, 0.0) + later.returns[arm]


@dataclasses.dataclass(frozen=True)
class History:
    """What metrics.jsonl tells."""

    bins: Sequence[Bin] = ()
    frames: int = 0
    steps: int | None = None  # agent steps
    hours: float = 0.0
    last_greedy: float | None = None  # mean return of the last greedy evaluation episodes
    last_greedy_episodes: int = 0
    damaged_lines: int = 0
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
    """Yields `folder` if it is a run's, else every run's folder below it, in the order of their names.

    Args:
      unreadable: gets the folders below that cannot be looked into, and why.

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
      SettingsError, OSError: if config.json does not tell which task the run is of; nothing else keeps a run from being read.
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
    """Label -> what tells its settings from those of the other labels, in words."""
    names = sorted({name for flat in settings.values() for name in _own(flat)})
    differing = [name for name in names if len({json.dumps(flat.get(name)) for flat in settings.values()}) > 1]
    return {label: ", ".join(f"{name} {flat.get(name)}" for name in differing) for label, flat in settings.items()}


def _own(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flat.items() if not name.startswith(UNLIKE)}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST  # NaN is not
    return float(value) if is_number else None


def _videos(folder: pathlib.Path, notes: list[str]) -> list[pathlib.Path]:
    """What the training recorded in its order, behind what else lies there."""
    try:
        recorded = video.recordings(folder)
        others = sorted(set(folder.glob("*.mp4")) - set(recorded))
        return [path for path in [*others, *recorded] if path.is_file()]
    except OSError as error:
        notes.append(f"videos cannot be read ({error.strerror})")
        return []


def _own_frames(folder: pathlib.Path, history: History) -> int | None:
    """The most frames that the run has trained for all that its folder tells; None if it tells nothing.

    A checkpoint may be ahead of the last line of metrics, which a kill kept from being written.
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

    def growth(line: Mapping[str, Any], counter: str) -> float:
        now = _number(line.get(counter)) or before[counter]
        grown = now - before[counter]
        before[counter] = now
        return max(grown, 1.0)

    for line in _lines(path, notes):
        if line is None or (now := _number(line.get("frames"))) is None:
            damaged += 1
            continue
        frames, steps, hours = now, _number(line.get("steps")), (_number(line.get("seconds")) or 0.0) / 3600
        bin_ = Bin(frames)
        if (value := _number(line.get("episode/return"))) is not None:
            bin_.training_episodes = growth(line, "episodes")
            bin_.training = value * bin_.training_episodes
        if (value := _number(line.get("evaluation/return"))) is not None:
            bin_.evaluation_episodes = growth(line, "evaluation/episodes")
            bin_.evaluation = value * bin_.evaluation_episodes
            greedy.append((value, bin_.evaluation_episodes))
            while sum(weight for _, weight in greedy) - greedy[0][1] >= TRAINING_EPISODES:
                greedy.popleft()
        for key, value in line.items():
            head, _, arm = key.rpartition("_")
            if head == "arm/pulls" and arm.isdecimal() and int(arm) < MAX_ARMS and (pulls := _number(value)) and pulls > 0:
                bin_.pulls[int(arm)] = pulls
                bin_.returns[int(arm)] = (_number(line.get(f"arm/return_{arm}")) or 0.0) * pulls
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
        notes.append(f"metrics.jsonl has {damaged} damaged {'line' if damaged == 1 else 'lines'}")
    return History(bins, int(frames), None if steps is None else int(steps), hours, mean, int(episodes), damaged, len(notes) == noted)


def _lines(path: pathlib.Path, notes: list[str]) -> Iterator[dict[str, Any] | None]:
    """Yields each line's object; None for a line that is none. A last line without an end is being written, and left out."""
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
