"""The command for a GPU: what fails does not stop the rest, a second start goes on, and on a CPU all of it can be tried."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from agent57_jax import config
from benchmarks import gpu, gpu_report, gpu_ring, gpu_trace, parts
from reproductions import records
from tests import tiny

WRITES = "import json, os, sys; json.dump({'ran': 1}, open(sys.argv[1], 'w'))"
HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
SAVES_WHEN_TOLD = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(600)"


def job(out: pathlib.Path, name: str, code: str, seconds: float = 60.0, is_endless: bool = False) -> gpu.Job:
    return gpu.Job(name, ["-c", code, f"{out / name}.json"], seconds, {"ASKED": name}, is_endless)


def outcomes(out: pathlib.Path) -> dict[str, str]:
    return {name: row["outcome"] for name, row in gpu.summary(out).items()}


def test_what_fails_crashes_or_hangs_does_not_stop_the_rest(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 0.5)
    jobs = [
        job(tmp_path, "A_good", WRITES),
        job(tmp_path, "B_raises", "raise SystemExit('no such device')"),
        job(tmp_path, "B_crashes", "import os; os.abort()"),
        job(tmp_path, "C_hangs", HANGS, seconds=1.0),
        job(tmp_path, "D_says_nothing", "pass"),  # ends well, but without a result
        job(tmp_path, "E_good", f"{WRITES}; assert os.environ['ASKED'] == 'E_good' and os.environ['ALL'] == '1'"),
    ]
    seen: list[list[str]] = []
    found = gpu.run_all(jobs, tmp_path, 90.0, {"ALL": "1"}, lambda out: seen.append(list(outcomes(out))))
    assert found == [gpu.DONE, gpu.FAILED, gpu.FAILED, gpu.TIMED_OUT, gpu.FAILED, gpu.DONE]
    assert seen == [[one.name for one in jobs[: n + 1]] for n in range(len(jobs))]  # in order, and each is in the summary at once
    rows = gpu.summary(tmp_path)
    assert (rows["B_raises"]["said"], rows["B_raises"]["exit code"]) == ("no such device", 1) and rows["B_crashes"]["exit code"] < 0
    assert (tmp_path / "E_good.log").read_text().startswith("$ python -c import json")


def test_a_second_start_does_what_has_no_result_and_what_failed_comes_last(tmp_path: pathlib.Path) -> None:
    jobs = [
        job(tmp_path, "A_good", WRITES),
        job(tmp_path, "B_raises", "raise SystemExit(1)"),
        job(tmp_path, "C_long", WRITES, seconds=1_000.0),
        job(tmp_path, "D_good", WRITES),
        job(tmp_path, "F_endless", SAVES_WHEN_TOLD, is_endless=True),
    ]
    # Without the time for half of it C is left for later; D still fits; F needs a minute.
    found = gpu.run_all(gpu.pending(jobs, tmp_path), tmp_path, gpu.GRACE_SECONDS + 50.0, {})
    assert found == [gpu.DONE, gpu.FAILED, gpu.WAITS, gpu.DONE, gpu.WAITS]
    assert [one.name for one in gpu.pending(jobs, tmp_path)] == ["C_long", "B_raises", "F_endless"]
    (tmp_path / "A_good.json").write_text('{"cut')  # a file that is no record is no result
    assert [one.name for one in gpu.pending(jobs, tmp_path)] == ["A_good", "C_long", "B_raises", "F_endless"]
    assert gpu.run_all([jobs[1]], tmp_path, gpu.GRACE_SECONDS + 50.0, {}) == [gpu.FAILED]
    assert [one.name for one in gpu.pending(jobs, tmp_path)] == ["A_good", "C_long", "F_endless"]  # what failed twice is left to --part


def test_an_endless_job_is_told_to_end_and_may_save(tmp_path: pathlib.Path) -> None:
    assert gpu.run(job(tmp_path, "F", SAVES_WHEN_TOLD, is_endless=True), tmp_path, 3.0, {})[0] == gpu.DONE
    assert gpu.run(job(tmp_path, "F", "raise SystemExit(1)", is_endless=True), tmp_path, 30.0, {})[0] == gpu.FAILED


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # how ml_collections loads a config file
@pytest.mark.parametrize("is_full", [True, False])
def test_the_plan_has_each_job_once_in_the_order_of_the_parts_with_settings_that_there_are(tmp_path: pathlib.Path, is_full: bool) -> None:
    """An override must follow the profile that it changes, or the command refuses it."""
    jobs = gpu.plan(tmp_path, is_full)
    assert len({one.name for one in jobs}) == len(jobs)
    assert [letter for letter, _ in itertools.groupby(jobs, lambda one: one.name[0])] == list(gpu.PARTS)
    assert sum(one.seconds for one in jobs) <= gpu.WHOLE_MINUTES * 60
    for one in jobs:
        assert one.is_endless or f"--json={tmp_path / one.name}.json" in one.command
        given = [argument for argument in one.command if argument.startswith("--config")]
        assert [argument.startswith("--config=") for argument in given] == [True] + [False] * (len(given) - 1)
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["command", *given])  # where it looks for overrides
            values(sys.argv)
        assert config.finalise(values.config).total_steps > 0


def test_results_go_on_on_another_machine(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    jobs = [job(first, "A_good", WRITES), job(first, "B_raises", "raise SystemExit(1)")]
    archive = tmp_path / "results" / "gpu.tar.gz"
    gpu.run_all(jobs, first, gpu.GRACE_SECONDS + 60.0, {}, lambda out: gpu.pack(out, archive))
    (first / "pong").mkdir()  # which is too large to travel
    gpu.pack(first, archive)
    gpu.unpack(archive, second)
    assert {path.name for path in second.iterdir()} == {"A_good.json", "A_good.log", "B_raises.log", "summary.json"}
    assert [one.name for one in gpu.pending(jobs, second)] == ["B_raises"]
    (second / "summary.json").write_text("{}")
    gpu.unpack(archive, second)  # what is there is newer
    assert gpu.summary(second) == {}
    archive.write_bytes(b"cut")
    with pytest.raises(SystemExit):
        gpu.unpack(archive, second)


def test_what_a_killed_job_had_measured_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "D_trace.json"
    gpu_report.keep(str(path), {"acts": 1})
    assert not path.exists() and records.read_json(tmp_path / "D_trace.partial.json") == {"acts": 1}
    gpu_report.keep(str(path), {"acts": 1, "updates": 2}, is_whole=True)
    assert [found.name for found in tmp_path.iterdir()] == ["D_trace.json"]
    gpu_report.keep(None, {})


def timeline(name: str, *events: tuple[str, float, float]) -> Any:
    """A row of a trace: names, starts and lengths in ns."""
    return SimpleNamespace(name=name, events=[SimpleNamespace(name=what, start_ns=at, duration_ns=ns) for what, at, ns in events])


def test_a_trace_becomes_a_table() -> None:
    streams = [
        timeline("Stream #1(Compute)", ("gemm", 0, 4_000), ("gemm", 10_000, 2_000), ("add", 2_000, 3_000)),
        timeline("Stream #2", ("MemcpyH2D", 12_000, 1_000), ("end", 20_000, 0)),
        timeline("XLA Ops", ("gemm", 0, 4_000)),  # says the same once more
    ]
    host = SimpleNamespace(name="/host:CPU", lines=[timeline("python", ("BlockHostUntilDone", 0, 9_000))])
    found = gpu_trace.reduced([SimpleNamespace(name="/device:GPU:0", lines=streams), host], seconds=20e-6)
    assert found["kernels"] == 3
    assert found["busy"] == pytest.approx(8 / 20)  # 0 to 5 and 10 to 13 microseconds
    assert found["gaps"] == {"count": 1, "ms": pytest.approx(5e-3), "longest ms": pytest.approx(5e-3)}
    assert [(row["name"], row["count"]) for row in found["table"]] == [("gemm", 2), ("add", 1), ("MemcpyH2D", 1)]
    assert found["table"][0]["share"] == pytest.approx(6 / 20)
    assert [row["name"] for row in found["copies"]] == ["MemcpyH2D"]
    assert [row["name"] for row in found["host waits"]] == ["BlockHostUntilDone"]


def test_no_two_places_have_the_same_content() -> None:
    group, environment, t = np.ogrid[:2, :300, :70_000:1_000]
    seen = gpu_ring.content(np, group, environment, t, 20)
    assert seen.shape == (2, 300, 70, 20) and seen.dtype == np.uint8
    assert len(np.unique(seen[..., : gpu_ring.MARK].reshape(-1, gpu_ring.MARK), axis=0)) == 2 * 300 * 70
    np.testing.assert_array_equal(seen, gpu_ring.content(jnp, group, environment, t, 20))


def test_a_ring_that_holds_something_else_is_found() -> None:
    run = parts.Parts(config.finalise(tiny.zaxxon_settings()), with_environments=False)
    state = gpu_ring.filled(run, 2 * (run.store.capacity_per_env + 13))
    assert gpu_ring.wrong_slots(run, state) == 0
    assert gpu_ring.drawn(run, state)["wrong timesteps"] == 0
    far = gpu_ring.drawn(run, state._replace(priority=state.priority * gpu_ring.last_environment(run)))
    size, slots = np.prod(run.spec.observation_shape), run.store.capacity_per_env
    assert far["furthest element"] >= (run.settings.environment.num_envs - 1) * slots * size
    before = gpu_ring.digest(state)
    # One environment's observations one slot further, as an index that is off by one would leave them.
    moved = state.experience.observation.at[1, 2].set(jnp.roll(state.experience.observation[1, 2], 1, axis=0))
    state = state._replace(experience=state.experience._replace(observation=jax.device_put(moved, state.experience.observation.sharding)))
    assert gpu_ring.wrong_slots(run, state) == slots
    only = jnp.zeros_like(state.priority).at[1, 2].set(state.priority[1, 2])
    drawn = gpu_ring.drawn(run, state._replace(priority=jax.device_put(only, state.priority.sharding)))
    assert drawn["wrong timesteps"] == drawn["timesteps"] > 0
    assert {name for name, value in gpu_ring.digest(state).items() if value != before[name]} == {"experience.observation"}


def test_pictures_show_what_there_is(tmp_path: pathlib.Path) -> None:
    gpu_report.write(tmp_path)  # nothing yet
    assert not list(tmp_path.iterdir())
    for count in (256, 512):
        rows = [{"part": part, "name": "act", "unit": "step", "median": 2.0 * count} for part in ("machine", "device")]
        records.write_json(tmp_path / f"C_{count}_tf32.json", {"rows": rows, "settings": {"environment": {"num_envs": count}}})
    assert gpu_report.throughput(tmp_path) == {("device: act, tf32", "step"): [(256, 512.0), (512, 1024.0)]}
    (tmp_path / "pong").mkdir()
    lines = [{"seconds": 5.0 * i, "steps": i, "updates": i, "episode/return": -21.0 + i} for i in range(3)]
    (tmp_path / "pong" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    gpu_report.write(tmp_path)
    curve = records.read_json(tmp_path / "F_pong.json")["curve"]
    assert [(row["seconds"], row["training"], row["greedy"]) for row in curve] == [(0, -21, None), (5, -20, None), (10, -19, None)]
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("F_pong.png", "C_throughput.png"))


@pytest.mark.slow
def test_all_parts_run_on_a_cpu(tmp_path: pathlib.Path) -> None:
    out, archive = tmp_path / "out", tmp_path / "all.tar.gz"
    # Much time makes the limits long, for a machine with other work. Pong's is so short a run that it ends by itself.
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes=300", "--size=tiny", f"--out={out}", f"--archive={archive}"]
    done = subprocess.run(command, env=os.environ, cwd=records.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(outcomes(out).values()) == {gpu.DONE}
    jobs = gpu.plan(out, is_full=False)
    assert [one.name for one in gpu.pending(jobs, out)] == ["F_pong"]
    assert all(json.loads((out / f"{one.name}.json").read_text()) for one in jobs)
    assert min(path.stat().st_size for path in (out / "C_throughput.png", archive)) > 5_000
