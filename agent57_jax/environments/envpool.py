"""EnvPool's C++ environments behind our timesteps. The only importer of envpool.

EnvPool resets by itself in the step after `done` and ignores that step's action, which is the project's LAST -> FIRST rule. What it
does not do, this adapter does: it tells game over from time limit, counts raw returns and lengths, checks actions, sets every option
of the Atari emulator, and takes a seed for each environment. How observations become images and vectors is in `envpool_observations`.
"""

import difflib
import re
import warnings
from collections.abc import Sequence
from typing import Any

import envpool
import numpy as np

from agent57_jax.environments.atari57 import ACTION_NAMES
from agent57_jax.environments.envpool_observations import Encoder, make_encoder
from agent57_jax.environments.host import Episodes, available_cpus, checked_actions
from agent57_jax.types import EnvironmentSpec, TimeStep

FRAME_SIZE = 84  # pixels, height and width of an Atari observation in the papers
ATARI_MAX_EPISODE_STEPS = 27_000  # agent steps: 30 minutes at 60 frames a second, four frames a step

_ATARI_OPTIONS: dict[str, Any] = {
    "max_episode_steps": ATARI_MAX_EPISODE_STEPS,
    "stack_num": 1,
    "gray_scale": True,
    "use_inter_area_resize": True,
    "episodic_life": False,
    "zero_discount_on_life_loss": False,
    "reward_clip": False,
    "use_fire_reset": False,
    "mode": -1,  # the game's own
    "difficulty": -1,
}
_DOOM_FRAMES_PER_SECOND = 35
# Scenarios for several players: EnvPool's process ends in them, or waits for ever.
_DOOM_OF_SEVERAL_PLAYERS = ("Cig-v1", "MultiDuel-v1")
# Tasks in which all that the mission's text says can be seen: it is the same in every episode, or names the only thing of its kind.
_MISSION_CAN_BE_SEEN = re.compile(
    r"MiniGrid-(?!Fetch-|GoToDoor-|GoToObject-|PutNear-)"
    r"|BabyAI-(BlockedUnlockPickup|FindObj|GoToObj(Maze|S|-)|GoToRed|KeyCorridor|KeyInBox|OneRoom|OpenRed|PickupAbove)"
    r"|BabyAI-Unlock(Local|Pickup-|ToUnlock)"
)
# The same 15 for all Procgen games: directions, then six keys of which a game knows a few or none.
_PROCGEN_ACTIONS = (
    *("LEFT_DOWN", "LEFT", "LEFT_UP", "DOWN", "NOOP", "UP", "RIGHT_DOWN", "RIGHT", "RIGHT_UP"),
    *("KEY_D", "KEY_A", "KEY_W", "KEY_S", "KEY_Q", "KEY_E"),
)
_MINIGRID_ACTIONS = ("LEFT", "RIGHT", "FORWARD", "PICKUP", "DROP", "TOGGLE", "DONE")
_LANE_ACTIONS = ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER")
# How names of tasks begin, and their actions. Where a task has fewer, the last ones are missing.
_ACTION_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LunarLander-", ("NOTHING", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE")),
    ("(MiniGrid|BabyAI)-", _MINIGRID_ACTIONS),
    ("(phys2d/)?CartPole-", ("LEFT", "RIGHT")),
    ("MountainCar-", ("LEFT", "NOTHING", "RIGHT")),
    ("Acrobot-", ("TORQUE_MINUS", "NOTHING", "TORQUE_PLUS")),
    ("Catch-", ("LEFT", "STAY", "RIGHT")),
    ("FrozenLake", ("LEFT", "DOWN", "RIGHT", "UP")),
    ("(tabular/)?CliffWalking", ("UP", "RIGHT", "DOWN", "LEFT")),
    ("Taxi-", ("DOWN", "UP", "RIGHT", "LEFT", "PICKUP", "DROP")),
    ("(tabular/)?Blackjack-", ("STICK", "HIT")),
    ("(?i:intersection-)", ("SLOWER", "IDLE", "FASTER")),
    ("(?i:highway|exit-|merge-|roundabout-|two-?way-|u-?turn-)", _LANE_ACTIONS),
)
# Agent steps in a second, as a person is to see them: what tasks say themselves, and what suits a board or a grid of cells.
_STEPS_PER_SECOND: tuple[tuple[str, float], ...] = (
    ("LunarLander-|(phys2d/)?CartPole-", 50),
    ("MountainCar-", 30),
    ("Acrobot-", 15),
    ("(MiniGrid|BabyAI|gfootball)[-/]", 10),
)
_OTHER_STEPS_PER_SECOND = 5.0


class EnvPoolEnvironment:
    """A batch of one EnvPool task, a `HostEnvironment`. Steps run on EnvPool's threads between `send` and `recv`.

    Atari follows NGU App. F.4: the maximum over the last two of four repeated frames, 84 x 84 grey, no frame stack, the full action
    set, random no-ops at the start, no sticky actions, rewards neither clipped nor scaled, losing a life ends nothing.
    Observations are uint8 images [height, width, channels] or float32 vectors [size]; `envpool_observations` says how they are made.

    A timestep is LAST when EnvPool says done or `max_episode_steps` are over. Its discount is 0 for the task's own end and 1 for a time
    limit. When both fall on the same step, EnvPool reports its limit; the Atari emulator tells the truth in `info["terminated"]`, and
    MiniGrid in a reward, which are used here. Other tasks have no such sign, so that their rare end exactly at EnvPool's limit counts as
    truncated.

    The Atari emulator is told its limit. Of the others many read that option as part of the task (MiniGrid's rewards depend on it) or not
    at all; they keep their own limit, and this adapter starts the rows anew whose episodes last for longer than ours.
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
        frame_size: int = FRAME_SIZE,
    ) -> None:
        """Makes the environments; `reset` starts them.

        Args:
          task_id: EnvPool's name, such as "Zaxxon-v5" or "LunarLander-v3".
          num_envs: E.
          seeds: one for each environment, in [0, 2^31).
          num_threads: emulator threads; None takes `available_cpus()`. Never more than `num_envs`.
          max_episode_steps: agent steps until an episode is truncated; a shorter limit of the task stays.
            None takes the task's own (Atari: 27,000).
          render_mode: "rgb_array" lets `render` work, None saves its cost.
          frame_skip: emulator frames per agent step. This and all that follow are for Atari, other tasks ignore them.
          full_action_space: all 18 actions (9 for Skiing, which has no button), or only those that the game knows.
          noop_max: an episode starts after 1 to `noop_max` frames without action.
          repeat_action_probability: of a sticky action, for each emulator frame.
          frame_size: pixels, height and width of an observation.

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
        is_atari, is_doom = ("full_action_space" in task_spec.config._fields), _is_doom(task_spec)
        if is_atari:
            options |= _ATARI_OPTIONS | {
                "frame_skip": frame_skip,
                "full_action_space": full_action_space,
                "noop_max": noop_max,
                "img_height": frame_size,
                "img_width": frame_size,
                "repeat_action_probability": repeat_action_probability,
            }
            if max_episode_steps is not None:
                options["max_episode_steps"] = max_episode_steps
        if is_doom:
            options["use_combined_action"] = True  # one of all combinations of buttons; else an action is a number for each button
        if _is_procgen(task_spec):
            _check_procgen_limit(task_id, task_spec, max_episode_steps)
        task_spec = _task_spec(task_id, **options)

        self.spec, self._encoder = _describe(task_id, task_spec, is_atari and full_action_space)
        self._limit = np.iinfo(np.int32).max if is_atari or max_episode_steps is None else max_episode_steps
        self.num_envs = num_envs
        self._task_id = task_id
        self._render_mode = render_mode
        self._is_atari = is_atari
        self._is_minigrid = _is_minigrid(task_spec)
        self._row_numbers = np.arange(num_envs, dtype=np.int32)
        self._pool: Any = envpool.make_gymnasium(task_id, render_mode=render_mode, **options)
        with warnings.catch_warnings():
            # Made once, at the first use: Gymnasium warns that it rounds the bounds of a space, which nothing here reads.
            warnings.simplefilter("ignore")
            _ = self._pool.observation_space
        self._is_started = False
        self._in_flight = False  # a timestep is owed to the caller
        self._num_stepping = 0  # rows that EnvPool owes us
        self._cut_off = np.zeros(num_envs, np.bool_)  # rows whose last timestep was LAST because of our limit alone
        self._restarted: tuple[np.ndarray, np.ndarray] | None = None  # rows that were started anew, and what they show
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
        self._num_stepping = self.num_envs
        self._cut_off[:] = False
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
        actions = checked_actions(actions, self.num_envs, self.spec.num_actions)
        if self._cut_off.any():
            # EnvPool knows nothing of these ends. It resets the rows at once, and steps the others alone.
            observation, info = self._pool.reset(self._row_numbers[self._cut_off])
            self._restarted = info["env_id"], self._encoder.encode(observation)
            rows = self._row_numbers[~self._cut_off]
            if len(rows):
                self._pool.send(actions[rows], rows)
            self._num_stepping = len(rows)
        else:
            self._pool.send(actions)
            self._num_stepping = self.num_envs
        self._in_flight = True

    def recv(self) -> TimeStep:
        """Waits for the step and returns its timestep, row e from environment e. The arrays belong to the caller."""
        self._check_open()
        if not self._in_flight:
            raise RuntimeError("recv() comes after reset() or send(): nothing is under way")
        observation = np.empty((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
        reward, terminated, done = np.zeros(self.num_envs, np.float32), *np.zeros((2, self.num_envs), np.bool_)
        if self._num_stepping:
            shown, paid, ended, truncated, info = self._pool.recv()
            self._num_stepping = 0
            over = ended | truncated
            if self._is_atari:
                ended = over & (info["terminated"] != 0)
            elif self._is_minigrid:
                ended = ended | (over & (paid != 0))  # its time limit pays nothing
            rows, shown = info["env_id"], self._encoder.encode(shown)
            if np.array_equal(rows, self._row_numbers):
                observation = shown
            else:
                observation[rows] = shown
            reward[rows], terminated[rows], done[rows] = paid, ended, over
        if self._restarted is not None:
            rows, shown = self._restarted
            observation[rows] = shown
            self._restarted = None
        self._in_flight = False
        self._cut_off = ~done & (self._episodes.coming_length() >= self._limit)
        return self._episodes.timestep(observation, reward, terminated, done | self._cut_off)

    def restart(self, rows: np.ndarray) -> np.ndarray:
        """Starts the next episodes of rows whose last timestep was LAST, at once and without a step of the others.

        Args:
          rows: [R] integers, each once, rising; may be none.

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
        self._cut_off[rows] = False
        observation, info = self._pool.reset(rows)
        shown: np.ndarray = self._encoder.encode(observation)[np.argsort(info["env_id"])]
        return shown

    def render(self, index: int) -> np.ndarray:
        """The screen of environment `index` now, uint8 [height, width, 3]. After a LAST timestep it still shows the final screen.

        Raises:
          ValueError: without render_mode="rgb_array", for an environment that is not there, or a task that draws nothing.
          RuntimeError: before the first `reset` or while a step is under way.
        """
        self._check_open()
        if self._render_mode is None:
            raise ValueError('render() needs an environment made with render_mode="rgb_array"')
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no environment {index}: they are 0..{self.num_envs - 1}")
        if not self._is_started or self._in_flight:
            raise RuntimeError("render() comes after recv()")
        try:
            return np.array(self._pool.render(env_ids=index)[0])
        except RuntimeError as error:  # "not implemented"
            raise ValueError(f"{self._task_id} draws no pictures: {_first_line(error)}") from error

    def close(self) -> None:
        """Ends the emulator threads. Closing twice is fine."""
        if self._pool is not None:
            if self._num_stepping:
                self._pool.recv()  # threads are joined when idle
                self._num_stepping = 0
            self._pool.close()
            self._pool = None  # EnvPool ends its threads when the last reference goes

    def _check_open(self) -> None:
        if self._pool is None:
            raise RuntimeError("this environment is closed")


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


def _check_procgen_limit(task_id: str, task_spec: Any, max_episode_steps: int | None) -> None:
    """Procgen games count their own steps; whether they can be started anew in between has not been tried."""
    own = task_spec.config.max_episode_steps
    if max_episode_steps is not None and max_episode_steps < own:
        raise ValueError(f"{task_id} ends after {own} steps and can't be made shorter: --config.environment.max_episode_steps={own}")


def _is_procgen(task_spec: Any) -> bool:
    return "distribution_mode" in task_spec.config._fields


def _is_doom(task_spec: Any) -> bool:
    return "use_combined_action" in task_spec.config._fields


def _is_minigrid(task_spec: Any) -> bool:
    return "obs:mission" in task_spec.state_array_spec


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _describe(task_id: str, task_spec: Any, is_full_atari_set: bool) -> tuple[EnvironmentSpec, Encoder]:
    """What the networks are told about a task, and how its observations are made; a ValueError of one line if they can't take it."""
    num_actions = _num_actions(task_id, task_spec)
    if task_id in _DOOM_OF_SEVERAL_PLAYERS:
        raise ValueError(f"{task_id} is not supported: it waits for other players")
    if _is_minigrid(task_spec) and not _MISSION_CAN_BE_SEEN.match(task_id):
        raise ValueError(f"{task_id} is not supported: its mission is a text that changes, and the agent can't read")
    encoder = make_encoder(task_id, task_spec.state_array_spec)
    frame_skip = getattr(task_spec.config, "frame_skip", 1)
    spec = EnvironmentSpec(
        observation_shape=encoder.shape,
        observation_dtype=encoder.dtype,
        num_actions=num_actions,
        action_names=_action_names(task_id, task_spec, is_full_atari_set, num_actions),
        frames_per_step=frame_skip,
        steps_per_second=_steps_per_second(task_id, task_spec, frame_skip),
    )
    return spec, encoder


def _num_actions(task_id: str, task_spec: Any) -> int:
    specs = {name: spec for name, spec in task_spec.action_array_spec.items() if name not in ("env_id", "players.env_id")}
    is_for_players = any(name.startswith("obs:players.") for name in task_spec.state_array_spec) or any(
        name.startswith("obs") and len(spec.shape) > 1 and spec.shape[0] == -1 for name, spec in task_spec.state_array_spec.items()
    )
    if is_for_players:
        raise ValueError(f"{task_id} is not supported: it is a game of several players")
    # ViZDoom says that the number of a combination is a float.
    if any(np.dtype(spec.dtype).kind not in "iu" for spec in specs.values()) and not _is_doom(task_spec):
        raise ValueError(f"{task_id} is not supported: its actions are continuous, and only a choice among a few is")
    (spec, *others) = specs.values()
    if others or [size for size in spec.shape if size != -1]:
        raise ValueError(f"{task_id} is not supported: its actions are several choices at once, and only one is")
    return int(spec.maximum) + 1


def _action_names(task_id: str, task_spec: Any, is_full_atari_set: bool, num_actions: int) -> tuple[str, ...]:
    """Names where they are known: EnvPool doesn't tell them."""
    names: tuple[str, ...] = ()
    if is_full_atari_set:
        # The emulator lets Skiing do only what needs no button.
        names = ACTION_NAMES if num_actions == len(ACTION_NAMES) else tuple(name for name in ACTION_NAMES if "FIRE" not in name)
    elif _is_procgen(task_spec):
        names = _PROCGEN_ACTIONS
    else:
        names = next((known for begin, known in _ACTION_NAMES if re.match(begin, task_id)), ())[:num_actions]
    return names if len(names) == num_actions else tuple(f"ACTION_{action}" for action in range(num_actions))


def _steps_per_second(task_id: str, task_spec: Any, frame_skip: int) -> float:
    if "full_action_space" in task_spec.config._fields:
        return 60 / frame_skip  # the emulator makes 60 frames a second
    if _is_doom(task_spec):
        return _DOOM_FRAMES_PER_SECOND / frame_skip
    if _is_procgen(task_spec):
        return 15
    return next((speed for begin, speed in _STEPS_PER_SECOND if re.match(begin, task_id)), _OTHER_STEPS_PER_SECOND)
