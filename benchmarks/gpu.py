"""All GPU measurements with one command that can be split over several calls; the most valuable parts come first.

    python -m benchmarks.gpu --minutes=30 [--part=C] [--out=FOLDER] [--size=tiny|full]

A  machine: versions, devices, memory, rates of products, copies, uploads and launches
B  right results: a replay beyond 2^32 bytes, the oracles' tests, bfloat16 against float32
C  throughput at the paper's sizes, 256 to 2,048 environments: acts, updates, both together at 1.5 and 6 samples per insert, by precision
D  a profiler trace as a table: kernels, gaps, copies, waits of the host
E  the full replay saved and restored
F  a training run of Pong in the remaining time; a later call resumes it

Each job is a separate process with a time limit. It writes OUT/NAME.json when it is done and its output to OUT/NAME.log; a killed job
leaves what it had measured in OUT/NAME.partial.json. A job that fails, crashes or hangs does not stop the next one. The same command
continues with the jobs that have no result yet: those that failed once run last, and those that failed twice are skipped. --part repeats
one part. OUT/summary.json lists the outcomes.

--archive=FILE collects all results in one file after each job. On another machine --earlier=FILE continues from it, and Pong restarts from
scratch. With --size=tiny everything runs on a CPU in minutes; its figures mean nothing.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from agent57_jax import paths
from agent57_jax.commands import command_line
from reproductions import records

_MINUTES = flags.DEFINE_float("minutes", 30.0, "wall-clock time for everything", lower_bound=0.0)
_PART = flags.DEFINE_string("part", None, "do this part alone, also if it has a result: A to F")
_OUT = flags.DEFINE_string("out", "runs/gpu", "folder for results and logs, and for Pong's run")
_ARCHIVE = command_line.define_path("archive", "file for all results so far, as .tar.gz")
_EARLIER = command_line.define_path("earlier", "an archive whose results count as done")
_SIZE = flags.DEFINE_enum("size", "full", ["tiny", "full"], "the paper's sizes on a GPU, or a try on a CPU")

PARTS = "ABCDEF"
GRACE_SECONDS = 30.0  # time to save between SIGTERM and SIGKILL
DONE, FAILED, TIMED_OUT, WAITS = "done", "failed", "timed out", "waits for the next start"
ATTEMPTS = 2
WHOLE_MINUTES = 30.0  # which the limits below add up to; more time makes them longer
SMALL = ("--config.num_devices=1", "--config.replay.capacity=4000", "--config.replay.min_sequences=16", "--config.learner.batch_size=4")
FEW = ("--repeats=1", "--seconds=0", "--updates_per_run=1")
ENVIRONMENTS = (256, 512, 1_024, 2_048)
# Rules of small budgets with a GPU's sizes: the paper's networks and frames, many environments, each timestep replayed twelve times.
PONG = {
    "environment.num_envs": 256,
    "environment.frame_size": 84,
    "network.conv_features": (32, 64, 64),
    "network.conv_kernels": (8, 4, 3),
    "network.conv_strides": (4, 2, 1),
    "network.torso_size": 512,
    "network.lstm_size": 512,
    "network.head_size": 512,
    "bandit.group_size": 64,
    "bandit.window_episodes": 160,
    "replay.capacity": 1_000_000,
    "replay.trace": 40,
    "replay.period": 20,
    "replay.min_sequences": 2_000,
    "replay.samples_per_insert": 6.0,
    "learner.batch_size": 64,
    "learner.learning_rate": 2e-4,
    "learner.target_period_updates": 400,
    "evaluation.num_envs": 8,
    "precision.compute": "bfloat16",
    "checkpoint.period_seconds": 180,
    "logging.period_seconds": 5,
    "video.period_episodes": 0,
    "total_steps": 50_000_000,
}


class Job(NamedTuple):
    """One process."""

    name: str  # begins with the letter of its part
    command: Sequence[str]  # module or script, and its arguments
    seconds: float  # limit when everything has `WHOLE_MINUTES`
    environment: Mapping[str, str] = {}  # beside what this process has
    is_endless: bool = False  # takes whatever time is left, and is asked to end when it is over


def plan(out: pathlib.Path, is_full: bool) -> list[Job]:
    """All jobs, in order."""
    profile = ["--config=configs/zaxxon.py", "--config.num_devices=1"] if is_full else ["--config=configs/zaxxon.py:smoke", *SMALL]
    # At the tiny size all jobs share their programs, so that they are compiled once.
    bfloat16 = ["--config.precision.compute=bfloat16"] if is_full else []
    float32 = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"} if is_full else {}
    if out.is_relative_to(records.ROOT):
        out = out.relative_to(records.ROOT)  # jobs run there, and records name no folder of this machine

    def job(name: str, seconds: float, module: str, *more: str, environment: Mapping[str, str] | None = None) -> Job:
        # The profile first: an override must follow the file that it changes.
        return Job(name, ["-m", f"benchmarks.{module}", *profile, *more, f"--json={out / name}.json"], seconds, environment or {})

    def check(name: str, seconds: float, *more: str, environment: Mapping[str, str] | None = None) -> Job:
        return job(name, seconds, "gpu_checks", f"--check={name.partition('_')[2]}", *more, environment=environment)

    def rates(name: str, seconds: float, parts: str, *more: str, environment: Mapping[str, str] | None = None) -> Job:
        few = ("--repeats=3",) if is_full else FEW
        return job(f"C_{name}", seconds, "throughput", f"--parts={parts}", *more, *few, environment=environment)

    envs = ENVIRONMENTS if is_full else (16,)
    ratios = "--ratios=1.5,6"
    # The most informative jobs first, in case time runs out: all rates at 256 environments, then more environments.
    throughput = [
        rates(f"{envs[0]}_alone_bfloat16", 100, "device,learner", *bfloat16, *_envs(envs[0])),
        rates(f"{envs[0]}_bfloat16", 120, "environments,acting,together", ratios, *bfloat16, *_envs(envs[0])),
        rates(f"{envs[0]}_tf32", 80, "device,learner"),  # XLA's default for float32 on a GPU
        rates(f"{envs[0]}_float32", 80, "device,learner", environment=float32),
    ]
    for count in envs[1:]:
        throughput.append(rates(f"{count}_bfloat16", 90, "environments,device,acting,together", ratios, *bfloat16, *_envs(count)))
    throughput.append(rates("compile", 150, "compile", *bfloat16))
    # All of its replay is overwritten by acts first.
    small = ["--config.replay.capacity=102400", "--config.replay.min_sequences=16"]
    precision = small if is_full else ["--updates=1", "--batches=1"]
    pong = PONG if is_full else {"num_devices": 1, "total_steps": 4_000, "logging.period_seconds": 1, "video.period_episodes": 0}
    train = ["train.py", f"--config=configs/pong.py:{'laptop' if is_full else 'smoke'}", f"--workdir={out / 'pong'}"]
    return [
        check("A_machine", 60),
        check("B_ring", 180),
        check("B_oracles", 150, *([] if is_full else ["--tests=tests/algorithm/test_value_transform.py"]), environment=float32),
        job("B_precision", 90, "precision", *precision, environment=float32),
        *throughput,
        job("D_trace", 100, "gpu_trace", *bfloat16, *(["--config.replay.capacity=1000000"] if is_full else ["--few"])),
        check("E_checkpoint", 240, *([] if is_full else ["--frames=10"])),
        Job("F_pong", [*train, *(f"--config.{name}={value}" for name, value in pong.items())], 180, is_endless=True),
    ]


def _envs(count: int) -> list[str]:
    return [f"--config.environment.num_envs={count}"]


def main() -> None:
    """Runs what is asked for and has no result yet. Exit code 1 if a job failed."""
    part = (_PART.value or "").upper()
    if part and part not in list(PARTS):
        command_line.fail(f"--part: there is no part '{_PART.value}'; parts are {', '.join(PARTS)}")
    out = pathlib.Path(_OUT.value).absolute()
    if _EARLIER.value:
        unpack(pathlib.Path(_EARLIER.value), out)
    jobs = plan(out, _SIZE.value == "full")
    jobs = [job for job in jobs if job.name.startswith(part)] if part else pending(jobs, out)
    # The CPU stays at hand for tests that ask for it. Without a GPU the full size must fail, not crawl.
    platforms = {"JAX_PLATFORMS": "cuda,cpu" if _SIZE.value == "full" else "cpu"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # SystemExit ends the running job
    outcomes = run_all(jobs, out, _MINUTES.value * 60, platforms, report)
    sys.exit(1 if set(outcomes) & {FAILED, TIMED_OUT} else 0)


def report(out: pathlib.Path) -> None:
    """Pictures, Pong's curve and the archive from whatever is there: they must not cost the parts that follow."""
    from benchmarks import gpu_report

    try:
        gpu_report.write(out)
    except Exception as error:
        print(f"no pictures: {type(error).__name__}: {error}", flush=True)
    if _ARCHIVE.value:
        try:
            pack(out, pathlib.Path(_ARCHIVE.value))
        except OSError as error:
            print(f"no archive: {error}", flush=True)


def pack(out: pathlib.Path, archive: pathlib.Path) -> None:
    """Writes the folder's files, without Pong's run, into one file, atomically."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with paths.replaced(archive) as temporary, tarfile.open(temporary, "w:gz") as file:
        for path in sorted(out.iterdir()):
            if path.is_file():
                file.add(path, arcname=path.name)


def unpack(archive: pathlib.Path, out: pathlib.Path) -> None:
    """Unpacks an archive into the folder without replacing existing files."""
    out.mkdir(parents=True, exist_ok=True)
    path = None  # of the file that is being unpacked
    try:
        with tarfile.open(archive) as file:
            for member in file:
                if not (path := out / member.name).exists():
                    file.extract(member, out, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if path is not None and path.is_file():
            path.unlink()  # it may be cut
        command_line.fail(f"--earlier: {archive}: {error}")


def pending(jobs: Sequence[Job], out: pathlib.Path) -> list[Job]:
    """Jobs without a result: in order, then those that have failed once, then the endless one. What failed twice is left to --part."""
    failures = {name: row["failures"] for name, row in summary(out).items()}
    left = [job for job in jobs if job.is_endless or records.read_json(out / f"{job.name}.json") is None]
    left = [job for job in left if failures.get(job.name, 0) < ATTEMPTS]
    return sorted(left, key=lambda job: (job.is_endless, failures.get(job.name, 0)))


def summary(out: pathlib.Path) -> dict[str, Any]:
    """What became of each job in its last start; empty before the first."""
    found = records.read_json(out / "summary.json")
    return found if isinstance(found, dict) else {}


def run_all(
    jobs: Sequence[Job],
    out: pathlib.Path,
    seconds: float,
    environment: Mapping[str, str],
    after_each: Callable[[pathlib.Path], None] = lambda out: None,
) -> list[str]:
    """Runs jobs one after the other until the time is over; returns what became of each.

    A job is not started in less than half of its limit: it would most likely only use up the time. An endless one needs a minute.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    scale = max(1.0, seconds / 60 / WHOLE_MINUTES)
    outcomes = []
    for job in jobs:
        left = end - time.monotonic() - GRACE_SECONDS
        limit = left if job.is_endless else min(left, job.seconds * scale)
        start = time.monotonic()
        outcome, code = WAITS, None
        if limit >= (60.0 if job.is_endless else job.seconds / 2):
            print(f"{job.name} starts, at most {limit:.0f} s", flush=True)
            outcome, code = run(job, out, limit, {**environment, **job.environment})
        took = time.monotonic() - start
        rows = summary(out)
        failures = rows.get(job.name, {}).get("failures", 0) + (outcome in (FAILED, TIMED_OUT))
        said = last_line(out / f"{job.name}.log") if outcome in (FAILED, TIMED_OUT) else ""
        rows[job.name] = {"outcome": outcome, "seconds": round(took, 1), "exit code": code, "failures": failures, "said": said}
        records.write_json(out / "summary.json", rows)
        print(f"{job.name}: {outcome} ({took:.0f} s){f': {said}' if said else ''}", flush=True)
        outcomes.append(outcome)
        if outcome != WAITS:
            after_each(out)
    return outcomes


def run(job: Job, out: pathlib.Path, limit: float, environment: Mapping[str, str]) -> tuple[str, int]:
    """One process, at most `limit` seconds long: what became of it, and its exit code.

    Its group ends with it, and its temporary files go.
    """
    code: int | None = None
    with tempfile.TemporaryDirectory() as scratch, (out / f"{job.name}.log").open("ab") as log:
        log.write(f"$ {' '.join(('python', *job.command))}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *job.command],
            cwd=records.ROOT,
            env={**os.environ, **environment, "TMPDIR": scratch},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
            if code is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            ended = process.wait()
    if job.is_endless and ended == 0:
        return DONE, ended
    if code is None:
        return TIMED_OUT, ended
    return DONE if code == 0 and records.read_json(out / f"{job.name}.json") is not None else FAILED, ended


def last_line(log: pathlib.Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


if __name__ == "__main__":
    command_line.run(main)
