"""The EnvPool adapter on real games: timesteps, options, seeds, errors."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import envpool
import numpy as np
import pytest

from agent57_jax.environments import envpool as adapter
from agent57_jax.environments.atari57 import ACTION_NAMES
from agent57_jax.environments.envpool import EnvPoolEnvironment
from agent57_jax.types import FIRST, LAST, MID, TimeStep
from configs import coinrun
from tests.environments.playing import closing, play, random_actions, start, step

Make = Callable[..., EnvPoolEnvironment]
SEEDS = [11, 2222, 333333, 4]


def create(task_id: str, num_envs: int = 3, seeds: list[int] | None = None, **arguments: Any) -> EnvPoolEnvironment:
    seeds = SEEDS[:num_envs] if seeds is None else seeds
    return EnvPoolEnvironment(task_id, num_envs, seeds, **{"num_threads": 2, **arguments})


@pytest.fixture
def make() -> Iterator[Make]:
    with closing(create) as made:
        yield made


# Options and specs


@pytest.mark.parametrize(
    "given", [{}, {"frame_skip": 2, "noop_max": 7, "repeat_action_probability": 0.25, "max_episode_steps": 99, "num_threads": 1}]
)
def test_every_atari_option_is_set(make: Make, given: dict[str, Any]) -> None:
    environment = make("Zaxxon-v5", num_envs=3, **given)
    config = dict(environment._pool.config)
    left_to_envpool = {"base_path", "task", "gym_reset_return_info"}  # the ROM and its place; the only value there is
    expected = {
        "num_envs": 3,
        "batch_size": 3,
        "num_threads": 2,
        "max_num_players": 1,
        "thread_affinity_offset": -1,
        "seed": 0,
        "env_seed": [11, 2222, 333333],
        "max_episode_steps": 27_000,
        "stack_num": 1,
        "frame_skip": 4,
        "noop_max": 30,
        "zero_discount_on_life_loss": False,
        "episodic_life": False,
        "reward_clip": False,
        "use_fire_reset": False,
        "img_height": 84,
        "img_width": 84,
        "mode": -1,
        "difficulty": -1,
        "full_action_space": True,
        "repeat_action_probability": 0.0,
        "use_inter_area_resize": True,
        "gray_scale": True,
    }
    assert {name: value for name, value in config.items() if name not in left_to_envpool} == expected | given
    assert config["task"] == "zaxxon" and environment.spec.frames_per_step == config["frame_skip"]


def test_threads_never_outnumber_environments(make: Make) -> None:
    assert make("LunarLander-v3", num_envs=2, num_threads=16)._pool.config["num_threads"] == 2
    assert make("LunarLander-v3", num_envs=1, num_threads=None)._pool.config["num_threads"] == 1


@pytest.mark.parametrize(
    ("task_id", "shape", "dtype", "names", "frames_per_step"),
    [
        ("Zaxxon-v5", (84, 84, 1), np.uint8, ACTION_NAMES, 4),
        ("Skiing-v5", (84, 84, 1), np.uint8, tuple(name for name in ACTION_NAMES if "FIRE" not in name), 4),  # it has no button
        ("LunarLander-v3", (8,), np.float32, ("NOTHING", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE"), 1),
        # EnvPool has 64 bits; Gymnasium warns about the bounds of its space, which must not reach the user.
        ("CartPole-v1", (4,), np.float32, ("LEFT", "RIGHT"), 1),
    ],
)
def test_specs_and_observations(
    make: Make, task_id: str, shape: tuple[int, ...], dtype: Any, names: tuple[str, ...], frames_per_step: int
) -> None:
    environment = make(task_id)
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions) == (shape, dtype, len(names))
    assert (spec.action_names, spec.frames_per_step, spec.extras) == (names, frames_per_step, ())
    observation = start(environment).observation
    assert observation.shape == (3, *shape) and observation.dtype == dtype


def test_procgen_spec_and_timesteps(make: Make) -> None:
    # The games know no shorter limit; a longer one says nothing.
    environment = make("CoinrunEasy-v0", num_envs=4, max_episode_steps=1000)
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions, spec.frames_per_step) == ((64, 64, 3), np.uint8, 15, 1)
    assert len(set(spec.action_names)) == 15
    names = {name: spec.action_names.index(name) for name in ("LEFT", "RIGHT_UP")}

    def returns(action: int) -> np.ndarray:
        timestep = start(environment)
        assert timestep.observation.shape == (4, 64, 64, 3) and timestep.observation.std() > 0
        assert len(np.unique(timestep.observation.mean((1, 2, 3)))) == 4  # each environment has a level of its own
        ended = []
        for _ in range(1001):
            timestep = step(environment, np.full(4, action))
            last = timestep.step_type == LAST
            assert (timestep.discount[~last] == 1).all()
            # Cut off after 1,000 steps, ended by the coin or a fall before.
            np.testing.assert_array_equal(timestep.discount[last], timestep.episode_length[last] == 1000)
            ended += timestep.episode_return[last].tolist()
        return np.array(ended)

    # Levels begin at the left, and the coin of ten points lies at the right.
    assert (returns(names["LEFT"]) == 0).all()
    assert 10 in returns(names["RIGHT_UP"])
    with pytest.raises(ValueError, match="CoinrunEasy-v0 ends after 1000 steps and can't be made shorter"):
        make("CoinrunEasy-v0", max_episode_steps=300)


def test_every_procgen_game_runs_with_the_settings_of_coinrun_or_says_which_limit_it_needs(make: Make) -> None:
    limit, needed = coinrun.get_config("laptop").environment.max_episode_steps, {}
    names = {name: re.fullmatch("([A-Z][a-z]+)(Easy|Hard|Exploration|Memory|Extreme)-v0", name) for name in envpool.list_all_envs()}
    games = {name: match[1] for name, match in names.items() if match}
    for game in games:
        try:
            environment = make(game, num_envs=1, seeds=[1], max_episode_steps=limit)
        except ValueError as error:
            (own,) = re.findall(r"ends after \d+ steps .*: --config.environment.max_episode_steps=(\d+)$", str(error))
            needed[game] = int(own)
            environment = make(game, num_envs=1, seeds=[1], max_episode_steps=needed[game])
        assert environment.spec.observation_shape == (64, 64, 3)
    assert len(set(games.values())) == 16 and len(games) >= 32
    # As the head of the config file says.
    longest = {"Bigfish": 6000, "Bossfight": 4000, "Plunder": 4000}
    assert needed == {f"{game}{level}-v0": steps for game, steps in longest.items() for level in ("Easy", "Hard")}


# Timesteps


@pytest.mark.parametrize("task_id", ["Breakout-v5", "LunarLander-v3"])
def test_timesteps_follow_from_what_envpool_says(make: Make, task_id: str) -> None:
    environment = make(task_id)
    actions = random_actions(environment, num_steps=400, seed=5)
    config = dict(environment._pool.config)
    seeds = config.pop("env_seed")
    for name in ("seed", "task", "base_path"):
        config.pop(name, None)
    pool = envpool.make_gymnasium(task_id, seed=seeds, **config)

    observation, info = pool.reset()
    timestep = start(environment)
    done = np.zeros(3, bool)
    total, length, num_ends = np.zeros(3), np.zeros(3, int), np.zeros(3, int)
    lost_a_life = task_id != "Breakout-v5"
    for t in range(401):
        np.testing.assert_array_equal(timestep.observation, observation if observation.ndim == 2 else np.moveaxis(observation, 1, -1))
        np.testing.assert_array_equal(timestep.episode_return, total.astype(np.float32))
        np.testing.assert_array_equal(timestep.episode_length, length)
        if t == 400:
            break
        was_done = done
        lives = info.get("lives", np.zeros(3))
        observation, reward, terminated, truncated, info = pool.step(actions[t])
        done = terminated | truncated
        lost_a_life |= bool((~done & ~was_done & (info.get("lives", 0) < lives)).any())  # which ends nothing
        reward[was_done] = 0
        total, length = np.where(was_done, 0, total + reward), np.where(was_done, 0, length + 1)
        num_ends += done
        timestep = step(environment, actions[t])
        np.testing.assert_array_equal(timestep.reward, reward)
        np.testing.assert_array_equal(timestep.step_type, np.where(was_done, FIRST, np.where(done, LAST, MID)))
        np.testing.assert_array_equal(timestep.discount, ~done)  # no episode here is long enough for the limit
    assert np.all(num_ends > 0) and lost_a_life  # natural ends, and FIRST after each


def test_game_over_at_the_limit_terminates(make: Make) -> None:
    def last_timestep(limit: int | None) -> tuple[int, float, float]:
        environment = make("Breakout-v5", num_envs=1, max_episode_steps=limit)
        timestep = start(environment)
        for actions in random_actions(environment, num_steps=400, seed=5):
            timestep = step(environment, actions)
            if timestep.step_type[0] == LAST:
                return int(timestep.episode_length[0]), float(timestep.discount[0]), float(timestep.episode_return[0])
        raise AssertionError("the game did not end")

    length, discount, total = last_timestep(limit=None)
    assert discount == 0
    assert last_timestep(limit=length) == (length, 0, total)
    assert last_timestep(limit=length - 1)[:2] == (length - 1, 1)


@pytest.mark.parametrize(("task_id", "limit"), [("LunarLander-v3", 80), ("Pong-v5", 20)])
def test_rows_that_ended_can_be_restarted_without_a_step_of_the_others(make: Make, task_id: str, limit: int) -> None:
    """Each row sees what it would have seen alone, with its own FIRST one step earlier."""
    usual, other = (make(task_id, max_episode_steps=limit) for _ in range(2))
    actions = np.random.default_rng(0).integers(usual.spec.num_actions, size=(3, 200))

    def see(lists: list[list[tuple[float, int, int, float]]], timestep: TimeStep) -> None:
        for row, seen in enumerate(lists):
            numbers = timestep.step_type[row], timestep.episode_length[row], timestep.episode_return[row]
            seen.append((float(timestep.observation[row].sum()), *numbers))

    wanted, found, taken, timestep = [[], [], []], [[], [], []], np.zeros(3, int), start(usual)
    for _ in range(190):
        see(wanted, timestep)
        chosen = actions[np.arange(3), taken]
        taken += timestep.step_type != LAST
        timestep = step(usual, chosen)

    timestep = start(other)
    for t in range(150):
        see(found, timestep)
        ended = np.flatnonzero(timestep.step_type == LAST)
        if len(ended):
            for row, observation in zip(ended, other.restart(ended), strict=True):
                found[row].append((float(observation.sum()), FIRST, 0, 0.0))
        timestep = step(other, actions[:, t])
    for one, two in zip(wanted, found, strict=True):
        shared = min(len(one), len(two))
        assert one[:shared] == two[:shared] and sum(kind == LAST for _, kind, _, _ in two) > 0
    with pytest.raises(ValueError, match="has ended"):
        other.restart(np.flatnonzero(timestep.step_type != LAST)[:1])
    assert other.restart([]).shape == (0, *other.spec.observation_shape)
    step(other, actions[:, 0])


def test_rows_in_another_order_are_sorted(make: Make) -> None:
    sorted_, shuffled = make("Zaxxon-v5"), make("Zaxxon-v5")
    received, order = shuffled._pool.recv, np.array([2, 0, 1])

    def recv() -> Any:
        observation, reward, terminated, truncated, info = received()
        info = {name: value[order] for name, value in info.items() if name in ("env_id", "terminated")}
        return observation[order], reward[order] + 1000 * order, terminated[order], truncated[order], info

    shuffled._pool.recv = recv
    expected, got = play(sorted_, num_steps=5), play(shuffled, num_steps=5)
    np.testing.assert_array_equal(got.observation, expected.observation)
    np.testing.assert_array_equal(got.reward[0], 0)  # whatever comes with a reset
    np.testing.assert_array_equal(got.reward[1:], expected.reward[1:] + 1000 * np.array([[0, 1, 2]]))


# Errors


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("Zaxon-v5", r"EnvPool has no task 'Zaxon-v5'; did you mean Zaxxon-v5"),
        ("", r"EnvPool has no task ''"),
        ("BipedalWalker-v3", r"BipedalWalker-v3 is not supported: its actions"),
        (
            "BabyAI-GoToLocal-v0",
            r"BabyAI-GoToLocal-v0 is not supported: its mission text changes between episodes",
        ),
        ("ConnectFour-v1", r"ConnectFour-v1 is not supported: it is a multiplayer game"),
        ("Tetris-v0", r"an action has several parts, and only single discrete actions are supported"),
        ("Game2048-v1", r"its observation has unbounded integers \(board int32\[4, 4\]\)"),
        ("MultiDuel-v1", r"MultiDuel-v1 is not supported: it waits for other players"),
        ("VizdoomCustom-v1", r"VizdoomCustom-v1 can't be made: "),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(make: Make, task_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(task_id)
    assert "\n" not in str(error.value)


def test_missing_qt_is_said_plainly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_spec(task_id: str, **options: Any) -> Any:
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.\nInstall ...")

    monkeypatch.setattr(adapter.envpool, "make_spec", make_spec)
    with pytest.raises(ValueError, match="CoinrunEasy-v0 needs the Qt 5 libraries: apt-get install libqt5gui5") as error:
        make("CoinrunEasy-v0")
    assert "\n" not in str(error.value)


# Threads


def test_close_ends_the_threads(make: Make) -> None:
    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = num_threads()
    environment = make("LunarLander-v3", num_envs=4)
    start(environment)
    environment.send(np.zeros(4, np.int32))
    assert num_threads() > before
    environment.close()
    assert num_threads() == before
