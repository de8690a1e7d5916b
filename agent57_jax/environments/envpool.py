"""EnvPool's C++ environments as timesteps of this project. The only importer of envpool.

EnvPool resets in the step after `done` and ignores the action of that step, which is this project's LAST -> FIRST rule. This adapter adds
the rest: it tells the end of a game from a time limit, counts raw returns and lengths, checks actions, sets every option of the Atari
emulator, and gives each environment its own seed. `envpool_observations` turns observations into images and vectors.
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
from agent57_jax.environments.host import HostBatch, available_cpus
from agent57_jax.types import EnvironmentSpec, TimeStep

FRAME_SIZE = 84  # pixels, height and width of an Atari observation in the papers
ATARI_MAX_EPISODE_STEPS = 27_000  # agent steps: 30 minutes at 60 frames a second, four frames a step

_ATARI_OPTIONS: dict[str, Any] = {
    "full_action_space": True,
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
_FRAMES_PER_SECOND = {"atari": 60, "doom": 35, "procgen": 15}
# Scenarios for several players: they end EnvPool's process or wait for ever.
_DOOM_OF_SEVERAL_PLAYERS = ("Cig-v1", "MultiDuel-v1")
# Options that only one family of tasks has.
_SIGNS = {"full_action_space": "atari", "distribution_mode": "procgen", "use_combined_action": "doom"}
# Tasks whose mission is visible: its text is the same in every episode, or it names the only object of its kind.
_MISSION_CAN_BE_SEEN = re.compile(
    r"MiniGrid-(?!Fetch-|GoToDoor-|GoToObject-|PutNear-)"
    r"|BabyAI-(BlockedUnlockPickup|FindObj|GoToObj(Maze|S|-)|GoToRed|KeyCorridor|KeyInBox|OneRoom|OpenRed|PickupAbove)"
    r"|BabyAI-Unlock(Local|Pickup-|ToUnlock)"
)
# The same 15 for all Procgen games: directions, then six keys. A game uses few or none of the keys.
_PROCGEN_ACTIONS = (
    *("LEFT_DOWN", "LEFT", "LEFT_UP", "DOWN", "NOOP", "UP", "RIGHT_DOWN", "RIGHT", "RIGHT_UP"),
    *("KEY_D", "KEY_A", "KEY_W", "KEY_S", "KEY_Q", "KEY_E"),
)
_LANE_ACTIONS = ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER")
# Patterns of task names, and their actions. A task with fewer actions lacks the last ones.
_ACTION_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LunarLander-", ("NOTHING", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE")),
    ("(MiniGrid|BabyAI)-", ("LEFT", "RIGHT", "FORWARD", "PICKUP", "DROP", "TOGGLE", "DONE")),
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
# Agent steps in a second of a video: what a task states itself, or what suits its board or grid.
_STEPS_PER_SECOND: tuple[tuple[str, float], ...] = (
    ("LunarLander-|(phys2d/)?CartPole-", 50),
    ("MountainCar-", 30),
    ("Acrobot-", 15),
    ("(MiniGrid|BabyAI|gfootball)[-/]", 10),
)
_OTHER_STEPS_PER_SECOND = 5.0


class EnvPoolEnvironment(HostBatch):
    """A batch of one EnvPool task, which steps on EnvPool's threads.

    Atari follows NGU App. F.4: the maximum over the last two of four repeated frames, 84 x 84 grey, no frame stack, all 18 actions (9 for
    Skiing, which has no button), random no-ops at the start, no sticky actions, rewards neither clipped nor scaled. A lost life ends
    nothing.

    A timestep is LAST when EnvPool says done or after `max_episode_steps`. Its discount is 0 for the task's own end and 1 for a time limit.
    When both fall on the same step, EnvPool reports the limit. The Atari emulator then tells the truth in `info["terminated"]`, and
    MiniGrid in the reward. Other tasks have no such sign: their rare end exactly at EnvPool's limit counts as truncated.

    Only the Atari emulator is told about `max_episode_steps`. Many other tasks read that option as part of the task (MiniGrid's rewards
    depend on it) or ignore it. They keep their own limit, and this adapter restarts the rows that reach ours.
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
        noop_max: int = 30,
        repeat_action_probability: float = 0.0,
        frame_size: int = FRAME_SIZE,
    ) -> None:
        """Makes the environments; `reset` starts them.

        Args:
          task_id: EnvPool's name, such as "Zaxxon-v5" or "LunarLander-v3".
          num_envs, seeds: E, and one seed for each environment in [0, 2^31).
          num_threads: emulator threads, never more than `num_envs`; None takes `available_cpus()`.
          max_episode_steps: agent steps until an episode is truncated; a shorter limit of the task stays.
            None takes the task's own (Atari: 27,000).
          render_mode: "rgb_array" makes `render` work, None saves its cost.
          frame_skip: emulator frames per agent step. This option and those below are for Atari only.
          noop_max: an episode starts after 1 to `noop_max` frames without action. EnvPool crashes at 0.
          repeat_action_probability: of a sticky action, for each emulator frame.
          frame_size: height and width of an observation in pixels.

        Raises:
          ValueError: one line, for a task that can't work.
        """
        super().__init__(num_envs, seeds)
        options: dict[str, Any] = {
            "num_envs": num_envs,
            "batch_size": num_envs,  # a step waits for every environment, so rows keep their order
            "num_threads": min(num_envs, num_threads or available_cpus()),
            "seed": [int(seed) for seed in seeds],
            "thread_affinity_offset": -1,  # no pinned threads: groups and the trainer share the cores
            "max_num_players": 1,
        }
        task_spec = _task_spec(task_id, max_num_players=1)
        self._family = _family(task_spec)
        if self._family == "atari":
            options |= _ATARI_OPTIONS | {
                "frame_skip": frame_skip,
                "noop_max": noop_max,
                "img_height": frame_size,
                "img_width": frame_size,
                "repeat_action_probability": repeat_action_probability,
                "max_episode_steps": ATARI_MAX_EPISODE_STEPS if max_episode_steps is None else max_episode_steps,
            }
        elif self._family == "doom":
            options["use_combined_action"] = True  # an action is one combination of buttons, not a number for each button
        elif self._family == "procgen":
            _check_procgen_limit(task_id, task_spec, max_episode_steps)
        self.spec, self._encoder = _describe(task_id, _task_spec(task_id, **options))
        self._limit = np.iinfo(np.int32).max if self._family == "atari" or max_episode_steps is None else max_episode_steps
        self._task_id, self._render_mode = task_id, render_mode
        self._row_numbers = np.arange(num_envs, dtype=np.int32)
        self._pool: Any = envpool.make_gymnasium(task_id, render_mode=render_mode, **options)
        with warnings.catch_warnings():
            # EnvPool makes the space at its first use. Gymnasium then warns about rounded bounds, which nothing here reads.
            warnings.simplefilter("ignore")
            _ = self._pool.observation_space
        self._num_stepping = 0  # rows that EnvPool owes us
        self._cut_off = np.zeros(num_envs, np.bool_)  # rows whose last timestep was LAST because of our limit alone
        self._restarted: tuple[np.ndarray, np.ndarray] | None = None  # restarted rows and their observations

    @property
    def pool(self) -> Any:
        """EnvPool's own object, with which benchmarks compare this adapter."""
        return self._pool

    def _reset(self) -> None:
        self._pool.async_reset()
        self._num_stepping = self.num_envs
        self._cut_off[:] = False

    def _send(self, actions: np.ndarray) -> None:
        if not self._cut_off.any():
            self._pool.send(actions)
            self._num_stepping = self.num_envs
            return
        # EnvPool does not know about these ends. It resets the rows at once and steps the others alone.
        observation, info = self._pool.reset(self._row_numbers[self._cut_off])
        self._restarted = info["env_id"], self._encoder.encode(observation)
        rows = self._row_numbers[~self._cut_off]
        if len(rows):
            self._pool.send(actions[rows], rows)
        self._num_stepping = len(rows)

    def _recv(self) -> TimeStep:
        observation = np.empty((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
        reward, terminated, done = np.zeros(self.num_envs, np.float32), *np.zeros((2, self.num_envs), np.bool_)
        if self._num_stepping:
            shown, paid, ended, truncated, info = self._pool.recv()
            self._num_stepping = 0
            over = ended | truncated
            if self._family == "atari":
                ended = over & (info["terminated"] != 0)
            elif self._family == "minigrid":
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
        self._check_idle("restart() comes after recv()")
        rows = np.asarray(rows, np.int32)
        self._episodes.start(rows)
        self._cut_off[rows] = False
        observation, info = self._pool.reset(rows)
        shown: np.ndarray = self._encoder.encode(observation)[np.argsort(info["env_id"])]
        return shown

    def _render(self, index: int) -> np.ndarray:
        if self._render_mode is None:
            raise ValueError('render() needs an environment made with render_mode="rgb_array"')
        try:
            return np.array(self._pool.render(env_ids=index)[0])
        except RuntimeError as error:  # "not implemented"
            raise ValueError(f"{self._task_id} draws no pictures: {_first_line(error)}") from error

    def _close(self) -> None:
        if self._num_stepping:
            self._pool.recv()  # EnvPool joins its threads when they are idle
        self._pool.close()
        self._pool = None  # EnvPool ends its threads with the last reference


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
    """Procgen games count their own steps. Whether they can be restarted in between is untested."""
    own = task_spec.config.max_episode_steps
    if max_episode_steps is not None and max_episode_steps < own:
        raise ValueError(f"{task_id} ends after {own} steps and can't be made shorter: --config.environment.max_episode_steps={own}")


def _family(task_spec: Any) -> str:
    """The kind of task that needs its own treatment: one of `_SIGNS` or "minigrid", else ""."""
    if "obs:mission" in task_spec.state_array_spec:
        return "minigrid"
    return next((family for option, family in _SIGNS.items() if option in task_spec.config._fields), "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _describe(task_id: str, task_spec: Any) -> tuple[EnvironmentSpec, Encoder]:
    """What the networks are told about a task, and how its observations are made; a ValueError of one line if they can't take it."""
    family, num_actions = _family(task_spec), _num_actions(task_id, task_spec)
    if task_id in _DOOM_OF_SEVERAL_PLAYERS:
        raise ValueError(f"{task_id} is not supported: it waits for other players")
    if family == "minigrid" and not _MISSION_CAN_BE_SEEN.match(task_id):
        raise ValueError(f"{task_id} is not supported: its mission text changes between episodes, and the agent does not see text")
    encoder = make_encoder(task_id, task_spec.state_array_spec)
    frame_skip = getattr(task_spec.config, "frame_skip", 1)
    spec = EnvironmentSpec(
        observation_shape=encoder.shape,
        observation_dtype=encoder.dtype,
        num_actions=num_actions,
        action_names=_action_names(task_id, family, num_actions),
        frames_per_step=frame_skip,
        steps_per_second=_steps_per_second(task_id, family, frame_skip),
    )
    return spec, encoder


def _num_actions(task_id: str, task_spec: Any) -> int:
    specs = {name: spec for name, spec in task_spec.action_array_spec.items() if name not in ("env_id", "players.env_id")}
    is_for_players = any(name.startswith("obs:players.") for name in task_spec.state_array_spec) or any(
        name.startswith("obs") and len(spec.shape) > 1 and spec.shape[0] == -1 for name, spec in task_spec.state_array_spec.items()
    )
    if is_for_players:
        raise ValueError(f"{task_id} is not supported: it is a multiplayer game")
    # ViZDoom says that the number of a combination is a float.
    if any(np.dtype(spec.dtype).kind not in "iu" for spec in specs.values()) and _family(task_spec) != "doom":
        raise ValueError(f"{task_id} is not supported: its actions are continuous, and only discrete actions are supported")
    (spec, *others) = specs.values()
    if others or [size for size in spec.shape if size != -1]:
        raise ValueError(f"{task_id} is not supported: an action has several parts, and only single discrete actions are supported")
    return int(spec.maximum) + 1


def _action_names(task_id: str, family: str, num_actions: int) -> tuple[str, ...]:
    """Names where they are known: EnvPool does not have them."""
    if family == "atari":
        # The emulator gives Skiing only the actions without the button.
        names = tuple(name for name in ACTION_NAMES if num_actions == len(ACTION_NAMES) or "FIRE" not in name)
    elif family == "procgen":
        names = _PROCGEN_ACTIONS
    else:
        names = next((known for begin, known in _ACTION_NAMES if re.match(begin, task_id)), ())[:num_actions]
    return names if len(names) == num_actions else tuple(f"ACTION_{action}" for action in range(num_actions))


def _steps_per_second(task_id: str, family: str, frame_skip: int) -> float:
    if family in _FRAMES_PER_SECOND:
        return _FRAMES_PER_SECOND[family] / frame_skip
    return next((speed for begin, speed in _STEPS_PER_SECOND if re.match(begin, task_id)), _OTHER_STEPS_PER_SECOND)
