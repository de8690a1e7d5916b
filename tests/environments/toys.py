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


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


class Clock(gymnasium.Env[Any, Any]):
    """Shows [seed, episode, step, last action]; rewards 10 * episode + step; terminates at step 3. Its actions are 5..8."""

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


class Picture(Clock):
    """Shows pixels [2, 3, 3]: 10 * step + channel."""

    observation_space = pixels(2, 3, 3)

    def show(self, action: int) -> Any:
        return np.tile(np.uint8(10 * self.time) + np.arange(3, dtype=np.uint8), (2, 3, 1))


class Drawn(Picture):
    """Draws its step in another size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((5, 4, 3), self.time, np.uint8)


def variant(base: type[Clock] = Clock, **attributes: Any) -> Any:
    """A class that differs from `base` in a few attributes."""
    return type("Variant", (base,), attributes)


def fail(kind: type[Exception], message: str) -> Any:
    """A method that does."""

    def fails(*_: Any) -> None:
        raise kind(message)

    return fails


# What they show

Grey = variant(observation_space=pixels(2, 3), show=lambda self, _: np.full((2, 3), self.time, np.uint8))
Global = variant(show=lambda *_: np.random.random(4))  # noqa: NPY002
Shrinks = variant(show=lambda self, action: Clock.show(self, action)[: 4 - self.time])
Far = variant(show=lambda self, action: Clock.show(self, action) + (1e300 if self.time == 1 else 0.0))
Wide = variant(Picture, show=lambda self, action: Picture.show(self, action).astype(np.uint16) + 300)
Yes = variant(Picture, show=lambda self, action: Picture.show(self, action) > 10)
DrawnFloats = variant(Drawn, render=lambda _: np.full((5, 4, 3), 0.5))
DrawnTooBright = variant(Drawn, render=lambda _: np.full((5, 4, 3), 256))
DrawnNumbers = variant(Drawn, render=lambda _: np.full((5, 4, 3), 255))
Untold = variant(metadata=None)


Undrawable = variant(Drawn, render=fail(OSError, "no display"))  # lists a picture all the same, like an environment without a screen
Listed = variant(Drawn, __init__=Clock.__init__)  # and does not take the mode


# Spaces that no network here takes

Continuous = variant(action_space=spaces.Box(-1, 1, (2,)))
Cell = variant(observation_space=spaces.Discrete(6), show=lambda self, _: self.time)
Parts = variant(observation_space=spaces.Dict({"image": pixels(8, 8, 3), "speed": spaces.Box(0, 1, (1,))}))
ChannelsFirst = variant(observation_space=pixels(3, 64, 64))
FloatImage = variant(observation_space=spaces.Box(0, 1, (8, 8, 3)))
Matrix = variant(observation_space=spaces.Box(0, 1, (8, 8)))
Spaceless: Any = gymnasium.Env


# Names of actions


def named(*names: str) -> Any:
    return variant(get_action_meanings=lambda _: list(names))


Named = named("NOOP", "UP", "DOWN", "FIRE")
Renamed = named("NOOP", "UP")
Blank = named("", "UP", "DOWN", "FIRE")
Braced = named("{noop}", "UP", "DOWN", "FIRE")
Broad = named("NOOP", "UP\nUP", "DOWN", "FIRE")
Undecoded = named("NOOP", "\udcff", "DOWN", "FIRE")
Foreign = named("何もしない", "go up", "DOWN/LEFT", "FIRE")


Nameless = variant(get_action_meanings=fail(KeyError, "names"))


# What `step` returns


def returning(reward: Any = 1.0, ended: Any = False) -> Any:
    def step(self: Clock, action: Any) -> Any:
        shown, _, _, truncated, info = Clock.step(self, action)
        return shown, reward, ended, truncated, info

    return variant(step=step)


PaidInArrays = returning(np.array([1.0]))
PaidInWords = returning("1.0")
PaidUnevenly = returning([[1.0], [1.0, 2.0]])
PaidTooMuch = returning(1e300)
PaidExactly = returning(fractions.Fraction(3, 2))
PaidAtOnce = returning(np.array(2), np.True_)
EndsInArrays = returning(ended=np.array([True]))
EndsInDoubt = returning(ended=None)
Both = variant(step=lambda self, action: (*Clock.step(self, action)[:3], self.time == self.last, {}))  # truncated at its end, too


class Shifts(Clock):
    """Shifts by its action, beyond 32 bits."""

    action_space: Any = spaces.Discrete(63)

    def show(self, action: int) -> Any:
        return np.array([self.stream, self.episode, self.time, 1 << action if self.time else 0], np.float64)

    def step(self, action: Any) -> Any:
        assert type(action) is type(self.action_space.sample())
        return super().step(action)


FarShifts = variant(Shifts, action_space=spaces.Discrete(3, start=2**40), show=Clock.show)

# Older interfaces: four values of `step`; an observation alone; seeds by a method of their own

Four = variant(step=lambda self, action: Clock.step(self, action)[:4])
Bare = variant(observation_space=spaces.Box(0, 1, (2,)), reset=lambda *_, **__: np.zeros(2, np.float32))
Seedless = variant(reset=lambda self: (self.show(0), {}))


# Failures, and what is done to the process


class Raises(Clock):
    """Fails at its second step; until then it shows numbers that networks can bear."""

    def show(self, action: int) -> Any:
        return super().show(action) * [0, 1, 1, 1]

    def step(self, action: Any) -> Any:
        if self.time == 1:
            raise ZeroDivisionError("a mistake\nof two lines")
        return super().step(action)


class Unmade(Clock):
    """Lacks an argument."""

    def __init__(self, size: int) -> None:
        super().__init__()


Broken = variant(__init__=fail(FileNotFoundError, "no level.txt"))
Quits = variant(__init__=lambda _: os._exit(5))
Dies = variant(step=lambda *_: os._exit(7))
Exits = variant(step=lambda *_: sys.exit(3), close=lambda _: atexit.register(time.sleep, 0.1))  # slowly


class Prints(Clock):
    """Prints on both streams, as native code does too."""

    def step(self, action: Any) -> Any:
        os.write(1, b"x" * 4096)
        os.write(2, b"y" * 4096)
        print("z" * 4096, flush=True)
        return super().step(action)


class Forks(Clock):
    """Starts a process that inherits all of its files, and shows its negative number."""

    def show(self, action: int) -> Any:
        if self.stream > 0:
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            self.stream = -child
        return super().show(action)


class Meddles(Clock):
    """Changes everything about its process, and prints."""

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


# Entry points that are functions


def flat_cell() -> Any:
    return wrappers.FlattenObservation(Cell())


def four_cells() -> Any:
    return wrappers.TimeLimit(Four(), 100)


def covered() -> Any:  # takes no `render_mode` for an environment that lists one
    return wrappers.TransformReward(Drawn(), lambda reward: reward)


def passed_on(**arguments: Any) -> Any:  # takes more arguments than the environment that it makes
    return Listed(**arguments)


def nothing() -> None:
    pass


gymnasium.register("Clock-v0", entry_point=Clock)
gymnasium.register("Listed-v0", entry_point=Listed)
