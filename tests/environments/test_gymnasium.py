"""The Gymnasium adapter on toys whose numbers tell where they come from, on CartPole and on MiniGrid."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from agent57_jax.config import EnvironmentKind, EnvironmentSettings, SettingsError
from agent57_jax.environments import factory, gymnasium_process
from agent57_jax.environments import gymnasium as adapter
from agent57_jax.environments.gymnasium import GymnasiumEnvironment
from agent57_jax.monitoring import metrics
from agent57_jax.types import FIRST, LAST, MID, HostEnvironmentError, TimeStep

ROOT = Path(__file__).parents[2]
TOYS = "tests.environments.toys:"
SEEDS = [11, 2222, 33, 4]
Make = Callable[..., GymnasiumEnvironment]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[GymnasiumEnvironment] = []

    def make_one(task_id: str, num_envs: int = 3, **arguments: Any) -> GymnasiumEnvironment:
        name = task_id if "-" in task_id or ":" in task_id else TOYS + task_id
        made.append(GymnasiumEnvironment(name, num_envs, **{"seeds": SEEDS[:num_envs], "num_processes": 2, **arguments}))
        return made[-1]

    yield make_one
    for environment in made:
        environment.close()


def start(environment: GymnasiumEnvironment) -> TimeStep:
    environment.reset()
    return environment.recv()


def step(environment: GymnasiumEnvironment, *actions: int) -> TimeStep:
    environment.send(np.array(actions if len(actions) > 1 else actions * environment.num_envs))
    return environment.recv()


def play(environment: GymnasiumEnvironment, num_steps: int) -> TimeStep:
    """FIRST and `num_steps` timesteps under random actions, every field [num_steps + 1, E, ...]."""
    actions = np.random.default_rng(0).integers(0, environment.spec.num_actions, (num_steps, environment.num_envs))
    timesteps = [start(environment), *(step(environment, *row) for row in actions)]
    return jax.tree.map(lambda *rows: np.stack(rows), *timesteps)


def processes(environment: GymnasiumEnvironment) -> list[int]:
    return [worker.process.pid for worker in environment._workers]


# Specs and timesteps


def test_spec_of_a_vector(make: Make) -> None:
    spec = make("Clock").spec
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions, spec.frames_per_step) == ((4,), np.float32, 4, 1)
    assert spec.action_names == ("5", "6", "7", "8") and spec.extras == ()
    assert make("Named").spec.action_names == ("NOOP", "UP", "DOWN", "FIRE")
    for unusable in ("Renamed", "Blank", "Braced", "Broad", "Undecoded"):
        assert make(unusable).spec.action_names == ("5", "6", "7", "8")
    for name in make("Foreign").spec.action_names:
        metrics.check_key(f"action/ratio_{name}")
    assert make("Foreign").spec.action_names == ("何もしない", "go up", "DOWN/LEFT", "FIRE")
    assert (make("Drawn").spec.steps_per_second, spec.steps_per_second) == (25, 10)


def test_an_episode_ends_and_the_next_one_begins_a_step_later(make: Make) -> None:
    environment = make("Clock")
    timesteps = [start(environment), *(step(environment, 0, 1, 3) for _ in range(5))]
    assert [field.dtype for field in timesteps[0][:6]] == [np.float32, np.float32, np.float32, np.int32, np.float32, np.int32]
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


def test_a_time_limit_truncates_and_a_shorter_one_of_the_environment_stays(make: Make) -> None:
    t = play(make("Clock", max_episode_steps=2), num_steps=3)
    np.testing.assert_array_equal(t.step_type[:, 0], [FIRST, MID, LAST, FIRST])
    np.testing.assert_array_equal(t.discount, 1)
    np.testing.assert_array_equal(t.observation[2, :, 2], 2)
    # Both at the same step: what has ended has no future.
    for task_id, limit in (("Clock", 3), ("Both", None)):
        t = play(make(task_id, max_episode_steps=limit), num_steps=3)
        np.testing.assert_array_equal((t.step_type[3], t.discount[3]), ([LAST] * 3, [0] * 3))
    cart = make("CartPole-v1", num_envs=1, max_episode_steps=10_000)
    ends = []
    timestep = start(cart)
    for _ in range(60):  # without looking a pole falls long before its 500 steps
        ends.append((timestep.step_type[0], timestep.discount[0]))
        timestep = step(cart, 0)
    assert {discount for kind, discount in ends if kind == LAST} == {0.0}


def test_images_keep_their_pixels(make: Make) -> None:
    environment = make("Picture")
    assert (environment.spec.observation_shape, environment.spec.observation_dtype) == ((2, 3, 3), np.uint8)
    start(environment)
    step(environment, 0)
    shown = step(environment, 0).observation
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.broadcast_to(np.array([20, 21, 22]), (3, 2, 3, 3)))
    grey = make("Grey")
    assert grey.spec.observation_shape == (2, 3, 1)
    start(grey)
    np.testing.assert_array_equal(step(grey, 0).observation, np.ones((3, 2, 3, 1)))


def test_timesteps_belong_to_the_caller(make: Make) -> None:
    environment = make("Clock")
    kept = [start(environment), step(environment, 1)]
    copies = jax.tree.map(np.array, kept)
    step(environment, 2)
    jax.tree.map(np.testing.assert_array_equal, kept, copies)
    for mine in jax.tree.leaves(kept):
        mine.fill(7)
    np.testing.assert_array_equal(step(environment, 2).episode_length, 3)


def test_minigrid_shows_its_view_and_names_its_actions(make: Make) -> None:
    environment = make("MiniGrid-DoorKey-5x5-v0", num_envs=2)
    assert environment.spec.observation_shape == (7, 7, 3) and environment.spec.observation_dtype == np.uint8
    assert environment.spec.action_names == ("left", "right", "forward", "pickup", "drop", "toggle", "done")
    shown = start(environment).observation
    # Objects 0..10 by 25, colours 0..5 by 51, states 0..3 by 85: a wall (2) is grey (5), a door (4) is locked (2).
    assert set(np.unique(shown[..., 0])) <= {25 * number for number in range(11)} and 50 in shown[..., 0]
    assert set(np.unique(shown[..., 1])) <= {51 * number for number in range(6)} and 255 in shown[..., 1]
    assert set(np.unique(shown[..., 2])) <= {85 * number for number in range(4)}
    assert (shown[shown[..., 0] == 50][:, 1] == 255).all()
    picture = make("MiniGrid-DoorKey-5x5-v0", num_envs=1, render_mode="rgb_array")
    start(picture)
    assert picture.render(0).shape == (160, 160, 3) and picture.render(0).std() > 0


def test_ids_and_entry_points_name_the_same(make: Make) -> None:
    by_module, by_id = (play(make(task_id), num_steps=5) for task_id in ("Clock", TOYS + "Clock-v0"))
    jax.tree.map(np.testing.assert_array_equal, by_module, by_id)
    assert make("flat_cell").spec.observation_shape == (6,)
    np.testing.assert_array_equal(start(make("flat_cell")).observation, np.eye(6, dtype=np.float32)[[0, 0, 0]])


# Processes


def test_the_number_of_processes_changes_nothing(make: Make) -> None:
    alone, together = make("CartPole-v1", num_envs=4, num_processes=1), make("CartPole-v1", num_envs=4, num_processes=3)
    assert (len(alone._workers), len(together._workers), len(make("Clock", num_envs=2, num_processes=64)._workers)) == (1, 3, 2)
    one, three = play(alone, num_steps=60), play(together, num_steps=60)
    jax.tree.map(np.testing.assert_array_equal, one, three)
    assert len(np.unique(one.observation[0, :, 0])) == 4  # each with its own seed


def test_a_reset_begins_new_episodes_and_not_the_old_ones_again(make: Make) -> None:
    environment = make("CartPole-v1")
    first = start(environment)
    environment.send(np.zeros(3, np.int32))
    environment.reset()  # with a step under way
    second = environment.recv()
    np.testing.assert_array_equal((second.step_type, second.episode_length), 0)
    assert not np.isin(second.observation, first.observation).any()


def test_environments_that_draw_from_the_global_generator_differ_and_repeat(make: Make) -> None:
    streams = [start(make("Global", num_envs=4)).observation for _ in range(2)]
    np.testing.assert_array_equal(streams[0], streams[1])
    assert len(np.unique(streams[0])) == streams[0].size


def test_groups_overlap(make: Make) -> None:
    groups = [make("Clock", num_envs=2, seeds=[1, 2]), make("Clock", num_envs=2, seeds=[3, 4])]
    for group in groups:
        group.reset()
    for t in range(6):
        for index, group in enumerate(groups):
            timestep = group.recv()
            np.testing.assert_array_equal(timestep.observation[:, 0], [2 * index + 1, 2 * index + 2])
            np.testing.assert_array_equal(timestep.episode_length, t % 4)
            group.send(np.zeros(2, np.int32))


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon_ended(numbers: list[int]) -> bool:
    """Whether processes that nobody here waits for end within ten seconds."""
    deadline = time.monotonic() + 10
    while any(map(is_running, numbers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(is_running, numbers))


def test_close_leaves_no_processes(make: Make) -> None:
    environment = make("Clock")
    start(environment)
    environment.send(np.zeros(3, np.int32))  # with a step under way
    numbers = processes(environment)
    assert all(map(is_running, numbers))
    environment.close()
    environment.close()
    assert not any(map(is_running, numbers))
    with pytest.raises(RuntimeError, match="closed"):
        environment.recv()


@pytest.mark.parametrize("end", ["pass", "import os; os.kill(os.getpid(), 9)"], ids=["forgotten", "killed"])
def test_processes_end_with_the_trainer(end: str) -> None:
    code = (
        "from agent57_jax.environments.gymnasium import GymnasiumEnvironment as G\n"
        f"e = G('{TOYS}Clock', 2, [1, 2], num_processes=2)\ne.reset()\ne.recv()\n"
        f"print(*(w.process.pid for w in e._workers), flush=True)\n{end}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    numbers = [int(word) for word in done.stdout.split()]
    assert len(numbers) == 2 and done.stderr == ""
    assert soon_ended(numbers)


def test_a_signal_to_every_process_does_not_end_them(make: Make) -> None:
    """Ctrl-C and schedulers signal all of them, and the trainer still has to save."""
    environment = make("Clock")
    start(environment)
    for pid in processes(environment):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert os.getsid(pid) != os.getsid(0)  # nor does Ctrl-C reach it
    assert (step(environment, 0).step_type == MID).all()


def test_what_an_environment_does_to_its_process_is_not_done_to_the_trainers(make: Make) -> None:
    def state() -> list[Any]:
        os.umask(mask := os.umask(0o22))
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return [os.getcwd(), mask, dict(os.environ), list(sys.path), list(warnings.filters), sys.excepthook, np.geterr(), handlers]

    before, threads = state(), threading.active_count()
    environment = make("Meddles")
    assert (start(environment).step_type == FIRST).all()
    assert state() == before and threading.active_count() == threads
    for pid in processes(environment):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    assert (step(environment, 0).step_type == MID).all()


@pytest.mark.parametrize(("name", "actions"), [("Shifts", [40, 62, 0]), ("FarShifts", [0, 1, 2]), ("Clock", [0, 1, 3])])
def test_an_action_is_of_the_type_that_its_space_draws(make: Make, name: str, actions: list[int]) -> None:
    shown = {"Shifts": lambda a: 2.0**a, "FarShifts": lambda a: float(np.float32(2**40 + a)), "Clock": lambda a: 5 + a}[name]
    environment = make(name)
    start(environment)
    assert step(environment, *actions).observation[:, 3].tolist() == [shown(action) for action in actions]


def test_bytes_may_be_shown_as_what_fits_into_them(make: Make) -> None:
    environment = make("Yes")
    assert start(environment).observation.dtype == np.uint8
    assert step(environment, 0).observation[0, 0, 0].tolist() == [0, 1, 1]


def test_what_is_printed_meets_no_observation() -> None:
    """With standard files closed, the numbers 0 to 2 would go to the next files that are opened."""
    code = (
        "import os, sys\nfrom agent57_jax.commands import command_line\n"
        "def main():\n"
        "    import numpy as np\n"
        "    from agent57_jax.environments.gymnasium import GymnasiumEnvironment as G\n"
        f"    e = G('{TOYS}Prints', 1, [7], num_processes=1)\n    e.reset()\n    e.recv()\n"
        "    e.send(np.array([2]))\n    os.write(1, b'x' * 4096)\n    print('said')\n    print('said', file=sys.stderr)\n"
        "    shown = e.recv().observation.tolist()\n    e.close()\n    sys.exit(0 if shown == [[7, 1, 1, 7]] else 9)\n"
        "command_line.run(main)\n"
    )
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=600, check=False).returncode == 0, closed


def test_render(make: Make) -> None:
    drawn = make("Drawn", render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="comes after recv"):
        drawn.render(0)
    start(drawn)
    step(drawn, 0)
    for e in range(3):
        picture = drawn.render(e)
        assert picture.shape == (5, 4, 3) and picture.dtype == np.uint8 and (picture == 1).all()
    with pytest.raises(ValueError, match="there is no environment 3"):
        drawn.render(3)
    # What draws nothing shows its observation, if that is a picture.
    shown = make("Picture", render_mode="rgb_array")
    start(shown).observation.fill(7)  # what the caller does with it is not what is drawn
    np.testing.assert_array_equal(shown.render(2), np.tile(np.arange(3), (2, 3, 1)))
    # Nor does one that its maker gives no mode, whatever it lists; a registered one neither.
    unasked = make("covered", num_envs=1, render_mode="rgb_array")
    start(unasked)
    np.testing.assert_array_equal(unasked.render(0), np.tile(np.arange(3), (2, 3, 1)))
    for name in ("Listed", "passed_on", "Listed-v0"):
        assert gymnasium_process.make(gymnasium_process.Task(TOYS + name, None, can_render=True)).render_mode is None
    vector = make("Clock", render_mode="rgb_array")
    start(vector)
    with pytest.raises(ValueError, match="toys:Clock draws no pictures"):
        vector.render(0)
    # And one that fails plays on.
    failing = make("Undrawable", render_mode="rgb_array")
    start(failing)
    for _ in range(2):
        with pytest.raises(HostEnvironmentError, match="toys:Undrawable failed: OSError: no display"):
            failing.render(0)
        step(failing, 0)


# Errors


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("CartPoll-v1", r"Gymnasium has no environment 'CartPoll-v1'; did you mean CartPole-v1"),
        ("CartPole-v9", r"Gymnasium has no environment 'CartPole-v9'; did you mean CartPole-v"),
        ("Zork-v1000", r"Gymnasium has no environment 'Zork-v1000': is the package that registers it installed"),
        ("MiniGrid-DoorKy-5x5-v0", r"did you mean MiniGrid-DoorKey-5x5-v0"),
        ("ALE/Pong-v5", r"ALE/Pong-v5 needs the package ale_py: pip install ale-py"),
        ("LunarLander-v3", r"LunarLander-v3 can't be made: .*pip install \"gymnasium\[box2d\]\""),
        ("no_such_module:Thing", r"no_such_module:Thing needs module 'no_such_module': it must be installed, lie beside train.py"),
        ("tests.environments.toy:Clock", r"needs module 'tests.environments.toy'"),
        (f"{TOYS}Clok", r"module tests.environments.toys has no 'Clok'; did you mean Clock"),
        (f"{TOYS}Unmade", r"can't be made: .*__init__\(\) missing 1 required positional argument: 'size'"),
        (f"{TOYS}Broken", r"can't be made: FileNotFoundError: no level.txt \(.*toys.py:\d+, in __init__\)"),
        (f"{TOYS}nothing", r"it made a NoneType, not a gymnasium.Env"),
        (f"{TOYS}Spaceless", r"toys:Spaceless can't be used: define observation_space and action_space"),
        (f"{TOYS}Nameless", r"toys:Nameless can't be used: KeyError: 'names' \(.*toys.py:\d+, in get_action_meanings\)"),
        (f"{TOYS}Continuous", r"is not supported: its actions are Box float32\[2\], and only Discrete ones are"),
        (f"{TOYS}Several", r"its actions are MultiDiscrete int64\[2\]"),
        (
            f"{TOYS}Cell",
            r"it shows Discrete\(6\), and only uint8 images and vectors are; .* wrapped in gymnasium.wrappers.FlattenObservation",
        ),
        (f"{TOYS}Cells", r"it shows MultiDiscrete int64\[2\].*FlattenObservation"),
        (f"{TOYS}Parts", r"it shows a Dict of image, speed.*FilterObservation for its image, or FlattenObservation"),
        (f"{TOYS}ChannelsFirst", r"it shows Box uint8\[3, 64, 64\].*TransformObservation with channels last"),
        (f"{TOYS}FloatImage", r"it shows Box float32\[8, 8, 3\].*RescaleObservation to 0..255 and DtypeObservation"),
        (f"{TOYS}Matrix", r"it shows Box float32\[8, 8\].*FlattenObservation"),
        ("FrozenLake-v1", r"FrozenLake-v1 is not supported: it shows Discrete\(16\)"),
        (f"{TOYS}Quits", r"a process of tests.environments.toys:Quits is gone \(exit code 5"),
        ("", r"Gymnasium has no environment ''"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(make: Make, task_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        GymnasiumEnvironment(task_id, 1, [1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("DrawnFloats", r"its picture is float64\[5, 4, 3\], and not of whole"), ("DrawnTooBright", r"its picture is int64\[5, 4, 3\]")],
)
def test_pictures_that_would_be_cut_are_refused(make: Make, name: str, message: str) -> None:
    environment = make(name, render_mode="rgb_array")
    start(environment)
    with pytest.raises(HostEnvironmentError, match=message):
        environment.render(0)
    numbers = make("DrawnNumbers", render_mode="rgb_array")
    start(numbers)
    assert numbers.render(0).dtype == np.uint8 and (numbers.render(0) == 255).all()


def test_what_cannot_be_drawn_is_refused_in_the_same_line(make: Make) -> None:
    for name, message in (("nothing", "it made a NoneType"), ("Broken", "no level.txt")):
        with pytest.raises(ValueError, match=message):
            make(name, render_mode="rgb_array")


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


@pytest.mark.parametrize(("name", "reward", "ends"), [("PaidExactly", 1.5, False), ("PaidAtOnce", 2.0, True)])
def test_every_number_is_a_reward(make: Make, name: str, reward: float, ends: bool) -> None:
    timestep = play(make(name), num_steps=1)
    assert timestep.reward[1].tolist() == [reward] * 3 and (timestep.step_type[1] == (LAST if ends else MID)).all()


def test_an_environment_need_not_say_anything_of_itself(make: Make) -> None:
    untold = make("Untold", render_mode="rgb_array")
    assert untold.spec.steps_per_second == make("Clock").spec.steps_per_second
    assert (start(untold).step_type == FIRST).all()


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("Raises", r"toys:Raises failed: ZeroDivisionError: a mistake of two lines \(.*toys.py:\d+, in step\)"),
        ("Dies", r"a process of tests.environments.toys:Dies is gone \(exit code 7"),
        ("Exits", r"a process of tests.environments.toys:Exits is gone \(exit code 3"),
        ("Shrinks", r"toys:Shrinks failed: an observation is float64\[3\], but the environment's space makes it float32\[4\]"),
        ("Far", r"toys:Far failed: an observation holds 1e\+300, which does not fit float32: scale it in a wrapper$"),
        ("PaidTooMuch", r"failed: step\(\) returned the reward 1e\+300, which does not fit float32: scale it in a wrapper$"),
        ("PaidInArrays", r"toys:PaidInArrays failed: step\(\) returned reward array\(\[1\.\]\), but it must be a number$"),
        ("Unpaid", r"failed: step\(\) returned reward None, but it must be a number$"),
        ("PaidInWords", r"failed: step\(\) returned reward '1\.0', but it must be a number$"),
        ("PaidUnevenly", r"failed: step\(\) returned reward \[\[1\.0\], \[1\.0, 2\.0\]\], but it must be a number$"),
        ("EndsInArrays", r"failed: step\(\) returned terminated array\(\[ True\]\), but it must be true or false$"),
        ("EndsInDoubt", r"failed: step\(\) returned terminated None, but it must be true or false$"),
        ("Four", r"toys:Four failed: step\(\) must return five values: observation, reward, terminated, truncated, info$"),
        ("four_cells", r"toys:four_cells failed: step\(\) must return five values: observation, reward, terminated, truncated, info$"),
        ("Bare", r"toys:Bare failed: reset\(\) must take seed and options, and must return two values: observation, info$"),
        ("Seedless", r"toys:Seedless failed: reset\(\) must take seed and options"),
        ("Wide", r"toys:Wide failed: an observation is uint16\[2, 3, 3\], but the environment's space makes it uint8\[2, 3, 3\]"),
        ("Floats", r"toys:Floats failed: an observation is float64\[2, 3, 3\], but the environment's space makes it uint8\[2, 3, 3\]"),
    ],
)
def test_an_environment_that_fails_is_named(make: Make, task_id: str, message: str) -> None:
    environment = make(task_id)
    with pytest.raises(HostEnvironmentError, match=message) as error:
        play(environment, num_steps=3)
    assert "\n" not in str(error.value)
    numbers = processes(environment)
    environment.close()
    assert not any(map(is_running, numbers))


def test_an_environment_that_does_not_close_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "END_SECONDS", 0.2)
    environment = make("Clock")
    start(environment)
    for pid in processes(environment):
        os.kill(pid, signal.SIGSTOP)
    environment.close()
    assert not any(map(is_running, processes(environment)))


def test_processes_that_do_not_end_share_one_deadline(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "END_SECONDS", 2.0)
    environment = make("Clock", num_processes=3)
    start(environment)
    for pid in processes(environment):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    environment.close()
    assert 2.0 <= time.monotonic() - began < 4.0  # one after another they would take six
    assert [worker.process.returncode for worker in environment._workers] == [-signal.SIGKILL] * 3


def test_what_an_environment_forks_hides_no_end_and_goes_with_it(make: Make) -> None:
    """Such a process holds the channel open, which then does not tell that the process is gone that should answer."""
    environment = make("Forks", num_processes=3)
    children = [-int(number) for number in start(environment).observation[:, 0]]
    assert all(map(is_running, children)) and not set(children) & set(processes(environment))
    os.kill(processes(environment)[1], signal.SIGKILL)
    environment.send(np.zeros(3, np.int32))
    with pytest.raises(HostEnvironmentError, match=r"a process of .*Forks is gone \(exit code -9"):
        environment.recv()
    environment.close()
    assert soon_ended(children) and not any(map(is_running, processes(environment)))


def test_closing_leaves_no_files_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    environment = GymnasiumEnvironment(f"{TOYS}Clock", 3, SEEDS[:3], num_processes=3)
    start(environment)
    assert len(os.listdir("/proc/self/fd")) > before
    environment.close()
    del environment  # and with it the observations' shared memory
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1, 4], r"actions must lie in 0..3, not in 0..4"),
        ([0, -1, 2], r"actions must lie in 0..3, not in -1..2"),
        ([0, 1], r"actions must be integers of shape \(3,\)"),
        ([0.0, 1.0, 2.0], r"actions must be integers of shape \(3,\)"),
    ],
)
def test_bad_actions_are_refused(make: Make, actions: list[float], message: str) -> None:
    environment = make("Clock")
    start(environment)
    with pytest.raises(ValueError, match=message):
        environment.send(np.array(actions))
    assert (step(environment, 0, 1, 3).episode_length == 1).all()  # nothing was sent


def test_calls_out_of_order_are_refused_instead_of_waiting_for_ever(make: Make) -> None:
    environment = make("Clock")
    with pytest.raises(RuntimeError, match="nothing is under way"):
        environment.recv()
    with pytest.raises(RuntimeError, match="comes after reset"):
        environment.send(np.zeros(3, np.int32))
    environment.reset()
    with pytest.raises(RuntimeError, match="comes after reset"):
        environment.send(np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="3 environments need 3 seeds, not 2"):
        make("Clock", seeds=[1, 2])


# The factory


def settings(task_id: str) -> EnvironmentSettings:
    return EnvironmentSettings(kind=EnvironmentKind.GYMNASIUM, task_id=task_id, num_threads=1, max_episode_steps=2)


def test_the_factory_gives_streams_seeds_of_their_own() -> None:
    shown = []
    for stream, skip in (("training", 0), ("training", 2), ("evaluation", 0), ("judging", 0)):
        environment = factory.make_host_environment(settings(f"{TOYS}Clock"), 2, 0, stream, skip)
        environment.reset()
        shown.append(environment.recv().observation[:, 0])
        environment.send(np.zeros(2, np.int32))
        environment.recv()
        environment.send(np.zeros(2, np.int32))
        assert (environment.recv().step_type == LAST).all()  # by max_episode_steps
        environment.close()
    assert len(np.unique(shown)) == 8


def test_the_factory_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean CartPole-v1"):
        factory.make_host_environment(settings("CartPoll-v1"), 2, 0, "training")
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
        "from agent57_jax.environments import gymnasium_process\n"
    )
    lean = "import sys, agent57_jax.environments.gymnasium_process\nassert 'jax' not in sys.modules"
    for text in (code, lean):
        subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True, timeout=60)
