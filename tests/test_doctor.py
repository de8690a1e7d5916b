"""Every check of the machine finds what is wrong when it is, says what to do, and lets a good machine pass."""

import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from agent57_jax import config
from agent57_jax.commands import doctor
from agent57_jax.commands.doctor import FAIL, OK, WARN, Finding
from agent57_jax.config import SettingsError
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIB = 2**30
CPU, GPU = ("cpu", "cpu"), ("gpu", "NVIDIA H100 80GB HBM3")
PRODUCT = np.full((2, 2), 3.0)


def unplannable() -> dict[str, int]:
    raise SettingsError("replay.capacity 9: at most 5 timesteps fit: lower replay.capacity")


def planned() -> dict[str, int]:
    return {"replay": 2 * GIB, "free": GIB}


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (doctor.judge_python((3, 10)), FAIL, "install 3.11 or 3.12"),
        (doctor.judge_python((3, 11)), OK, "Python 3.11"),
        (doctor.judge_python((3, 14)), WARN, "newer than what is tested"),
        (doctor.judge_driver(None, None), WARN, "no NVIDIA driver"),
        (doctor.judge_driver(None, 13), WARN, "--gpus all"),
        (doctor.judge_driver((580, 65, 6), None), FAIL, "requirements-cuda.txt"),
        (doctor.judge_driver((), None), FAIL, "of unknown version"),
        (doctor.judge_driver((570, 86, 15), 13), FAIL, "install 580 or newer, or install jax[cuda12]"),
        (doctor.judge_driver((525, 60, 13), 12), OK, "525.60.13"),
        (doctor.judge_driver((525, 59), 12), FAIL, "install 525.60 or newer"),
        (doctor.judge_driver((580, 65, 6), 13), OK, "CUDA 13"),
        (doctor.judge_jax("0.10.2", [CPU], None, ""), OK, "1 x cpu"),
        (doctor.judge_jax("0.10.2", [GPU, GPU], (580, 65), ""), OK, "2 x NVIDIA H100"),
        (doctor.judge_jax("0.10.2", [CPU], (580, 65), ""), FAIL, "though there is an NVIDIA driver: pip install -r requirements-cuda.txt"),
        (doctor.judge_jax("0.10.2", [CPU], (580, 65), "cpu"), WARN, "unset it"),
        (doctor.judge_jax("0.9.0", [CPU], None, ""), FAIL, "not supported"),
        (doctor.judge_jax("0.13.0", [CPU], None, ""), FAIL, "not supported"),
        (doctor.judge_jax("0.12.1", [CPU], None, ""), OK, "0.12.1"),
        (doctor.judge_computation([(PRODUCT, PRODUCT), (PRODUCT * 1.001, PRODUCT)], (PRODUCT, PRODUCT), 0.5), OK, "2 device(s)"),
        (
            doctor.judge_computation([(PRODUCT, PRODUCT), (PRODUCT * np.nan, PRODUCT)], (PRODUCT, PRODUCT), 0.5),
            FAIL,
            "device 1 multiplies wrongly",
        ),
        (doctor.judge_computation([(PRODUCT, PRODUCT * 1.1)], (PRODUCT, PRODUCT), 0.5), FAIL, "device 0 convolves wrongly"),
        (doctor.judge_play("1.2.5", [np.zeros(3), np.ones(3)]), OK, "ROMs are there"),
        (doctor.judge_play("1.2.5", [np.zeros(3), np.zeros(3)]), FAIL, "black screen"),
        (doctor.judge_procgen(None), OK, "Qt"),
        (doctor.judge_procgen("needs Qt: apt-get install libqt5gui5"), WARN, "apt-get install libqt5gui5"),
        (doctor.judge_gpu_memory([(GIB // 2, 80 * GIB), (0, 80 * GIB)]), OK, "0.5 of 80.0 GiB, 0.0 of 80.0 GiB in use"),
        (
            doctor.judge_gpu_memory([(0, 80 * GIB), (76 * GIB, 80 * GIB)]),
            WARN,
            "on GPU 1 a training will lack memory; end what nvidia-smi lists",
        ),
        (doctor.judge_memory(8 * GIB, None, None), OK, "8.0 GiB free on the host"),
        (doctor.judge_memory(2 * GIB, None, None), WARN, ":smoke"),
        (doctor.judge_memory(8 * GIB, (GIB, 80 * GIB), None), OK, "79.0 of 80.0 GiB free on the device"),
        (doctor.judge_memory(8 * GIB, None, unplannable), FAIL, "lower replay.capacity"),
        (doctor.judge_memory(8 * GIB, None, planned), OK, "takes 2.00 GiB and leaves 1.00 GiB"),
        (doctor.judge_disk(pathlib.Path("runs"), 50 * GIB, True, 0), OK, "50.0 GiB free for runs"),
        (doctor.judge_disk(pathlib.Path("runs"), 50 * GIB, True, 60 * GIB), WARN, "up to 60.0 GiB"),
        (doctor.judge_disk(pathlib.Path("runs"), 5 * GIB, True, 0), WARN, "need more"),
        (doctor.judge_disk(pathlib.Path("runs"), GIB // 2, True, 0), FAIL, "free some"),
        (doctor.judge_disk(pathlib.Path("runs"), 50 * GIB, False, 0), FAIL, "cannot be written to"),
        (doctor.judge_cpus(8, 8, 8, None), OK, "8 of the machine's 8 CPUs"),
        (doctor.judge_cpus(96, 8, 2, None), OK, "2 of the machine's 96 CPUs (affinity 8, quota 2)"),
        (doctor.judge_cpus(96, 96, 2, 64), WARN, "environment.num_threads is 64"),
        (doctor.judge_cpus(8, 8, 1, None), WARN, "--cpus"),
        (doctor.judge_files(1_024), OK, "1024 open files"),
        (doctor.judge_files(resource.RLIM_INFINITY), OK, "unlimited"),
        (doctor.judge_files(512), WARN, "ulimit -n 1024"),
        (doctor.judge_files(64), FAIL, "ulimit -n 1024"),
        (doctor.judge_extras({"video": True, "wandb": True}, wants_wandb=True), OK, "optional: video, wandb"),
        (doctor.judge_extras({"video": True, "wandb": False}, wants_wandb=False), OK, 'without wandb (pip install ".[wandb]")'),
        (doctor.judge_extras({"video": False, "wandb": False}, wants_wandb=True), FAIL, "wandb is missing"),
    ],
)
def test_a_check_judges_its_facts(finding: Finding, level: str, words: str) -> None:
    assert finding.level == level, finding
    assert words in finding.sentence


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.3.0\n", (550, 54, 15)),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", (580, 65, 6)),
        ("535.104\n535.104\n", (535, 104)),
        ("no number at all", ()),
    ],
)
def test_a_drivers_version_is_read(text: str, version: tuple[int, ...]) -> None:
    assert doctor.parse_driver(text) == version


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("512, 81559\n0, 81559\n", [(512 << 20, 81_559 << 20), (0, 81_559 << 20)]),
        ("[N/A], [N/A]\n", []),
        ("512, 81559\n[N/A], [N/A]\n", []),  # else the numbers of those behind it would be wrong
        ("", []),
    ],
)
def test_what_others_hold_of_gpus_is_asked(
    text: str, found: list[tuple[int, int]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{text}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.gpu_memory() == found
    program.unlink()
    assert doctor.gpu_memory() == []


def test_a_file_where_the_cache_should_be_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.judge_cache(str(tmp_path / "file" / "cache")).level == WARN
    assert doctor.judge_cache(str(tmp_path / "new" / "cache")) == Finding(OK, f"compiled programs are kept in {tmp_path}/new/cache")
    assert doctor.judge_cache(None).level == WARN  # no home, no variable


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: pathlib.Path) -> None:
    free, writable = doctor.disk(tmp_path / "runs" / "new")
    assert writable and free > 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "file").write_text("")
    assert not doctor.can_write(tmp_path / "file")


def test_whatever_a_check_raises_is_its_finding() -> None:
    def broken() -> Finding:
        raise ImportError("libcuda.so.1:\n  cannot open")

    assert doctor.examined(broken) == Finding(FAIL, "ImportError: libcuda.so.1: cannot open")


@pytest.mark.parametrize(("level", "code"), [(OK, 0), (WARN, 0), (FAIL, 1)])
def test_the_exit_code_tells_whether_a_check_failed(
    level: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair: list[tuple[str, Callable[[], Finding]]] = [("one", lambda: Finding(OK, "good")), ("two", lambda: Finding(level, "as said"))]
    monkeypatch.setattr(doctor, "checks", lambda *_: pair)
    assert doctor.run(None, "runs") == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["ok", "one", "good"], [level, "two", "as", "said"]]


def test_the_needs_of_a_config_are_judged() -> None:
    settings = tiny.coin_settings()
    found = dict(doctor.checks(config.finalise(settings), pathlib.Path("runs")))
    assert doctor.examined(found["task"]) == Finding(OK, "random_coin made")
    assert "the config's replay takes 0.00 GiB" in doctor.examined(found["memory"]).sentence
    _, parts = doctor.make_task(config.finalise(settings))
    assert 0 < doctor.checkpoint_bytes(config.finalise(settings), parts) < 50_000_000
    settings.replay.capacity = str(10**12)
    found = dict(doctor.checks(config.finalise(settings), pathlib.Path("runs")))
    assert doctor.examined(found["memory"]).level == FAIL


def test_a_misspelt_task_fails_once() -> None:
    settings = tiny.zaxxon_settings()
    settings.environment.task_id = "Zaxon-v5"
    found = dict(doctor.checks(config.finalise(settings), pathlib.Path("runs")))
    findings = {name: doctor.examined(found[name]) for name in ("task", "memory", "disk")}
    assert [name for name, finding in findings.items() if finding.level == FAIL] == ["task"]
    assert findings["task"].sentence.startswith("EnvPool has no task 'Zaxon-v5'; did you mean Zaxxon-v5")
    assert "free on the host" in findings["memory"].sentence and "free for runs" in findings["disk"].sentence


def test_every_device_computes() -> None:
    finding = doctor.compute()
    assert finding.level == OK and "multiplied and convolved" in finding.sentence
    np.testing.assert_array_equal(
        doctor.convolve(np.arange(9.0).reshape(3, 3), np.array([[1.0, 0.0], [0.0, 10.0]]), 1), [[40, 51], [73, 84]]
    )


def test_this_machine_passes_without_a_config(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "XLA_FLAGS": ""}
    command = [sys.executable, "train.py", "--doctor", f"--workdir={tmp_path}/runs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines()[:-1]]
    assert names == ["python", "driver", "jax", "computation", "envpool", "procgen", "memory", "disk", "cpu", "files", "cache", "extras"]
    assert done.stdout.splitlines()[-1] == "ready to train"
    assert not (tmp_path / "runs").exists()


def test_few_open_files_fail_for_real(tmp_path: pathlib.Path) -> None:
    command = f"ulimit -n 200; exec {sys.executable} -c 'import sys; from agent57_jax.commands import doctor; import resource; " + (
        "print(doctor.judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).level)'"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "FAIL\n"
