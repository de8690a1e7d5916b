"""Checks whether a machine can train; every check prints one line: ok, or what to do.

Heavy packages are imported inside the checks, so that a failing import is a finding and not a traceback.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from agent57_jax.commands import command_line
from agent57_jax.config import Settings, SettingsError

OK, WARN, FAIL = "ok", "warn", "FAIL"
GIB = 2**30
REQUIREMENTS = pathlib.Path(__file__).parents[2] / "requirements.txt"
TESTED_PYTHONS = ((3, 11), (3, 12))
CUDA_DRIVER = 580  # the oldest for CUDA 13, see requirements-cuda.txt
MIN_DISK, GOOD_DISK = 1 * GIB, 10 * GIB  # Choice: a checkpoint of the smallest network, and some of the paper's
MIN_HOST_MEMORY = 4 * GIB  # Choice: JAX, its compiler and a few emulators


class Finding(NamedTuple):
    """The result of a check."""

    level: str  # OK, WARN or FAIL
    sentence: str  # the facts and, unless OK, what to do


Check = tuple[str, Callable[[], Finding]]


def run(settings: Settings | None, workdir: str) -> int:
    """Prints a line per check, without settings only for the machine; returns the exit code, 1 if a check failed."""
    # Leaves the device's memory to a run that trains here.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    failed = 0
    for name, check in checks(settings, pathlib.Path(workdir)):
        level, sentence = examined(check)
        failed += level == FAIL
        print(f"{level:4}  {name:8}  {sentence}", flush=True)
    print(f"{failed} of these must be fixed before training" if failed else "ready to train")
    return 1 if failed else 0


def examined(check: Callable[[], Finding]) -> Finding:
    """Runs a check; an exception is a failure."""
    try:
        return check()
    except SettingsError as error:  # its message is enough
        return Finding(FAIL, " ".join(str(error).split()))
    except Exception as error:
        return Finding(FAIL, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def checks(settings: Settings | None, workdir: pathlib.Path) -> Iterator[Check]:
    """All checks, cheap ones first."""
    yield "versions", lambda: judge_versions(sys.version_info[:2], REQUIREMENTS.read_text().splitlines())
    yield "devices", compute
    # If the task fails, the checks below consider only the machine.
    finding, parts = make_task(settings)
    yield "task", lambda: finding
    yield "memory", lambda: check_memory(parts)
    yield "disk", lambda: judge_disk(workdir, *disk(workdir), 0 if parts is None else checkpoint_bytes(parts.settings, parts))


def judge_versions(python: tuple[int, ...], requirements: Iterable[str]) -> Finding:
    """Checks Python's version, and the installed packages against the lines of a requirements file."""
    text = f"Python {'.'.join(map(str, python))}"
    wrong = []
    for line in requirements:
        if line := line.partition("#")[0].strip():
            needed = Requirement(line)
            try:
                installed = importlib.metadata.version(needed.name)
            except importlib.metadata.PackageNotFoundError:
                installed = "missing"
            if installed == "missing" or installed not in needed.specifier:
                wrong.append(f"{needed.name} is {installed}, not {needed.specifier}")
            elif needed.name in ("envpool", "jax"):
                text += f", {needed.name} {installed}"
    if python < TESTED_PYTHONS[0]:
        return Finding(FAIL, f"{text}: install Python 3.11 or 3.12 and create a new virtual environment")
    if wrong:
        return Finding(FAIL, f"{text}; {', '.join(wrong)}: pip install -r requirements.lock")
    if python > TESTED_PYTHONS[-1]:
        return Finding(WARN, f"{text}: this Python is newer than what is tested; use 3.11 or 3.12 if something does not work")
    return Finding(OK, text)


def driver_version() -> str:
    """Version of the NVIDIA driver; empty without one."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.partition("\n")[0].strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def judge_driver(version: str) -> str:
    """What is wrong with a driver's version; empty if nothing is."""
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) >= CUDA_DRIVER:
        return ""
    return f"NVIDIA driver {version} is too old for CUDA 13: install {CUDA_DRIVER} or newer, or jax[cuda12], which needs 525"


def compute() -> Finding:
    """Checks JAX's devices with a product and a convolution on each, for which a GPU needs cuDNN."""
    import jax
    import jax.numpy as jnp

    from agent57_jax import parallel

    driver = driver_version()
    try:
        parallel.make_mesh()
    except parallel.DeviceError as error:
        return Finding(FAIL, judge_driver(driver) or str(error))
    started = time.monotonic()
    # Sums of 64 ones are exact in every precision.
    program = jax.jit(lambda x: (x @ x, jax.lax.conv(x[None, None], x[None, None, :8, :8], (4, 4), "VALID")))
    for index, device in enumerate(jax.local_devices()):
        if not all((value == 64).all() for value in jax.device_get(program(jax.device_put(jnp.ones((64, 64)), device)))):
            return Finding(FAIL, f"device {index} computes wrong results: replace it, or hide it with CUDA_VISIBLE_DEVICES")
    first = jax.local_devices()[0]
    seconds = time.monotonic() - started
    text = f"{jax.local_device_count()} x {first.device_kind} ({first.platform}), compiled and computed in {seconds:.1f} s"
    if first.platform == "cpu":
        return Finding(
            WARN,
            f"{text}: training uses the CPU, for which the laptop profile (--config=NAME:laptop) is sized; Docker needs --gpus all",
        )
    return Finding(OK, f"{text}, NVIDIA driver {driver}" if driver else text)


def make_task(settings: Settings | None) -> tuple[Finding, Any]:
    """Makes and steps the environment, by default an Atari game, and builds the networks; `programs.Parts`, None without settings."""
    parts: list[Any] = []

    def check() -> Finding:
        import numpy as np

        from agent57_jax.agent import programs
        from agent57_jax.environments import factory

        wanted = settings or Settings()
        if not wanted.is_host_environment:
            parts.append(programs.build(wanted, factory.make_jax_environment(wanted.environment).spec))
            return Finding(OK, f"{wanted.environment.kind.value} made")
        environment = factory.make_host_environment(wanted.environment, 1, wanted.seed, "training")
        with contextlib.closing(environment):
            environment.reset()
            environment.recv()
            environment.send(np.zeros(1, np.int32))
            environment.recv()
        if settings is not None:
            parts.append(programs.build(settings, environment.spec))
        return Finding(OK, f"{wanted.environment.task_id} made and stepped")

    finding = examined(check)
    return finding, parts[0] if parts else None


def check_memory(parts: Any) -> Finding:
    """Checks memory, for `programs.Parts` or, with None, only that of the machine."""
    import jax

    from agent57_jax import parallel
    from agent57_jax.training import memory

    def plan() -> dict[str, int]:
        return memory.plan(parts, parts.settings.num_devices or len(jax.devices()))[1]

    return judge_memory(parallel.host_memory_available_bytes(), parallel.device_memory_bytes(), None if parts is None else plan)


def judge_memory(host: int, device: tuple[int, int] | None, planned: Callable[[], dict[str, int]] | None) -> Finding:
    """Checks the memory of host and device, and whether the settings' plan fits."""
    text = f"{host / GIB:.1f} GiB free on the host"
    if device is not None:
        text += f", {(device[1] - device[0]) / GIB:.1f} of {device[1] / GIB:.1f} GiB free on the device"
    if planned is not None:
        try:
            table = planned()
        except SettingsError as error:
            return Finding(FAIL, str(error))
        return Finding(OK, f"{text}; the config's replay takes {table['replay'] / GIB:.2f} GiB and leaves {table['free'] / GIB:.2f} GiB")
    if host < MIN_HOST_MEMORY:
        return Finding(WARN, f"{text}: even compiling may need more; end other programs, or try the profile :smoke")
    return Finding(OK, text)


def disk(workdir: pathlib.Path) -> tuple[int, bool]:
    """Free bytes where the folder is or will be, and whether it is writable."""
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free, command_line.writing_problem(existing / ".doctor") is None


def checkpoint_bytes(settings: Settings, parts: Any) -> int:
    """Upper limit of a run's checkpoints, including one being written; ignores the compression of frames."""
    import jax
    import numpy as np

    from agent57_jax.training import memory

    learner = memory.tree_bytes(jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32)))
    capacity = min(settings.requested_capacity or settings.replay.auto_limit, settings.replay.auto_limit)
    held = memory.replay_bytes(parts, max(capacity, settings.min_capacity)) if settings.checkpoint.save_replay else 0
    return (settings.checkpoint.keep + 1) * (learner + held)


def judge_disk(workdir: pathlib.Path, free: int, writable: bool, needed: int) -> Finding:
    """Checks the free bytes for runs against the checkpoints' needs."""
    text = f"{free / GIB:.1f} GiB free for {workdir}"
    if not writable:
        return Finding(FAIL, f"{workdir} cannot be written to: choose another --workdir, or change its permissions")
    if free < MIN_DISK:
        return Finding(FAIL, f"{text}: free some, or choose another --workdir")
    if free < needed:
        advice = "provide more, or set --config.checkpoint.save_replay=false"
        return Finding(WARN, f"{text}, and checkpoints may take up to {needed / GIB:.1f} GiB (less as frames compress): {advice}")
    if free < GOOD_DISK and not needed:
        return Finding(WARN, f"{text}: checkpoints of a large replay need more")
    return Finding(OK, text)
