"""The Gymnasium adapter on toys whose numbers tell where they come from, on CartPole and on MiniGrid."""

import math
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax.config import EnvironmentKind, EnvironmentSettings, SettingsError
from agent57_jax.environments import factory, gymnasium_process
from agent57_jax.environments.gymnasium import GymnasiumEnvironment
from agent57_jax.environments.gymnasium_process import Batch, Description, Task, summary
from agent57_jax.monitoring import metrics
from agent57_jax.types import FIRST, LAST, MID, HostEnvironmentError
from tests.environments.playing import closing, play, start, step

ROOT = Path(__file__).parents[2]
TOYS = "tests.environments.toys:"
SEEDS = [11, 2222, 33, 4]
Make = Callable[..., GymnasiumEnvironment]


def create(task_id: str, num_envs: int = 3, **arguments: Any) -> GymnasiumEnvironment:
    name = task_id if "-" in task_id else TOYS + task_id
    return GymnasiumEnvironment(name, num_envs, **{"seeds": SEEDS[:num_envs], "num_processes": 1, **arguments})


@pytest.fixture
def make() -> Iterator[Make]:
    with closing(create) as made:
        yield made


def described(name: str, can_render: bool = False) -> Description:
    """What a toy's process says of it, without the process."""
    return gymnasium_process.describe(Task(TOYS + name, None, can_render))


def batch_of(name: str, num_envs: int) -> Batch:
    """What a process of toys steps, without the process."""
    description = described(name)
    memory = mmap.mmap(-1, num_envs * description.observation_dtype.itemsize * math.prod(description.observation_shape))
    return Batch(Task(TOYS + name, None, False), description, SEEDS[:num_envs], memory)


# Specs and timesteps


def test_spec_of_a_vector(make: Make) -> None:
    spec = make("Clock").spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions, spec.frames_per_step) == ((4,), np.float32, 4, 1)
    assert (spec.action_names, spec.extras, spec.steps_per_second) == (("5", "6", "7", "8"), (), 10)
    assert described("Drawn").steps_per_second == 25
    # An environment need not say anything of itself.
    untold = make("Untold", render_mode="rgb_array")
    assert untold.spec.steps_per_second == 10 and (start(untold).step_type == FIRST).all()


@pytest.mark.parametrize(
    ("toy", "names"),
    [
        ("Named", ("NOOP", "UP", "DOWN", "FIRE")),
        ("Foreign", ("何もしない", "go up", "DOWN/LEFT", "FIRE")),
        *((unusable, ("5", "6", "7", "8")) for unusable in ("Renamed", "Blank", "Braced", "Broad", "Undecoded")),
    ],
)
def test_names_of_actions_are_parts_of_metrics_or_numbers(toy: str, names: tuple[str, ...]) -> None:
    assert described(toy).action_names == names
    for name in names:
        metrics.check_key(f"action/ratio_{name}")


def test_an_episode_ends_and_the_next_one_begins_a_step_later(make: Make) -> None:
    environment = make("Clock", num_processes=2)
    timesteps = [start(environment), *(step(environment, [0, 1, 3]) for _ in range(5))]
    assert timesteps[0].observation.dtype == np.float32
    t = jax.tree.map(lambda *rows: np.stack(rows), *timesteps)
    np.testing.assert_array_equal(t.step_type, np.tile(np.array([[FIRST], [MID], [MID], [LAST], [FIRST], [MID]]), (1, 3)))
    np.testing.assert_array_equal(t.discount[:, 0], [1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(t.reward[:, 2], [0, 11, 12, 13, 0, 21])
    np.testing.assert_array_equal(t.episode_return[:, 2], [0, 11, 23, 36, 0, 21])
    np.testing.assert_array_equal(t.episode_length[:, 2], [0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(t.observation[:, :, 0], [SEEDS[:3]] * 6)  # row e is the environment with seed e
    np.testing.assert_array_equal(t.observation[:, 1, 1], [1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(t.observation[:, 1, 2], [0, 1, 2, 3, 0, 1])  # 3: the true last one
    # Each row has its own action, counted from where the environment's begin; none comes with a reset.
    np.testing.assert_array_equal(t.observation[:, :, 3], [[0, 0, 0], *[[5, 6, 8]] * 3, [0, 0, 0], [5, 6, 8]])


def test_a_shorter_limit_of_the_environment_stays_and_an_end_at_the_limit_terminates(make: Make) -> None:
    for task_id, limit in (("Clock", 3), ("Both", None)):
        t = play(make(task_id, max_episode_steps=limit), num_steps=3)
        np.testing.assert_array_equal((t.step_type[3], t.discount[3]), ([LAST] * 3, [0] * 3))
    np.testing.assert_array_equal(play(make("Clock", max_episode_steps=2), num_steps=2).observation[2, :, 2], 2)
    cart = make("CartPole-v1", num_envs=1, max_episode_steps=10_000)
    timesteps = [start(cart), *(step(cart, 0) for _ in range(60))]  # a pole that nobody balances falls long before its 500 steps
    assert {timestep.discount[0] for timestep in timesteps if timestep.step_type[0] == LAST} == {0.0}


@pytest.mark.parametrize(
    ("toy", "shape", "shown"), [("Picture", (2, 3, 3), [10, 11, 12]), ("Grey", (2, 3, 1), [1]), ("Yes", (2, 3, 3), [0, 1, 1])]
)
def test_images_keep_their_pixels(toy: str, shape: tuple[int, ...], shown: list[int]) -> None:
    batch = batch_of(toy, 1)
    batch.reset()
    batch.step(np.zeros(1, np.int32))
    assert (described(toy).observation_shape, described(toy).observation_dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(batch._observations, np.broadcast_to(np.array(shown), (1, *shape)))


def test_minigrid_shows_its_view_and_names_its_actions(make: Make) -> None:
    environment = make("MiniGrid-DoorKey-5x5-v0", num_envs=1, render_mode="rgb_array")
    assert environment.spec.observation_shape == (7, 7, 3) and environment.spec.observation_dtype == np.uint8
    assert environment.spec.action_names == ("left", "right", "forward", "pickup", "drop", "toggle", "done")
    shown = start(environment).observation
    assert shown.dtype == np.uint8
    # Objects 0..10 by 25, colours 0..5 by 51, states 0..3 by 85: a wall (2) is grey (5), a door (4) is locked (2).
    assert set(np.unique(shown[..., 0])) <= {25 * number for number in range(11)} and 50 in shown[..., 0]
    assert set(np.unique(shown[..., 1])) <= {51 * number for number in range(6)} and 255 in shown[..., 1]
    assert set(np.unique(shown[..., 2])) <= {85 * number for number in range(4)}
    assert (shown[shown[..., 0] == 50][:, 1] == 255).all()
    assert environment.render(0).shape == (160, 160, 3) and environment.render(0).std() > 0


def test_ids_and_entry_points_name_the_same(make: Make) -> None:
    by_module, by_id = (play(make(task_id), num_steps=5) for task_id in ("Clock", TOYS + "Clock-v0"))
    jax.tree.map(np.testing.assert_array_equal, by_module, by_id)
    flat = make("flat_cell")
    assert flat.spec.observation_shape == (6,)
    np.testing.assert_array_equal(start(flat).observation, np.eye(6, dtype=np.float32)[[0, 0, 0]])


def test_environments_that_draw_from_the_global_generator_differ_and_repeat(make: Make) -> None:
    streams = [start(make("Global", num_envs=4, num_processes=2)).observation for _ in range(2)]
    np.testing.assert_array_equal(streams[0], streams[1])
    assert len(np.unique(streams[0])) == streams[0].size


@pytest.mark.parametrize(("name", "actions"), [("Shifts", [40, 62, 0]), ("FarShifts", [0, 1, 2])])
def test_an_action_is_of_the_type_that_its_space_draws(name: str, actions: list[int]) -> None:
    shown = {"Shifts": lambda a: 2.0**a, "FarShifts": lambda a: float(np.float32(2**40 + a))}[name]
    batch = batch_of(name, 3)
    batch.reset()
    batch.step(np.array(actions, np.int32))
    assert batch._observations[:, 3].tolist() == [shown(action) for action in actions]


@pytest.mark.parametrize(("name", "reward", "ends"), [("PaidExactly", 1.5, False), ("PaidAtOnce", 2.0, True)])
def test_every_number_is_a_reward(name: str, reward: float, ends: bool) -> None:
    batch = batch_of(name, 1)
    batch.reset()
    paid, ended = batch.step(np.zeros(1, np.int32))
    assert paid.tolist() == [reward] and ended.tolist() == [[ends], [False]]


# Pictures


def test_an_environment_draws_or_shows_its_observation(make: Make) -> None:
    drawn = make("Drawn", num_processes=2, render_mode="rgb_array")
    play(drawn, num_steps=1)
    for e in range(3):
        picture = drawn.render(e)
        assert picture.shape == (5, 4, 3) and picture.dtype == np.uint8 and (picture == 1).all()
    shown = make("Picture", render_mode="rgb_array")
    start(shown).observation.fill(7)  # what the caller does with it is not what is drawn
    np.testing.assert_array_equal(shown.render(2), np.tile(np.arange(3), (2, 3, 1)))
    numbers = make("DrawnNumbers", render_mode="rgb_array")
    start(numbers)
    assert numbers.render(0).dtype == np.uint8 and (numbers.render(0) == 255).all()


@pytest.mark.parametrize("name", ["covered", "Listed", "passed_on", "Listed-v0"])
def test_what_takes_no_render_mode_is_made_without(name: str) -> None:
    assert gymnasium_process.make(Task(TOYS + name, None, can_render=True)).render_mode is None


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Clock", ValueError, "toys:Clock draws no pictures"),
        ("Undrawable", HostEnvironmentError, "toys:Undrawable failed: OSError: no display"),
        ("DrawnFloats", HostEnvironmentError, r"its picture is float64\[5, 4, 3\], and not of whole"),
        ("DrawnTooBright", HostEnvironmentError, r"its picture is int64\[5, 4, 3\]"),
    ],
)
def test_without_a_picture_the_environment_steps_on(make: Make, name: str, error: type[Exception], message: str) -> None:
    environment = make(name, num_envs=1, render_mode="rgb_array")
    start(environment)
    for _ in range(2):
        with pytest.raises(error, match=message):
            environment.render(0)
        step(environment, 0)


def test_pictures_need_no_screen_and_say_nothing_of_it() -> None:
    script = (
        "from agent57_jax.environments.gymnasium import GymnasiumEnvironment\n"
        "one = GymnasiumEnvironment('CartPole-v1', 1, [1], num_processes=1, render_mode='rgb_array')\n"
        "one.reset(); one.recv(); print(one.render(0).shape); one.close()"
    )
    away = ("XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER")
    variables = {name: value for name, value in os.environ.items() if name not in away}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert (done.stdout, done.stderr) == ("(400, 600, 3)\n", "")


# Refusals


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("", r"Gymnasium has no environment ''"),
        ("CartPoll-v1", r"Gymnasium has no environment 'CartPoll-v1'; did you mean CartPole-v1"),
        ("Zork-v1000", r"Gymnasium has no environment 'Zork-v1000': is the package that registers it installed"),
        ("MiniGrid-DoorKy-5x5-v0", r"did you mean MiniGrid-DoorKey-5x5-v0"),
        ("ALE/Pong-v5", r"ALE/Pong-v5 needs the package ale_py: pip install ale-py"),
        ("LunarLander-v3", r"LunarLander-v3 can't be made: .*pip install \"gymnasium\[box2d\]\""),
        ("no_such_module:Thing", r"no_such_module:Thing needs module 'no_such_module': it must be installed, lie beside train.py"),
        (f"{TOYS}Clok", r"module tests.environments.toys has no 'Clok'; did you mean Clock"),
        (f"{TOYS}Unmade", r"can't be made: .*__init__\(\) missing 1 required positional argument: 'size'"),
        (f"{TOYS}Broken", r"can't be made: FileNotFoundError: no level.txt \(.*toys.py:\d+, in fails\)"),
        (f"{TOYS}nothing", r"it made a NoneType, not a gymnasium.Env"),
        (f"{TOYS}Spaceless", r"toys:Spaceless can't be used: define observation_space and action_space"),
        (f"{TOYS}Nameless", r"toys:Nameless can't be used: KeyError: 'names' \(.*toys.py:\d+, in fails\)"),
        (f"{TOYS}Continuous", r"is not supported: its actions are Box float32\[2\], and only Discrete actions are supported"),
        (f"{TOYS}Cell", r"its observations are Discrete\(6\), .* are supported; .* in gymnasium.wrappers.FlattenObservation"),
        (f"{TOYS}Parts", r"its observations are a Dict of image, speed.*FilterObservation for its image, or FlattenObservation"),
        (f"{TOYS}ChannelsFirst", r"its observations are Box uint8\[3, 64, 64\].*TransformObservation with channels last"),
        (f"{TOYS}FloatImage", r"its observations are Box float32\[8, 8, 3\].*RescaleObservation to 0..255 and DtypeObservation"),
        (f"{TOYS}Matrix", r"its observations are Box float32\[8, 8\].*FlattenObservation"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Gymnasium's own, of old ids and odd spaces
def test_what_cannot_work_is_refused_in_one_line(task_id: str, message: str) -> None:
    for can_render in (False, True):
        with pytest.raises(ValueError, match=message) as error:
            gymnasium_process.describe(Task(task_id, None, can_render))
        assert str(error.value) == summary(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("Broken", r"^tests.environments.toys:Broken can't be made: FileNotFoundError: no level.txt"),
        ("Quits", r"^a process of tests.environments.toys:Quits died \(exit code 5"),
    ],
)
def test_a_refusal_reaches_the_caller(make: Make, task_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(task_id)
    assert "\n" not in str(error.value)


FIVE = r"^step\(\) must return five values: observation, reward, terminated, truncated, info$"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", r"^ZeroDivisionError: a mistake of two lines \(.*toys.py:\d+, in step\)$"),
        ("Far", r"^an observation holds 1e\+300, which does not fit float32: scale it in a wrapper$"),
        ("PaidTooMuch", r"^step\(\) returned the reward 1e\+300, which does not fit float32: scale it in a wrapper$"),
        ("PaidInArrays", r"^step\(\) returned reward array\(\[1\.\]\), but it must be a number$"),
        ("PaidInWords", r"^step\(\) returned reward '1\.0', but it must be a number$"),
        ("PaidUnevenly", r"^step\(\) returned reward \[\[1\.0\], \[1\.0, 2\.0\]\], but it must be a number$"),
        ("EndsInArrays", r"^step\(\) returned terminated array\(\[ True\]\), but it must be true or false$"),
        ("EndsInDoubt", r"^step\(\) returned terminated None, but it must be true or false$"),
        ("Four", FIVE),
        ("four_cells", FIVE),
        ("Bare", r"^reset\(\) must take seed and options, and must return two values: observation, info$"),
        ("Seedless", r"^reset\(\) must take seed and options"),
        ("Shrinks", r"^an observation is float64\[3\], but observation_space says float32\[4\]$"),
        ("Wide", r"^an observation is uint16\[2, 3, 3\], but observation_space says uint8\[2, 3, 3\]$"),
    ],
)
def test_a_mistake_in_an_environment_is_named(name: str, message: str) -> None:
    """As its process says it; test_gymnasium_processes.py shows that the caller hears of it."""
    batch = batch_of(name, 1)

    def steps() -> None:
        batch.reset()
        for _ in range(3):
            batch.step(np.zeros(1, np.int32))

    with pytest.raises((ValueError, TypeError, ZeroDivisionError)) as error:
        steps()
    assert re.search(message, summary(error.value))


# The factory


def settings(task_id: str) -> EnvironmentSettings:
    return EnvironmentSettings(kind=EnvironmentKind.GYMNASIUM, task_id=task_id, num_threads=1, max_episode_steps=2)


def test_the_factory_gives_streams_seeds_of_their_own() -> None:
    shown = []
    for stream, skip in (("training", 0), ("training", 2), ("evaluation", 0), ("judging", 0)):
        environment = factory.make_host_environment(settings(f"{TOYS}Clock"), 2, 0, stream, skip)
        shown.append(start(environment).observation[:, 0])
        step(environment, 0)
        assert (step(environment, 0).step_type == LAST).all()  # by max_episode_steps
        environment.close()
    assert len(np.unique(shown)) == 8


def test_the_factory_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "minigrid.py").write_text("raise ModuleNotFoundError(name='minigrid')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=r"needs the package minigrid: pip install -e '\.\[gymnasium\]' in the repository"):
        factory.make_host_environment(settings("MiniGrid-Empty-5x5-v0"), 2, 0, "training")
    monkeypatch.setitem(sys.modules, "agent57_jax.environments.gymnasium", None)
    with pytest.raises(SettingsError, match=r"needs Gymnasium: pip install -e '\.\[gymnasium\]' in the repository"):
        factory.make_host_environment(settings("CartPole-v1"), 2, 0, "training")


def test_gymnasium_and_envpool_are_imported_only_by_those_who_use_them() -> None:
    code = (
        "import sys\n"
        "from agent57_jax import config\nfrom agent57_jax.environments import factory\n"
        "assert not {'gymnasium', 'envpool'} & set(sys.modules)\n"
        "s = config.EnvironmentSettings(kind=config.EnvironmentKind.GYMNASIUM, task_id='CartPole-v1')\n"
        "factory.make_host_environment(s, 1, 0, 'training').close()\n"
        "assert 'gymnasium' in sys.modules and not {'envpool', 'minigrid', 'pygame'} & set(sys.modules)\n"
    )
    lean = "import sys, agent57_jax.environments.gymnasium_process\nassert 'jax' not in sys.modules"
    for text in (code, lean):
        subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True, timeout=60)
