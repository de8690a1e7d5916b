"""EnvPool's tasks beyond Atari: MiniGrid, ViZDoom, numbers and boards, and which are refused."""

import collections
import re
from collections.abc import Callable, Iterator
from typing import Any

import envpool
import numpy as np
import pytest
from envpool.registration import registry

from agent57_jax.environments import envpool as adapter
from agent57_jax.environments.envpool import EnvPoolEnvironment
from agent57_jax.environments.envpool_observations import make_encoder
from agent57_jax.types import FIRST, LAST, MID
from tests.environments.playing import closing, random_actions, start, step

Make = Callable[..., EnvPoolEnvironment]
KEY_ROOM = "MiniGrid-DoorKey-5x5-v0"
RIGHT, FORWARD, DONE = 1, 2, 6


def create(task_id: str, num_envs: int = 3, **arguments: Any) -> EnvPoolEnvironment:
    return EnvPoolEnvironment(task_id, num_envs, list(range(100, 100 + num_envs)), num_threads=1, **arguments)


@pytest.fixture
def make() -> Iterator[Make]:
    with closing(create) as made:
        yield made


def raw_pool(task_id: str, num_envs: int, **options: Any) -> Any:
    """EnvPool's own, with the seeds of `make`."""
    seeds = list(range(100, 100 + num_envs))
    return envpool.make_gymnasium(task_id, num_envs=num_envs, num_threads=1, seed=seeds, thread_affinity_offset=-1, **options)


def spec_of(task_id: str) -> Any:
    """What the adapter reads of a task, without the costs of making it."""
    spec = adapter._task_spec(task_id)
    return adapter._task_spec(task_id, use_combined_action=True) if adapter._family(spec) == "doom" else spec


def family(task_id: str) -> str:
    return registry.specs[task_id][0].removeprefix("envpool.")


# Every task is taken or refused


def verdict(task_id: str) -> str:
    """Empty for a task that is taken, else the one line without the task's name."""
    try:
        spec, _ = adapter._describe(task_id, spec_of(task_id))
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said and said.startswith(task_id if said else "")
    if said:
        return said.removeprefix(task_id).strip()
    assert spec.num_actions == len(set(spec.action_names)) >= 2
    assert len(spec.observation_shape) == (3 if spec.observation_dtype == np.uint8 else 1)
    assert min(spec.observation_shape) >= 1 and spec.steps_per_second > 0
    return ""


# As docs/environments.md says: the families of which tasks are taken, and what is wrong with the others.
TAKEN = {"atari", "box2d", "classic_control", "gfootball", "highway", "jumanji", "minigrid", "pgx", "toy_text", "vizdoom"}
REASONS = {
    "atari": "",
    "box2d": "actions are continuous",
    "classic_control": "continuous",
    "gfootball": "",
    "highway": "continuous|multiplayer",
    "jumanji": "continuous|several parts|unbounded",
    "minigrid": "mission text changes",
    "mujoco": "continuous",
    "pgx": "multiplayer",
    "procgen": "needs the Qt 5 libraries",
    "toy_text": "",
    "vizdoom": "waits for other players|does not exist",
}


def check(tasks: list[str]) -> None:
    taken = set()
    for task_id in tasks:
        group, said = family(task_id).split(".")[0], verdict(task_id)
        if said:
            assert REASONS[group] and re.search(REASONS[group], said), (task_id, said)
        else:
            taken.add(group)
    assert taken - {"procgen"} == TAKEN


def test_a_few_tasks_of_every_family_are_taken_or_refused_in_one_line() -> None:
    tasks = collections.defaultdict(list)
    for task_id in envpool.list_all_envs():
        tasks[family(task_id)].append(task_id)
    assert {name.split(".")[0] for name in tasks} == set(REASONS)
    check([task_id for members in tasks.values() for task_id in [*members[:: max(len(members) // 8, 1)], *members[-2:]]])


@pytest.mark.slow
def test_every_task_is_taken_or_refused_in_one_line() -> None:
    check(envpool.list_all_envs())


# MiniGrid


def slow_planes(image: np.ndarray, direction: int) -> np.ndarray:
    """[height, width, 24] from [height, width, 3], cell by cell."""
    planes = np.zeros((*image.shape[:2], 24), np.uint8)
    for y, x in np.ndindex(*image.shape[:2]):
        kind, colour, state = (int(number) for number in image[y, x])
        for plane in (kind, 11 + colour, 17 + state, 20 + direction):
            planes[y, x, plane] = 255
    return planes


def test_planes_are_those_of_a_slow_loop() -> None:
    random = np.random.default_rng(3)
    for height, width in ((7, 7), (5, 3)):
        shapes = {"obs:image": (height, width, 3), "obs:direction": (-1,), "obs:mission": (96,)}
        encoder = make_encoder("any", {name: type("Spec", (), {"shape": shape}) for name, shape in shapes.items()})
        image = np.stack([random.integers(0, size, (20, height, width)) for size in (11, 6, 3)], axis=-1).astype(np.uint8)
        direction = random.integers(0, 4, 20).astype(np.int32)
        shown = encoder.encode({"image": image, "direction": direction})
        assert shown.dtype == encoder.dtype == np.uint8 and shown.shape[1:] == encoder.shape == (height, width, 24)
        np.testing.assert_array_equal(shown, [slow_planes(*row) for row in zip(image, direction, strict=True)])


@pytest.mark.parametrize("task_id", [KEY_ROOM, "MiniGrid-Dynamic-Obstacles-Random-6x6-v0", "BabyAI-KeyCorridorS3R2-v0"])
def test_planes_are_of_what_envpool_shows(make: Make, task_id: str) -> None:
    environment, pool = make(task_id), raw_pool(task_id, 3)
    timestep, (raw, _) = start(environment), pool.reset()
    for actions in random_actions(environment, num_steps=50):
        wanted = [slow_planes(*row) for row in zip(raw["image"], raw["direction"].reshape(-1).tolist(), strict=True)]
        np.testing.assert_array_equal(timestep.observation, wanted)
        timestep, (raw, reward, *_) = step(environment, actions), pool.step(actions)
        np.testing.assert_array_equal(timestep.reward, np.where(timestep.step_type == FIRST, 0, reward))
    pool.close()


def solve(environment: EnvPoolEnvironment) -> tuple[int, float, float]:
    """Random actions in the only environment until an episode ends with a reward: its length, reward and discount."""
    start(environment)
    for actions in random_actions(environment, num_steps=20_000, seed=1):
        timestep = step(environment, actions)
        if timestep.reward[0] != 0:
            assert timestep.step_type[0] == LAST
            return int(timestep.episode_length[0]), float(timestep.reward[0]), float(timestep.discount[0])
    raise AssertionError("the door stayed closed")


def test_success_is_paid_by_the_tasks_own_limit_whatever_ours_is(make: Make) -> None:
    """1 - 0.9 steps / limit, as in MiniGrid's paper, and an end."""
    length, reward, discount = solve(make(KEY_ROOM, num_envs=1))
    assert length < 250 and discount == 0
    np.testing.assert_allclose(reward, 1 - 0.9 * length / 250, rtol=1e-6)
    assert solve(make(KEY_ROOM, num_envs=1, max_episode_steps=1000)) == (length, reward, discount)
    for limit in (length + 1, 249):
        steps, paid, discount = solve(make(KEY_ROOM, num_envs=1, max_episode_steps=limit))
        np.testing.assert_allclose(paid, 1 - 0.9 * steps / 250, rtol=1e-6)
        assert discount == 0


@pytest.mark.parametrize(("task_id", "ours", "limit"), [(KEY_ROOM, 1000, 250), (KEY_ROOM, 20, 20), ("BabyAI-OneRoomS8-v0", None, 64)])
def test_the_shorter_of_the_tasks_limit_and_ours_truncates(make: Make, task_id: str, ours: int | None, limit: int) -> None:
    environment = make(task_id, max_episode_steps=ours)
    timestep = start(environment)
    for t in range(1, 2 * (limit + 1) + 1):
        timestep = step(environment, DONE)
        expected = FIRST if t % (limit + 1) == 0 else LAST if t % (limit + 1) == limit else MID
        np.testing.assert_array_equal(timestep.step_type, expected)
        np.testing.assert_array_equal(timestep.episode_length, t % (limit + 1))
        np.testing.assert_array_equal(timestep.discount, 1)


def test_success_in_the_last_step_is_an_end(make: Make) -> None:
    """EnvPool calls it truncated; the reward tells."""
    environment = make("MiniGrid-Empty-5x5-v0", num_envs=1)
    route = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
    for t, action in enumerate([*[DONE] * (100 - len(route)), *route], 1):
        timestep = step(environment, action) if t > 1 else (start(environment), step(environment, action))[1]
    assert (timestep.step_type[0], timestep.episode_length[0], timestep.discount[0]) == (LAST, 100, 0)
    np.testing.assert_allclose(timestep.reward[0], 0.1, rtol=1e-5)


def test_missions_that_must_be_read_are_refused() -> None:
    """Taken tasks have the same text in every episode, but for the colour or kind of the only thing there is."""
    for task_id in envpool.list_all_envs():
        if not task_id.startswith(("MiniGrid", "BabyAI")) or "WFC" in task_id:  # mazes that take long to make, all with one mission
            continue
        pool = raw_pool(task_id, 12)
        found = {bytes(row).rstrip(b"\0").decode() for _ in range(2) for row in pool.reset()[0]["mission"]}
        pool.close()
        if adapter._MISSION_CAN_BE_SEEN.match(task_id):
            names = r"\b(a|the|red|green|blue|purple|yellow|grey|ball|box|key)\b"
            assert len({re.sub(names, "", mission) for mission in found}) == 1, task_id
        else:
            assert len(found) > 1, task_id


# Our time limit


@pytest.mark.parametrize(
    "task_id",
    ["CartPole-v1", "CliffWalking-v1", "Catch-v0", "Snake-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1", "GraphColoring-v1"],
)
def test_rows_are_cut_off_alone_and_the_others_go_on(make: Make, task_id: str) -> None:
    """Whether or not EnvPool's option would do it. Until its first end a row is what it is without a limit."""
    environment, free = make(task_id, num_envs=4, max_episode_steps=7), make(task_id, num_envs=4)
    timestep, expected = start(environment), start(free)
    fresh = expected.observation[0]
    same, was_last = np.ones(4, bool), np.zeros(4, bool)
    for actions in random_actions(environment, num_steps=60, seed=4):
        timestep, expected = step(environment, actions), step(free, actions)
        np.testing.assert_array_equal(timestep.step_type == FIRST, was_last)
        was_last = timestep.step_type == LAST
        assert timestep.observation.shape == (4, *environment.spec.observation_shape) and np.isfinite(timestep.observation).all()
        assert (timestep.episode_length <= 7).all()
        np.testing.assert_array_equal((timestep.episode_length == 7) <= was_last, True)
        np.testing.assert_array_equal(timestep.observation[same], expected.observation[same])
        np.testing.assert_array_equal(timestep.reward[same], expected.reward[same])
        cut_off = same & was_last & (expected.step_type != LAST)
        np.testing.assert_array_equal(timestep.discount[cut_off], 1)
        same &= ~was_last
        if task_id == "CliffWalking-v1":  # one start, which is how a row that begins anew looks
            np.testing.assert_array_equal(timestep.observation[timestep.step_type == FIRST] == fresh, True)
    assert not same.any()


def test_reset_and_close_with_rows_that_were_cut_off(make: Make) -> None:
    environment = make("CartPole-v1", max_episode_steps=1)
    for _ in range(2):  # the second time with the rows of our own restart under way
        assert (start(environment).step_type == FIRST).all()
        assert (step(environment, 0).step_type == LAST).all()
        environment.send(np.zeros(3, np.int32))
    environment.close()


# Numbers and vectors


def test_numbers_become_one_vector(make: Make) -> None:
    for task_id, parts in (
        ("Taxi-v3", lambda raw: [np.eye(500)[raw.reshape(-1)]]),  # a single whole number is a one-hot vector
        ("Blackjack-v1", lambda raw: [raw / 31]),  # small ones are scaled
        ("Catch-v0", lambda raw: [raw]),
        ("highway-v0", lambda raw: [raw]),
        ("Play2048-v1", lambda raw: [raw]),
        ("Snake-v1", lambda raw: [raw["grid"], raw["step_count"] / 3999, raw["action_mask"]]),
        (
            "Maze-v0",
            lambda raw: [
                *(raw[f"{name}_position"][axis] / 9 for name in ("agent", "target") for axis in ("row", "col")),
                *(raw["walls"], raw["step_count"] / 100, raw["action_mask"]),
            ],
        ),
    ):
        environment, pool = make(task_id), raw_pool(task_id, 3)
        timestep, (raw, _) = start(environment), pool.reset()
        for actions in random_actions(environment, num_steps=10):
            shown = timestep.observation
            assert shown.dtype == np.float32 and shown.shape == (3, *environment.spec.observation_shape)
            np.testing.assert_allclose(shown, np.concatenate([part.reshape(3, -1) for part in parts(raw)], axis=1), rtol=1e-6)
            timestep, (raw, *_) = step(environment, actions), pool.step(actions)
        pool.close()


# Images


@pytest.mark.slow  # a game is a process of its own, which EnvPool was once seen to wait for without end
def test_doom_shows_stacked_frames_and_takes_combinations_of_buttons(make: Make, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # ViZDoom writes a file of settings into the folder where it is started
    environment = make("Basic-v1", num_envs=2)
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions) == ((84, 84, 12), np.uint8, 6)
    assert (spec.frames_per_step, spec.steps_per_second) == (4, 35 / 4)
    pool = raw_pool("Basic-v1", 2, use_combined_action=True)
    timestep, (raw, _) = start(environment), pool.reset()
    for actions in random_actions(environment, num_steps=8):
        assert raw.shape == (2, 12, 84, 84) and timestep.observation.std() > 0
        np.testing.assert_array_equal(timestep.observation, raw.transpose(0, 2, 3, 1))
        timestep, (raw, *_) = step(environment, actions), pool.step(actions)
    pool.close()


def test_football_has_its_channels_last_already(make: Make) -> None:
    environment = make("gfootball/academy_empty_goal-v1", num_envs=1)
    assert environment.spec.observation_shape == (72, 96, 4)
    assert start(environment).observation.shape == (1, 72, 96, 4)


@pytest.mark.parametrize(("task_id", "shape"), [(KEY_ROOM, (160, 160, 3)), ("CartPole-v1", (400, 600, 3)), ("Freeway-v5", (210, 160, 3))])
def test_pictures(make: Make, task_id: str, shape: tuple[int, ...]) -> None:
    environment = make(task_id, render_mode="rgb_array", max_episode_steps=2)
    start(environment)
    before = environment.render(1)
    assert before.shape == shape and before.dtype == np.uint8 and before.std() > 0
    np.testing.assert_array_equal(environment.render(1), before)  # looking changes nothing
    assert not np.array_equal(environment.render(0), before)
    step(environment, RIGHT if task_id == KEY_ROOM else 1)
    assert not np.array_equal(environment.render(1), before)
    assert (step(environment, 0).step_type == LAST).all()
    final = environment.render(1)
    step(environment, 0)
    assert not np.array_equal(environment.render(1), final)  # the final screen stayed until the next episode


@pytest.mark.parametrize(
    ("task_id", "mode", "message"),
    [("FrozenLake-v1", "rgb_array", "FrozenLake-v1 draws no pictures"), ("LunarLander-v3", None, "made with render_mode")],
)
def test_without_pictures_it_says_so(make: Make, task_id: str, mode: str | None, message: str) -> None:
    environment = make(task_id, render_mode=mode)
    start(environment)
    with pytest.raises(ValueError, match=message):
        environment.render(0)


def test_actions_have_names() -> None:
    for task_id, names in (
        (KEY_ROOM, ("LEFT", "RIGHT", "FORWARD", "PICKUP", "DROP", "TOGGLE", "DONE")),
        ("MiniGrid-Dynamic-Obstacles-5x5-v0", ("LEFT", "RIGHT", "FORWARD")),
        ("CartPole-v1", ("LEFT", "RIGHT")),
        ("MountainCar-v0", ("LEFT", "NOTHING", "RIGHT")),
        ("intersection-v0", ("SLOWER", "IDLE", "FASTER")),
        ("NChain-v0", ("ACTION_0", "ACTION_1")),
        ("Taxi-v3", ("DOWN", "UP", "RIGHT", "LEFT", "PICKUP", "DROP")),
    ):
        assert adapter._describe(task_id, spec_of(task_id))[0].action_names == names
