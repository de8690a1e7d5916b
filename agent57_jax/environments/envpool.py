"""EnvPool's C++ environments behind our timesteps. The only importer of envpool.

EnvPool resets by itself in the step after `done` and ignores that step's action, which is the project's LAST -> FIRST rule. What it
does not do, this adapter does: it tells game over from time limit, counts raw returns and lengths, checks actions, sets every option
of the Atari emulator, and takes a seed for each environment.
"""

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

import envpool
import numpy as np

from agent57_jax.environments.atari57 import ACTION_NAMES
from agent57_jax.environments.host import Episodes, available_cpus, checked_actions
from agent57_jax.types import EnvironmentSpec, TimeStep

FRAME_SIZE = 84  # pixels, height and width of an Atari observation
ATARI_MAX_EPISODE_STEPS = 27_000  # agent steps: 30 minutes at 60 frames a second, four frames a step

_ATARI_OPTIONS: dict[str, Any] = {
    "max_episode_steps": ATARI_MAX_EPISODE_STEPS,
    "stack_num": 1,
    "img_height": FRAME_SIZE,
    "img_width": FRAME_SIZE,
    "gray_scale": True,
    "use_inter_area_resize": True,
    "episodic_life": False,
    "zero_discount_on_life_loss": False,
    "reward_clip": False,
    "use_fire_reset": False,
    "mode": -1,  # the game's own
    "difficulty": -1,
}
_LUNAR_LANDER_ACTIONS = ("NOTHING", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE")
# The same 15 for all Procgen games: directions, then six keys of which a game knows a few or none.
_PROCGEN_ACTIONS = (
    *("LEFT_DOWN", "LEFT", "LEFT_UP", "DOWN", "NOOP", "UP", "RIGHT_DOWN", "RIGHT", "RIGHT_UP"),
    *("KEY_D", "KEY_A", "KEY_W", "KEY_S", "KEY_Q", "KEY_E"),
)


class EnvPoolEnvironment:
    """A batch of one EnvPool task, a `HostEnvironment`. Steps run on EnvPool's threads between `send` and `recv`.

    Atari follows NGU App. F.4: the maximum over the last two of four repeated frames, 84 x 84 grey, no frame stack, the full action
    set, random no-ops at the start, no sticky actions, rewards neither clipped nor scaled, losing a life ends nothing.
    Observations are uint8 images [height, width, channels] or float32 vectors [size].

    A timestep is LAST when EnvPool says done. Its discount is 0 for the task's own end and 1 for the time limit. When both fall on the
    same step, EnvPool reports the time limit; the Atari emulator tells the truth in `info["terminated"]`, which is used here. Other
    tasks have no such flag, so that their rare end exactly at the limit counts as truncated.
    """

    def __init__(
        self,
        task_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        num_threads: int | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        frame_skip: int = 4,
        full_action_space: bool = True,
        noop_max: int = 30,
        repeat_action_probability: float = 0.0,
    ) -> None:
        """Makes the environments; `reset` starts them.

        Args:
          task_id: EnvPool's name, such as "Zaxxon-v5" or "LunarLander-v3".
          num_envs: E.
          seeds: one for each environment, in [0, 2^31).
          num_threads: emulator threads; None takes `available_cpus()`. Never more than `num_envs`.
          max_episode_steps: agent steps until an episode is truncated; None takes the task's own limit (Atari: 27,000).
          render_mode: "rgb_array" lets `render` work, None saves its cost.
          frame_skip: emulator frames per agent step. This and all that follow are for Atari, other tasks ignore them.
          full_action_space: all 18 actions (9 for Skiing, which has no button), or only those that the game knows.
          noop_max: an episode starts after 1 to `noop_max` frames without action.
          repeat_action_probability: of a sticky action, for each emulator frame.

        Raises:
          ValueError: one line, for a task or an argument that can't work.
        """
        _check_arguments(num_envs, seeds, num_threads, max_episode_steps, render_mode, frame_skip, noop_max, repeat_action_probability)
        options: dict[str, Any] = {
            "num_envs": num_envs,
            "batch_size": num_envs,  # a step is complete when every environment has made it: rows keep their order
            "num_threads": min(num_envs, num_threads or available_cpus()),
            "seed": [int(seed) for seed in seeds],
            "thread_affinity_offset": -1,  # threads are not pinned: groups and the trainer share the cores
            "max_num_players": 1,
        }
        task_spec = _task_spec(task_id, max_num_players=1)
        is_atari = "full_action_space" in task_spec.config._fields
        if is_atari:
            options |= _ATARI_OPTIONS | {
                "frame_skip": frame_skip,
                "full_action_space": full_action_space,
                "noop_max": noop_max,
                "repeat_action_probability": repeat_action_probability,
            }
        if max_episode_steps is not None:
            options |= _time_limit(task_id, task_spec, max_episode_steps)
        task_spec = _task_spec(task_id, **options)

        observation_shape, observation_dtype = _observation_shape_and_dtype(task_id, task_spec)
        num_actions = _num_actions(task_id, task_spec)
        self.spec = EnvironmentSpec(
            observation_shape=observation_shape,
            observation_dtype=observation_dtype,
            num_actions=num_actions,
            action_names=_action_names(task_id, task_spec, is_atari and full_action_space, num_actions),
            frames_per_step=frame_skip if is_atari else 1,
            # The emulator makes 60 frames a second. Of the others those with vectors simulate 50 steps a second, Procgen is played at 15.
            steps_per_second=60 / frame_skip if is_atari else 50 if observation_dtype == np.float32 else 15,
        )
        self.num_envs = num_envs
        self._render_mode = render_mode
        self._is_atari = is_atari
        self._row_numbers = np.arange(num_envs)
        self._pool: Any = envpool.make_gymnasium(task_id, render_mode=render_mode, **options)
        with warnings.catch_warnings():
            # Made once, at the first use: Gymnasium warns that it rounds the bounds of a space, which nothing here reads.
            warnings.simplefilter("ignore")
            _ = self._pool.observation_space
        self._is_started = False
        self._in_flight = False
        self._episodes = Episodes(num_envs)

    @property
    def pool(self) -> Any:
        """EnvPool's own object, for benchmarks that hold this adapter against it."""
        return self._pool

    def reset(self) -> None:
        """Starts an episode in every environment, whatever went on there; `recv` then returns FIRST everywhere."""
        self._check_open()
        if self._in_flight:
            self.recv()
        self._pool.async_reset()
        self._episodes.restart()
        self._is_started = True
        self._in_flight = True

    def send(self, actions: np.ndarray) -> None:
        """Starts a step and returns at once. A row whose last timestep was LAST starts a new episode; its action is ignored.

        Args:
          actions: [E] integers in [0, num_actions).

        Raises:
          ValueError: for any other shape, type or value. EnvPool itself would take them silently.
          RuntimeError: before `reset`, or when the step before has not been received.
        """
        self._check_open()
        if not self._is_started or self._in_flight:
            raise RuntimeError("send() comes after reset() and recv(), once for each recv()")
        self._pool.send(checked_actions(actions, self.num_envs, self.spec.num_actions))
        self._in_flight = True

    def recv(self) -> TimeStep:
        """Waits for the step and returns its timestep, row e from environment e. The arrays belong to the caller."""
        self._check_open()
        if not self._in_flight:
            raise RuntimeError("recv() comes after reset() or send(): nothing is under way")
        observation, reward, terminated, truncated, info = self._pool.recv()
        self._in_flight = False
        done = terminated | truncated
        if self._is_atari:
            terminated = done & (info["terminated"] != 0)
        if not np.array_equal(info["env_id"], self._row_numbers):
            order = np.argsort(info["env_id"])
            observation, reward, terminated, done = observation[order], reward[order], terminated[order], done[order]
        return self._episodes.timestep(self._arrange(observation), reward, terminated, done)

    def restart(self, rows: np.ndarray) -> np.ndarray:
        """Starts the next episodes of rows whose last timestep was LAST, at once and without a step of the others.

        Args:
          rows: [R] integers, each once, rising.

        Returns:
          Their first observations [R, ...]; their next timesteps are those after FIRST.

        Raises:
          RuntimeError: before `reset`, or while a step is under way.
          ValueError: for a row that is not at its episode's end.
        """
        self._check_open()
        if not self._is_started or self._in_flight:
            raise RuntimeError("restart() comes after recv()")
        rows = np.asarray(rows, np.int32)
        self._episodes.start(rows)
        self._pool.send(np.zeros(len(rows), np.int32), rows)  # what comes after an end ignores its action
        observation, *_, info = self._pool.recv()
        return self._arrange(observation[np.argsort(info["env_id"])])

    def render(self, index: int) -> np.ndarray:
        """The screen of environment `index` now, uint8 [height, width, 3]. After a LAST timestep it still shows the final screen.

        Raises:
          ValueError: without render_mode="rgb_array", or for an environment that is not there.
          RuntimeError: before the first `reset` or while a step is under way.
        """
        self._check_open()
        if self._render_mode is None:
            raise ValueError('render() needs an environment made with render_mode="rgb_array"')
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no environment {index}: they are 0..{self.num_envs - 1}")
        if not self._is_started or self._in_flight:
            raise RuntimeError("render() comes after recv()")
        return np.array(self._pool.render(env_ids=index)[0])

    def close(self) -> None:
        """Ends the emulator threads. Closing twice is fine."""
        if self._pool is not None:
            if self._in_flight:
                self._pool.recv()  # threads are joined when idle
                self._in_flight = False
            self._pool.close()
            self._pool = None  # EnvPool ends its threads when the last reference goes

    def _check_open(self) -> None:
        if self._pool is None:
            raise RuntimeError("this environment is closed")

    def _arrange(self, observation: np.ndarray) -> np.ndarray:
        """EnvPool's observations [E, ...] as the spec says: images come with their channels first, some vectors in 64 bits."""
        if self.spec.observation_dtype == np.float32:
            return observation.astype(np.float32, copy=False)
        if self.spec.observation_shape[-1] == 1:
            return observation.reshape(len(observation), *self.spec.observation_shape)  # one channel: the same bytes, no copy
        return np.ascontiguousarray(np.moveaxis(observation, 1, -1))


def _check_arguments(
    num_envs: int,
    seeds: Sequence[int],
    num_threads: int | None,
    max_episode_steps: int | None,
    render_mode: str | None,
    frame_skip: int,
    noop_max: int,
    repeat_action_probability: float,
) -> None:
    counts = {"num_envs": num_envs, "num_threads": num_threads, "max_episode_steps": max_episode_steps, "frame_skip": frame_skip}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if noop_max < 1:
        raise ValueError(f"noop_max must be at least 1, not {noop_max}: EnvPool crashes at the first reset without no-ops")
    if not 0 <= repeat_action_probability <= 1:
        raise ValueError(f"repeat_action_probability must lie in [0, 1], not be {repeat_action_probability}")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f'render_mode must be None or "rgb_array", not {render_mode!r}')
    if len(seeds) != num_envs:
        raise ValueError(f"{num_envs} environments need {num_envs} seeds, not {len(seeds)}")
    if any(not 0 <= seed < 2**31 for seed in seeds):
        raise ValueError("seeds must lie in [0, 2^31)")


def _task_spec(task_id: str, **options: Any) -> Any:
    """EnvPool's description of a task under these options, or a ValueError of one line."""
    tasks = envpool.list_all_envs()
    if task_id not in tasks:
        near = difflib.get_close_matches(task_id, tasks, n=3, cutoff=0.5)
        raise ValueError(f"EnvPool has no task {task_id!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    try:
        return envpool.make_spec(task_id, **options)
    except ImportError as error:
        if "Qt" in str(error):
            raise ValueError(f"{task_id} needs the Qt 5 libraries: apt-get install libqt5gui5 libqt5core5a") from error
        raise ValueError(f"{task_id} can't be loaded: {_first_line(error)}") from error
    except (AssertionError, TypeError, RuntimeError) as error:
        raise ValueError(f"{task_id} can't be made: {_first_line(error)}") from error


def _time_limit(task_id: str, task_spec: Any, max_episode_steps: int) -> dict[str, int]:
    """The option that truncates episodes, or a ValueError where the task has none and would go on for longer."""
    if not _is_procgen(task_spec):
        return {"max_episode_steps": max_episode_steps}
    # Procgen games count their own steps and never look at the option.
    own = task_spec.config.max_episode_steps
    if max_episode_steps < own:
        raise ValueError(f"{task_id} ends after {own} steps and can't be made shorter: --config.environment.max_episode_steps={own}")
    return {}


def _is_procgen(task_spec: Any) -> bool:
    return "distribution_mode" in task_spec.config._fields


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _observation_shape_and_dtype(task_id: str, task_spec: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Images channels-last in uint8, vectors in float32; anything else is a ValueError."""
    specs = {name: spec for name, spec in task_spec.state_array_spec.items() if name.startswith("obs")}
    if list(specs) == ["obs"]:
        shape, dtype = tuple(specs["obs"].shape), np.dtype(specs["obs"].dtype)
        if len(shape) == 3 and shape[0] in (1, 3) and dtype == np.uint8:
            return (*shape[1:], shape[0]), dtype
        if len(shape) == 1 and dtype.kind == "f":
            return shape, np.dtype(np.float32)
    shapes = ", ".join(f"{name} {np.dtype(spec.dtype)}{list(spec.shape)}" for name, spec in specs.items())
    raise ValueError(f"{task_id} is not supported: only images and vectors are, and it shows {shapes}")


def _num_actions(task_id: str, task_spec: Any) -> int:
    specs = [spec for name, spec in task_spec.action_array_spec.items() if name not in ("env_id", "players.env_id")]
    if len(specs) != 1 or np.dtype(specs[0].dtype).kind not in "iu" or [size for size in specs[0].shape if size != -1]:
        raise ValueError(f"{task_id} is not supported: its actions are not a choice among a few (continuous or several at once)")
    return int(specs[0].maximum) + 1


def _action_names(task_id: str, task_spec: Any, is_full_atari_set: bool, num_actions: int) -> tuple[str, ...]:
    """Names where they are known: EnvPool doesn't tell them."""
    names: tuple[str, ...] = ()
    if is_full_atari_set:
        # The emulator lets Skiing do only what needs no button.
        names = ACTION_NAMES if num_actions == len(ACTION_NAMES) else tuple(name for name in ACTION_NAMES if "FIRE" not in name)
    elif task_id.startswith("LunarLander-"):
        names = _LUNAR_LANDER_ACTIONS
    elif _is_procgen(task_spec):
        names = _PROCGEN_ACTIONS
    return names if len(names) == num_actions else tuple(f"ACTION_{action}" for action in range(num_actions))
