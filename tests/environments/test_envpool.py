"""The EnvPool adapter on real games: timesteps, options, seeds, errors."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import envpool
import jax
import numpy as np
import pytest

from agent57_jax.environments import envpool as adapter
from agent57_jax.environments.atari57 import ACTION_NAMES, SCORES
from agent57_jax.environments.envpool import EnvPoolEnvironment
from agent57_jax.types import FIRST, LAST, MID, TimeStep
from configs import coinrun

Make = Callable[..., EnvPoolEnvironment]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[EnvPoolEnvironment] = []

    def make_one(task_id: str, num_envs: int = 3, seeds: list[int] | None = None, **arguments: Any) -> EnvPoolEnvironment:
        seeds = [11, 2222, 333333, 4][:num_envs] if seeds is None else seeds
        made.append(EnvPoolEnvironment(task_id, num_envs, seeds, **{"num_threads": 2, **arguments}))
        return made[-1]

    yield make_one
    for environment in made:
        environment.close()


def start(environment: EnvPoolEnvironment) -> TimeStep:
    environment.reset()
    return environment.recv()


def step(environment: EnvPoolEnvironment, actions: np.ndarray) -> TimeStep:
    environment.send(actions)
    return environment.recv()


def random_actions(environment: EnvPoolEnvironment, num_steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, environment.spec.num_actions, (num_steps, environment.num_envs)).astype(np.int32)


def play(environment: EnvPoolEnvironment, num_steps: int, seed: int = 0) -> TimeStep:
    """FIRST and `num_steps` timesteps under random actions, every field [num_steps + 1, E, ...]."""
    timesteps = [start(environment)] + [step(environment, actions) for actions in random_actions(environment, num_steps, seed)]
    return jax.tree.map(lambda *rows: np.stack(rows), *timesteps)


# Options and specs


def test_every_atari_option_is_set(make: Make) -> None:
    environment = make("Zaxxon-v5", num_envs=3)
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
    assert {name: value for name, value in config.items() if name not in left_to_envpool} == expected
    assert config["task"] == "zaxxon"


def test_arguments_reach_envpool(make: Make) -> None:
    arguments = {
        "frame_skip": 2,
        "full_action_space": False,
        "noop_max": 7,
        "repeat_action_probability": 0.25,
        "max_episode_steps": 99,
        "num_threads": 1,
    }
    environment = make("Pong-v5", **arguments)
    assert {name: environment._pool.config[name] for name in arguments} == arguments
    assert environment.spec.frames_per_step == 2
    assert environment.spec.num_actions == 6
    assert environment.spec.action_names == tuple(f"ACTION_{action}" for action in range(6))


def test_skiing_has_no_button(make: Make) -> None:
    assert make("Skiing-v5", num_envs=1).spec.action_names == (
        *("NOOP", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"),
    )


def test_threads_never_outnumber_environments(make: Make) -> None:
    assert make("LunarLander-v3", num_envs=2, num_threads=16)._pool.config["num_threads"] == 2
    assert make("LunarLander-v3", num_envs=1, num_threads=None)._pool.config["num_threads"] == 1


def test_atari_spec_and_timestep(make: Make) -> None:
    environment = make("Zaxxon-v5")
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions) == ((84, 84, 1), np.uint8, 18)
    assert (spec.action_names, spec.frames_per_step) == (ACTION_NAMES, 4)
    timestep = start(environment)
    assert timestep.observation.shape == (3, 84, 84, 1)
    assert timestep.observation.dtype == np.uint8
    assert [field.dtype for field in timestep[1:6]] == [np.float32, np.float32, np.int32, np.float32, np.int32]
    assert all(field.shape == (3,) for field in timestep[1:6])
    assert timestep.extras == {} and environment.spec.extras == ()


def test_vector_spec_and_timestep(make: Make) -> None:
    environment = make("LunarLander-v3")
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions, spec.frames_per_step) == ((8,), np.float32, 4, 1)
    assert spec.action_names == ("NOTHING", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE")
    assert environment._pool.config["max_episode_steps"] == 1000
    timestep = start(environment)
    assert timestep.observation.shape == (3, 8)
    assert timestep.observation.dtype == np.float32


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


def test_a_task_with_64_bit_observations_shows_32(make: Make) -> None:
    environment = make("CartPole-v1")  # Gymnasium warns about the bounds of its space, which must not reach the user
    assert start(environment).observation.dtype == environment.spec.observation_dtype == np.float32


def test_all_57_games_are_there() -> None:
    assert set(SCORES) <= set(envpool.list_all_envs())


# Timesteps


def test_episodes_begin_with_first(make: Make) -> None:
    for task_id in ("Zaxxon-v5", "LunarLander-v3"):
        timestep = start(make(task_id))
        np.testing.assert_array_equal(timestep.step_type, [FIRST] * 3)
        np.testing.assert_array_equal(timestep.reward, 0)
        np.testing.assert_array_equal(timestep.discount, 1)
        np.testing.assert_array_equal(timestep.episode_return, 0)
        np.testing.assert_array_equal(timestep.episode_length, 0)


@pytest.mark.parametrize("task_id", ["Zaxxon-v5", "LunarLander-v3"])
def test_a_time_limit_truncates(make: Make, task_id: str) -> None:
    timesteps = play(make(task_id, max_episode_steps=4), num_steps=11)
    expected = [FIRST, MID, MID, MID, LAST, FIRST, MID, MID, MID, LAST, FIRST, MID]
    np.testing.assert_array_equal(timesteps.step_type, np.tile(np.array(expected)[:, None], (1, 3)))
    np.testing.assert_array_equal(timesteps.episode_length[:, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(timesteps.discount, 1)
    np.testing.assert_array_equal(timesteps.reward[timesteps.step_type == FIRST], 0)


@pytest.mark.parametrize("task_id", ["Breakout-v5", "LunarLander-v3"])
def test_timesteps_follow_from_what_envpool_says(make: Make, task_id: str) -> None:
    environment = make(task_id)
    actions = random_actions(environment, num_steps=400, seed=5)
    config = dict(environment._pool.config)
    seeds = config.pop("env_seed")
    for name in ("seed", "task", "base_path"):
        config.pop(name, None)
    pool = envpool.make_gymnasium(task_id, seed=seeds, **config)

    observation, _ = pool.reset()
    timestep = start(environment)
    done = np.zeros(3, bool)
    total, length = np.zeros(3), np.zeros(3, int)
    num_ends = np.zeros(3, int)
    for t in range(401):
        np.testing.assert_array_equal(timestep.observation, observation if observation.ndim == 2 else np.moveaxis(observation, 1, -1))
        np.testing.assert_array_equal(timestep.episode_return, total.astype(np.float32))
        np.testing.assert_array_equal(timestep.episode_length, length)
        if t == 400:
            break
        was_done = done
        observation, reward, terminated, truncated, _ = pool.step(actions[t])
        done = terminated | truncated
        reward[was_done] = 0
        total, length = np.where(was_done, 0, total + reward), np.where(was_done, 0, length + 1)
        num_ends += done
        timestep = step(environment, actions[t])
        np.testing.assert_array_equal(timestep.reward, reward)
        np.testing.assert_array_equal(timestep.step_type, np.where(was_done, FIRST, np.where(done, LAST, MID)))
        np.testing.assert_array_equal(timestep.discount, ~done)  # no episode here is long enough for the limit
    assert np.all(num_ends > 0)  # natural ends, and FIRST after each


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


def test_losing_a_life_ends_nothing(make: Make) -> None:
    environment = make("Breakout-v5", num_envs=1)
    timestep = start(environment)
    lives = []
    received = environment._pool.recv

    def recv() -> Any:
        result = received()
        lives.append(int(result[4]["lives"][0]))
        return result

    environment._pool.recv = recv
    for actions in random_actions(environment, num_steps=60, seed=5):
        timestep = step(environment, actions)
        assert (timestep.step_type[0], timestep.discount[0]) == (MID, 1)
    assert min(lives) < max(lives)


def test_reset_in_the_middle_starts_everything_anew(make: Make) -> None:
    environment = make("LunarLander-v3", max_episode_steps=7)
    play(environment, num_steps=4)
    environment.send(np.zeros(3, np.int32))
    environment.reset()  # with a step under way
    timestep = environment.recv()
    np.testing.assert_array_equal(timestep.step_type, FIRST)
    np.testing.assert_array_equal(timestep.episode_length, 0)
    total = np.zeros(3)
    for length in range(1, 8):
        timestep = step(environment, np.zeros(3, np.int32))
        total += timestep.reward
        np.testing.assert_array_equal(timestep.step_type, LAST if length == 7 else MID)
        np.testing.assert_array_equal(timestep.episode_length, length)
        np.testing.assert_array_equal(timestep.episode_return, total.astype(np.float32))


@pytest.mark.parametrize("task_id", ["LunarLander-v3", "Pong-v5"])
def test_rows_that_ended_can_be_restarted_without_a_step_of_the_others(make: Make, task_id: str) -> None:
    """Each row sees what it would have seen alone, with its own FIRST one step earlier."""
    limit = {"LunarLander-v3": 80, "Pong-v5": 20}[task_id]
    usual, other = (make(task_id, max_episode_steps=limit) for _ in range(2))
    actions = np.random.default_rng(0).integers(usual.spec.num_actions, size=(3, 200))
    seen: list[list[tuple[float, int, int, float]]] = [[] for _ in range(3)]
    taken = np.zeros(3, int)
    timestep = start(usual)
    for _ in range(190):
        for row in range(3):
            summed = float(timestep.observation[row].sum())
            seen[row].append((summed, *(int(x[row]) for x in (timestep.step_type, timestep.episode_length)), timestep.episode_return[row]))
        chosen = actions[np.arange(3), taken]
        taken += timestep.step_type != LAST
        timestep = step(usual, chosen)

    found: list[list[tuple[float, int, int, float]]] = [[] for _ in range(3)]
    timestep = start(other)
    for t in range(150):
        for row in range(3):
            summed = float(timestep.observation[row].sum())
            found[row].append((summed, *(int(x[row]) for x in (timestep.step_type, timestep.episode_length)), timestep.episode_return[row]))
        ended = np.flatnonzero(timestep.step_type == LAST)
        if len(ended):
            first = other.restart(ended)
            for row, observation in zip(ended, first, strict=True):
                found[row].append((float(observation.sum()), FIRST, 0, 0.0))
        timestep = step(other, actions[:, t])
    for row in range(3):
        assert seen[row] == found[row][: len(seen[row])] or found[row] == seen[row][: len(found[row])]
        assert sum(kind == LAST for _, kind, _, _ in found[row]) > 0
    with pytest.raises(ValueError, match="has ended"):
        other.restart(np.flatnonzero(timestep.step_type != LAST)[:1])
    assert other.restart([]).shape == (0, *other.spec.observation_shape)
    step(other, actions[:, 0])


def test_two_groups_overlap(make: Make) -> None:
    # The order of the trainer: while one group steps, the other is sent its actions.
    groups = [make("LunarLander-v3", num_envs=2, seeds=[1, 2]), make("LunarLander-v3", num_envs=2, seeds=[3, 4])]
    alone = make("LunarLander-v3", num_envs=4, seeds=[1, 2, 3, 4])
    actions = random_actions(alone, num_steps=20)
    expected = play(alone, num_steps=20)
    for group in groups:
        group.reset()
    for t in range(21):
        for index, group in enumerate(groups):
            rows = slice(2 * index, 2 * index + 2)
            np.testing.assert_array_equal(group.recv().observation, expected.observation[t, rows])
            if t < 20:
                group.send(actions[t, rows])
    for group in groups:
        group.close()


def test_timesteps_belong_to_the_caller(make: Make) -> None:
    for task_id in ("Zaxxon-v5", "LunarLander-v3"):
        environment = make(task_id)
        kept = [start(environment)]
        kept += [step(environment, actions) for actions in random_actions(environment, num_steps=3)]
        copies = [jax.tree.map(np.array, timestep) for timestep in kept]
        for actions in random_actions(environment, num_steps=30, seed=1):
            step(environment, actions)
        for timestep, copy in zip(kept, copies, strict=True):
            jax.tree.map(np.testing.assert_array_equal, timestep, copy)
        timestep = step(environment, np.zeros(3, np.int32))
        for mine in jax.tree.leaves(timestep):
            mine.fill(7)  # what the caller writes is lost on the environment
        timestep = step(environment, np.zeros(3, np.int32))
        np.testing.assert_array_equal(timestep.episode_length, 3 + 30 + 2)


# Order


def test_same_seeds_give_the_same_streams_with_one_thread_and_two(make: Make) -> None:
    for task_id in ("Zaxxon-v5", "LunarLander-v3"):
        one, two, other = (make(task_id, num_threads=1), make(task_id, num_threads=2), make(task_id, seeds=[5, 6, 7]))
        streams = [play(environment, num_steps=25) for environment in (one, two, other)]
        for a, b in zip(streams[0], streams[1], strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(streams[0].observation, streams[2].observation)


def test_row_e_is_the_environment_with_seed_e(make: Make) -> None:
    environment = make("Zaxxon-v5")
    together = play(environment, num_steps=15)
    actions = random_actions(environment, num_steps=15)
    for e, seed in enumerate((11, 2222, 333333)):
        alone = make("Zaxxon-v5", num_envs=1, seeds=[seed])
        np.testing.assert_array_equal(start(alone).observation[0], together.observation[0, e])
        for t in range(15):
            timestep = step(alone, actions[t, e : e + 1])
            np.testing.assert_array_equal(timestep.observation[0], together.observation[t + 1, e])


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
    ("task_id", "arguments", "message"),
    [
        ("Zaxon-v5", {}, r"EnvPool has no task 'Zaxon-v5'; did you mean Zaxxon-v5"),
        ("", {}, r"EnvPool has no task ''"),
        ("Zaxxon-v5", {"noop_max": 0}, r"noop_max must be at least 1, not 0"),
        ("Zaxxon-v5", {"frame_skip": 0}, r"frame_skip must be at least 1"),
        ("Zaxxon-v5", {"repeat_action_probability": 1.5}, r"repeat_action_probability must lie in \[0, 1\]"),
        ("Zaxxon-v5", {"max_episode_steps": 0}, r"max_episode_steps must be at least 1"),
        ("Zaxxon-v5", {"num_threads": 0}, r"num_threads must be at least 1"),
        ("Zaxxon-v5", {"num_envs": 0}, r"num_envs must be at least 1"),
        ("Zaxxon-v5", {"render_mode": "human"}, r"render_mode must be None or"),
        ("Zaxxon-v5", {"seeds": [1, 2]}, r"3 environments need 3 seeds, not 2"),
        ("Zaxxon-v5", {"seeds": [1, 2, 2**31]}, r"seeds must lie in"),
        ("BipedalWalker-v3", {}, r"BipedalWalker-v3 is not supported: its actions"),
        ("Ant-v4", {}, r"Ant-v4 is not supported: its actions are continuous|Ant-v4 can't be loaded"),
        ("MiniGrid-PutNear-6x6-N2-v0", {}, r"MiniGrid-PutNear-6x6-N2-v0 is not supported: its mission is a text that changes"),
        ("BabyAI-GoToLocal-v0", {}, r"its mission is a text that changes, and the agent can't read"),
        ("ConnectFour-v1", {}, r"ConnectFour-v1 is not supported: it is a game of several players"),
        ("IntersectionMultiAgent-v1", {}, r"it is a game of several players"),
        ("Tetris-v0", {}, r"its actions are several choices at once, and only one is"),
        ("Game2048-v1", {}, r"it shows whole numbers without bounds \(board int32\[4, 4\]\)"),
        ("MultiDuel-v1", {}, r"MultiDuel-v1 is not supported: it waits for other players"),
        ("VizdoomCustom-v1", {}, r"VizdoomCustom-v1 can't be made: "),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(make: Make, task_id: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(task_id, **arguments)
    assert "\n" not in str(error.value)


def test_missing_qt_is_said_plainly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_spec(task_id: str, **options: Any) -> Any:
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.\nInstall ...")

    monkeypatch.setattr(adapter.envpool, "make_spec", make_spec)
    with pytest.raises(ValueError, match="CoinrunEasy-v0 needs the Qt 5 libraries: apt-get install libqt5gui5") as error:
        make("CoinrunEasy-v0")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, 1, 4], np.int32), r"actions must lie in 0..3, not in 0..4"),
        (np.array([0, -1, 2], np.int32), r"actions must lie in 0..3, not in -1..2"),
        (np.array([0, 1, 2], np.float32), r"integers of shape \(3,\), not float32"),
        (np.array([True, False, True]), r"integers of shape \(3,\), not bool"),
        (np.array([0, 1], np.int32), r"integers of shape \(3,\), not int32 of shape \(2,\)"),
        (np.array([[0, 1, 2]], np.int32), r"integers of shape \(3,\)"),
    ],
)
def test_bad_actions_are_refused(make: Make, actions: np.ndarray, message: str) -> None:
    environment = make("LunarLander-v3")
    start(environment)
    with pytest.raises(ValueError, match=message):
        environment.send(actions)
    step(environment, np.array([0, 1, 3], np.int64))  # nothing was sent, and any integers will do


def test_calls_out_of_order_are_refused_instead_of_waiting_for_ever(make: Make) -> None:
    environment = make("LunarLander-v3")
    actions = np.zeros(3, np.int32)
    with pytest.raises(RuntimeError, match="nothing is under way"):
        environment.recv()
    with pytest.raises(RuntimeError, match="comes after reset"):
        environment.send(actions)
    start(environment)
    environment.send(actions)
    with pytest.raises(RuntimeError, match="once for each recv"):
        environment.send(actions)
    environment.close()
    environment.close()
    with pytest.raises(RuntimeError, match="closed"):
        environment.recv()


# Threads and rendering


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


def test_render_shows_one_environment(make: Make) -> None:
    environment = make("Zaxxon-v5", render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="comes after recv"):
        environment.render(0)
    play(environment, num_steps=20)
    screens = [environment.render(e) for e in range(3)]
    assert all(screen.shape == (210, 160, 3) and screen.dtype == np.uint8 for screen in screens)
    assert not np.array_equal(screens[0], screens[1])
    np.testing.assert_array_equal(environment.render(0), screens[0])
    with pytest.raises(ValueError, match="there is no environment 3"):
        environment.render(3)


def test_render_needs_its_mode(make: Make) -> None:
    environment = make("LunarLander-v3")
    start(environment)
    with pytest.raises(ValueError, match="render_mode"):
        environment.render(0)
