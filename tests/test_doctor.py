"""Every check of the machine finds what is wrong when it is, says what to do, and lets a good machine pass."""

import pathlib
from collections.abc import Callable

import pytest

from agent57_jax import config, parallel
from agent57_jax.commands import doctor
from agent57_jax.commands.doctor import FAIL, OK, WARN, Finding
from agent57_jax.config import SettingsError
from tests import tiny
from tests.test_command_line import run

GIB = 2**30


def unplannable() -> dict[str, int]:
    raise SettingsError("replay.capacity 9: at most 5 timesteps fit: lower replay.capacity")


def planned() -> dict[str, int]:
    return {"replay": 2 * GIB, "free": GIB}


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (doctor.judge_versions((3, 10), []), FAIL, "install Python 3.11 or 3.12"),
        (doctor.judge_versions((3, 11), ["jax>=0.4  # a comment", "", "# another"]), OK, "Python 3.11, jax 0."),
        (doctor.judge_versions((3, 14), ["numpy>=1"]), WARN, "newer than what is tested"),
        (doctor.judge_versions((3, 11), ["jax<0.4"]), FAIL, "not <0.4: pip install -r requirements.lock"),
        (doctor.judge_versions((3, 11), ["numpy>=1", "no-such-package>=2"]), FAIL, "no-such-package is missing"),
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
    ],
)
def test_a_check_judges_its_facts(finding: Finding, level: str, words: str) -> None:
    assert finding.level == level, finding
    assert words in finding.sentence


def test_the_drivers_version_is_asked_and_judged(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.driver_version() == ""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '580.65.06\\n580.65.06\\n'\n")
    program.chmod(0o755)
    assert doctor.driver_version() == "580.65.06"
    assert doctor.judge_driver("580.65.06") == doctor.judge_driver("590.1") == doctor.judge_driver("") == ""
    assert "install 580 or newer, or jax[cuda12]" in doctor.judge_driver("570.86.15")


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: pathlib.Path) -> None:
    free, writable = doctor.disk(tmp_path / "runs" / "new")
    assert writable and free > 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "file").write_text("")
    assert not doctor.disk(tmp_path / "file")[1]


def test_the_exit_code_tells_whether_a_check_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Finding:
        raise ImportError("libcuda.so.1:\n  cannot open")

    for second, line, code in (
        (lambda: Finding(OK, "as said"), "ok two as said", 0),
        (lambda: Finding(WARN, "as said"), "warn two as said", 0),
        (broken, "FAIL two ImportError: libcuda.so.1: cannot open", 1),
    ):
        pair: list[tuple[str, Callable[[], Finding]]] = [("one", lambda: Finding(OK, "good")), ("two", second)]
        monkeypatch.setattr(doctor, "checks", lambda *_, pair=pair: pair)
        assert doctor.run(None, "runs") == code
        assert [" ".join(shown.split()) for shown in capsys.readouterr().out.splitlines()[:2]] == ["ok one good", line]


def test_the_needs_of_a_config_are_judged() -> None:
    settings = config.finalise(tiny.coin_settings())
    found = dict(doctor.checks(settings, pathlib.Path("runs")))
    assert doctor.examined(found["task"]) == Finding(OK, "random_coin made")
    assert "the config's replay takes 0.00 GiB" in doctor.examined(found["memory"]).sentence
    _, parts = doctor.make_task(settings)
    assert 0 < doctor.checkpoint_bytes(settings, parts) < 50_000_000
    found = dict(doctor.checks(config.changed(settings, {"replay.capacity": str(10**12)}), pathlib.Path("runs")))
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
    assert finding.level == WARN and "8 x cpu" in finding.sentence and ":laptop" in finding.sentence


def test_a_driver_that_jax_does_not_use_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise parallel.DeviceError("install requirements-cuda.txt")

    monkeypatch.setattr(parallel, "make_mesh", fail)
    monkeypatch.setattr(doctor, "driver_version", lambda: "580.1")
    assert doctor.compute() == Finding(FAIL, "install requirements-cuda.txt")
    monkeypatch.setattr(doctor, "driver_version", lambda: "550.1")
    assert "too old" in doctor.compute().sentence


def test_this_machine_passes_without_a_config(tmp_path: pathlib.Path) -> None:
    done = run("train.py", "--doctor", f"--workdir={tmp_path}/runs", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    *checks, last = done.stdout.splitlines()
    assert [line.split()[1] for line in checks] == ["versions", "devices", "task", "memory", "disk"]
    assert last == "ready to train"
    assert not (tmp_path / "runs").exists()
