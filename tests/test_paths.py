"""Paths as a person gives them: they work, or are refused in a line before anything is started."""

import argparse
import os
import pathlib
import subprocess
import sys

import pytest

from agent57_jax import paths
from agent57_jax.commands import healthcheck
from agent57_jax.config import SettingsError
from agent57_jax.training import run_folder
from tests import tiny
from tests.test_bad_input import expect_refusal, run_all
from tests.test_command_line import ROOT, ZAXXON, environment, run
from tests.trainings import Make

NO_HOME = {key: value for key, value in environment().items() if key not in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")}
# A user without an entry, as of `docker run --user=12345`.
NOBODY = "import os, pwd\ndef nobody(*_): raise KeyError\npwd.getpwuid = nobody\n"
PREPARE = (
    "from agent57_jax.commands import command_line; command_line.prepare_jax(True); print(os.environ.get('JAX_COMPILATION_CACHE_DIR'))"
)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "None"),  # compiles at every start
        ({"JAX_COMPILATION_CACHE_DIR": "/tmp/compiled"}, "/tmp/compiled"),
        ({"XDG_CACHE_HOME": "/tmp/caches"}, "/tmp/caches/agent57_jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/somebody"}, "/home/somebody/.cache/agent57_jax"),
    ],
)
def test_a_user_needs_no_home(variables: dict[str, str], expected: str) -> None:
    command = [sys.executable, "-c", NOBODY + PREPARE]
    done = subprocess.run(command, cwd=ROOT, env=NO_HOME | variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected


ADDRESSES = ("gs://bucket/run", "s3://bucket/run", "hdfs://host/run", "GS://bucket/run", "file:///tmp/run")
PROGRAMS = (
    *(("train.py", ZAXXON, f"--workdir={address}") for address in ADDRESSES),
    ("evaluate.py", "--workdir=gs://b/r"),
    ("evaluate.py", "--workdir=x", "--video=s3://b/best.mp4"),
    ("evaluate.py", "--workdir=x", "--contact_sheet=s3://b/best.png"),
    ("-m", "agent57_jax", "watch", "--workdir=gs://b/r"),
    ("-m", "agent57_jax", "export", "gs://b/r"),
    ("-m", "agent57_jax.scoreboard", "runs", "--out=gs://b/board"),
    ("-m", "reproductions.random_coin", "--results=gs://b/r"),
)


def test_every_program_refuses_addresses_of_other_machines() -> None:
    for line, done in zip(PROGRAMS, run_all(PROGRAMS), strict=True):
        expect_refusal(done, "name the folder itself, without file://" if line[-1].endswith("file:///tmp/run") else "mount it")
    assert not [address for address in ADDRESSES if (ROOT / address.split("/", maxsplit=1)[0]).exists()]


def test_homes_are_expanded_in_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/runs/a") == f"{tmp_path}/runs/a"
    assert paths.local("runs/~") == "runs/~" and paths.local("") == "" and paths.local("cart:smoke") == "cart:smoke"
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--out", type=paths.path)
    assert parser.parse_args(["--out=~/b"]).out == tmp_path / "b"
    with pytest.raises(argparse.ArgumentError, match="~nobody_of_this_name has no home directory: give the full path"):
        parser.parse_args(["--out=~nobody_of_this_name/b"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert healthcheck.verdict(["train.py", "--workdir=~/run"], 1e6, tmp_path, 60.0, 0.0) == (True, "metrics were written 0 s ago")
    evaluation = run("evaluate.py", "--workdir=~/there")
    expect_refusal(evaluation, f"{tmp_path}/there holds no run")
    expect_refusal(run("train.py", "--config=~/own.py"), f"no config file {tmp_path}/own.py")
    (tmp_path / "own.py").write_text("def get_config():\n    return 1 / 0\n")
    expect_refusal(run("train.py", "--config=~/own.py"), "ZeroDivisionError")


@pytest.mark.parametrize("where", ["option", "folder", "other encoding"])
def test_names_that_are_not_utf_8_are_refused(where: str, tmp_path: pathlib.Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    command: list[str | bytes] = [sys.executable, f"{ROOT}/train.py", f"--config={ROOT}/configs/zaxxon.py:smoke"]
    variables = environment()
    if where == "other encoding":  # in which the bytes of a name in UTF-8 are other letters
        command.append(b"--workdir=" + os.fsencode(tmp_path) + "/café".encode())
        variables |= {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        probe = [sys.executable, "-c", "import sys; print(sys.getfilesystemencoding())"]
        if subprocess.run(probe, env=variables, capture_output=True, text=True, check=True).stdout.strip() == "utf-8":
            pytest.skip("this machine has no locale in another encoding")
    elif where == "option":
        command.append(b"--workdir=" + odd + b"/run")
    done = subprocess.run(
        command, cwd=odd if where == "folder" else tmp_path, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    expect_refusal(done, "is not UTF-8: rename the folder, or choose another one")
    assert not list(pathlib.Path(os.fsdecode(odd)).iterdir())


def test_links_to_a_larger_disk_are_used_as_they_are(make: Make, shared_programs: None, tmp_path: pathlib.Path) -> None:
    settings = tiny.coin_settings()
    settings.checkpoint.period_seconds = 1e6  # however slow this machine is, one checkpoint at the end
    disk, folder = tmp_path / "disk", tmp_path / "run"
    folder.mkdir()
    for name in run_folder.FOLDERS:
        (disk / name).mkdir(parents=True)
        (folder / name).symlink_to(disk / name)
    (disk / "videos" / "000007_steps1_return1.mp4").touch()  # of a run that has gone to another folder
    for acts in (4, 8):  # the second one resumes
        make(settings, folder, after_acts=acts).run()
    assert all((folder / name).is_symlink() for name in run_folder.FOLDERS)
    assert {path.name for path in (disk / "checkpoints").iterdir()} == {"1", "2"}
    assert len(list((disk / "tensorboard").iterdir())) == 2
    assert [str(path.relative_to(disk)) for path in disk.glob("videos/**/*.mp4")] == ["videos/earlier.1/000007_steps1_return1.mp4"]
    assert {path.name for path in folder.iterdir()} == {*run_folder.FOLDERS, "config.json", "metrics.jsonl", "lock"}
    (disk / "tensorboard").rename(disk / "elsewhere")  # as if the disk were not mounted
    with pytest.raises(SettingsError, match=r"tensorboard is a link to \S+disk/tensorboard, which does not exist: mount its disk"):
        make(settings, folder)
    assert not (disk / "tensorboard").exists()


def test_a_mount_point_stays_and_so_does_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda path: path.name == "tensorboard")
    for name in ("tensorboard", "videos"):
        (tmp_path / name).mkdir()
        paths.set_aside(tmp_path / name)
    (tmp_path / "tensorboard" / "lost+found").mkdir()
    for number in (1, 2):
        for name in ("tensorboard", "videos"):
            paths.set_aside(tmp_path / name)  # with a folder of the file system alone, or with nothing, there is nothing to do
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"file{number}").touch()
            paths.set_aside(tmp_path / name)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == [
        *("tensorboard", "tensorboard/earlier.1", "tensorboard/earlier.1/file1", "tensorboard/earlier.2", "tensorboard/earlier.2/file2"),
        *("tensorboard/lost+found", "videos.1", "videos.1/file1", "videos.2", "videos.2/file2"),
    ]
