"""Gymnasium environments for the tests, in a module of their own that their processes can import quickly."""

import atexit
import fractions
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers


class Clock(gymnasium.Env[Any, Any]):
    """Shows [seed of its stream, episode, step, last action]; rewards 10 * episode + step; terminates at step 3. Actions are 5..8."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space: Any = spaces.Discrete(4, start=5)
    last = 3

    def __init__(self) -> None:
        self.stream, self.episode, self.time = -1, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.stream = seed
        self.episode, self.time = self.episode + 1, 0
        return self.show(0), {"nothing": [1, 2]}

    def show(self, action: int) -> Any:
        return np.array([self.stream, self.episode, self.time, action], np.float64)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action) and self.time < self.last
        self.time += 1
        return self.show(action), 10 * self.episode + self.time, self.time == self.last, False, {"step": self.time}


class Both(Clock):
    """Is cut off at the step at which it ends."""

    def step(self, action: Any) -> Any:
        shown, reward, terminated, _, info = super().step(action)
        return shown, reward, terminated, terminated, info


class Picture(Clock):
    """Shows pixels [2, 3, 3]: 10 * step + channel; draws the same, twice as large."""

    observation_space = spaces.Box(0, 255, (2, 3, 3), np.uint8)

    def show(self, action: int) -> Any:
        return np.tile(np.uint8(10 * self.time) + np.arange(3, dtype=np.uint8), (2, 3, 1))


class Drawn(Picture):
    """Draws what it shows in another size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((5, 4, 3), self.time, np.uint8)


class Undrawable(Drawn):
    """Lists a picture that it cannot draw, as an environment does where there is no screen."""

    def render(self) -> Any:
        raise OSError("no display")


class Grey(Clock):
    """Shows pixels [2, 3] without channels."""

    observation_space = spaces.Box(0, 255, (2, 3), np.uint8)

    def show(self, action: int) -> Any:
        return np.full((2, 3), self.time, np.uint8)


class Global(Clock):
    """Draws from NumPy's global generator."""

    def show(self, action: int) -> Any:
        return np.random.random(4)  # noqa: NPY002


class Raises(Clock):
    """Fails at its second step; until then it shows numbers that networks can bear."""

    def show(self, action: int) -> Any:
        return super().show(action) * [0, 1, 1, 1]

    def step(self, action: Any) -> Any:
        if self.time == 1:
            raise ZeroDivisionError("a mistake\nof two lines")
        return super().step(action)


class Dies(Clock):
    """Takes its process with it."""

    def step(self, action: Any) -> Any:
        os._exit(7)


class Exits(Clock):
    """Ends its process in Python's way, and is slow about it."""

    def step(self, action: Any) -> Any:
        sys.exit(3)

    def close(self) -> None:
        atexit.register(time.sleep, 0.1)


class Shrinks(Clock):
    """Shows something else than its space."""

    def show(self, action: int) -> Any:
        return super().show(action)[: 4 - self.time]


class Floats(Picture):
    """Shows floats where its space says bytes."""

    def show(self, action: int) -> Any:
        return super().show(action) / 255


class Paid(Clock):
    """Returns what is no number for a reward, or no truth value for an end."""

    reward: Any = 1.0
    ended: Any = False

    def step(self, action: Any) -> Any:
        shown, _, _, truncated, info = super().step(action)
        return shown, self.reward, self.ended, truncated, info


class PaidInArrays(Paid):
    reward = np.array([1.0])


class Unpaid(Paid):
    reward = None


class PaidInWords(Paid):
    reward = "1.0"


class PaidUnevenly(Paid):
    reward = [[1.0], [1.0, 2.0]]  # noqa: RUF012


class PaidTooMuch(Paid):
    reward = 1e300


class PaidExactly(Paid):
    reward = fractions.Fraction(3, 2)


class PaidAtOnce(Paid):
    reward = np.array(2)
    ended = np.True_


class EndsInArrays(Paid):
    ended = np.array([True])


class EndsInDoubt(Paid):
    ended = None


class Far(Clock):
    """Shows a number that float32 does not have."""

    def show(self, action: int) -> Any:
        return super().show(action) + (1e300 if self.time == 1 else 0.0)


class Wide(Picture):
    """Shows numbers that are larger than the bytes of its space."""

    def show(self, action: int) -> Any:
        return super().show(action).astype(np.uint16) + 300


class Yes(Picture):
    """Shows whether, where its space says bytes, which loses nothing."""

    def show(self, action: int) -> Any:
        return super().show(action) > 10


class DrawnFloats(Drawn):
    """Draws floats."""

    def render(self) -> Any:
        return np.full((5, 4, 3), 0.5)


class DrawnTooBright(Drawn):
    """Draws more than a byte holds."""

    def render(self) -> Any:
        return np.full((5, 4, 3), 256)


class DrawnNumbers(Drawn):
    """Draws bytes as larger numbers."""

    def render(self) -> Any:
        return np.full((5, 4, 3), 255)


class Shifts(Clock):
    """Computes with its action, in more bits than 32."""

    action_space: Any = spaces.Discrete(63)

    def show(self, action: int) -> Any:
        return np.array([self.stream, self.episode, self.time, 1 << action if self.time else 0], np.float64)

    def step(self, action: Any) -> Any:
        assert type(action) is type(self.action_space.sample())
        return super().step(action)


class FarShifts(Shifts):
    """Calls its actions by larger numbers than others do."""

    action_space = spaces.Discrete(3, start=2**40)

    def show(self, action: int) -> Any:
        return np.array([self.stream, self.episode, self.time, action], np.float64)


class Prints(Clock):
    """Prints on both streams, as native code does too."""

    def step(self, action: Any) -> Any:
        os.write(1, b"x" * 4096)
        os.write(2, b"y" * 4096)
        print("z" * 4096, flush=True)
        return super().step(action)


class Meddles(Clock):
    """Does to its process what it should not; says what it finds of it on the way."""

    def __init__(self) -> None:
        super().__init__()
        os.chdir("/")
        os.umask(0o777)
        os.environ["JAX_PLATFORMS"] = "nothing"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: os._exit(9))
        sys.path.clear()
        warnings.simplefilter("error")
        np.seterr(all="raise")
        sys.excepthook = lambda *_: None
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    def show(self, action: int) -> Any:
        return super().show(action) * [0, 1, 1, 1]

    def step(self, action: Any) -> Any:
        os.write(1, b"printed by native code, as it were\n")
        return super().step(action)


class Quits(Clock):
    """Ends its process when it is made."""

    def __init__(self) -> None:
        os._exit(5)


class Unmade(Clock):
    """Lacks an argument."""

    def __init__(self, size: int) -> None:
        super().__init__()


class Broken(Clock):
    """Cannot be made."""

    def __init__(self) -> None:
        raise FileNotFoundError("no level.txt")


class Continuous(Clock):
    """Has actions that are no choice."""

    action_space = spaces.Box(-1, 1, (2,))


class Several(Clock):
    """Has several choices at once."""

    action_space = spaces.MultiDiscrete([3, 3])


class Cell(Clock):
    """Shows the number of a cell."""

    observation_space = spaces.Discrete(6)

    def show(self, action: int) -> Any:
        return self.time


class Cells(Clock):
    """Shows several numbers."""

    observation_space = spaces.MultiDiscrete([3, 4])


class Parts(Clock):
    """Shows a dictionary."""

    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "speed": spaces.Box(0, 1, (1,))})


class ChannelsFirst(Clock):
    """Shows an image the other way round."""

    observation_space = spaces.Box(0, 255, (3, 64, 64), np.uint8)


class FloatImage(Clock):
    """Shows an image of floats."""

    observation_space = spaces.Box(0, 1, (8, 8, 3))


class Matrix(Clock):
    """Shows a matrix of floats."""

    observation_space = spaces.Box(0, 1, (8, 8))


class Named(Clock):
    """Has names for its actions."""

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "UP", "DOWN", "FIRE"]


class Renamed(Clock):
    """Has fewer names than actions."""

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "UP"]


class Listed(Drawn):
    """Lists a mode that it does not take."""

    def __init__(self) -> None:
        super().__init__()


class Forks(Clock):
    """Starts a process that has all of its files, and shows its number."""

    def show(self, action: int) -> Any:
        if self.stream > 0:
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            self.stream = -child
        return super().show(action)


class Spaceless(gymnasium.Env[Any, Any]):
    """Says nothing of its spaces."""


class Untold(Clock):
    """Says nothing of itself."""

    metadata = None  # type: ignore[assignment]


class Blank(Clock):
    """Has names that say nothing."""

    names: tuple[str, ...] = ("", "UP", "DOWN", "FIRE")

    def get_action_meanings(self) -> list[str]:
        return list(self.names)


class Braced(Blank):
    """Has names that look like something else."""

    names = "{noop}", "UP", "DOWN", "FIRE"


class Broad(Blank):
    """Has names of several lines."""

    names = "NOOP", "UP\nUP", "DOWN", "FIRE"


class Undecoded(Blank):
    """Has names that cannot be written."""

    names = "NOOP", "\udcff", "DOWN", "FIRE"


class Foreign(Blank):
    """Has names in another script, with a space."""

    names = "何もしない", "go up", "DOWN/LEFT", "FIRE"


class Nameless(Clock):
    """Fails to name its actions."""

    def get_action_meanings(self) -> list[str]:
        raise KeyError("names")


class Four(Clock):
    """Steps as it was done before there was truncation."""

    def step(self, action: Any) -> Any:
        shown, reward, terminated, _, info = super().step(action)
        return shown, reward, terminated, info


class Bare(Clock):
    """Starts as it was done before there was information; shows as many numbers as are wanted of it."""

    observation_space = spaces.Box(0, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32)


class Seedless(Clock):
    """Starts as it was done when seeds had a method of their own."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


def flat_cell() -> gymnasium.Env[Any, Any]:
    """What the refusal of `Cell` recommends."""
    return wrappers.FlattenObservation(Cell())


def four_cells() -> gymnasium.Env[Any, Any]:
    """An older environment in a wrapper of today."""
    return wrappers.TimeLimit(Four(), 100)


def covered() -> gymnasium.Env[Any, Any]:
    """Takes no `render_mode` for what lists one."""
    return wrappers.TransformReward(Drawn(), lambda reward: reward)


def passed_on(**arguments: Any) -> gymnasium.Env[Any, Any]:
    """Takes more than what it makes does."""
    return Listed(**arguments)


def nothing() -> None:
    """Makes no environment."""


gymnasium.register("Clock-v0", entry_point=Clock)
gymnasium.register("Listed-v0", entry_point=Listed)
