"""The processes of Gymnasium environments: making them, checking their spaces, stepping them. The only importer of gymnasium.

Nothing here imports JAX, which every process would have to load.
"""

import contextlib
import difflib
import enum
import functools
import importlib
import mmap
import os
import random
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, NamedTuple, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

# Ids that a package registers when it is imported: their prefixes, the module, what to install.
_FAMILIES = (
    (("MiniGrid-", "BabyAI-"), "minigrid", "-e '.[gymnasium]' in the repository"),
    ("ALE/", "ale_py", "ale-py"),
    ("MiniWorld-", "miniworld", "miniworld"),
)
# Spread MiniGrid's numbers for object (0..10), colour (0..5) and state (0..3) over the values of a byte.
_MINIGRID_FACTORS = np.array([25, 51, 85], np.uint8)
_CHANNELS = (1, 3, 4)

_GYMNASIUM = os.path.dirname(gymnasium.__file__) + os.sep
# For environments of an older interface: what methods take and return, and Python's messages where one is called.
_RETURNS = {
    "reset": "reset() must take seed and options, and must return two values: observation, info",
    "step": "step() must return five values: observation, reward, terminated, truncated, info",
}
_OLD_SIGNS = ("values to unpack", "cannot unpack", "unexpected keyword argument 'seed'")

_WRAP = "let environment.task_id name a function that returns it wrapped in gymnasium.wrappers.{} (docs/environments.md)"


class Task(NamedTuple):
    """Which environment, and how."""

    task_id: str  # a Gymnasium id, or "module:name" where the module has that name
    max_episode_steps: int | None  # agent steps until an episode is truncated, unless the environment has a shorter limit
    can_render: bool  # ask it to draw, if it can


class Description(NamedTuple):
    """What the spaces of an environment say."""

    observation_shape: tuple[int, ...]  # [height, width, channels] or [size]
    observation_dtype: np.dtype  # uint8 or float32
    first_action: int  # what the environment calls action 0
    action_dtype: np.dtype  # of what its action space draws
    action_names: tuple[str, ...]
    steps_per_second: float | None  # of a video; None: unknown


def make(task: Task) -> gymnasium.Env[Any, Any]:
    """One environment with its wrappers.

    Raises:
      ValueError: one line, when there is none of that name or it cannot be made.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    # Pictures are drawn in memory. Without a screen, SDL would look for one and print an error that reads like ours.
    for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(variable, "dummy")
    create = _maker(task.task_id)
    with _blaming(task.task_id, "can't be made"):
        environment = create()
    if not isinstance(environment, gymnasium.Env):
        raise ValueError(f"{task.task_id} can't be used: it made a {type(environment).__name__}, not a gymnasium.Env")
    with _blaming(task.task_id, "can't be made"):
        if task.can_render and "rgb_array" in (_metadata(environment).get("render_modes") or ()):
            environment.close()
            environment = _drawn(create)
    if any(base.__module__.startswith("minigrid.") for base in type(environment.unwrapped).__mro__):
        environment = _minigrid_image(environment)
    if task.max_episode_steps is not None:
        environment = wrappers.TimeLimit(environment, task.max_episode_steps)
    return environment


@contextlib.contextmanager
def _blaming(task_id: str, problem: str) -> Iterator[None]:
    """Around the environment's own code, which can raise anything: a ValueError of one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{task_id} {problem}: {summary(error)}") from error


def _drawn(create: Callable[..., gymnasium.Env[Any, Any]]) -> gymnasium.Env[Any, Any]:
    """The environment with its pictures, or without if its maker takes no `render_mode`."""
    try:
        return create(render_mode="rgb_array")
    except TypeError as error:
        if "unexpected keyword argument 'render_mode'" not in str(error):
            raise
        return create()


def _metadata(environment: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    return environment.metadata or {}  # some say None


def _maker(task_id: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    """What makes the environment: a class or function of the user's module, or Gymnasium for an id."""
    module_name, colon, name = task_id.rpartition(":")
    module = _module(task_id, module_name) if colon else None
    if module is not None and callable(getattr(module, name, None)):
        maker: Callable[..., gymnasium.Env[Any, Any]] = getattr(module, name)
        return maker
    for prefix, package, install in _FAMILIES:
        if name.startswith(prefix):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                raise ValueError(f"{task_id} needs the package {error.name}: pip install {install}") from error
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        known = [*gymnasium.registry, *([] if module is None else (key for key in vars(module) if not key.startswith("_")))]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        where = "Gymnasium has no environment" if module is None else f"module {module_name} has no"
        hint = f"; did you mean {' or '.join(near)}?" if near else ": is the package that registers it installed, as in 'package:Name-v0'?"
        raise ValueError(f"{where} {name!r}{hint}") from error
    return functools.partial(gymnasium.make, name, disable_env_checker=True)


def _module(task_id: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{task_id} needs module {error.name!r}: it must be installed, lie beside train.py, or be on PYTHONPATH"
        ) from error
    except Exception as error:  # the user's code
        raise ValueError(f"{task_id}: module {name!r} can't be imported: {summary(error)}") from error


def _minigrid_image(environment: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """MiniGrid's partial view alone: uint8 [height, width, 3] of object, colour and state, each spread over 0..255.

    The networks divide bytes by 255, and MiniGrid's own numbers only go up to 10. The text of the mission and the compass are left out.
    """
    space = environment.observation_space
    if not isinstance(space, spaces.Dict) or "image" not in space.spaces:
        return environment  # somebody has wrapped it already
    image = space["image"]
    shown = spaces.Box(0, 255, image.shape, np.uint8)
    return wrappers.TransformObservation(environment, lambda observation: observation["image"] * _MINIGRID_FACTORS, shown)


def describe(task: Task) -> Description:
    """Makes an environment for a moment and checks its spaces.

    Raises:
      ValueError: one line, when it cannot be made, or when the networks can't take its spaces; it names a wrapper that helps.
    """
    environment = make(task)
    try:
        return _description(task.task_id, environment)
    finally:
        with contextlib.suppress(Exception):
            environment.close()


def _description(task_id: str, environment: gymnasium.Env[Any, Any]) -> Description:
    with _blaming(task_id, "can't be used"):
        action, observation = (getattr(environment, name, None) for name in ("action_space", "observation_space"))
    if not isinstance(action, spaces.Space) or not isinstance(observation, spaces.Space):
        raise ValueError(f"{task_id} can't be used: define observation_space and action_space, of gymnasium.spaces")
    if not isinstance(action, spaces.Discrete):
        raise ValueError(f"{task_id} is not supported: its actions are {_kind(action)}, and only Discrete actions are supported")
    start, count = int(action.start), int(action.n)
    shape, dtype = _observation(task_id, observation)
    with _blaming(task_id, "can't be used"):
        names, speed = _action_names(environment, start, count), float(_metadata(environment).get("render_fps") or 0)
    return Description(shape, dtype, start, np.dtype(action.dtype), names, speed or None)


def _observation(task_id: str, space: spaces.Space[Any]) -> tuple[tuple[int, ...], np.dtype]:
    wrapper = "FlattenObservation"
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3):
        shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        if shape[-1] in _CHANNELS or shape[0] not in _CHANNELS:
            return shape, np.dtype(np.uint8)
        wrapper = "TransformObservation with channels last"
    elif isinstance(space, spaces.Box) and len(space.shape) == 1:
        return space.shape, np.dtype(np.float32)
    elif isinstance(space, spaces.Box) and len(space.shape) == 3:
        wrapper = "RescaleObservation to 0..255 and DtypeObservation to uint8"
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        wrapper = "FilterObservation for its image, or FlattenObservation for a vector"
    raise ValueError(
        f"{task_id} is not supported: its observations are {_kind(space)}, and only uint8 images and vectors are supported; "
        f"{_WRAP.format(wrapper)}"
    )


def _kind(space: spaces.Space[Any]) -> str:
    """A space in a few words: its own text can have many lines."""
    if isinstance(space, spaces.Dict):
        return f"a Dict of {', '.join(space.spaces)}"
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n})"
    return type(space).__name__ + ("" if space.shape is None else f" {space.dtype}{list(space.shape)}")


def _action_names(environment: gymnasium.Env[Any, Any], start: int, count: int) -> tuple[str, ...]:
    """The environment's names for its actions (Atari and MiniGrid have some), else their numbers."""
    meanings, members = (getattr(environment.unwrapped, name, None) for name in ("get_action_meanings", "actions"))
    names: list[str] = []
    if callable(meanings):
        names = [str(name) for name in meanings()]
    elif isinstance(members, type) and issubclass(members, enum.IntEnum):
        names = [member.name for member in sorted(members)]
    # A name becomes a part of a metric's key.
    is_usable = all(name.strip() and name.isprintable() and not set(name) & set("{}") for name in names)
    if is_usable and len(names) == len(set(names)) == count:
        return tuple(names)
    return tuple(str(start + action) for action in range(count))


def summary(error: BaseException) -> str:
    """One line: what was raised, and where in the environment's code."""
    message = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    if last is None or isinstance(error, gymnasium.error.Error):  # Gymnasium's messages say what to do
        return message or type(error).__name__
    if last.name in _RETURNS and last.filename.startswith((_GYMNASIUM, __file__)) and any(sign in message for sign in _OLD_SIGNS):
        return _RETURNS[last.name]
    if last.filename == __file__:  # and so do ours
        return message or type(error).__name__
    return f"{type(error).__name__}: {message} ({last.filename}:{last.lineno}, in {last.name})"


def _returned(method: str, count: int, values: Any) -> Any:
    if not isinstance(values, tuple | list) or len(values) != count:
        raise ValueError(_RETURNS[method])
    return values


def _number(name: str, value: Any) -> np.ndarray:
    """A number or truth value that `step` returned. Anything else would fail later without a name, or pass for true."""
    try:
        number = np.asarray(value)
        if number.dtype == object and isinstance(value, SupportsFloat):  # a fraction, for one
            number = np.asarray(float(value))
    except ValueError:  # rows of several lengths
        number = np.empty(0)
    if number.ndim or number.dtype.kind not in "biuf":
        wanted = "a number" if name == "reward" else "true or false"
        raise ValueError(f"step() returned {name} {' '.join(repr(value).split())[:60]}, but it must be {wanted}")
    return number


def _fitting(subject: str, values: np.ndarray) -> np.ndarray:
    """The same as float32, if it is wider. A number beyond that range would become infinite."""
    if values.dtype.kind != "f" or values.dtype.itemsize <= np.dtype(np.float32).itemsize:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(values)
    if lost.any():
        raise ValueError(f"{subject} {values[lost][0]:g}, which does not fit float32: scale it in a wrapper")
    return narrow


class Batch:
    """The environments of one process, stepped one after another. Like EnvPool's, they restart in the step after their last one."""

    def __init__(self, task: Task, description: Description, seeds: Sequence[int], memory: mmap.mmap) -> None:
        """`seeds`: one for each environment; `memory`: shared, for the observations."""
        self._description, self._seeds = description, seeds
        self._observations = as_rows(memory, description)
        self._rewards = np.zeros(len(seeds), np.float32)
        self._ends = np.zeros((2, len(seeds)), np.bool_)  # terminated, truncated
        self._is_seeded = False
        # For environments that draw from the global generators, which otherwise start alike in every process.
        random.seed(seeds[0])
        np.random.seed(seeds[0])  # noqa: NPY002
        self._environments = [make(task) for _ in seeds]

    def reset(self) -> None:
        """Starts an episode in every environment. Seeds are for the first ones only; later episodes continue their streams."""
        for index, (environment, seed) in enumerate(zip(self._environments, self._seeds, strict=True)):
            observation, _ = _returned("reset", 2, environment.reset() if self._is_seeded else environment.reset(seed=seed))
            self._show(index, observation)
        self._is_seeded = True
        self._ends[:] = False

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes actions [n] that count from 0; returns rewards [n] float32 and [2, n]: terminated, truncated."""
        over = self._ends[0] | self._ends[1]
        for index, environment in enumerate(self._environments):
            reward, terminated, truncated = 0.0, False, False
            if over[index]:
                observation, _ = _returned("reset", 2, environment.reset())
            else:
                # An environment may compute with it, so it has the type that the space draws.
                action = self._description.action_dtype.type(int(actions[index]) + self._description.first_action)
                step = environment.step(action)
                observation, reward, terminated, truncated, _ = _returned("step", 5, step)
            self._show(index, observation)
            self._rewards[index] = _fitting("step() returned the reward", _number("reward", reward))
            self._ends[:, index] = _number("terminated", terminated), _number("truncated", truncated)
        return self._rewards, self._ends

    def render(self, index: int) -> np.ndarray | None:
        """The picture of one environment, uint8 [height, width, 3]; None when it draws none."""
        environment = self._environments[index]
        if environment.render_mode != "rgb_array":
            return None
        picture = np.asarray(environment.render())
        if picture.dtype.kind not in "biu" or not picture.size or picture.min() < 0 or picture.max() > 255:
            raise ValueError(f"its picture is {picture.dtype}{list(picture.shape)}, and not of whole numbers in 0..255")
        return picture.astype(np.uint8)

    def close(self) -> None:
        """Ends the environments; an error of one does not keep the others."""
        for environment in self._environments:
            with contextlib.suppress(Exception):
                environment.close()

    def _show(self, index: int, observation: Any) -> None:
        shown, rows = np.asarray(observation), self._observations
        shape = rows.shape[1:]
        fits = np.can_cast(shown.dtype, rows.dtype, "safe" if rows.dtype == np.uint8 else "same_kind")  # vectors are rounded to float32
        if shown.size != rows[index].size or shown.shape != shape[: shown.ndim] or not fits:
            raise ValueError(f"an observation is {shown.dtype}{list(shown.shape)}, but observation_space says {rows.dtype}{list(shape)}")
        rows[index] = _fitting("an observation holds", shown.reshape(shape))


def as_rows(memory: mmap.mmap, description: Description) -> np.ndarray:
    """Shared memory as observations [n, *observation_shape]."""
    return np.frombuffer(memory, description.observation_dtype).reshape(-1, *description.observation_shape)


def _ignore_signals() -> None:
    """Schedulers and Ctrl-C signal every process. These end with their channel, after the trainer has saved."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def tell(channel: int) -> None:
    """The life of a process that describes an environment, whose code must not touch the trainer's process.

    Receives the task; answers ("done", its description) or ("failed", one line).

    Args:
      channel: file descriptor of a connection.
    """
    connection = Connection(channel)
    answer: tuple[str, Description | str]
    try:
        answer = "done", describe(connection.recv())
    except Exception as error:  # the environment's code can raise anything
        answer = "failed", summary(error)
    with contextlib.suppress(OSError):
        connection.send(answer)


def serve(channel: int, memory: int) -> None:
    """The life of a process that steps a `Batch`, until the other end of the channel closes.

    The first message is the task, its description and the seeds. Each further message is the name of a method with its arguments; the
    answer is ("done", result) or ("failed", one line).

    Args:
      channel: file descriptor of a connection.
      memory: that of shared memory for the observations.
    """
    _ignore_signals()
    warnings.simplefilter("ignore")  # `tell` has shown them
    connection = Connection(channel)
    batch: Batch | None = None
    try:
        task, description, seeds = connection.recv()
        batch = Batch(task, description, seeds, mmap.mmap(memory, 0))
        _ignore_signals()  # an environment may have taken them
        while True:
            name, *values = connection.recv()
            try:
                answer = "done", getattr(batch, name)(*values)
            except Exception as error:
                if name != "render":
                    raise
                answer = "failed", summary(error)  # a missing picture does not end a process
            connection.send(answer)
    except EOFError:
        pass
    except Exception as error:  # the environment's code can raise anything
        with contextlib.suppress(OSError):
            connection.send(("failed", summary(error)))
    finally:
        if batch is not None:
            batch.close()
