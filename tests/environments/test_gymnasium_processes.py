"""The processes of the Gymnasium adapter: failures, signals, ends, and what an environment does to them."""

import gc
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

import numpy as np
import pytest

from agent57_jax.environments import gymnasium as adapter
from agent57_jax.environments.gymnasium import GymnasiumEnvironment
from agent57_jax.types import FIRST, MID, HostEnvironmentError
from tests.environments.playing import closing, play, start, step

ROOT = Path(__file__).parents[2]
TOYS = "tests.environments.toys:"
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
Make = Callable[..., GymnasiumEnvironment]


def create(name: str, num_envs: int = 3, num_processes: int = 2) -> GymnasiumEnvironment:
    return GymnasiumEnvironment(TOYS + name, num_envs, list(range(1, num_envs + 1)), num_processes=num_processes)


@pytest.fixture
def make() -> Iterator[Make]:
    with closing(create) as made:
        yield made


def processes(environment: GymnasiumEnvironment) -> list[int]:
    return [worker.process.pid for worker in environment._workers]


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


def test_there_are_no_more_processes_than_environments(make: Make) -> None:
    assert [len(processes(make("Clock", 2, wanted))) for wanted in (1, 64)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Raises", r"toys:Raises failed: ZeroDivisionError: a mistake of two lines \(.*toys.py:\d+, in step\)"),
        ("Dies", r"a process of tests.environments.toys:Dies died \(exit code 7"),
        ("Exits", r"a process of tests.environments.toys:Exits died \(exit code 3"),
        ("Bare", r"toys:Bare failed: reset\(\) must take seed and options, and must return two values: observation, info$"),
    ],
)
def test_an_environment_that_fails_is_named(make: Make, name: str, message: str) -> None:
    environment = make(name)
    with pytest.raises(HostEnvironmentError, match=message) as error:
        play(environment, num_steps=3)
    assert "\n" not in str(error.value)
    numbers = processes(environment)
    environment.close()
    assert not any(map(is_running, numbers))


def test_close_leaves_no_processes_and_no_files() -> None:
    gc.collect()  # what earlier failures hold, whose files would close meanwhile
    before = len(os.listdir("/proc/self/fd"))
    environment = create("Clock", num_processes=3)
    start(environment)
    environment.send(np.zeros(3, np.int32))  # with a step under way
    numbers = processes(environment)
    assert all(map(is_running, numbers)) and len(os.listdir("/proc/self/fd")) > before
    environment.close()
    assert not any(map(is_running, numbers))
    del environment  # and with it the observations' shared memory
    assert len(os.listdir("/proc/self/fd")) == before


def test_processes_that_do_not_end_are_killed_after_one_deadline_for_all(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "END_SECONDS", 1.0)
    environment = make("Clock", num_processes=3)
    start(environment)
    for pid in processes(environment):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    environment.close()
    assert 1.0 <= time.monotonic() - began < 2.9  # one after another they would take three
    assert [worker.process.returncode for worker in environment._workers] == [-signal.SIGKILL] * 3
    assert not any(map(is_running, processes(environment)))


def test_what_an_environment_forks_hides_no_end_and_goes_with_it(make: Make) -> None:
    """Such a process holds the channel open, which then does not tell that the process that should answer is gone."""
    environment = make("Forks", num_processes=3)
    children = [-int(number) for number in start(environment).observation[:, 0]]
    assert all(map(is_running, children)) and not set(children) & set(processes(environment))
    os.kill(processes(environment)[1], signal.SIGKILL)
    environment.send(np.zeros(3, np.int32))
    with pytest.raises(HostEnvironmentError, match=r"a process of .*Forks died \(exit code -9"):
        environment.recv()
    environment.close()
    assert soon_ended(children) and not any(map(is_running, processes(environment)))


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


@pytest.mark.parametrize("name", ["Clock", "Meddles"])
def test_signals_do_not_reach_an_environment_nor_its_deeds_the_trainer(make: Make, name: str) -> None:
    """Ctrl-C and schedulers signal every process, and the trainer still has to save."""

    def state() -> list[Any]:
        os.umask(mask := os.umask(0o22))
        handlers = [signal.getsignal(number) for number in SIGNALS]
        return [os.getcwd(), mask, dict(os.environ), list(sys.path), list(warnings.filters), sys.excepthook, np.geterr(), handlers]

    before, threads = state(), threading.active_count()
    environment = make(name)
    assert (start(environment).step_type == FIRST).all()
    assert state() == before and threading.active_count() == threads
    for pid in processes(environment):
        for number in SIGNALS:
            os.kill(pid, number)
        assert os.getsid(pid) != os.getsid(0)  # nor does Ctrl-C reach it
    assert (step(environment, 0).step_type == MID).all()


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
