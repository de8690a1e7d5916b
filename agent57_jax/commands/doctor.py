"""What a machine must have to train, one line a check: ok, or what to do.

Each `judge_*` function judges facts that it is given; `checks` gathers them. Heavy packages are imported inside the checks, so that one
that cannot be imported is a finding and not a traceback.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from agent57_jax.config import Settings, SettingsError

OK, WARN, FAIL = "ok", "warn", "FAIL"
GIB = 2**30

# Of the driver, by CUDA's major version (release notes of CUDA): 580 is also what requirements-cuda.txt says.
CUDA_DRIVERS = {12: (525, 60), 13: (580, 0)}
TESTED_PYTHONS = ((3, 11), (3, 12))
JAX_BOUNDS = ((0, 10), (0, 13))  # from, and below: as in requirements.txt
GAME = "Zaxxon-v5"
PROCGEN_GAME = "CoinrunEasy-v0"
MIN_DISK, GOOD_DISK = 1 * GIB, 10 * GIB  # Choice: a checkpoint of the smallest network, and some of the paper's
MIN_HOST_MEMORY = 4 * GIB  # Choice: JAX, its compiler and a few emulators
MAX_GPU_IN_USE = 0.05  # a training takes 95% of each (agent57_jax/commands/command_line.py)
MIN_FILES, GOOD_FILES = 256, 1_024  # Choice: Orbax opens a file an array while it saves; 1,024 is Linux' own default
EXTRAS = {
    "video": ("imageio_ffmpeg",),
    "gymnasium": ("gymnasium", "minigrid"),
    "wandb": ("wandb",),
}


class Finding(NamedTuple):
    """The result of one check."""

    level: str  # OK, WARN or FAIL
    sentence: str  # what there is, and unless it is ok what to do


Check = tuple[str, Callable[[], Finding]]


def run(settings: Settings | None, workdir: str) -> int:
    """Prints a line for every check; returns the exit code: 1 if one failed.

    Args:
      settings: whose needs are judged too; None: only the machine.
      workdir: where runs will lie.
    """
    # A run that trains here keeps the device's memory: this process takes only what it needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    failed = 0
    for name, check in checks(settings, pathlib.Path(workdir)):
        level, sentence = examined(check)
        failed += level == FAIL
        print(f"{level:4}  {name:12}  {sentence}", flush=True)
    print(f"{failed} of these must be mended before training" if failed else "ready to train")
    return 1 if failed else 0


def examined(check: Callable[[], Finding]) -> Finding:
    """The finding of a check; whatever it raises is one."""
    try:
        return check()
    except SettingsError as error:  # its message says all
        return Finding(FAIL, " ".join(str(error).split()))
    except Exception as error:
        return Finding(FAIL, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def checks(settings: Settings | None, workdir: pathlib.Path) -> Iterator[Check]:
    """All checks, cheap ones first."""
    driver = driver_version()
    yield "python", lambda: judge_python(sys.version_info[:2])
    yield "driver", lambda: judge_driver(driver, cuda_major())
    if in_use := gpu_memory():
        yield "gpu memory", lambda: judge_gpu_memory(in_use)
    yield "jax", lambda: judge_jax(importlib.metadata.version("jax"), devices(), driver, os.environ.get("JAX_PLATFORMS", ""))
    yield "computation", compute
    yield "envpool", play
    yield "procgen", play_procgen
    parts = None
    if settings is not None:
        # What the task lacks is said once; the checks below then judge the machine alone.
        finding, parts = make_task(settings)
        yield "task", lambda: finding
    yield "memory", lambda: judge_memory(*memory_bytes(), None if parts is None or settings is None else lambda: plan(settings, parts))
    yield "disk", lambda: judge_disk(workdir, *disk(workdir), 0 if parts is None or settings is None else checkpoint_bytes(settings, parts))
    yield "cpu", lambda: judge_cpus(*cpus(), None if settings is None else settings.environment.num_threads)
    yield "files", lambda: judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield "cache", lambda: judge_cache(os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    yield "extras", lambda: judge_extras(extras(), wants_wandb=settings is not None and settings.logging.wandb)


def gpu_memory() -> list[tuple[int, int]]:
    """Bytes in use and bytes of each GPU, by nvidia-smi; empty where it does not say. JAX tells only what its own process holds."""
    return parse_gpu_memory(_output(["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]))


def parse_gpu_memory(text: str) -> list[tuple[int, int]]:
    """Bytes from lines `used, total` in MiB; empty if one says neither, as those of GPUs without memory of their own."""
    found = [re.fullmatch(r"(\d+), (\d+)", line.strip()) for line in text.splitlines()]
    return [(int(match[1]) * 2**20, int(match[2]) * 2**20) for match in found if match is not None] if all(found) else []


def judge_gpu_memory(in_use: Sequence[tuple[int, int]]) -> Finding:
    """Bytes in use and bytes of each GPU, before this process takes any."""
    text = ", ".join(f"{used / GIB:.1f} of {total / GIB:.1f} GiB" for used, total in in_use)
    busy = [str(index) for index, (used, total) in enumerate(in_use) if used > MAX_GPU_IN_USE * total]
    if not busy:
        return Finding(OK, f"{text} in use")
    what = "end what nvidia-smi lists there, or choose others by CUDA_VISIBLE_DEVICES"
    return Finding(WARN, f"{text} in use: on GPU {', '.join(busy)} a training will lack memory; {what}")


def judge_python(version: tuple[int, ...]) -> Finding:
    """Python's major and minor version."""
    text = ".".join(map(str, version))
    if version < TESTED_PYTHONS[0]:
        return Finding(FAIL, f"Python {text}: install 3.11 or 3.12 and make the virtual environment anew")
    if version > TESTED_PYTHONS[-1]:
        return Finding(WARN, f"Python {text} is newer than what is tested: take 3.11 or 3.12 if something does not work")
    return Finding(OK, f"Python {text}")


def driver_version() -> tuple[int, ...] | None:
    """Version of the NVIDIA driver; None without one; () where it does not say."""
    try:
        text = pathlib.Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        # Under WSL the driver is Windows' own, and only this program tells.
        text = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return parse_driver(text) if text else None


def parse_driver(text: str) -> tuple[int, ...]:
    """The version in what a driver says of itself: the first number with a dot."""
    found = re.search(r"\b(\d{3,})\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def cuda_major() -> int | None:
    """Major version of CUDA for which JAX's plugin is installed; None without a plugin."""
    found = [major for major in CUDA_DRIVERS if importlib.util.find_spec(f"jax_cuda{major}_plugin") is not None]
    return max(found, default=None)


def judge_driver(driver: tuple[int, ...] | None, cuda: int | None) -> Finding:
    """The driver's version against what the installed CUDA packages need."""
    if driver is None:
        if cuda is not None:
            return Finding(
                WARN, "no NVIDIA driver, though CUDA packages are installed: in Docker start with --gpus all; else training uses the CPU"
            )
        return Finding(WARN, "no NVIDIA driver: training uses the CPU, where the profile :laptop is meant for")
    text = ".".join(map(str, driver)) or "of unknown version"
    if cuda is None:
        return Finding(FAIL, f"NVIDIA driver {text}, but JAX has no CUDA: pip install -r requirements-cuda.txt (`make train` does)")
    needed = CUDA_DRIVERS[cuda]
    if driver and driver < needed:
        least = ".".join(map(str, needed)).removesuffix(".0")
        other = "" if cuda == 12 else ", or install jax[cuda12] instead, which needs 525.60"
        return Finding(FAIL, f"NVIDIA driver {text} is too old for CUDA {cuda}: install {least} or newer{other}")
    return Finding(OK, f"NVIDIA driver {text}, CUDA {cuda} packages")


def devices() -> list[tuple[str, str]]:
    """Platform and kind of every device that JAX sees."""
    from agent57_jax import parallel

    return [(device.platform, device.device_kind) for device in parallel.find_devices()]


def judge_jax(version: str, found: Sequence[tuple[str, str]], driver: tuple[int, ...] | None, platforms: str) -> Finding:
    """JAX's version and devices. `platforms` is the variable JAX_PLATFORMS."""
    platform, kind = found[0]
    text = f"jax {version}, {len(found)} x {kind} ({platform})"
    number = tuple(int(part) for part in version.split(".")[:2])
    if not JAX_BOUNDS[0] <= number < JAX_BOUNDS[1]:
        return Finding(FAIL, f"{text}: this version is not supported; pip install -r requirements.lock")
    if driver is None or platform != "cpu":
        return Finding(OK, text)
    if platforms == "cpu":
        return Finding(WARN, f"{text}, since JAX_PLATFORMS=cpu hides the GPU: unset it to train there")
    return Finding(
        FAIL, f"{text}, though there is an NVIDIA driver: pip install -r requirements-cuda.txt (in Docker: start with --gpus all)"
    )


def compute() -> Finding:
    """A tiny jitted program on every device: a product, and a convolution as of the first layer of Atari's torso, for which a GPU needs
    cuDNN.
    """
    import jax
    import numpy as np

    devices()  # says in a line if there are none
    started = time.monotonic()
    matrix = np.arange(64, dtype=np.float32).reshape(8, 8)
    screen = (np.arange(84 * 84) % 251 / 250).astype(np.float32).reshape(84, 84)
    kernel = np.linspace(0.1, 1.0, 64, dtype=np.float32).reshape(8, 8)

    @jax.jit
    def program(matrix: Any, screen: Any, kernel: Any) -> Any:
        convolved = jax.lax.conv(screen[None, None], kernel[None, None], (4, 4), "VALID")
        return matrix @ matrix, convolved[0, 0]

    expected = matrix @ matrix, convolve(screen, kernel, 4)
    results = [jax.device_get(program(*jax.device_put((matrix, screen, kernel), device))) for device in jax.local_devices()]
    return judge_computation(results, expected, time.monotonic() - started)


def convolve(screen: Any, kernel: Any, stride: int) -> Any:
    """The convolution (of deep learning, which mirrors no kernel) of matrices in NumPy, without padding."""
    import numpy as np

    windows = np.lib.stride_tricks.sliding_window_view(screen, kernel.shape)[::stride, ::stride]
    return np.einsum("yxij,ij->yx", windows, kernel)


def judge_computation(results: Sequence[tuple[Any, Any]], expected: tuple[Any, Any], seconds: float) -> Finding:
    """Matrix product and convolution of every device; their inputs are not negative, so that rounding to ten bits, as GPUs do, is small."""
    import numpy as np

    for index, result in enumerate(results):
        for does, value, wanted in zip(("multiplies", "convolves"), result, expected, strict=True):
            if not np.allclose(value, wanted, rtol=1e-2):
                return Finding(FAIL, f"device {index} {does} wrongly: replace it, or hide it with CUDA_VISIBLE_DEVICES")
    return Finding(OK, f"{len(results)} device(s) compiled, multiplied and convolved in {seconds:.1f} s")


def play() -> Finding:
    """A few steps of an Atari game."""
    from agent57_jax.environments.envpool import EnvPoolEnvironment

    frames = _play_steps(EnvPoolEnvironment(GAME, 1, [1], num_threads=1), 4)
    return judge_play(importlib.metadata.version("envpool"), frames)


def _play_steps(environment: Any, steps: int) -> list[Any]:
    """Observations [height, width, channels] of one environment, which is closed then."""
    import numpy as np

    with contextlib.closing(environment):
        environment.reset()
        frames = [environment.recv().observation[0]]
        for _ in range(steps):
            environment.send(np.zeros(1, np.int32))
            frames.append(environment.recv().observation[0])
    return frames


def judge_play(version: str, frames: Sequence[Any]) -> Finding:
    """Observations of the game's first steps."""
    if not any(frame.any() for frame in frames):
        return Finding(
            FAIL, f"envpool {version} shows a black screen for {GAME}, as without its ROM: pip install --force-reinstall envpool"
        )
    return Finding(OK, f"envpool {version}, {GAME} made and stepped, ROMs are there")


def play_procgen() -> Finding:
    """A step of a Procgen game, which needs Qt."""
    from agent57_jax.environments.envpool import EnvPoolEnvironment

    try:
        environment = EnvPoolEnvironment(PROCGEN_GAME, 1, [1], num_threads=1)
    except ValueError as error:
        return judge_procgen(str(error))
    _play_steps(environment, 1)
    return judge_procgen(None)


def judge_procgen(problem: str | None) -> Finding:
    """Nothing but Procgen needs Qt."""
    return Finding(OK, "Qt is there, Procgen runs") if problem is None else Finding(WARN, f"only for Procgen: {problem}")


def memory_bytes() -> tuple[int, tuple[int, int] | None]:
    """Free memory of the host; in use and limit of the first device, None where it does not say."""
    from agent57_jax import parallel

    return parallel.host_memory_available_bytes(), parallel.device_memory_bytes()


def make_task(settings: Settings) -> tuple[Finding, Any]:
    """Makes the environment of the settings and the networks for it: the finding, and `programs.Parts` or None if that failed."""
    parts: list[Any] = []

    def check() -> Finding:
        from agent57_jax.agent import programs
        from agent57_jax.environments import factory

        if not settings.is_host_environment:
            parts.append(programs.build(settings, factory.make_jax_environment(settings.environment).spec))
            return Finding(OK, f"{settings.environment.kind.value} made")
        environment = factory.make_host_environment(settings.environment, 1, settings.seed, "training")
        environment.close()
        parts.append(programs.build(settings, environment.spec))
        return Finding(OK, f"{settings.environment.task_id} made")

    finding = examined(check)
    return finding, parts[0] if parts else None


def plan(settings: Settings, parts: Any) -> dict[str, int]:
    """Bytes of a run with these settings and `programs.Parts`, or a SettingsError that says what to lower."""
    import jax

    from agent57_jax.training import memory

    devices = len(jax.devices()) if settings.num_devices is None else settings.num_devices
    return memory.plan(parts, devices)[1]


def judge_memory(host: int, device: tuple[int, int] | None, planned: Callable[[], dict[str, int]] | None) -> Finding:
    """Bytes of host and device, and whether the settings' plan fits them."""
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
        return Finding(WARN, f"{text}: compiling alone may need more; end other programs, or try the profile :smoke")
    return Finding(OK, text)


def disk(workdir: pathlib.Path) -> tuple[int, bool]:
    """Free bytes where the folder is or will be, and whether it can be written to."""
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free, can_write(existing)


def can_write(folder: pathlib.Path) -> bool:
    """Tried for real: permissions do not tell of read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def checkpoint_bytes(settings: Settings, parts: Any) -> int:
    """What the checkpoints of a run take at most: so many as are kept, and one that is being written; frames are compressed in truth."""
    import jax
    import numpy as np

    from agent57_jax.training import memory

    learner = memory.tree_bytes(jax.eval_shape(parts.learner.init, jax.ShapeDtypeStruct((2,), np.uint32)))
    capacity = min(settings.requested_capacity or settings.replay.auto_limit, settings.replay.auto_limit)
    held = memory.replay_bytes(parts, max(capacity, settings.min_capacity)) if settings.checkpoint.save_replay else 0
    return (settings.checkpoint.keep + 1) * (learner + held)


def judge_disk(workdir: pathlib.Path, free: int, writable: bool, needed: int) -> Finding:
    """Free bytes of the folder of runs against what checkpoints may need."""
    text = f"{free / GIB:.1f} GiB free for {workdir}"
    if not writable:
        return Finding(FAIL, f"{workdir} cannot be written to: choose another --workdir, or give this user the right")
    if free < MIN_DISK:
        return Finding(FAIL, f"{text}: free some, or choose another --workdir")
    if free < needed:
        advice = "have more at hand, or set --config.checkpoint.save_replay=false"
        return Finding(WARN, f"{text}, and checkpoints may take up to {needed / GIB:.1f} GiB (less as frames compress): {advice}")
    if free < GOOD_DISK and not needed:
        return Finding(WARN, f"{text}: checkpoints of a large replay need more")
    return Finding(OK, text)


def cpus() -> tuple[int, int, int]:
    """CPUs of the machine, those that this process may run on, and those that its container's quota leaves."""
    from agent57_jax.environments.envpool import available_cpus

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.cpu_count() or 1, affinity, available_cpus()


def judge_cpus(machine: int, affinity: int, available: int, threads: int | None) -> Finding:
    """CPUs, and the emulator threads of a group that the settings ask for (None: as many as there are CPUs)."""
    limits = [f"affinity {affinity}"] if affinity < machine else []
    limits += [f"quota {available}"] if available < affinity else []
    text = f"{available} of the machine's {machine} CPUs" + (f" ({', '.join(limits)})" if limits else "")
    if threads is not None and threads > available:
        return Finding(WARN, f"{text}, but environment.num_threads is {threads}: leave it out, or emulators mostly wait")
    if available < 2:
        return Finding(WARN, f"{text}: emulators and the trainer share it; give the container more (docker run --cpus)")
    return Finding(OK, f"{text}, as many emulator threads a group")


def judge_files(limit: int) -> Finding:
    """How many files a process may open."""
    if limit == resource.RLIM_INFINITY or limit >= GOOD_FILES:
        return Finding(OK, "unlimited open files" if limit == resource.RLIM_INFINITY else f"{limit} open files")
    advice = f"raise it with `ulimit -n {GOOD_FILES}` (docker run --ulimit nofile={GOOD_FILES})"
    return Finding(FAIL if limit < MIN_FILES else WARN, f"only {limit} open files, and checkpoints open many: {advice}")


def judge_cache(name: str | None) -> Finding:
    """The folder of compiled programs; None for a user without a home."""
    if name is None:
        return Finding(WARN, "no folder for compiled programs, so every start compiles anew: set JAX_COMPILATION_CACHE_DIR to one")
    folder = pathlib.Path(name)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not can_write(folder):
        return Finding(
            WARN, f"{folder} cannot be written to, so every start compiles anew: set JAX_COMPILATION_CACHE_DIR to another folder"
        )
    return Finding(OK, f"compiled programs are kept in {folder}")


def extras() -> dict[str, bool]:
    """Which of the optional packages are there."""
    return {name: all(importlib.util.find_spec(package) for package in packages) for name, packages in EXTRAS.items()}


def judge_extras(found: dict[str, bool], wants_wandb: bool) -> Finding:
    """None of them is needed to train, unless the settings ask for it."""
    there = ", ".join(name for name, is_there in found.items() if is_there) or "none"
    missing = [name for name, is_there in found.items() if not is_there]
    advice = f'pip install ".[{",".join(missing)}]"'
    if wants_wandb and "wandb" in missing:
        return Finding(FAIL, f"logging.wandb is set, but wandb is missing: {advice}")
    return Finding(OK, f"optional: {there}" + (f"; without {', '.join(missing)} ({advice})" if missing else ""))
