"""What must be right on a GPU before its figures count, each check a process of its own.

    python -m benchmarks.gpu_checks --config=configs/zaxxon.py --check=machine|oracles|ring|checkpoint [--json=FILE]

machine: packages, versions, `train.py --doctor`, and rates that predictions need. oracles: the tests of the algorithm and the networks
against their slow NumPy references. ring: a replay is filled by appends until it wraps; both ends of every slot and whole drawn
sequences are compared with what was appended, and an act and an update must leave the ring where it lies. checkpoint: the full replay is
saved and restored. Exit code 1 if something is wrong.
"""

import functools
import importlib
import importlib.metadata
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from agent57_jax.commands import command_line
from agent57_jax.config import Settings
from benchmarks import options

_CONFIG = options.config()
_CHECK = flags.DEFINE_enum("check", "machine", ["machine", "oracles", "ring", "checkpoint"], "which check")
_FRAMES = flags.DEFINE_integer("frames", 200, "checkpoint: timesteps of real frames, which are then repeated", lower_bound=1)
_TESTS = flags.DEFINE_list("tests", ["tests/algorithm", "tests/networks", "tests/test_adam.py"], "oracles: what pytest runs")
_JSON = options.json()
PACKAGES = ("numpy", "jax", "flax", "optax", "chex", "orbax.checkpoint", "tensorstore", "envpool", "ml_collections", "tensorboardX", "rich")
SMI = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,pcie.link.gen.max,pcie.link.width.max"


def main() -> None:
    """Runs the check, prints and writes its record."""
    settings = command_line.complete_settings(_CONFIG.value)
    command_line.prepare_jax(whole_device=True)
    found = CHECKS[_CHECK.value](settings)

    from benchmarks import measure
    from reproductions import records

    found |= {"peak host bytes": measure.peak_host_bytes(), "peak device bytes": measure.peak_device_bytes()}
    print(json.dumps(records.rounded(found), indent=1))
    _keep(settings, found, is_whole=True)
    if found.get("wrong"):
        print(f"wrong: {'; '.join(found['wrong'])}")
        sys.exit(1)


def _keep(settings: Settings, found: dict[str, Any], is_whole: bool = False) -> None:
    """Writes what is known so far, in case the check is killed."""
    from benchmarks import gpu_report, reports

    gpu_report.keep(_JSON.value, reports.record("gpu_checks", found, settings), is_whole)


def machine(settings: Settings) -> dict[str, Any]:
    """What there is, and how fast it is."""
    imports: dict[str, float] = {}
    wrong = []
    for name in PACKAGES:
        start = time.perf_counter()
        try:
            importlib.import_module(name)
        except ImportError as error:  # the others are still worth knowing
            wrong.append(f"{name}: {error}")
        imports[name] = time.perf_counter() - start
    import jax
    import jax.numpy as jnp

    from agent57_jax.commands import doctor
    from benchmarks import measure

    found: dict[str, Any] = {
        "wrong": wrong,
        "seconds to import": imports,
        "packages": {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]},
        "devices": [str(device) for device in jax.devices()],
        "memory": jax.local_devices()[0].memory_stats(),
        "doctor": {name: list(doctor.examined(check)) for name, check in doctor.checks(None, pathlib.Path.cwd())},
    }
    try:
        smi = subprocess.run(["nvidia-smi", f"--query-gpu={SMI}", "--format=csv"], capture_output=True, text=True, timeout=30, check=False)
        found["nvidia-smi"] = smi.stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        found["nvidia-smi"] = str(error)
    _keep(settings, found)
    with jax.default_matmul_precision("highest"):
        found["FLOP/s, float32"] = measure.product_rate(jnp.float32, 2).median
    found["FLOP/s, float32 by default"] = measure.product_rate(jnp.float32, 2).median
    found["FLOP/s, bfloat16"] = measure.product_rate(jnp.bfloat16, 2).median
    found["bytes/s of device memory"] = measure.copy_rate(2).median
    return found | latencies()


def latencies() -> dict[str, float]:
    """Seconds of what an act waits for besides arithmetic."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    frames = np.zeros((128, 84, 84, 1), np.uint8)
    small = jnp.zeros((128, 128))
    once = jax.jit(lambda x: x + 1)

    def chain(length: int) -> Callable[[], Any]:
        """Products that wait for each other, and so cannot become one kernel."""
        program = jax.jit(lambda x: functools.reduce(lambda y, _: jnp.tanh(y @ x), range(length), x))
        return lambda: program(small).block_until_ready()

    def seconds(run: Callable[[], Any]) -> float:
        run()
        times = []
        for _ in range(20):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    return {
        "seconds of an upload of 128 frames": seconds(lambda: jax.device_put(frames).block_until_ready()),
        "seconds of a small program and its result on the host": seconds(lambda: np.asarray(once(small))),
        "seconds of a small product inside a program": (seconds(chain(110)) - seconds(chain(10))) / 100,
    }


def oracles(settings: Settings) -> dict[str, Any]:
    """What pytest says of the tests that compare with NumPy twins."""
    del settings
    import pytest

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # when time runs out, report the results so far

    class Outcomes:
        """A plugin of pytest that counts."""

        def __init__(self) -> None:
            self.counts: dict[str, int] = {}
            self.wrong: list[str] = []
            self.missing: list[str] = []

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                self.missing.append(f"{report.nodeid}: {str(report.longrepr).splitlines()[-1][:200]}")

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
            if report.failed:
                self.wrong.append(f"{report.nodeid}: {str(report.longrepr).splitlines()[-1][:200]}")

    outcomes = Outcomes()
    # Warnings of another JAX version are not what is checked here.
    options_of_pytest = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "default", "--tb=short", "--continue-on-collection-errors"]
    code = pytest.main([*options_of_pytest, *_TESTS.value], plugins=[outcomes])
    wrong = outcomes.wrong
    if not wrong and code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        wrong = [f"pytest ended with {code!s}"]
    # A test file that could not be imported, for example because rlax is missing, counts as not tried, not as wrong.
    return {"tests": _TESTS.value, "outcomes": outcomes.counts, "not tried": outcomes.missing, "wrong": wrong}


def ring(settings: Settings) -> dict[str, Any]:
    """Appends, gathers, an act and an update on the settings' replay."""
    from benchmarks import gpu_ring, parts

    return gpu_ring.checked(parts.Parts(settings, with_environments=False), functools.partial(_keep, settings))


def checkpoint(settings: Settings) -> dict[str, Any]:
    """The full replay on disk and back, with frames of the game, which compress as frames do."""
    import jax

    from agent57_jax.training.checkpoint import Checkpoints
    from benchmarks import gpu_ring, measure, parts

    run = parts.Parts(settings)
    length = min(_FRAMES.value, run.store.capacity_per_env)
    for _ in range(length * settings.environment.num_groups):
        run.act()
    run.close()
    run.replay = gpu_ring.repeated(run, length)
    before = gpu_ring.digest(run.replay)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), run.replay)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.replay))
    found: dict[str, Any] = {"replay timesteps": run.capacity, "bytes": size, "peak host bytes before": measure.peak_host_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        files = Checkpoints(folder, keep=1)
        start = time.perf_counter()
        files.save(1, {"replay": run.replay}, {})
        found["seconds until training goes on"] = time.perf_counter() - start
        files.wait()
        found["seconds to save"] = time.perf_counter() - start
        found["peak host bytes of the save"] = measure.peak_host_bytes()
        found["bytes on disk"] = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
        found["bytes free on the disk"] = shutil.disk_usage(folder).free
        _keep(settings, found)
        for leaf in jax.tree.leaves(run.replay):
            leaf.delete()  # the device has no room for two
        start = time.perf_counter()
        restored, _ = files.restore(1, {"replay": target})
        jax.block_until_ready(restored)
        found["seconds to restore"] = time.perf_counter() - start
        files.close()
    after = gpu_ring.digest(restored["replay"])
    return found | {"wrong": [f"{name} came back changed" for name in before if before[name] != after[name]]}


CHECKS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "machine": machine,
    "oracles": oracles,
    "ring": ring,
    "checkpoint": checkpoint,
}

if __name__ == "__main__":
    command_line.run(main)
